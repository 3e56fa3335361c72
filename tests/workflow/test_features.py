"""Vectors of features instead of images: every command on them, from training to export."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

import fcnet
from fcnet import evaluate, predict, train
from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.export import __main__ as export
from fcnet.report import __main__ as report
from fcnet.runtime.errors import UserError
from fcnet.sweep import __main__ as sweep
from tests.helpers import RUN_FILES, advance_run, command_output, list_run_files, run_command, run_result, set_flags

pytestmark = pytest.mark.usefixtures("working_folder")
CLASSES = ("cat", "cow", "dog")
NUM_FEATURES = 6
NAMES = np.array([f"photos/{row}.jpg" for row in range(40)])
CONFIG = """\
seed = 1
[data]
source = "features"
path = "pets.npz"
[model]
kind = "logistic"
[optimizer]
lr = 0.05
[train]
epochs = 3
batch_size = 16
"""
MLP = ("model.kind=mlp", "model.hidden=[8]", "model.normalization=batch", "model.dropout=0.2")


def make_arrays(dtype: Any = np.float16) -> dict[str, Any]:
    """Makes features that tell three classes apart, of very different scales, the last of them constant."""
    draws = np.random.default_rng(0)
    scales, means = np.array([1.0, 100.0, 0.01, 5.0, 1.0, 0.0]), np.array([0.0, 500.0, 0.5, -7.0, 3.0, 2.0])
    centres = draws.standard_normal((3, NUM_FEATURES)) * 2
    arrays: dict[str, Any] = {}
    for split, count in (("train", 120), ("test", 40)):
        y = draws.permutation(np.arange(count) % 3)
        x = (centres[y] + draws.standard_normal((count, NUM_FEATURES))) * scales + means
        arrays |= {f"x_{split}": x.astype(np.float16).astype(dtype), f"y_{split}": np.array(CLASSES)[y]}
    return arrays | {"paths_test": NAMES}


@pytest.fixture(autouse=True)
def pets(working_folder: Path) -> dict[str, Any]:
    """The file ``pets.npz`` of features, and ``pets.toml``, which trains on them."""
    arrays = make_arrays()
    np.savez("pets.npz", **arrays)
    Path("pets.toml").write_text(CONFIG)
    return arrays


def train_run(name: str, *changes: str) -> Path:
    command_output(train.main, "pets.toml", "--out", name, *set_flags(*changes))
    return Path(name)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return fcnet.load(run).state_dict()


def error_line(main: Any, *arguments: object) -> str:
    """Returns the one line of a user's mistake, its paths relative to the working folder."""
    code, out, err = run_command(main, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err.rstrip("\n").replace(f"{Path.cwd()}/", "")


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [(), MLP])
def test_a_run_is_whole_and_learns(changes: tuple[str, ...]) -> None:
    run = train_run("run", *changes, "train.epochs=20")
    assert list_run_files(run) == RUN_FILES
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.8
    assert (summary["train_images"], summary["validation_images"], summary["test_images"]) == (108, 12, 40)


def test_probabilities_follow_from_the_stored_model_by_the_formula(pets: dict[str, Any]) -> None:
    run = train_run("run")
    content = json.loads((run / "model.json").read_text())
    assert content["shape"] == [NUM_FEATURES]
    assert content["classes"] == list(CLASSES)
    state = {name: tensor.double().numpy() for name, tensor in weights(run).items()}
    x = (pets["x_test"].astype(np.float64) - content["mean"]) / content["std"]
    scores = x @ state["model.layers.0.weight"].T + state["model.layers.0.bias"]
    expected = np.exp(scores - scores.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    found = fcnet.load(run).predict_proba(torch.from_numpy(pets["x_test"]))
    assert_close(found.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-6)


def test_features_are_standardized_by_the_training_rows_alone(pets: dict[str, Any]) -> None:
    classifier = fcnet.load(train_run("run", "data.validation=0.0"))
    x = pets["x_train"].astype(np.float64)
    std = np.where(x.std(0) == 0.0, 1.0, x.std(0))
    assert std[-1] == 1.0
    assert_close(classifier.mean, torch.from_numpy(x.mean(0)).float(), rtol=1e-6, atol=0)
    assert_close(classifier.std, torch.from_numpy(std).float(), rtol=1e-6, atol=0)
    held_out = fcnet.load(train_run("held-out", "data.validation=0.3"))
    assert not torch.equal(held_out.mean, classifier.mean)


def test_features_may_be_used_as_they_are() -> None:
    classifier = fcnet.load(train_run("run", "data.standardize=false"))
    assert classifier.mean.tolist() == [0.0] * NUM_FEATURES
    assert classifier.std.tolist() == [1.0] * NUM_FEATURES


def save_folder(arrays: dict[str, Any]) -> str:
    Path("pets").mkdir()
    for name, array in arrays.items():
        np.save(f"pets/{name}.npy", array)
    return "pets"


def save_safetensors(arrays: dict[str, Any]) -> str:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name.startswith("x_")}
    text = {name: json.dumps(array.tolist()) for name, array in arrays.items() if name not in tensors}
    save_file(tensors, "pets.safetensors", text)
    return "pets.safetensors"


