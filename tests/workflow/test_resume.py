"""A run that was stopped, or that died, goes on as if nothing had happened."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from fcnet.config.toml import dump_config, load_config
from fcnet.experiment import snapshots
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import Stopped, run_experiment
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fcnet.config.schema import Config
    from fcnet.experiment.build import Experiment
    from fcnet.training.records import EpochRecord

# 90 training images in 12 steps an epoch, the last of two images; 36 steps in all.
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
residual = true
[optimizer]
schedule = "cosine"
warmup_epochs = 0.5
[train]
epochs = 3
batch_size = 8
label_smoothing = 0.1
"""
pytestmark = pytest.mark.usefixtures("isolated_cache")
CPU = torch.device("cpu")
ALL_AT_ONCE = ["optimizer.name=lbfgs", "train.batch_size=all", "train.epochs=36"]
STEPS = ["optimizer.schedule=steps", "optimizer.milestones=[0.5,2]"]
CLIPPED = ["model.normalization=layer", "model.activation=elu", "optimizer.schedule=linear", "optimizer.clip_norm=0.5"]
MIXED = (
    "data.augment={ flip = true, shift = 1, rotate = 20, scale = 0.2, color_jitter = 0.4, cutout = 2, mixup = 0.3, "
    "cutmix = 1 }"
)
COURSES = [
    ["optimizer.name=sgd", "train.accumulate=3"],
    ["optimizer.name=adamw", "train.ema_decay=0.9"],
    ["optimizer.name=muon", *STEPS, "train.ema_decay=0.9", "train.patience=3"],
    ALL_AT_ONCE,
    ["optimizer.name=adam", "optimizer.schedule=one_cycle", "train.patience=1"],
    ["data.whiten=9", "model.activation=gelu"],
    CLIPPED,
    ["data.augment={ rotate = 20, scale = 0.2 }"],
    ["data.augment={ color_jitter = 0.4, cutout = 2 }"],
    ["data.augment={ mixup = 0.3 }", "model.normalization=none", "model.dropout=0.0"],
    ["data.augment={ cutmix = 1 }", "data.classes=['3', '1']", "train.batch_size=4"],
    ["data.balance=weights"],
    ["data.balance=sampling"],
    [MIXED, "data.balance=weights"],
    [MIXED, "data.balance=sampling", "data.whiten=9", "train.accumulate=2"],
]
FINISHED = {
    *("config.toml", "metrics.jsonl", "diagnostics.jsonl", "summary.json", "model.safetensors", "model.json"),
    *("predictions.safetensors", "predictions.json", "report.html"),
}


def configured(folder: Path, *changes: str) -> Config:
    file = folder / "config.toml"
    file.write_text(CONFIG)
    return load_config(file, changes)


def begun(folder: Path, config: Config) -> Run:
    return Run.create(folder / "run", "run", dump_config(config))


def carry_on(
    experiment: Experiment,
    run: Run,
    *,
    until: int | None = None,
    save_seconds: float = 1e9,
    watch: Callable[[], None] = lambda: None,
) -> list[EpochRecord]:
    """Goes on with a run, to the end or until it has made so many steps; the records of this part."""

    def stop() -> bool:
        return until is not None and experiment.training.step >= until

    seen = []
    try:
        for record in run_experiment(experiment, run, save_seconds=save_seconds, stop=stop):
            watch()
            if record is not None:
                seen.append(record)
    except Stopped:
        assert experiment.training.step == until
    return seen


def result(run: Run) -> dict[str, Any]:
    """All of a finished run but what a clock measured."""
    records, summary = run.records(), run.summary()
    for record in records:
        assert record.pop("seconds") > 0.0
        assert record.pop("images_per_second") > 0.0
    assert summary.pop("train_seconds") > 0.0
    assert summary.pop("roofline_images_per_second") > 0.0
    assert {file.name for file in run.path.iterdir()} == FINISHED
    checksummed = [f"{name}.{ending}" for name in ("model", "predictions") for ending in ("safetensors", "json")]
    network = [(run.path / name).read_bytes() for name in checksummed]
    return {"network": network, "records": records, "looks": run.snapshots(), "summary": summary}


def uninterrupted(folder: Path, config: Config) -> dict[str, Any]:
    folder.mkdir()
    run = begun(folder, config)
    records = carry_on(build(config, CPU), run)
    assert [record.epoch for record in records] == list(range(1, len(records) + 1))
    return result(run)


