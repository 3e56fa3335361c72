"""The command probe: a choice on held-out examples, its run folder, mistakes in one line, killed and resumed."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

import fcnet
from fcnet import __main__ as fcnet_command
from fcnet import evaluate, predict, train, watch
from fcnet.evaluation.prediction_files import read_predictions
from fcnet.export import __main__ as export
from fcnet.linear_model import path as path_module
from fcnet.probe import __main__ as probe
from fcnet.report import __main__ as report
from fcnet.runtime.files import read_json
from tests.helpers import (
    command_output,
    flip_bit,
    preserve_process_state,
    read_summary,
    read_tree,
    run_command,
    start_python,
    wait_until,
)
from tests.unit.probe.helpers import CLASSES, NUM_TEST, make_arrays, write_features

FEW = ("--Cs", "1e-4,0.01,10")
FILES = {
    *("probe.json", "probe.csv", "summary.json", "config.toml", "commands.jsonl", "checksums.json"),
    *("model.json", "model.safetensors", "predictions.json", "predictions.safetensors", "mistakes.csv", "report.html"),
}
RESULT = (
    r"test accuracy [\d.]+% \(95% interval [\d.]+% to [\d.]+%\) on 60 examples; "
    r"held-out accuracy [\d.]+% \(95% interval [\d.]+% to [\d.]+%\) at C = 0\.01 after [\d.]+ s of fitting"
)


def read_csv(file: str) -> list[dict[str, str]]:
    with Path(file).open(newline="") as opened:
        return list(csv.DictReader(opened))


def run_files(run: str) -> dict[str, Any]:
    """Returns all that two identical runs must agree on: everything but times, commands, and the page that has both."""
    files = read_tree(run)
    summary = read_summary(run)
    del summary["train_seconds"]
    ignored = {"commands.jsonl", "report.html", "checksums.json", "summary.json"}
    return {name: files[name] for name in files.keys() - ignored} | {"summary": summary}


def test_features_become_a_model_with_the_penalty_that_is_best_on_held_out_examples(working_folder: Path) -> None:
    write_features()
    out = command_output(probe.main, "features.npz", *FEW)
    assert re.fullmatch(
        r"120 training examples of 6 features in 3 classes; 3 penalties, held out: 0\.1 of each class; cpu, "
        r"\d+ threads?; runs/probe\n"
        r"all penalties: 3 penalties on 108 examples, best held-out accuracy [\d.]+% at C = 0\.01\n"
        r"chosen penalty: C = 0\.01 on 120 examples, \d+ steps\n"
        rf"{RESULT}\n"
        r"report: runs/probe/report\.html; next: python -m fcnet\.evaluate runs/probe\n",
        out,
    )
    assert {file.name for file in Path("runs/probe").iterdir()} == FILES
    summary, arrays = read_summary("runs/probe"), make_arrays()
    assert (summary["train_images"], summary["validation_images"], summary["test_images"]) == (120, 12, 60)
    assert summary["probe"]["C"] == 0.01
    classifier = fcnet.load("runs/probe")
    assert classifier.classes == CLASSES
    found = classifier.predict_proba(torch.from_numpy(arrays["x_test"]))
    x, scale = arrays["x_train"].astype(np.float64), arrays["x_train"].astype(np.float64).std(0)
    oracle = LogisticRegression(C=0.01, tol=1e-10, max_iter=10_000).fit(x / scale, arrays["y_train"])
    assert_close(found.double(), torch.from_numpy(oracle.predict_proba(arrays["x_test"] / scale)), atol=1e-4, rtol=0.0)
    assert summary["test_accuracy"] == oracle.score(arrays["x_test"] / scale, arrays["y_test"])


def test_the_table_has_each_penalty_and_the_last_search(working_folder: Path) -> None:
    write_features()
    command_output(probe.main, "features.npz", *FEW, "--folds", "3")
    rows = read_csv("runs/probe/probe.csv")
    assert [row["fold"] for row in rows] == [*("1" * 3 + "2" * 3 + "3" * 3), *["all"] * 3, "refit"]
    for k in range(3):
        parts, pooled = rows[k:9:3], rows[9 + k]
        assert {row["C"] for row in [*parts, pooled]} == {("0.0001", "0.01", "10.0")[k]}
        assert [row["examples"] for row in [*parts, pooled]] == ["40", "40", "40", "120"]
        mean = sum(float(row["accuracy"]) for row in parts) / 3
        assert float(pooled["accuracy"]) == pytest.approx(mean)
        assert float(pooled["accuracy_low"]) < float(pooled["accuracy"]) < float(pooled["accuracy_high"])
        assert float(pooled["log_loss_low"]) < float(pooled["log_loss"]) < float(pooled["log_loss_high"])
        assert 0.0 <= float(pooled["gap"]) < 1e-3 * float(pooled["objective"])
    chosen = read_summary("runs/probe")["probe"]["C"]
    assert [row["C"] for row in rows[9:12] if not row["p_value"]] == [str(chosen)]
    assert (rows[-1]["C"], rows[-1]["converged"], rows[-1]["examples"]) == (str(chosen), "True", "")


def test_other_commands_take_the_run(working_folder: Path) -> None:
    write_features()
    command_output(probe.main, "features.npz", *FEW, "--l2-normalize")
    assert "accuracy " in command_output(evaluate.main, "runs/probe")
    assert command_output(evaluate.main, "runs/probe", "--verify") == (
        "predictions: equal, 60 images\nsummary: equal, 14 scores\n"
    )
    x = make_arrays()["x_test"]
    np.save("new.npy", 3.0 * x)
    lines = command_output(predict.main, "runs/probe", "new.npy").splitlines()
    predictions = read_predictions(Path("runs/probe"))
    assert predictions is not None
    expected = [CLASSES[label] for label in predictions.classes[:, 0].tolist()]
    assert [line.split()[1] for line in lines] == expected
    command_output(export.main, "runs/probe", "net.pt2")
    program = torch.export.load("net.pt2").module()
    classifier = fcnet.load("runs/probe")
    assert_close(program(torch.from_numpy(x)), classifier.predict_proba(torch.from_numpy(x)), atol=1e-6, rtol=0.0)
    assert "A linear probe" in Path("README.md").read_text()
    before = Path("runs/probe/report.html").read_bytes()
    command_output(report.main, "runs/probe")
    assert Path("runs/probe/report.html").read_bytes() == before


def test_a_probe_is_compared_with_a_trained_network(working_folder: Path) -> None:
    write_features()
    command_output(probe.main, "features.npz", *FEW)
    settings = ("data.path=features.npz", "model.hidden=[4]", "train.epochs=1", "train.diagnostics_every=0")
    words = [word for setting in settings for word in ("--set", setting)]
    command_output(train.main, "features", *words)
    command_output(report.main, "runs/probe", "runs/features")
    page = Path("report.html").read_text()
    assert "McNemar’s tests" in page
    assert "linear probe, C = 0.01 of 3 values" in page
    assert "<dt>chosen C</dt>" in page
    assert "features.npz: 120 examples to fit and to choose by, 60 to test, of shape 6 in 3 classes" in page
    assert "No epoch has finished yet" not in page
    sections = {
        key: text.partition("</section>")[0] for key, text in re.findall(r'<h2 id="(\w+)">(.*?)(?=<h2|$)', page, re.S)
    }
    for key in ("summary", "test", "confusion"):
        assert re.findall("<h3>(.*?)</h3>", sections[key]) == ["probe", "features"]
    for key in ("curves", "layers", "speed"):
        assert re.findall("<h3>(.*?)</h3>", sections[key]) == ["features"]
    assert re.findall('<th scope="col">(.*?)</th>', sections["configuration"])[:2] == ["setting", "features"]


def test_probes_are_compared_without_sections_of_training(working_folder: Path) -> None:
    write_features()
    for name in ("one", "two"):
        command_output(probe.main, "features.npz", *FEW, "--out", name)
    command_output(report.main, "one", "two")
    page = Path("report.html").read_text()
    assert re.findall(r'<h2 id="([\w-]+)">', page)[:2] == ["summary", "comparison"]
    assert not {"curves", "layers", "speed", "configuration"} & set(re.findall(r'(?:id="|href="#)([\w-]+)"', page))


def test_the_test_split_is_not_read_before_the_choice(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("whole").mkdir()
    for name, array in make_arrays().items():
        np.save(f"whole/{name}.npy", array)
    command_output(probe.main, "whole", *FEW)
    test = Path("whole/x_test.npy").read_bytes()
    Path("whole/x_test.npy").write_bytes(b"broken")
    code, out, error = run_command(probe.main, "whole", *FEW)
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("whole/x_test.npy must be a whole NumPy array (.npy), got: ")
    assert "chosen penalty: C = 0.01 on 120 examples" in out
    assert not Path("runs/probe-2/model.json").exists()
    # What was fitted is kept: once the file is whole again, the run resumes to the same result.
    Path("whole/x_test.npy").write_bytes(test)
    monkeypatch.setattr(path_module, "solve", None)
    command_output(probe.main, "--resume", "runs/probe-2")
    assert run_files("runs/probe-2") == run_files("runs/probe")


def test_features_without_a_test_split_have_no_test_figures(working_folder: Path) -> None:
    write_features(with_test=False)
    out = command_output(probe.main, "features.npz", *FEW)
    assert "note: there is no test split, so there will be no test figures\n" in out
    assert out.splitlines()[-2].endswith(" s of fitting; no test split")
    files = {file.name for file in Path("runs/probe").iterdir()}
    assert files == FILES - {"predictions.json", "predictions.safetensors", "mistakes.csv"}
    summary = read_summary("runs/probe")
    assert (summary["test_accuracy"], summary["test_loss"], summary["test_images"]) == (None, None, 0)
    page = Path("runs/probe/report.html").read_text()
    assert "so there are no test figures" in page
    assert 'id="confusion"' not in page
    command_output(export.main, "runs/probe", "net.pt2")
    assert "There was no test split." in Path("README.md").read_text()
    write_features("other.npz")
    assert "accuracy " in command_output(evaluate.main, "runs/probe", "--data", "other.npz")
    code, _, error = run_command(probe.main, "features.npz", *FEW, "--shots", "1")
    rule = "--shots must be left out for features.npz, which has no test split to evaluate its fits on\n"
    assert (code, error) == (2, rule)


def test_few_shots_have_a_table_and_a_curve(working_folder: Path) -> None:
    write_features()
    out = command_output(probe.main, "features.npz", *FEW, "--shots", "1,8", "--repeats", "3")
    assert len(re.findall(r"^[18] shots?, draw \d/3: held-out accuracy [\d.]+% at C = [\d.]+$", out, re.MULTILINE)) == 6
    rows = read_csv("runs/probe/few_shot.csv")
    assert [(row["shots"], row["draw"]) for row in rows] == [(n, str(d)) for n in "18" for d in (1, 2, 3)]
    one, eight = read_summary("runs/probe")["probe"]["few_shot"]
    assert one["accuracies"] == [float(row["test_accuracy"]) for row in rows[:3]]
    assert one["mean"] == pytest.approx(sum(one["accuracies"]) / 3)
    assert one["mean"] < eight["mean"]
    assert one["interval"][0] < one["mean"] < one["interval"][1]
    assert "Few examples of each class" in Path("runs/probe/report.html").read_text()


def test_what_has_not_converged_is_said_everywhere(working_folder: Path) -> None:
    write_features()
    code, _, error = run_command(probe.main, "features.npz", *FEW, "--tol", "1e-30")
    assert code == 0
    lines = error.splitlines()
    assert lines[0].startswith("note: not converged to a tolerance of 1e-30: C = 0.0001, 0.01, 10; ")
    assert lines[1].startswith("note: the model is no minimum: ")
    page = html.unescape(Path("runs/probe/report.html").read_text())
    assert all(line.removeprefix("note: ") in page for line in lines)
    assert page.count("<td>not converged</td>") == 3
    assert [row["converged"] for row in read_csv("runs/probe/probe.csv")] == ["False"] * 4


KILLED = (
    *("features.npz", "--Cs", "1e-4..1e4:20", "--folds", "3", "--l2-normalize", "--device", "cpu"),
    *("--shots", "1,2", "--repeats", "2", "--save-seconds", "0"),
)


def test_a_killed_command_resumes_to_the_same_bytes(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in the other process
    write_features(num_validation=30)
    with preserve_process_state():
        run_command(probe.main, *KILLED, "--out", "whole")
    for moment in ("search-*.json", "split-2.json", "shots-1-1.json"):
        process = start_python("-m", "fcnet.probe", *KILLED, "--out", "killed", *resume(), cwd=working_folder)
        assert wait_until(lambda moment=moment: list(Path("killed/state").glob(moment)), process)  # type: ignore[misc]
        process.kill()
        process.communicate()
        assert not Path("killed/summary.json").exists()
    code, _, error = run_command(probe.main, *KILLED, "--out", "killed")
    assert (code, error) == (
        2,
        "--out: killed already holds a probe; --resume continues it, another folder begins a new one\n",
    )
    with preserve_process_state():
        code, _, _ = run_command(probe.main, "--resume", "killed", "--folds", "3")
    assert code == 0
    assert run_files("killed") == run_files("whole")
    assert len(Path("killed/commands.jsonl").read_text().splitlines()) == 4


def resume() -> list[str]:
    return ["--resume"] if Path("killed").exists() else []


def test_a_terminated_command_says_how_to_resume(working_folder: Path) -> None:
    write_features()
    process = start_python(
        "-m",
        "fcnet.probe",
        "features.npz",
        "--Cs",
        "1e2..1e9:200",
        "--tol",
        "1e-12",
        "--save-seconds",
        "0",
        cwd=working_folder,
    )
    assert wait_until(lambda: list(Path("runs/probe/state").glob("search-*.json")), process)
    process.terminate()
    out, error = process.communicate()
    assert (process.returncode, error) == (143, "")
    assert out.endswith("stopped and saved; resume with: python -m fcnet.probe --resume runs/probe\n")
    assert list(Path("runs/probe/state").glob("search-*.json"))


def test_resume_starts_from_nothing_and_leaves_what_is_finished(working_folder: Path) -> None:
    write_features()
    command_output(probe.main, "features.npz", *FEW, "--resume")
    Path("runs/probe/report.html").unlink()
    before = read_tree("runs/probe")
    for arguments in (["--resume"], ["features.npz", *FEW, "--resume"], ["--resume", "runs/probe"]):
        out = command_output(probe.main, *arguments)
        assert re.fullmatch(rf"runs/probe is finished: {RESULT}\n", out)
    after = read_tree("runs/probe")
    assert after.pop("report.html")
    assert after == before
    flip_bit("runs/probe/model.safetensors")
    code, _, error = run_command(probe.main, "--resume")
    assert (code, error.count("\n")) == (2, 1)
    assert "model.safetensors is damaged" in error


def test_a_run_belongs_to_the_content_of_its_features(working_folder: Path) -> None:
    write_features()
    command_output(probe.main, "features.npz", *FEW)
    for name in FILES - {"probe.json", "commands.jsonl", "checksums.json"}:
        Path("runs/probe", name).unlink()
    Path("features.npz").rename("moved.npz")
    write_features("features.npz", noise=3.0)
    code, _, error = run_command(probe.main, "--resume", "runs/probe")
    rule = "runs/probe was begun with other training or validation examples than features.npz holds now\n"
    assert (code, error) == (2, rule)
    command_output(probe.main, "moved.npz", "--resume", "runs/probe")
    assert 'path = "moved.npz"' in Path("runs/probe/config.toml").read_text()


MISTAKES = {
    "features.npz --Cs 0": "--Cs must be finite and greater than 0, got 0\n",
    "features.npz --validation 0.001": "--validation must hold out one or more examples, got none with 0.001\n",
    "features.npz --folds 121": "--folds must be at most the number of examples, 120, got 121\n",
    "features.npz --shots 40": "--shots 40 needs 44 training examples of each class, 40 to fit and 4 to choose by, ",
    "own.npz --validation 0.1": "--validation must be left out for own.npz, which has a validation split\n",
    "nan.npz": "x_train in nan.npz must hold finite numbers, got NaN in row 7\n",
    "one.npz": "one.npz must hold examples of at least two classes, found only ant\n",
    "other.npz": "other.npz: no such file or folder\n",
    "features.npz --out features.npz": "--out must be a folder, got the file features.npz\n",
    "features.npz --out full": "--out: full is not empty and holds no run; name a new or an empty folder\n",
    "features.npz --device gpu": "--device must be auto, cpu, cuda or another device of torch, got 'gpu'; ",
    "--resume": "--resume found no probe in runs; name its folder: python -m fcnet.probe --resume RUN\n",
    "--resume full": "--resume needs the run folder of a probe, got full: it holds no probe.json\n",
    "--resume other": "--resume needs the run folder of a probe, got other: no such folder\n",
    "features.npz --set seed=1": "unknown flag --set seed=1; ",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(working_folder: Path, command: str) -> None:
    write_features()
    write_features("own.npz", num_validation=30)
    write_features("one.npz", classes=1)
    arrays = make_arrays()
    arrays["x_train"][7, 2] = np.nan
    np.savez("nan.npz", **arrays)
    Path("full/a").mkdir(parents=True)
    before = read_tree()
    code, out, error = run_command(probe.main, *command.split())
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith(MISTAKES[command])
    assert read_tree() == before


def test_settings_of_a_run_cannot_change(working_folder: Path) -> None:
    write_features()
    command_output(probe.main, "features.npz", *FEW)
    code, _, error = run_command(probe.main, "--resume", "--folds", "3", "--seed", "0", "--validation", "0.2")
    assert (code, error) == (2, "--validation and --folds exclude each other; leave one out\n")
    code, _, error = run_command(probe.main, "--resume", "--folds", "3", "--seed", "0")
    assert (code, error) == (2, "--folds must be left out as when the run began, got 3\n")


def test_commands_for_trainings_leave_a_probe_alone(working_folder: Path) -> None:
    write_features()
    command_output(probe.main, "features.npz", *FEW)
    before = read_tree("runs/probe")
    code, _, error = run_command(train.main, "--resume", "runs/probe")
    rule = "runs/probe is a run of probe, which python -m fcnet.probe --resume runs/probe continues\n"
    assert (code, error) == (2, rule)
    code, _, error = run_command(watch.main, "runs/probe")
    assert (code, error) == (2, "RUN must be a run of train, got runs/probe, a probe, which has no epochs to watch\n")
    assert read_tree("runs/probe") == before


def test_it_is_a_command_of_fcnet(working_folder: Path) -> None:
    assert fcnet_command.COMMANDS["probe"][0] == probe.__name__
    assert re.search(rf"probe +{re.escape(fcnet_command.COMMANDS['probe'][1])}", fcnet_command.help_text("fcnet"))


def test_the_record_of_the_run_tells_how_it_was_made(working_folder: Path) -> None:
    write_features()
    command_output(probe.main, "features.npz", *FEW, "--tol", "1e-5")
    record = json.loads(Path("runs/probe/probe.json").read_text())
    assert (record["features"], record["settings"]["Cs"]) == ("features.npz", [0.0001, 0.01, 10.0])
    assert (record["settings"]["tol"], record["settings"]["validation"]) == (1e-5, 0.1)
    model = read_json(Path("runs/probe/model.json"))
    assert model["probe"] == {"C": 0.01}
    (line,) = Path("runs/probe/commands.jsonl").read_text().splitlines()
    assert json.loads(line)["command"] == "python -m fcnet.probe features.npz --Cs 1e-4,0.01,10 --tol 1e-5"
    assert len(read_csv("runs/probe/mistakes.csv")) == NUM_TEST - round(
        NUM_TEST * read_summary("runs/probe")["test_accuracy"]
    )