def save_wider(arrays: dict[str, Any]) -> str:
    np.savez("wider.npz", **make_arrays(np.float64))
    return "wider.npz"


@pytest.mark.parametrize("save", [save_folder, save_safetensors, save_wider])
def test_the_format_and_the_dtype_of_the_same_numbers_do_not_matter(save: Any, pets: dict[str, Any]) -> None:
    expected = weights(train_run("run", *MLP))
    again = weights(train_run("again", *MLP, f"data.path={save(pets)}"))
    assert expected.keys() == again.keys()
    for name, tensor in expected.items():
        assert_close(again[name], tensor, rtol=0, atol=0)


def test_the_datas_own_validation_split_is_used(pets: dict[str, Any]) -> None:
    np.savez("pets.npz", **pets, x_validation=pets["x_test"][:20], y_validation=pets["y_test"][:20])
    run = train_run("run")
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["train_images"], summary["validation_images"]) == (120, 20)


def test_a_subset_of_the_classes_makes_a_binary_problem() -> None:
    run = train_run("run", 'data.classes=["dog", "cat"]', "train.loss=logistic")
    assert fcnet.load(run).classes == ("dog", "cat")
    assert json.loads((run / "summary.json").read_text())["test_images"] < 40


@pytest.mark.parametrize("own_validation", [False, True])
@pytest.mark.parametrize("step", [3, 7, 14])
def test_a_stopped_run_resumes_to_the_bit(
    step: int, own_validation: bool, pets: dict[str, Any], tmp_path: Path
) -> None:
    if own_validation:
        np.savez("pets.npz", **pets, x_validation=pets["x_test"][:20], y_validation=pets["y_test"][:20])
    config = load_config(Path("pets.toml"), MLP)
    results = []
    for name, stops in (("whole", [None]), ("stopped", [step, None])):
        run = Run.create(tmp_path / name, name, dump_config(config))
        for until in stops:
            advance_run(build(config, torch.device("cpu")), run, until=until)
        results.append(run_result(tmp_path / name))
    assert results[0] == results[1]


def test_a_run_belongs_to_the_content_of_its_features(pets: dict[str, Any]) -> None:
    config = load_config(Path("pets.toml"), [])
    run = Run.create(Path("run"), "run", dump_config(config))
    advance_run(build(config, torch.device("cpu")), run, until=3)
    pets["x_train"][0, 0] += 1
    np.savez("changed.npz", **pets)
    code, _, err = run_command(train.main, "--resume", "run", "--set", "data.path=changed.npz")
    assert code == 2
    assert err.replace(f"{Path.cwd()}/", "").startswith("run was trained on other data than this (data.path: changed.")
    assert "it has as many examples, but other features or labels" in err
    Path("pets.npz").rename("moved.npz")
    command_output(train.main, "--resume", "run", "--set", "data.path=moved.npz")
    assert (run.path / "summary.json").is_file()


def test_a_training_starts_from_the_weights_of_another() -> None:
    first = train_run("first", *MLP)
    line = command_output(train.main, "pets.toml", "--out", "second", *set_flags(*MLP, "model.init_from=first"))
    assert "first; last layer copied; inputs normalized as there" in line
    assert_close(fcnet.load(Path("second")).mean, fcnet.load(first).mean, rtol=0, atol=0)


