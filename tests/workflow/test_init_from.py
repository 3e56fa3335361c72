"""A training that starts from the weights of another run: what is copied, what is new, and what does not fit."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import fcnet
from fcnet import train
from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import run_experiment
from fcnet.export import __main__ as export_command
from tests.helpers import (
    advance_run,
    assert_identical,
    command_output,
    flip_bit,
    read_learning_curve,
    read_summary,
    run_command,
    run_result,
    set_flags,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.config.schema import Config
    from fcnet.experiment.build import Experiment

CONFIG = """
[data]
source = "synthetic"
shape = [1, 6, 6]
train_size = 100
test_size = 30
num_classes = 4
[model]
hidden = [12, 8]
normalization = "batch"
[train]
epochs = 2
batch_size = 16
"""
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("working_folder", "isolated_cache")


@pytest.fixture(autouse=True)
def without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.train.ensure_report", lambda *_: None)


def configure(*changes: str) -> Config:
    file = Path("made.toml")
    file.write_text(CONFIG)
    return load_config(file, changes)


def train_run(name: str, *changes: str) -> Run:
    config = configure(*changes)
    run = Run.create(Path(name), name, dump_config(config))
    advance_run(build(config, CPU), run)
    return run


def started(*changes: str) -> Experiment:
    return build(configure("model.init_from=source", *changes), CPU)


def weights(experiment: Experiment, layers: Sequence[int]) -> dict[str, torch.Tensor]:
    state = experiment.training.model.state_dict()
    return {name: x for name, x in state.items() if int(name.split(".")[1]) in layers}


def source_weights(layers: Sequence[int]) -> dict[str, torch.Tensor]:
    state = fcnet.load("source").model.state_dict()
    return {name: x for name, x in state.items() if int(name.split(".")[1]) in layers}


def test_with_the_same_classes_all_weights_and_statistics_are_those_of_the_run() -> None:
    train_run("source")
    experiment = started("seed=9", "data.validation=0.3")
    assert_identical(weights(experiment, [0, 1, 2]), source_weights([0, 1, 2]))
    ours, theirs = experiment.classifier, fcnet.load("source")
    assert_identical({"mean": ours.mean, "std": ours.std}, {"mean": theirs.mean, "std": theirs.std})
    assert experiment.notes[0] == (
        f"starts from the weights of {Path('source').absolute()}; last layer copied; inputs normalized as there"
    )
    pixels = experiment.store.train.pixels[:5]
    assert torch.equal(ours.eval().predict_proba(pixels), theirs.predict_proba(pixels))


def test_the_inputs_are_those_that_the_weights_belong_to() -> None:
    """The training and the validation images get the mean, the deviation and the whitening of the other run."""
    train_run("source", "data.whiten=9")
    experiment, theirs = started("data.whiten=9", "seed=5", "data.validation=0.3"), fcnet.load("source")
    assert experiment.notes[0].endswith("; inputs normalized and whitened as there")
    training, validation = experiment.training.batches, experiment.training.validation
    assert validation is not None
    for batches in (training, validation, experiment.test):
        rows = batches.rows[:4]
        pixels = batches.images[rows].view(-1, 1, 6, 6)
        expected = theirs.model(batches.get_images(rows))
        torch.testing.assert_close(theirs(pixels), expected, rtol=0.0, atol=0.0)


def test_the_weight_average_starts_from_the_loaded_weights() -> None:
    train_run("source")
    average = started("train.ema_decay=0.9").training.average
    assert average is not None
    theirs = dict(fcnet.load("source").model.named_parameters())
    assert_identical(average.weights, {name: x.detach() for name, x in theirs.items()})


@pytest.mark.parametrize("classes", [["0", "2"], ["0", "1", "2"]], ids=len)
def test_with_other_classes_the_last_layer_alone_is_new(classes: list[str]) -> None:
    train_run("source")
    names = f"data.classes={classes}"
    experiment, other_seed = started(names), started(names, "seed=1")
    assert f"last layer new, for {len(classes)} classes instead of 4;" in experiment.notes[0]
    assert_identical(weights(experiment, [0, 1]), source_weights([0, 1]))
    assert_identical(weights(other_seed, [0, 1, 2]), weights(experiment, [0, 1, 2]))
    assert not any(x.any() for x in weights(experiment, [2]).values())


def test_as_many_other_classes_have_a_new_last_layer_too() -> None:
    train_run("source", "data.classes=['0','1','2']")
    experiment = started("data.classes=['0','1','3']")
    assert "last layer new, for other classes than 0, 1, 2;" in experiment.notes[0]


@pytest.mark.parametrize("order", [["1", "0"], ["2", "0", "1"]], ids=len)
def test_classes_in_another_order_keep_their_outputs(order: list[str]) -> None:
    train_run("source", f"data.classes={sorted(order)}", "train.epochs=3")
    experiment, theirs = started(f"data.classes={order}"), fcnet.load("source")
    assert "last layer copied, in the order of the classes here;" in experiment.notes[0]
    pixels = experiment.store.train.pixels[:20]
    ours = experiment.classifier.eval().predict_proba(pixels)
    columns = [theirs.classes.index(name) for name in order]
    torch.testing.assert_close(ours, theirs.predict_proba(pixels)[:, columns], rtol=0.0, atol=0.0)


def test_two_classes_become_more_with_a_new_last_layer() -> None:
    train_run("source", "data.classes=['0','1']")
    experiment = started()
    assert "last layer new, for 4 classes instead of 2;" in experiment.notes[0]
    assert_identical(weights(experiment, [0, 1]), source_weights([0, 1]))


@pytest.mark.parametrize("seed", range(3))
def test_digits_learned_for_ten_classes_help_with_four_of_them(seed: int) -> None:
    digits = ["data.source=digits", "model.hidden=[64]", "optimizer.lr=3e-3", f"seed={seed}"]
    train_run("source", *digits, "train.epochs=5", "train.batch_size=64")
    four = [*digits, "data.classes=['3','5','8','9']", "train.epochs=1", "data.validation=0.7"]
    scratch = train_run("scratch", *four).records()[0]["validation_accuracy"]
    transferred = train_run("transferred", *four, "model.init_from=source").records()[0]["validation_accuracy"]
    assert transferred > scratch + 0.05


def test_a_run_resumes_without_the_run_that_it_started_from() -> None:
    train_run("source", "data.whiten=9")
    changes = ["data.whiten=9", "data.classes=['2','0']", "model.init_from=source", "train.ema_decay=0.9", "seed=4"]
    command_output(train.main, "--config", "made.toml", "--out", "whole", *set_flags(*changes))
    expected = run_result("whole")
    config = configure(*changes)
    for steps in (None, 4):
        run = Run.create(Path(f"run-{steps}"), "run", dump_config(config))
        experiment = build(config, CPU)
        if steps is None:  # killed before the first checkpoint
            list(itertools.islice(run_experiment(experiment, run, save_seconds=1e9), 2))
            assert run.checkpoints.saved_step is None
        else:
            advance_run(experiment, run, until=steps)
    shutil.rmtree("source")
    for steps in (None, 4):
        command_output(train.main, "--resume", "--out", f"run-{steps}")
        assert run_result(f"run-{steps}") == expected, steps
        command_output(train.main, "--resume", "--out", f"run-{steps}", "--set", "train.epochs=3")
    command_output(train.main, "--resume", "--out", "whole", "--set", "train.epochs=3")
    assert len(read_learning_curve("whole")) == 3
    assert run_result("run-4") == run_result("run-None") == run_result("whole")


def test_the_model_and_the_summary_say_where_the_weights_came_from() -> None:
    train_run("source")
    out = command_output(
        train.main, "--config", "made.toml", "--out", "run", *set_flags("model.init_from=source", "train.epochs=1")
    )
    source = str(Path("source").absolute())
    assert f"\nstarts from the weights of {source}; last layer copied; " in out
    origin = {"run": source, "checksum": json.loads(Path("source/model.json").read_text())["checksum"]}
    assert read_summary("run")["init_from"] == origin
    assert json.loads(Path("run/model.json").read_text())["init_from"] == origin
    assert "init_from" not in read_summary("source")
    command_output(export_command.main, "run", "exported.pt2")
    assert "Training started from the weights of the run `source`." in Path("README.md").read_text()


SHAPES = {
    "data.shape=[1,4,9]": "the shape of the images must be 1×6×6 {start}, got 1×4×9",
    "data.whiten=9": "data.whiten must be 0 {start}, got 9",
    "model.hidden=[12]": "model.hidden must be [12, 8] {start}, got [12]",
    "model.hidden=[12,8,8]": "model.hidden must be [12, 8] {start}, got [12, 8, 8]",
    "model.activation=gelu": 'model.activation must be "relu" {start}, got "gelu"',
    "model.normalization=none": 'model.normalization must be "batch" {start}, got "none"',
    "model.kind=logistic": 'model.kind must be "mlp" {start}, got "logistic"',
}


@pytest.mark.parametrize("change", SHAPES)
def test_what_does_not_fit_is_refused_with_both_values(change: str) -> None:
    train_run("source", "train.epochs=1")
    code, _, err = run_command(
        train.main, "--config", "made.toml", "--out", "run", *set_flags("model.init_from=source", change)
    )
    start = f"to start from the weights of {Path('source').absolute()}"
    assert (code, err) == (2, SHAPES[change].format(start=start) + "\n")
    assert not Path("run").exists()


def test_logistic_regression_starts_from_logistic_regression_alone() -> None:
    train_run("source", "model.kind=logistic", "train.epochs=1")
    assert_identical(weights(started("model.kind=logistic"), [0]), source_weights([0]))
    with pytest.raises(fcnet.UserError, match=r"^model.hidden must be \[\] to start .*, got \[12, 8\]$"):
        started()


def refused_source() -> str:
    code, _, err = run_command(
        train.main, "--config", "made.toml", "--out", "run", *set_flags("model.init_from=source")
    )
    assert code == 2
    assert err.count("\n") == 1
    return err.rstrip("\n")


def test_what_is_no_finished_run_is_refused() -> None:
    config, source = configure(), Path("source").absolute()
    assert refused_source() == f"model.init_from must be the folder of a finished run, got {source}: no such folder"
    source.mkdir()
    assert refused_source() == f"model.init_from must be the folder of a finished run, got {source}: holds no run"
    run = Run.create(source, "source", dump_config(config))
    advance_run(build(config, CPU), run, until=3)
    assert refused_source() == f"model.init_from must be a finished run, and {source} is not finished; resume it first"
    advance_run(build(config, CPU), run)
    flip_bit("source/model.safetensors")
    assert refused_source() == (
        f"{source}/model.safetensors is damaged: its bytes do not match the checksum in model.json"
    )


def test_a_run_cannot_start_from_itself() -> None:
    train_run("source", "train.epochs=1")
    code, _, err = run_command(
        train.main, "--config", "made.toml", "--out", "source", *set_flags("model.init_from=source")
    )
    assert code == 2
    assert err == "--out: source already holds a run; --resume continues it, another folder begins a new one\n"


def test_the_path_is_stored_absolute() -> None:
    config = configure("model.init_from=source")
    assert config.model.init_from == str(Path("source").absolute())
    assert configure("model.init_from=''").model.init_from == ""