@pytest.mark.parametrize("changes", COURSES, ids=str)
def test_a_run_stopped_again_and_again_ends_as_the_uninterrupted_one_to_the_bit(
    changes: list[str], tmp_path: Path
) -> None:
    config = configured(tmp_path, *changes)
    expected = uninterrupted(tmp_path / "whole", config)
    run = begun(tmp_path, config)
    last = expected["summary"]["steps"]
    assert last >= 12
    for step in sorted({1, 5, 11, 12, 13, 24, last - 1, last}):
        carry_on(build(config, CPU), run, until=step)
        assert not run.finished
    carry_on(build(config, CPU), run)
    assert result(run) == expected


@pytest.mark.parametrize("changes", COURSES[:4], ids=str)
@pytest.mark.parametrize("pauses", [3, 12, 13, 20, 38, 39])
def test_a_run_that_died_goes_on_from_its_last_checkpoint(changes: list[str], pauses: int, tmp_path: Path) -> None:
    config = configured(tmp_path, *changes)
    expected = uninterrupted(tmp_path / "whole", config)
    run = begun(tmp_path, config)
    experiment = build(config, CPU)
    events = run_experiment(experiment, run, save_seconds=0.0)
    list(itertools.islice(events, pauses))
    next(run_experiment(build(config, CPU), run, save_seconds=0.0), None)  # it died again, after one event
    if not run.finished:
        carry_on(build(config, CPU), run)
    assert result(run) == expected


def test_a_run_goes_on_with_the_whitening_that_it_began_with(tmp_path: Path) -> None:
    config = configured(tmp_path, "data.whiten=9")
    expected = uninterrupted(tmp_path / "whole", config)
    run = begun(tmp_path, config)
    carry_on(build(config, CPU), run, until=5)
    experiment = build(config, CPU)
    assert experiment.classifier.whitening is not None
    experiment.classifier.whitening.weight.neg_()  # as another machine's eigenvectors may be
    carry_on(experiment, run)
    assert result(run) == expected


def test_a_run_stopped_at_the_end_of_an_epoch_shows_the_epoch(tmp_path: Path) -> None:
    config = configured(tmp_path)
    run, experiment = begun(tmp_path, config), build(config, CPU)
    events = run_experiment(experiment, run, save_seconds=1e9, stop=lambda: experiment.training.epoch == 1)
    *_, shown = itertools.islice(events, 13)
    assert shown is not None
    assert shown.epoch == 1
    with pytest.raises(Stopped):
        next(events)
    assert [record["epoch"] for record in run.records()] == [1]


def test_a_run_that_died_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    config = configured(tmp_path)
    expected = uninterrupted(tmp_path / "whole", config)
    run = begun(tmp_path, config)
    list(itertools.islice(run_experiment(build(config, CPU), run, save_seconds=1e9), 20))
    assert len(run.records()) == 1
    assert run.latest_checkpoint() is None
    carry_on(build(config, CPU), run)
    assert result(run) == expected


def test_epochs_after_the_checkpoint_are_written_once(tmp_path: Path) -> None:
    config = configured(tmp_path)
    expected = uninterrupted(tmp_path / "whole", config)
    run = begun(tmp_path, config)
    carry_on(build(config, CPU), run, until=5)
    list(itertools.islice(run_experiment(build(config, CPU), run, save_seconds=1e9), 25))
    assert [record["epoch"] for record in run.records()] == [1, 2]
    carry_on(build(config, CPU), run, until=13)
    assert [record["epoch"] for record in run.records()] == [1]
    carry_on(build(config, CPU), run)
    assert result(run) == expected


def test_looks_after_the_checkpoint_are_taken_back_and_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "snapshot_interval", lambda *_: 1)
    config = configured(tmp_path)
    expected = uninterrupted(tmp_path / "whole", config)
    assert [(look["epoch"], look["step"]) for look in expected["looks"]] == [(0, 0), (1, 12), (2, 24), (3, 36)]
    run = begun(tmp_path, config)
    carry_on(build(config, CPU), run, until=12)  # the epoch's last step, before its end
    assert [look["epoch"] for look in run.snapshots()] == [0]
    list(itertools.islice(run_experiment(build(config, CPU), run, save_seconds=1e9), 25))
    assert [look["epoch"] for look in run.snapshots()] == [0, 1, 2]
    carry_on(build(config, CPU), run, until=15)
    assert [look["epoch"] for look in run.snapshots()] == [0, 1]
    list(itertools.islice(run_experiment(build(config, CPU), run, save_seconds=1e9), 12))
    assert [look["epoch"] for look in run.snapshots()] == [0, 1, 2]
    carry_on(build(config, CPU), run, until=16)  # which ends no epoch
    assert [look["epoch"] for look in run.snapshots()] == [0, 1]
    carry_on(build(config, CPU), run)
    assert result(run) == expected