def test_a_model_is_evaluated_on_tensors_in_python(pets: dict[str, Any]) -> None:
    run = train_run("run")
    y = np.array([CLASSES.index(name) for name in pets["y_test"]])
    result = fcnet.evaluation.evaluate(fcnet.load(run), (pets["x_test"], y))
    assert result.accuracy == json.loads((run / "summary.json").read_text())["test_accuracy"]


# --- the other commands -------------------------------------------------------------------------------------------


def test_evaluate_judges_the_own_test_split_and_other_data(pets: dict[str, Any]) -> None:
    run = train_run("run")
    out = command_output(evaluate.main, run)
    assert "40 images" in out
    assert "paths are relative" not in out
    accuracy = json.loads((run / "evaluation.json").read_text())["accuracy"]
    assert accuracy == json.loads((run / "summary.json").read_text())["test_accuracy"]
    assert command_output(evaluate.main, run, "--verify").startswith("predictions: equal, 40 images")
    labels = np.where(pets["y_test"] == "cow", "ox", pets["y_test"])
    np.savez("other.npz", x_test=pets["x_test"], y_test=labels)
    out = command_output(evaluate.main, run, "--data", "other.npz")
    assert "of classes that the model lacks are left out: ox" in out
    assert json.loads((run / "evaluation.json").read_text())["shift"]["pixels"] is None


def test_mistakes_have_the_names_of_the_file(pets: dict[str, Any]) -> None:
    run = train_run("run", "train.epochs=1")
    command_output(evaluate.main, run, "--data", "pets.npz")
    for file in ("mistakes.csv", "evaluation-mistakes.csv"):
        rows = list(csv.DictReader(io.StringIO((run / file).read_text())))
        assert rows
        assert {row["path"] for row in rows} <= set(NAMES)


def test_predict_makes_a_table(pets: dict[str, Any]) -> None:
    run = train_run("run")
    np.save("new.npy", pets["x_test"][:3])
    expected = fcnet.load(run).predict_proba(torch.from_numpy(pets["x_test"][:3]))
    rows = json.loads(command_output(predict.main, run, "new.npy", "--json"))
    assert [row["path"] for row in rows] == ["new.npy[0]", "new.npy[1]", "new.npy[2]"]
    assert [row["class"] for row in rows] == [CLASSES[label] for label in expected.argmax(1)]
    assert_close(torch.tensor([row["probability"] for row in rows]), expected.max(1).values)
    table = list(csv.DictReader(io.StringIO(command_output(predict.main, run, "new.npy", "pets.npz", "--csv"))))
    assert [row["path"] for row in table] == ["new.npy[0]", "new.npy[1]", "new.npy[2]", *NAMES]
    assert command_output(predict.main, run, "new.npy").startswith("new.npy[0]: ")


@pytest.mark.parametrize("size", [1, 2, 256])
def test_the_size_of_a_batch_does_not_change_a_prediction(size: int, pets: dict[str, Any]) -> None:
    run = train_run("run")
    np.save("new.npy", pets["x_test"])
    rows = json.loads(command_output(predict.main, run, "new.npy", "--json", "--batch-size", size))
    expected = fcnet.load(run).predict_proba(torch.from_numpy(pets["x_test"])).max(1).values
    assert_close(torch.tensor([row["probability"] for row in rows]), expected)


