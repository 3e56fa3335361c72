"""A run that continues to more epochs ends as one that had as many from the start, to the bit."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

import fcnet
from fcnet import evaluate, train
from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import run_experiment
from fcnet.report import __main__ as report
from fcnet.runtime.errors import NonFiniteError
from tests.helpers import (
    RUN_FILES,
    advance_run,
    command_output,
    model_files,
    read_tree,
    run_command,
    run_result,
    set_flags,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.config.schema import Config

# 90 training images in 12 steps an epoch, the last of two images.
CONFIG = """
seed = 3
[data]
source = "synthetic"
shape = [1, 6, 6]
train_size = 100
test_size = 30
num_classes = 4
augment = { flip = true, shift = 1 }
[model]
hidden = [12, 12]
normalization = "batch"
dropout = 0.2
[optimizer]
warmup_epochs = 1.5
milestones = [1, 2.5, 4]
[train]
epochs = 2
batch_size = 8
diagnostics_every = 3
"""
CPU = torch.device("cpu")
FULL_BATCH = ["optimizer.name=lbfgs", "train.batch_size=all", "optimizer.schedule=cosine"]
SETTINGS = [
    ["optimizer.name=sgd", "train.accumulate=3"],
    ["optimizer.name=adamw", "train.ema_decay=0.9", "data.whiten=9"],
    ["optimizer.name=muon", "optimizer.schedule=steps", "train.ema_decay=0.9", "train.patience=4"],
    [
        "optimizer.name=adam",
        "train.patience=4",
        "data.balance=sampling",
        "data.augment={ mixup = 0.3 }",
        "train.calibrate=true",
    ],
    FULL_BATCH,
]
pytestmark = pytest.mark.usefixtures("working_folder", "isolated_cache")


@pytest.fixture(autouse=True)
def without_reports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "report" not in request.node.name:
        monkeypatch.setattr("fcnet.train.ensure_report", lambda *_: None)


def make_run(name: str, *changes: str) -> tuple[Config, Run]:
    file = Path("made.toml")
    file.write_text(CONFIG)
    config = load_config(file, changes)
    return config, Run.create(Path(name), name, dump_config(config))


def finished_run(name: str, *changes: str) -> Run:
    config, run = make_run(name, *changes)
    advance_run(build(config, CPU), run)
    return run


def resume(run: str, epochs: int) -> str:
    return command_output(train.main, "--resume", "--out", run, "--set", f"train.epochs={epochs}")


def refusal(*arguments: object) -> str:
    code, out, err = run_command(train.main, "--resume", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err.rstrip("\n")


def whole_result(run: Run) -> dict[str, Any]:
    names = {entry.name for entry in run.path.iterdir()} - {"commands.jsonl"}  # only commands write it
    return run_result(run.path) | {"names": names}


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_a_finished_run_that_continues_equals_one_with_all_epochs_from_the_start(changes: list[str]) -> None:
    expected = whole_result(finished_run("whole", *changes, "train.epochs=5"))
    run = finished_run("run", *changes)
    assert len(run.records()) == 2
    resume("run", 4)
    assert len(run.records()) == 4
    resume("run", 5)
    assert whole_result(run) == expected
    assert [snapshot["epoch"] for snapshot in run.snapshots()] == [0, 3, 5]


def test_an_unfinished_run_that_continues_equals_one_with_all_epochs_from_the_start() -> None:
    expected = whole_result(finished_run("whole", "train.epochs=5"))
    for steps in (None, 7, 24):
        config, run = make_run(f"run-{steps}")
        if steps is not None:
            advance_run(build(config, CPU), run, until=steps)
        resume(str(run.path), 5)
        assert whole_result(run) == expected, steps


def test_a_continued_run_that_is_stopped_resumes_to_the_same_result() -> None:
    changes = SETTINGS[2]
    expected = whole_result(finished_run("whole", *changes, "train.epochs=5"))
    run = finished_run("run", *changes)
    config = load_config(run.config, ["train.epochs=5"])
    for step in (25, 30, 36, 59):
        advance_run(build(config, CPU), run, until=step)
        config = run.load_config()
        assert config.train.epochs == 5
        assert not run.finished
    out = command_output(train.main, "--resume", "--out", "run")
    assert "read again" not in out
    assert whole_result(run) == expected


def test_early_stopping_counts_from_the_epochs_before() -> None:
    """The continued run stops where the whole one stops, before its last epoch."""
    changes = ["train.patience=3", "optimizer.lr=1e-9", "model.dropout=0.0"]
    whole = finished_run("whole", *changes, "train.epochs=9")
    assert whole.summary()["epochs"] == 4
    run = finished_run("run", *changes)
    resume("run", 9)
    assert whole_result(run) == whole_result(whole)


class KilledError(BaseException):
    """Stands for the end of the process."""


def continue_until_killed(run: Run, config: Config, allowed: int) -> int:
    """Trains until a number of changes to files has been made, as a process does that is killed; returns it."""
    count = 0

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def change_or_die(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if arguments[0].is_relative_to(run.path):
                if count == allowed:
                    raise KilledError
                count += 1
            return change(*arguments, **options)

        return change_or_die

    with (
        mock.patch.object(Path, "replace", counted(Path.replace)),
        mock.patch.object(Path, "unlink", counted(Path.unlink)),
        contextlib.suppress(KilledError),
    ):
        advance_run(build(config, CPU), run, save_seconds=0.0)
    return count


def test_a_kill_before_any_change_to_a_file_leaves_the_old_run_or_one_that_resumes() -> None:
    changes = ["train.batch_size=all", "train.ema_decay=0.9", "train.diagnostics_every=2"]
    expected = whole_result(finished_run("whole", *changes, "train.epochs=2"))
    run = finished_run("run", *changes, "train.epochs=1")
    before = whole_result(run)
    config = load_config(run.config, ["train.epochs=2"])
    shutil.copytree("run", "counted")
    total = continue_until_killed(Run(Path("counted")), config, 10_000)
    assert total > 20
    states = []
    # Few of the changes while it trains, which are those of any run.
    for allowed in sorted({*range(10), *range(10, total, 5), *range(total - 12, total, 2)}):
        folder = Path(str(allowed))
        shutil.copytree("run", folder)
        continue_until_killed(Run(folder), config, allowed)
        left, notes = Run(folder), list[str]()
        states.append((left.load_config().train.epochs, left.finished))
        if states[-1] == (1, True):
            left.clean_up()
            assert whole_result(left) == before, allowed
        else:
            wanted = left.load_config()
            list(run_experiment(build(wanted, CPU), left, save_seconds=1e9, note=notes.append))
            left.clean_up()
            assert (whole_result(left), notes) == (expected, []), allowed
        shutil.rmtree(folder)
    assert list(dict.fromkeys(states)) == [(1, True), (2, False), (2, True)]  # in this order


def test_what_describes_the_former_end_stays_until_the_new_end() -> None:
    run = finished_run("run", "optimizer.lr=0.01")
    before = read_tree("run")
    config = load_config(run.config, ["train.epochs=5"])
    advance_run(build(config, CPU), run, until=30)
    assert not run.finished
    for name in ("model.json", "model.safetensors", "predictions.json", "predictions.safetensors", "summary.json"):
        assert (run.path / name).read_bytes() == before[name]
    fcnet.load("run")
    command_output(evaluate.main, "run")
    assert (run.path / "evaluation.json").is_file()
    resume("run", 5)
    assert model_files("run")[0] != before["model.safetensors"]
    assert not (run.path / "evaluation.json").exists()  # of a model that is there no more


def test_the_report_of_a_run_under_way_says_that_it_is_not_finished() -> None:
    run = finished_run("run")
    command_output(report.main, "run")
    assert "test accuracy" in (run.path / "report.html").read_text()
    advance_run(build(load_config(run.config, ["train.epochs=5"]), CPU), run, until=40)
    command_output(report.main, "run")
    text = (run.path / "report.html").read_text()
    assert "the run is not finished" in text
    assert "3 of 5" in text
    resume("run", 5)
    assert "the run is not finished" not in (run.path / "report.html").read_text()
    assert {entry.name for entry in run.path.iterdir()} == RUN_FILES | {"checkpoints"}


def test_a_continued_run_that_meets_nan_keeps_the_model_of_the_former_end() -> None:
    run = finished_run("run")
    before = model_files("run")
    config = load_config(run.config, ["train.epochs=5"])
    experiment = build(config, CPU)
    events = run_experiment(experiment, run, save_seconds=1e9)
    next(events)
    with torch.no_grad():
        next(experiment.training.model.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError):
        list(events)
    assert model_files("run") == before


def test_the_command_says_that_the_test_images_are_read_again() -> None:
    finished_run("run")
    first, note, *_, result, _ = resume("run", 3).splitlines()
    assert first.endswith("; run")
    assert note == (
        "note: the run continues to epoch 3, where the test images are read again; choose train.epochs by the "
        "validation accuracy: chosen by the test accuracy, that would be too high"
    )
    assert result.startswith("test accuracy ")


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_finished_run_with_as_many_or_more_epochs_is_finished(epochs: int) -> None:
    finished_run("run")
    before = read_tree("run")
    assert resume("run", epochs).startswith("run is finished: test accuracy ")
    assert read_tree("run").keys() == before.keys() | {".run.lock"} or read_tree("run") == before


def test_fewer_epochs_of_an_unfinished_run_are_refused() -> None:
    config, run = make_run("run")
    advance_run(build(config, CPU), run, until=3)
    before = read_tree("run")
    found = refusal("--out", "run", "--set", "train.epochs=1")
    assert found == "train.epochs must be at least 2 to resume run, got 1"
    assert read_tree("run") == before


@pytest.mark.parametrize("schedule", ["cosine", "linear", "one_cycle"])
@pytest.mark.parametrize("steps", [None, 3])
def test_a_schedule_with_an_end_is_refused(schedule: str, steps: int | None) -> None:
    config, run = make_run("run", f"optimizer.schedule={schedule}")
    advance_run(build(config, CPU), run, until=steps)
    before = read_tree("run")
    instead = (
        "start a new run with --set train.epochs=9"
        if steps
        else "to train its weights further, start a new run with --set model.init_from=run"
    )
    assert refusal("--out", "run", "--set", "train.epochs=9") == (
        f"run cannot continue to epoch 9: its {schedule} schedule is laid out for 2 epochs, and a longer one differs "
        f"from the first step; {instead}"
    )
    assert read_tree("run") == before
    if steps is None:
        assert not (run.path / "checkpoints").exists()  # nothing could use them


def test_a_run_that_stopped_early_is_refused() -> None:
    run = finished_run("run", "train.patience=1", "optimizer.lr=1e-9", "model.dropout=0.0", "train.epochs=6")
    assert run.summary()["epochs"] == 2
    assert run.finished
    assert not (run.path / "checkpoints").exists()
    assert refusal("--out", "run", "--set", "train.epochs=9") == (
        "run cannot continue to epoch 9: it stopped early after epoch 2, as train.patience = 1 asks; "
        "to train its weights further, start a new run with --set model.init_from=run"
    )


def test_without_its_checkpoint_a_finished_run_is_usable_and_cannot_continue() -> None:
    run = finished_run("run")
    assert len(list((run.path / "checkpoints").iterdir())) == 2  # one pair of files
    shutil.rmtree(run.path / "checkpoints")
    assert command_output(train.main, "--resume", "--out", "run").startswith("run is finished")
    command_output(evaluate.main, "run")
    assert refusal("--out", "run", "--set", "train.epochs=9") == (
        "run cannot continue to epoch 9: it has no checkpoint to continue from; "
        "to train its weights further, start a new run with --set model.init_from=run"
    )


def test_a_damaged_checkpoint_is_refused_by_name_and_the_run_stays_finished() -> None:
    run = finished_run("run")
    (tensors,) = (run.path / "checkpoints").glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    before = read_tree("run")
    found = run_command(train.main, "--resume", "--out", "run", "--set", "train.epochs=9")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert found.err.startswith(f"{tensors} is damaged")
    assert read_tree("run") == before
    assert run.finished


@pytest.mark.parametrize("change", ["model.hidden=[3]", "optimizer.lr=0.1", "seed=4", "train.save_seconds=1"])
def test_other_settings_are_refused_by_name(change: str) -> None:
    finished_run("run")
    found = refusal("--out", "run", *set_flags("train.epochs=9", change))
    assert found == f"--set {change}: a run that continues takes another data.path or train.epochs, nothing else"


def test_a_given_configuration_must_agree_in_all_else() -> None:
    finished_run("run")
    assert refusal("--config", "made.toml", "--out", "run", *set_flags("train.epochs=9", "seed=4")) == (
        "seed (made.toml) must be 3 as in run/config.toml, got 4"
    )
    out = command_output(train.main, "--resume", "--config", "made.toml", "--out", "run", "--set", "train.epochs=3")
    assert "epoch 3/3" in out


def test_epochs_changed_in_the_file_by_hand_are_refused() -> None:
    run = finished_run("run")
    run.config.write_text(run.config.read_text().replace("epochs = 2\n", "epochs = 9\n"))
    found = refusal("--out", "run")
    assert found == "train.epochs (run/config.toml) must be 2 as when the run began, got 9"


def test_a_finished_run_whose_summary_is_gone_is_refused() -> None:
    run = finished_run("run")
    (run.path / "summary.json").unlink()
    assert refusal("--out", "run") == "run/summary.json: no such file, but the run was finished"
