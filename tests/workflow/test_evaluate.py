"""The command evaluate: its figures, its tables, other data, and corruptions."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    classification_report,
    log_loss,
    roc_auc_score,
)

import fcnet
from fcnet import evaluate, train
from fcnet.experiment.run_folder import Run
from tests.helpers import (
    RUN_FILES,
    command_output,
    list_run_files,
    read_summary,
    read_tree,
    run_command,
    set_flags,
    write_noise_images,
)
from tests.processes import call_redirected

if TYPE_CHECKING:
    from tests.processes import WarmServer

pytestmark = pytest.mark.usefixtures("pets")
CLASSES = ("ant", "bee", "cat")


def count_by_hand(folder: str, run: str) -> tuple[list[list[int]], float]:
    """Returns the confusion matrix and the mean loss, computed one image at a time."""
    classifier = fcnet.load(run)
    confusion = [[0] * 3 for _ in CLASSES]
    losses = []
    for label, name in enumerate(CLASSES):
        for file in sorted(Path(folder, "test", name).iterdir()):
            (prediction,) = classifier.predict_images([file])
            confusion[label][CLASSES.index(prediction.class_name)] += 1
            losses.append(-math.log(prediction.probabilities[label]))
    return confusion, sum(losses) / len(losses)


def check_evaluation(evaluation: dict[str, Any], confusion: list[list[int]], loss: float) -> None:
    """Compares ``evaluation.json`` with counts made by hand."""
    count = sum(map(sum, confusion))
    accuracy = sum(confusion[label][label] for label in range(3)) / count
    assert evaluation["images"] == count
    assert evaluation["confusion"] == confusion
    assert evaluation["accuracy"] == accuracy
    # The command sums float32 losses over batches, and the count here one image at a time.
    assert evaluation["loss"] == pytest.approx(loss, rel=1e-5)
    for bound in evaluation["interval"]:  # a test of this accuracy just fails at either bound
        deviation = NormalDist().inv_cdf(0.975) * math.sqrt(bound * (1 - bound) / count)
        assert abs(bound - accuracy) == pytest.approx(deviation, rel=1e-9)
    for label, (name, row) in enumerate(zip(CLASSES, evaluation["classes"], strict=True)):
        actual, predicted, num_correct = confusion[label], [row[label] for row in confusion], confusion[label][label]
        assert row == {
            "class": name,
            "count": sum(actual),
            "precision": pytest.approx(num_correct / sum(predicted)),
            "recall": pytest.approx(num_correct / sum(actual)),
            "f1": pytest.approx(2 * num_correct / (sum(predicted) + sum(actual))),
            "average_precision": row["average_precision"],
            "roc_auc": row["roc_auc"],
        }


class Row(NamedTuple):
    """A misclassified image."""

    path: str
    true_class: str
    predicted_class: str
    probability: float
    true_probability: float


def mistakes_by_hand(folder: str, below: str = "") -> list[Row]:
    """Returns the misclassified test images, most confident first; ``below`` begins their paths."""
    classifier = fcnet.load("run")
    mistakes = []
    for file in sorted(Path(folder, "test").rglob("*.png")):
        (prediction,) = classifier.predict_images([file])
        truth, path = file.parent.name, below + file.relative_to(folder).as_posix()
        if prediction.class_name != truth:
            probability = prediction.probabilities[CLASSES.index(truth)]
            mistakes.append(Row(path, truth, prediction.class_name, prediction.probability, probability))
    return sorted(mistakes, key=lambda row: -row.probability)


def check_rows(rows: list[Row], expected: list[Row]) -> None:
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row[3:] == pytest.approx(other[3:], abs=1e-5)


def read_mistakes(file: str) -> list[Row]:
    header, *rows = csv.reader(Path(file).read_text(encoding="utf-8").splitlines())
    assert tuple(header) == Row._fields
    return [Row(path, truth, predicted, *map(float, figures)) for path, truth, predicted, *figures in rows]


def check_mistakes(out: str, expected: list[Row]) -> None:
    """Compares what ``evaluate`` printed and wrote with the expected mistakes."""
    lines, shown = out.splitlines(), min(len(expected), 10)
    start = lines.index(f"most confident mistakes, {shown} of {len(expected)}")
    assert lines[start + 1].split() == ["path", "truth", "prediction", "probability"]
    printed = [line.split() for line in lines[start + 2 :][:shown]]
    assert [row[:3] for row in printed] == [list(row[:3]) for row in expected[:shown]]
    for row, other in zip(printed, expected, strict=False):
        assert float(row[3].removesuffix("%")) == pytest.approx(100 * other.probability, abs=0.051)
    assert max(map(len, lines[start : start + shown + 2])) <= 80
    recorded = json.loads(Path("run/evaluation.json").read_text())["mistakes"]
    assert list(recorded[0]) == list(Row._fields)
    check_rows([Row(**row) for row in recorded], expected[:10])
    check_rows(read_mistakes("run/evaluation-mistakes.csv"), expected)


def table_rows(out: str, start: str) -> list[list[str]]:
    """Returns the words of the three lines below the line with this start."""
    lines = out.splitlines()
    below = next(place for place, line in enumerate(lines) if line.startswith(start)) + 1
    return [line.split() for line in lines[below:]][:3]


def test_an_evaluation_equals_counts_made_image_by_image() -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run", "--set", "train.epochs=15")
    out = command_output(evaluate.main, "run")
    confusion, loss = count_by_hand("pets", "run")
    evaluation = json.loads(Path("run/evaluation.json").read_text())
    assert evaluation["data"] is None
    check_evaluation(evaluation, confusion, loss)
    assert 0.4 < evaluation["accuracy"] < 1.0  # better than chance, and not without errors
    result = read_summary("run")
    assert (evaluation["accuracy"], evaluation["interval"]) == (result["test_accuracy"], result["test_interval"])
    assert evaluation["loss"] == pytest.approx(result["test_loss"], rel=1e-6)

    low, high = evaluation["interval"]
    assert out.splitlines()[0] == (
        f"accuracy {evaluation['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%}), "
        f"loss {evaluation['loss']:.4f}, 30 images"
    )
    assert table_rows(out, "class ") == [
        [row["class"], "10", *(f"{row[name]:.1%}" for name in ("precision", "recall", "f1", "average_precision"))]
        for row in evaluation["classes"]
    ]
    _, confusion_table, *_ = out.split("truth")
    assert confusion_table.splitlines()[1].split() == list(CLASSES)
    assert [line.split() for line in confusion_table.splitlines()[2:5]] == [
        [name, *map(str, row)] for name, row in zip(CLASSES, confusion, strict=True)
    ]
    mistakes = mistakes_by_hand("pets")
    check_mistakes(out, mistakes)
    check_rows(read_mistakes("run/mistakes.csv"), mistakes)
    assert out.splitlines()[-3:] == [
        f"paths are relative to {Path('pets').resolve()}",
        "written to run/evaluation-mistakes.csv",
        "written to run/evaluation.json",
    ]
    assert list_run_files("run") == RUN_FILES | {"evaluation.json", "evaluation-mistakes.csv"}


def test_metrics_are_those_of_scikit_learn_from_the_probabilities_of_single_images() -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run", "--set", "train.epochs=15")
    out = command_output(evaluate.main, "run")
    classifier = fcnet.load("run")
    files = [file for name in CLASSES for file in sorted(Path("pets", "test", name).iterdir())]
    labels = [CLASSES.index(file.parent.name) for file in files]
    p = np.array([classifier.predict_images([file])[0].probabilities for file in files], dtype=np.float64)
    p /= p.sum(1, keepdims=True)
    one_hot, report = np.eye(3)[labels], classification_report(labels, p.argmax(1), output_dict=True)
    evaluation = json.loads(Path("run/evaluation.json").read_text())
    expected = {
        "mean_class_accuracy": balanced_accuracy_score(labels, p.argmax(1)),
        "mean_average_precision": average_precision_score(labels, p),
        "roc_auc": roc_auc_score(labels, p, multi_class="ovr"),
        "weighted_roc_auc": roc_auc_score(labels, p, multi_class="ovr", average="weighted"),
        "log_loss": log_loss(labels, p),
        "brier_score": np.square(p - one_hot).sum(1).mean(),
    }
    for kind in ("macro", "weighted"):
        averages = report[f"{kind} avg"]
        expected |= {f"{kind}_{name}": averages[name] for name in ("precision", "recall")}
        expected[f"{kind}_f1"] = averages["f1-score"]
    found = evaluation["metrics"]
    # The probabilities of single images are float32.
    assert {name: entry["value"] for name, entry in found.items()} == pytest.approx(expected, rel=1e-5)
    for name, score in (("average_precision", average_precision_score), ("roc_auc", roc_auc_score)):
        values = [row[name] for row in evaluation["classes"]]
        assert values == pytest.approx(score(one_hot, p, average=None).tolist(), abs=1e-12)
    assert found == read_summary("run")["test_metrics"]
    stored = {row["class"]: row["average_precision"] for row in evaluation["classes"]}
    assert read_summary("run")["class_average_precision"] == stored
    assert evaluation["undefined"] == []

    low, high = found["mean_average_precision"]["interval"]
    words = [line.split() for line in out.splitlines()[2:10]]
    assert ["mAP", f"{found['mean_average_precision']['value']:.2%}", f"{low:.2%}", "to", f"{high:.2%}"] in words
    assert ["Brier", "score", f"{found['brier_score']['value']:.4f}"] in [row[:3] for row in words]
    rows = {line.rsplit(maxsplit=5)[0]: line.split() for line in out.splitlines() if " avg " in line}
    averages = [found[f"macro_{name}"]["value"] for name in ("precision", "recall", "f1")]
    assert rows["macro avg"][2:] == ["30", *(f"{v:.1%}" for v in (*averages, found["mean_average_precision"]["value"]))]


def test_verify_makes_the_stored_results_again_and_says_how_they_differ() -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run", "--set", "train.epochs=15")
    before = read_tree("run")
    assert command_output(evaluate.main, "run", "--verify").splitlines() == [
        "predictions: equal, 30 images",
        "summary: equal, 14 scores",
    ]
    assert read_tree("run") == before
    summary = read_summary("run")
    Run(Path("run")).finish(summary | {"test_loss": summary["test_loss"] + 0.5})
    found = run_command(evaluate.main, "run", "--verify")
    assert (found.code, found.err) == (1, "")
    assert found.out.splitlines()[1].startswith("summary: different, 14 scores, by up to ")
    for flags in (("--data", "pets"), ("--corruptions",)):
        found = run_command(evaluate.main, "run", "--verify", *flags)
        assert (found.code, found.out) == (2, "")
        reason = "it makes the results on the run's own test images again"
        assert found.err == f"--verify must be without {flags[0]}: {reason}\n"


def test_many_classes_have_a_short_output_and_a_file_with_all_of_them() -> None:
    data = ("data.source=synthetic", "data.shape=[1, 4, 4]", "data.num_classes=1200", "data.train_size=2400")
    settings = ("data.test_size=1300", "data.validation=0", "model.hidden=[4]", "train.epochs=1")
    command_output(train.main, "--config", "digits", "--out", "many", *set_flags(*data, *settings))
    out = command_output(evaluate.main, "many")
    assert len(out.splitlines()) < 80
    assert max(map(len, out.splitlines()[:-3])) <= 120
    evaluation = json.loads(Path("many/evaluation.json").read_text())
    assert (evaluation["classes"], evaluation["confusion"], len(evaluation["most_confused"])) == (None, None, 100)
    header, *rows = csv.reader(Path("many/evaluation-classes.csv").read_text(encoding="utf-8").splitlines())
    assert header == ["class", "count", "precision", "recall", "f1", "average_precision", "roc_auc"]
    assert len(rows) == 1200
    assert sum(int(row[1]) for row in rows) == 1300
    assert Path("many/evaluation.json").stat().st_size < 100_000


def test_files_are_written_even_if_the_table_cannot_be_printed(warm: WarmServer) -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run")
    for out, expected in (
        ("full", (2, "standard output: No space left on device\n")),
        ("closed", (2, "standard output: Bad file descriptor\n")),
        ("broken pipe", (0, "")),
    ):
        Path("run/evaluation.json").unlink(missing_ok=True)
        ended = warm.start(call_redirected, out, "kept", "evaluate", "run").wait()
        assert (ended.code, ended.err) == expected
        assert json.loads(Path("run/evaluation.json").read_text())["images"] == 30


def test_data_evaluates_on_another_dataset() -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run", "--set", "train.epochs=15")
    write_noise_images("zoo", CLASSES, {"train": 1, "test": 17})
    out = command_output(evaluate.main, "run", "--data", "zoo")
    evaluation = json.loads(Path("run/evaluation.json").read_text())
    assert evaluation["data"] == "zoo"
    assert "51 images" in out
    check_evaluation(evaluation, *count_by_hand("zoo", "run"))
    mistakes = mistakes_by_hand("zoo", below="zoo/")
    assert all(Path(row.path).is_file() for row in mistakes)
    check_mistakes(out, mistakes)
    assert "relative" not in out


def test_the_distribution_shift_is_printed_and_recorded() -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run", "--set", "train.epochs=15")
    counts = read_summary("run")["class_images"]
    assert list(counts.items()) == [(name, 21) for name in CLASSES]
    write_noise_images("zoo", CLASSES, {"train": 1, "test": 60})
    for number in range(50):
        Path(f"zoo/test/ant/{number}.png").unlink()
    levels: list[int] = []
    for file in sorted(Path("zoo/test").rglob("*.png")):
        with Image.open(file) as image:
            lighter = image.point(lambda level: min(255, level + 60))
        lighter.save(file)
        levels += lighter.tobytes()
    out = command_output(evaluate.main, "run", "--data", "zoo").splitlines()
    shift = json.loads(Path("run/evaluation.json").read_text())["shift"]
    assert [line for line in out if line.startswith(("classes:", "pixels:", "accuracy:"))] == shift["description"]
    assert shift["description"][0].startswith("classes: frequencies differ from training: ant 33.3% → 7.7% (")
    assert shift["description"][1].startswith("pixels: brighter")
    assert [row["other"] for row in shift["classes"]["shares"]] == [10 / 130, 60 / 130, 60 / 130]
    assert shift["classes"]["total_variation"] == pytest.approx(1 / 3 - 10 / 130)
    assert shift["pixels"]["mean"] == pytest.approx([sum(levels) / len(levels) / 255])
    evaluation = json.loads(Path("run/evaluation.json").read_text())
    result = read_summary("run")
    assert shift["accuracy"]["difference"] == pytest.approx(evaluation["accuracy"] - result["test_accuracy"])
    assert shift["accuracy"]["run_images"] == result["test_images"]

    for key in ("class_images", "test_accuracy"):  # as in a summary without these keys
        recorded = read_summary("run")
        run = Run(Path("run"))
        run.finish({name: recorded[name] for name in recorded if name != "class_images"})
        if key == "test_accuracy":  # as a run that was killed before its summary
            Path("run/summary.json").unlink()
            Path("run/checksums.json").unlink()
            Path("run/checkpoints").mkdir(exist_ok=True)
            run.checkpoints.save(1, {}, {})
        command_output(evaluate.main, "run", "--data", "zoo")
        less = json.loads(Path("run/evaluation.json").read_text())["shift"]
        assert less == shift | {
            "classes": None,
            "accuracy": shift["accuracy"] if key == "class_images" else None,
            "description": shift["description"][1 : 3 if key == "class_images" else 2],
        }
    command_output(evaluate.main, "run")
    assert json.loads(Path("run/evaluation.json").read_text())["shift"] is None


def test_corruptions_give_the_same_table_file_and_figure_every_time() -> None:
    command_output(train.main, "--config", "pets.toml", "--out", "run", "--set", "train.epochs=15")
    out = command_output(evaluate.main, "run", "--corruptions").splitlines()
    robustness = json.loads(Path("run/corruptions.json").read_text())
    assert robustness["data"] is None
    assert robustness["clean"]["accuracy"] == json.loads(Path("run/evaluation.json").read_text())["accuracy"]
    at = next(place for place, line in enumerate(out) if line.startswith("accuracy at"))
    rows = [line.split() for line in out[at : at + 9]]
    assert rows[0] == ["accuracy", "at", *"12345", "mean"]
    assert rows[1:7] == [
        [kind, *(f"{each['accuracy']:.1%}" for each in row["severities"]), f"{row['mean_accuracy']:.1%}"]
        for kind, row in robustness["corruptions"].items()
    ]
    assert rows[7] == ["all", f"{robustness['mean_accuracy']:.1%}"]
    assert rows[8] == ["clean", f"{robustness['clean']['accuracy']:.1%}"]
    figures = [f"corruptions-{theme}.{form}" for theme in ("light", "dark") for form in ("svg", "png")]
    assert out[-5:] == [f"written to run/{name}" for name in ("corruptions.json", *figures)]
    assert list_run_files("run") == {
        *RUN_FILES, "evaluation.json", "evaluation-mistakes.csv", "corruptions.json", *figures
    }  # fmt: skip
    before = read_tree("run")
    command_output(evaluate.main, "run", "--corruptions")
    assert read_tree("run") == before