def test_a_report_has_no_images() -> None:
    run = train_run("run", *MLP)
    command_output(report.main, run, "--out", "report.html")
    page = Path("report.html").read_text()
    assert "<img" not in page
    assert "<canvas" not in page
    assert "photos/" in page
    assert "relative to" not in page


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_exported_files_take_features(suffix: str, pets: dict[str, Any]) -> None:
    run = train_run("run", *MLP)
    result = run_command(export.main, run, f"model{suffix}")
    assert f"float32 features (B, {NUM_FEATURES}) to probabilities (B, 3)" in result.out + result.err
    x = pets["x_test"].astype(np.float32)
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(f"model{suffix}")
        (found,) = session.run(["probabilities"], {"features": x})
    else:
        found = torch.export.load(f"model{suffix}").module()(torch.from_numpy(x)).numpy()
    assert_close(torch.from_numpy(found), fcnet.load(run).predict_proba(torch.from_numpy(x)), rtol=1e-4, atol=1e-6)
    card = Path("README.md").read_text()
    assert f"It classifies vectors of {NUM_FEATURES} features into 3 classes." in card
    np.save("FEATURES.npy", x)
    program = card.partition("```python\n")[2].partition("```")[0]
    exec(program, {"print": lambda name, p: np.testing.assert_array_equal(name in CLASSES, 0.0 <= p <= 1.0)})  # noqa: S102


def test_a_sweep_runs_on_features() -> None:
    result = run_command(sweep.main, "pets.toml", "--grid", "optimizer.lr=[0.01, 0.1]", "--out", "sweep")
    assert result.code == 0, result.err
    assert len(list(Path("sweep").rglob("summary.json"))) >= 2


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "data.augment.flip=true",
            "data.augment.flip (--set data.augment.flip=true) must be false for the source feat",
        ),
        ("data.augment.mixup=0.2", "must be 0.0 for the source features, which has no images, got 0.2"),
        ("data.whiten=3", "data.whiten (--set data.whiten=3) must be 0 for the source features, which has no images, "),
        ('data.path=""', "must be set for the source features"),
        ("data.path=no.npz", "no.npz: no such file or folder"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_line(change: str, message: str) -> None:
    assert message in error_line(train.main, "pets.toml", "--set", change)


def test_broken_features_are_one_line(pets: dict[str, Any]) -> None:
    pets["x_train"][17, 2] = np.nan
    np.savez("pets.npz", **pets)
    expected = "x_train in pets.npz must hold finite numbers, got NaN in row 17"
    assert error_line(train.main, "pets.toml") == expected


def test_features_beyond_float32_are_one_line(pets: dict[str, Any]) -> None:
    pets["x_train"] = pets["x_train"].astype(np.float64)
    pets["x_train"][:, 1] *= 1e60
    np.savez("pets.npz", **pets)
    message = error_line(train.main, "pets.toml")
    assert message.startswith("features must be in the range of float32, got the mean ")
    assert message.endswith(" in column 1; scale the column")


def test_other_inputs_than_the_models_are_one_line(pets: dict[str, Any]) -> None:
    run = train_run("run")
    np.save("narrow.npy", pets["x_test"][:, :2])
    narrow = error_line(predict.main, run, "narrow.npy")
    assert narrow == "x in narrow.npy must be features (N, 6) for this model, got (40, 2)"
    np.savez("narrow.npz", x_test=pets["x_test"][:, :2], y_test=pets["y_test"])
    message = error_line(evaluate.main, run, "--data", "narrow.npz")
    assert message == "narrow.npz must hold features of shape (6,) for this model, got (2,)"
    Path("x.png").touch()
    assert error_line(predict.main, run, "x.png").startswith("x.png must be .npz, .safetensors, a folder of .npy")
    message = error_line(evaluate.main, run, "--corruptions")
    assert message == "--corruptions needs a model of images, and run takes features"
    with pytest.raises(UserError, match="this model takes features, not images"):
        fcnet.load(run).predict_images(["x.png"])
    with pytest.raises(UserError, match=r"expected floating features \(B, 6\) as a tensor, got torch.uint8 \(1, 6\)"):
        fcnet.load(run).predict_proba(torch.zeros(1, 6, dtype=torch.uint8))


def test_features_that_are_gone_or_changed_are_named(pets: dict[str, Any]) -> None:
    run = train_run("run")
    pets["x_test"][0, 0] += 1
    np.savez("pets.npz", **pets)
    message = error_line(evaluate.main, run)
    assert message == (
        "pets.npz does not hold the features that the model was trained on any more; --data PATH names them"
    )
    Path("pets.npz").unlink()
    assert error_line(evaluate.main, run) == "pets.npz: no such file or folder"
    command_output(report.main, run, "--out", "report.html")
    assert "pets.npz: no such file or folder" in Path("report.html").read_text()
