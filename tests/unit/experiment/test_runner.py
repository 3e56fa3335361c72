"""Tests of fcnet.experiment.runner."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from fcnet.config.schema import Config
from fcnet.config.toml import dump_config
from fcnet.evaluation.prediction_files import read_predictions
from fcnet.evaluation.selection import evaluate_by
from fcnet.experiment import runner
from fcnet.experiment.build import build
from fcnet.experiment.image_classifier import load
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import Stopped, run_experiment
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fcnet.config.selection import Selection
    from fcnet.experiment.build import Experiment

CPU = torch.device("cpu")
STEPS_PER_EPOCH, EPOCHS = 9, 6
TIMINGS = {"seconds", "images_per_second", "train_seconds"}

pytestmark = pytest.mark.usefixtures("isolated_cache")


def make_config(**sections: dict[str, Any]) -> Config:
    """90 training images, 10 held-out images and 30 test images of 2 classes."""
    data = {"source": "synthetic", "shape": (1, 4, 5), "train_size": 100, "test_size": 30, "num_classes": 2}
    data |= sections.pop("data", {})
    train = {"epochs": EPOCHS, "batch_size": 10, "diagnostics_every": 2, "threads": 1} | sections.pop("train", {})
    model = {"hidden": (8,), "dropout": 0.2} | sections.pop("model", {})
    return Config.model_validate({"data": data, "train": train, "model": model, **sections})


def make_run(folder: Path, config: Config) -> Run:
    return Run.create(folder, "test", dump_config(config))


def train_to_end(
    run: Run, config: Config, *, save_seconds: float = 1000.0, change: Callable[[Experiment], None] = lambda _: None
) -> Experiment:
    """Runs an experiment, from its checkpoint if there is one, and makes a change before the first step."""
    experiment = build(config, CPU)
    events = run_experiment(experiment, run, save_seconds=save_seconds)
    change(experiment)
    for _ in events:
        pass
    return experiment


def stop_after(run: Run, config: Config, num_steps: int) -> None:
    """Runs an experiment from its start and stops it after some steps."""
    experiment = build(config, CPU)
    events = run_experiment(experiment, run, save_seconds=1000.0, stop=lambda: experiment.training.step >= num_steps)
    with pytest.raises(Stopped):
        list(events)


def read_results(run: Run) -> dict[str, Any]:
    """Everything in a finished run folder, without what a clock has measured."""
    records = [{key: value for key, value in record.items() if key not in TIMINGS} for record in run.records()]
    summary = {key: value for key, value in run.summary().items() if key not in TIMINGS}
    files = {file.name: file.read_bytes() for file in run.path.glob("*.safetensors")}
    return {"records": records, "summary": summary, "snapshots": run.snapshots(), "files": files}


def test_the_events_are_none_after_each_step_and_a_record_after_each_epoch(tmp_path: Path) -> None:
    config = make_config()
    run = make_run(tmp_path / "run", config)
    events = list(run_experiment(build(config, CPU), run, save_seconds=1000.0))
    epochs = [list(group) for _, group in itertools.groupby(events, key=lambda event: event is None)]
    assert [len(group) for group in epochs] == [STEPS_PER_EPOCH, 1] * EPOCHS
    assert [event.epoch for event in events if event is not None] == list(range(1, EPOCHS + 1))
    assert [record["epoch"] for record in run.records()] == list(range(1, EPOCHS + 1))


def test_a_finished_run_holds_model_predictions_summary_and_its_last_checkpoint(tmp_path: Path) -> None:
    config = make_config()
    run = make_run(tmp_path / "run", config)
    experiment = train_to_end(run, config)
    assert {file.name for file in run.path.iterdir()} == {
        *("config.toml", "metrics.jsonl", "diagnostics.jsonl", "summary.json", "checksums.json"),
        *(
            "model.safetensors",
            "model.json",
            "predictions.safetensors",
            "predictions.json",
            "mistakes.csv",
            "checkpoints",
        ),
    }
    assert len(list((run.path / "checkpoints").glob("*.json"))) == 1
    summary, predictions = run.summary(), read_predictions(run.path)
    assert predictions is not None
    assert summary["test_accuracy"] == pytest.approx(predictions.is_correct.double().mean().item())
    assert (summary["epochs"], summary["best_epoch"], summary["steps"]) == (EPOCHS, EPOCHS, EPOCHS * STEPS_PER_EPOCH)
    assert (summary["train_images"], summary["validation_images"], summary["test_images"]) == (90, 10, 30)
    assert summary["class_images"] == {"0": 45, "1": 45}
    assert summary["validation_accuracy"] == run.records()[-1]["validation_accuracy"]
    assert (summary["seed"], summary["data"], summary["threads"]) == (0, experiment.fingerprint, 1)
    weights = load(run.path).model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in experiment.training.model.state_dict().items())


@pytest.mark.parametrize(
    ("num_steps", "whiten"), [(1, 0), (STEPS_PER_EPOCH, 0), (2 * STEPS_PER_EPOCH + 4, 0), (2 * STEPS_PER_EPOCH + 4, 5)]
)
def test_a_stopped_run_resumes_to_the_same_result(num_steps: int, whiten: int, tmp_path: Path) -> None:
    config = make_config(data={"whiten": whiten})
    whole, stopped = make_run(tmp_path / "whole", config), make_run(tmp_path / "stopped", config)
    train_to_end(whole, config)
    stop_after(stopped, config, num_steps)
    assert (stopped.checkpoints.saved_step, stopped.finished) == (num_steps, False)
    train_to_end(stopped, config)
    assert read_results(stopped) == read_results(whole)


def test_an_iterator_that_is_dropped_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    """Records and snapshots after the checkpoint are written, and then discarded."""
    config = make_config()
    whole, killed = make_run(tmp_path / "whole", config), make_run(tmp_path / "killed", config)
    train_to_end(whole, config)
    stop_after(killed, config, STEPS_PER_EPOCH + 2)
    events = run_experiment(build(config, CPU), killed, save_seconds=1000.0)
    for event in events:
        if event is not None and event.epoch == 4:
            break
    assert [line["epoch"] for line in killed.snapshots()] == [0, 2, 4]
    events = run_experiment(build(config, CPU), killed, save_seconds=1000.0)
    next(events)
    assert [line["epoch"] for line in killed.snapshots()] == [0]
    train_to_end(killed, config)
    assert read_results(killed) == read_results(whole)


def test_a_checkpoint_is_saved_after_every_step_if_save_seconds_is_0(tmp_path: Path) -> None:
    config = make_config()
    run = make_run(tmp_path / "run", config)
    for step, _ in zip(range(1, 4), run_experiment(build(config, CPU), run, save_seconds=0.0), strict=False):
        assert run.checkpoints.saved_step == step


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    config = make_config()
    run = make_run(tmp_path / "run", config)
    stop_after(run, config, 3)
    other = config.model_copy(update={"data": config.data.model_copy(update={"train_size": 110})})
    with pytest.raises(UserError) as error:
        run_experiment(build(other, CPU), run, save_seconds=1000.0)
    assert str(error.value) == f"data.train_size ({run.config}) must be 100 as when the run began, got 110"


def test_a_run_does_not_resume_with_another_configuration(tmp_path: Path) -> None:
    config = make_config()
    run = make_run(tmp_path / "run", config)
    stop_after(run, config, 3)
    other = make_config(model={"hidden": (7,)}, train={"batch_size": 5})
    with pytest.raises(UserError) as error:
        run_experiment(build(other, CPU), run, save_seconds=1000.0)
    assert str(error.value).splitlines() == [
        f"model.hidden ({run.config}) must be [8] as when the run began, got [7]",
        f"train.batch_size ({run.config}) must be 10 as when the run began, got 5",
    ]


def test_the_identity_of_a_checkpoint_is_checked_before_it_is_used(tmp_path: Path) -> None:
    config = make_config()
    run = make_run(tmp_path / "run", config)
    stop_after(run, config, 3)
    tensors, metadata = run.checkpoints.latest() or ({}, {})
    del metadata["data"]["shape"]
    run.checkpoints.save(4, tensors, metadata)
    with pytest.raises(UserError) as error:
        run_experiment(build(config, CPU), run, save_seconds=1000.0)
    assert str(error.value) == f"{run.path / 'checkpoints'} is damaged: data.shape: field required"


def test_a_changed_setting_without_effect_is_kept_and_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_config())
    stop_after(run, make_config(), 2)
    changed = make_config(train={"save_seconds": 7.0})
    run.config.write_text(dump_config(changed))
    notes: list[str] = []
    list(run_experiment(build(run.load_config(), CPU), run, save_seconds=1e9, note=notes.append))
    assert notes == [f"{run.config} was changed after the run began, in settings that do not change its result"]
    assert Run(run.path).load_config() == changed


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31 - 1, 2**63, 1.0, "1", None])
def test_no_checkpoint_sets_an_impossible_number_of_threads(threads: Any, tmp_path: Path) -> None:
    config = make_config()
    run = make_run(tmp_path / "run", config)
    stop_after(run, config, 2)
    tensors, metadata = read_checksummed(run.path / "checkpoints" / "step-0000000002")
    run.checkpoints.save(3, tensors, metadata | {"threads": threads})
    with pytest.raises(UserError, match=rf"^{run.path}/checkpoints is damaged: threads: "):
        run_experiment(build(config, CPU), run, save_seconds=1e9)
    assert torch.get_num_threads() < 1025


def test_a_resumed_run_takes_the_threads_of_its_checkpoint(tmp_path: Path) -> None:
    config = make_config(train={"threads": 2})
    run = make_run(tmp_path / "run", config)
    stop_after(run, config, 3)
    (metadata,) = (run.path / "checkpoints").glob("*.json")
    assert json.loads(metadata.read_text())["threads"] == 2
    experiment = build(make_config(train={"threads": 1}), CPU)
    run_experiment(experiment, run, save_seconds=1000.0)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (1, [0, 1, 2, 3, 4, 5, 6]), (4, [0, 4, 6]), (100, [0, 6])])
def test_snapshots_are_taken_every_n_epochs_and_change_nothing(every: int, epochs: list[int], tmp_path: Path) -> None:
    config = make_config(train={"diagnostics_every": every})
    run, other = make_run(tmp_path / "run", config), make_run(tmp_path / "other", make_config())
    train_to_end(run, config)
    train_to_end(other, make_config())
    assert [line["epoch"] for line in run.snapshots()] == epochs
    assert (run.path / "diagnostics.jsonl").exists() is (every > 0)
    assert (run.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()


def test_snapshots_that_take_too_long_become_rarer_and_stay_so_when_a_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(train={"diagnostics_every": 2})
    run = make_run(tmp_path / "run", config)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "max_share", lambda device: 1e-9)  # any snapshot takes longer
        stop_after(run, config, 3 * STEPS_PER_EPOCH)
    train_to_end(run, config)
    lines = run.snapshots()
    assert [line["epoch"] for line in lines] == [0, 2, 6]
    interval = lines[1]["interval"]
    assert interval > 6
    assert interval % 2 == 0
    assert [line for line in lines if "interval" in line] == [lines[1]]
    warning = f"diagnostics snapshots were taken every {interval:,} epochs, not every 2, "
    assert any(line.startswith(warning) for line in run.summary()["warnings"])


def test_the_warnings_of_a_run_name_dead_layers_with_the_learning_rate(tmp_path: Path) -> None:
    def kill(experiment: Experiment) -> None:
        with torch.no_grad():
            experiment.training.model.get_parameter("layers.0.bias")[:6] -= 1000.0

    config = make_config(optimizer={"lr": 1e-3})
    run = make_run(tmp_path / "run", config)
    train_to_end(run, config, change=kill)
    line = "layer 1: 75% of the units are dead; try leaky_relu or optimizer.lr = 0.0001 (now 0.001)"
    assert line in run.summary()["warnings"]
    assert run.snapshots()[0]["warnings"] == [
        "layer 1: 75% of the units are dead; try leaky_relu or a smaller learning rate"
    ]


@pytest.mark.parametrize("loss", ["logistic", "hinge", "quadratic"])
def test_the_warnings_of_a_run_name_losses_without_probabilities(loss: str, tmp_path: Path) -> None:
    config = make_config(train={"loss": loss, "epochs": 1})
    run = make_run(tmp_path / "run", config)
    train_to_end(run, config)
    warned = any(line.startswith(f"the {loss} loss does not yield probabilities") for line in run.summary()["warnings"])
    assert warned is (loss != "logistic")


def test_temporary_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    config = make_config()
    run = make_run(tmp_path / "run", config)
    leftover = run.path / ".metrics.jsonl.k3_x9a2b.tmp"
    leftover.mkdir()
    run_experiment(build(config, CPU), run, save_seconds=1000.0)
    assert not leftover.exists()


@pytest.mark.parametrize("select", ["validation_accuracy", "validation_loss", "macro_f1", "roc_auc"])
def test_records_and_summary_have_the_selected_figure_once_and_the_summary_that_of_the_best_epoch(
    select: Selection, tmp_path: Path
) -> None:
    config = make_config(train={"patience": EPOCHS, "select": select}, optimizer={"lr": 0.1})
    run = make_run(tmp_path / "run", config)
    experiment = train_to_end(run, config)
    records, summary = run.records(), run.summary()
    has_score = select in {"macro_f1", "roc_auc"}
    assert all(("validation_score" in figures) == has_score for figures in (*records, summary))
    column = "validation_score" if has_score else select
    values = [record[column] for record in records]
    best = min(values) if select == "validation_loss" else max(values)
    assert (summary["best_epoch"], summary[column]) == (values.index(best) + 1, best)
    validation = experiment.training.validation
    assert evaluate_by(experiment.training.model, validation, select)[1] == best


@pytest.mark.parametrize(
    ("select", "num_classes", "reason"),
    [
        ("top_5_accuracy", 2, "it needs more than 5 classes, and there are 2"),
        ("roc_auc", 2, "it needs images of two classes, and all are of one"),
    ],
)
def test_a_figure_that_the_validation_images_do_not_have_is_refused_before_training(
    select: Selection, num_classes: int, reason: str, tmp_path: Path
) -> None:
    arrays: dict[str, Any] = {f"x_{split}": np.zeros((20, 4, 4), np.uint8) for split in ("train", "validation", "test")}
    arrays |= {f"y_{split}": np.arange(20) % num_classes for split in ("train", "test")}
    np.savez(tmp_path / "x.npz", **arrays, y_validation=np.zeros(20, np.int64))
    config = make_config(data={"source": "arrays", "path": str(tmp_path / "x.npz")}, train={"select": select})
    with pytest.raises(UserError) as error:
        build(config, CPU)
    assert str(error.value) == f"train.select must be a figure of the validation images, got {select}: {reason}"