def test_a_run_that_is_not_looked_into_is_the_same_but_for_that_file(tmp_path: Path) -> None:
    seen = uninterrupted(tmp_path / "whole", configured(tmp_path))
    config = configured(tmp_path, "train.diagnostics=false")
    run = begun(tmp_path, config)
    carry_on(build(config, CPU), run)
    assert {file.name for file in run.path.iterdir()} == FINISHED - {"diagnostics.jsonl"}
    assert (run.path / "model.safetensors").read_bytes() == seen["network"][0]
    records = [
        {key: value for key, value in record.items() if key not in ("seconds", "images_per_second")}
        for record in run.records()
    ]
    assert records == seen["records"]
    assert run.summary()["test_loss"] == seen["summary"]["test_loss"]


def test_the_test_set_is_not_looked_at_while_a_run_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "snapshot_interval", lambda *_: 1)
    config = configured(tmp_path)
    run, experiment = begun(tmp_path, config), build(config, CPU)
    spoilt, rows = experiment.test.images.clone(), experiment.test.rows
    assert experiment.test.images.data_ptr() != experiment.training.batches.images.data_ptr()
    spoilt[rows] = 255 - spoilt[rows]
    monkeypatch.setattr(experiment.test, "_rows_of_pixels", spoilt.view(len(spoilt), -1))
    carry_on(experiment, run)
    assert run.snapshots() == uninterrupted(tmp_path / "whole", config)["looks"]


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_a_damaged_checkpoint_costs_no_more_than_the_steps_since_the_one_before(ending: str, tmp_path: Path) -> None:
    config = configured(tmp_path)
    expected = uninterrupted(tmp_path / "whole", config)
    run = begun(tmp_path, config)
    carry_on(build(config, CPU), run, until=17, save_seconds=0.0)
    (newest,) = run.path.glob(f"checkpoints/step-*17.{ending}")
    newest.write_bytes(newest.read_bytes()[:-7])
    experiment = build(config, CPU)
    events = run_experiment(experiment, run, save_seconds=1e9)
    assert experiment.training.step == 16
    assert next(events) is None
    carry_on(build(config, CPU), run)
    assert result(run) == expected


def test_there_are_never_more_than_two_checkpoints_and_none_in_the_end(tmp_path: Path) -> None:
    config = configured(tmp_path)
    run = begun(tmp_path, config)
    counts = set()

    def count() -> None:
        names = {file.name for file in (run.path / "checkpoints").iterdir()}
        stems = {name.partition(".")[0] for name in names}
        assert names == {f"{stem}.{ending}" for stem in stems for ending in ("json", "safetensors")}
        counts.add(len(stems))

    carry_on(build(config, CPU), run, save_seconds=0.0, watch=count)
    assert counts == {1, 2}
    result(run)


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    config = configured(tmp_path)
    run = begun(tmp_path, config)
    carry_on(build(config, CPU), run, until=5)
    for name in (".metrics.jsonl.abcd1234", "checkpoints/.step-0000000006.safetensors.efgh5678"):
        (run.path / name).write_bytes(b"half of")
    (run.path / ".gitignore").write_text("*\n")
    carry_on(build(config, CPU), run, until=6)
    assert sorted(file.name for file in run.path.rglob(".*")) == [".gitignore"]


def test_a_run_goes_on_with_the_threads_it_began_with(tmp_path: Path) -> None:
    run = begun(tmp_path, configured(tmp_path))
    carry_on(build(configured(tmp_path, "train.threads=1"), CPU), run, until=5)
    other = build(configured(tmp_path, "train.threads=2"), CPU)
    carry_on(other, run, until=6)
    assert torch.get_num_threads() == 1


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (6, 6), number * (10 if name == "cat" else 20)).save(folder / f"{number}.png")
    config = configured(tmp_path, "data.source=images", f"data.path={tmp_path / 'pets'}")
    run = begun(tmp_path, config)
    carry_on(build(config, CPU), run, until=2)
    Image.new("L", (6, 6), 255).save(tmp_path / "pets" / "train" / "cat" / "3.png")
    with pytest.raises(UserError) as refusal:
        carry_on(build(config, CPU), run)
    assert str(refusal.value) == f"{run.path} was trained on other data than what its configuration names now"
    assert json.loads((run.path / "checkpoints" / "step-0000000002.json").read_text())["step"] == 2
