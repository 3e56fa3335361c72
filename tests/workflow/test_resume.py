"""A run that is stopped or killed resumes and ends as an uninterrupted run does, to the bit."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcnet import train
from fcnet.config.toml import dump_config, load_config
from fcnet.data.sources import image_folder
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import Stopped, run_experiment
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, write_checksummed
from tests.helpers import (
    RUN_FILES,
    advance_run,
    flip_bit,
    list_run_files,
    run_command,
    run_result,
    without_timings,
    write_image_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.config.schema import Config

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
FULL_BATCH = ["optimizer.name=lbfgs", "train.batch_size=all", "train.epochs=36"]
STEPS = ["optimizer.schedule=steps", "optimizer.milestones=[0.5,2]"]
CLIPPED = ["model.normalization=layer", "model.activation=elu", "optimizer.schedule=linear", "optimizer.clip_norm=0.5"]
MIXED = (
    "data.augment={ flip = true, shift = 1, rotate = 20, scale = 0.2, color_jitter = 0.4, cutout = 2, mixup = 0.3, "
    "cutmix = 1 }"
)
SETTINGS = [
    ["optimizer.name=sgd", "train.accumulate=3"],
    ["optimizer.name=adamw", "train.ema_decay=0.9", "train.calibrate=true"],
    ["optimizer.name=muon", *STEPS, "train.ema_decay=0.9", "train.patience=3"],
    FULL_BATCH,
    ["optimizer.name=adam", "optimizer.schedule=one_cycle", "train.patience=1", "train.select=validation_loss"],
    ["data.whiten=9", "model.activation=gelu", "train.patience=2", "train.select=mean_average_precision"],
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
# The report and the list of commands are the work of the command, not of the experiment.
EXPERIMENT_FILES = RUN_FILES - {"report.html", "commands.jsonl"}


def make_config(folder: Path, *changes: str) -> Config:
    file = folder / "config.toml"
    file.write_text(CONFIG)
    return load_config(file, changes)


def make_run(folder: Path, config: Config) -> Run:
    return Run.create(folder / "run", "run", dump_config(config))


def finished_result(run: Run) -> dict[str, Any]:
    """Returns all of a finished run except measured times."""
    assert list_run_files(run.path) == EXPERIMENT_FILES
    return run_result(run.path)


def uninterrupted_result(folder: Path, config: Config) -> dict[str, Any]:
    folder.mkdir()
    run = make_run(folder, config)
    records = advance_run(build(config, CPU), run)
    assert [record.epoch for record in records] == list(range(1, len(records) + 1))
    return finished_result(run)


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_a_run_stopped_many_times_ends_as_the_uninterrupted_one_to_the_bit(changes: list[str], tmp_path: Path) -> None:
    config = make_config(tmp_path, *changes)
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    last = expected["summary"]["steps"]
    assert last >= 12
    for step in sorted({1, 5, 11, 12, 13, 24, last - 1, last}):
        advance_run(build(config, CPU), run, until=step)
        assert not run.finished
    advance_run(build(config, CPU), run)
    assert finished_result(run) == expected


@pytest.mark.parametrize("changes", SETTINGS[:4], ids=str)
@pytest.mark.parametrize("pauses", [3, 12, 13, 20, 38, 39])
def test_a_killed_run_resumes_from_its_last_checkpoint(changes: list[str], pauses: int, tmp_path: Path) -> None:
    config = make_config(tmp_path, *changes)
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    experiment = build(config, CPU)
    events = run_experiment(experiment, run, save_seconds=0.0)
    list(itertools.islice(events, pauses))
    next(run_experiment(build(config, CPU), run, save_seconds=0.0), None)  # killed again, after one event
    if not run.finished:
        advance_run(build(config, CPU), run)
    assert finished_result(run) == expected


def remove_setting(run: Run, section: str, name: str) -> None:
    """Makes an unfinished run one that began before a setting existed, with its configuration and its checkpoints."""
    lines = run.config.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(f"{name} = ")]
    assert len(kept) == len(lines) - 1
    run._files.write("config.toml", "".join(kept).encode())
    for file in list(run.checkpoints.folder.glob("step-*.json")):
        tensors, metadata = read_checksummed(file.with_suffix(""))
        del metadata["config"][f"{section}.{name}"]
        metadata.pop(name, None)
        write_checksummed(file.with_suffix(""), tensors, metadata)


@pytest.mark.parametrize(("section", "name"), [("train", "select"), ("train", "calibrate")])
def test_a_run_that_began_before_a_setting_existed_resumes_with_its_default(
    section: str, name: str, tmp_path: Path
) -> None:
    config = make_config(tmp_path, "train.patience=3", "optimizer.lr=0.5")
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=20)
    remove_setting(run, section, name)
    again = Run(run.path)
    assert again.load_config() == config
    advance_run(build(again.load_config(), CPU), again, until=26)
    assert next(again.checkpoints.metadata())["config"][f"{section}.{name}"] == getattr(getattr(config, section), name)
    advance_run(build(again.load_config(), CPU), again)
    result = finished_result(again)
    assert load_config(again.config) == config
    assert result["files"].pop("config.toml") != expected["files"].pop("config.toml")
    assert result == expected


def test_a_resumed_run_keeps_its_whitening(tmp_path: Path) -> None:
    config = make_config(tmp_path, "data.whiten=9")
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=5)
    experiment = build(config, CPU)
    assert experiment.classifier.whitening is not None
    experiment.classifier.whitening.weight.neg_()  # as another machine's eigenvectors may be
    advance_run(experiment, run)
    assert finished_result(run) == expected


def test_a_run_stopped_at_the_end_of_an_epoch_yields_its_record(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run, experiment = make_run(tmp_path, config), build(config, CPU)
    events = run_experiment(experiment, run, save_seconds=1e9, stop=lambda: experiment.training.epoch == 1)
    *_, record = itertools.islice(events, 13)
    assert record is not None
    assert record.epoch == 1
    with pytest.raises(Stopped):
        next(events)
    assert [record["epoch"] for record in run.records()] == [1]


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    list(itertools.islice(run_experiment(build(config, CPU), run, save_seconds=1e9), 20))
    assert len(run.records()) == 1
    assert run.checkpoints.latest() is None
    advance_run(build(config, CPU), run)
    assert finished_result(run) == expected


def test_records_of_epochs_after_the_checkpoint_are_removed_and_written_again(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=5)
    list(itertools.islice(run_experiment(build(config, CPU), run, save_seconds=1e9), 25))
    assert [record["epoch"] for record in run.records()] == [1, 2]
    advance_run(build(config, CPU), run, until=13)
    assert [record["epoch"] for record in run.records()] == [1]
    advance_run(build(config, CPU), run)
    assert finished_result(run) == expected


def test_snapshots_after_the_checkpoint_are_removed_and_taken_again(tmp_path: Path) -> None:
    config = make_config(tmp_path, "train.diagnostics_every=1")
    expected = uninterrupted_result(tmp_path / "whole", config)
    assert [(snapshot["epoch"], snapshot["step"]) for snapshot in expected["snapshots"]] == [
        (0, 0),
        (1, 12),
        (2, 24),
        (3, 36),
    ]
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=12)  # the epoch's last step, before its end
    assert [snapshot["epoch"] for snapshot in run.snapshots()] == [0]
    list(itertools.islice(run_experiment(build(config, CPU), run, save_seconds=1e9), 25))
    assert [snapshot["epoch"] for snapshot in run.snapshots()] == [0, 1, 2]
    advance_run(build(config, CPU), run, until=15)
    assert [snapshot["epoch"] for snapshot in run.snapshots()] == [0, 1]
    list(itertools.islice(run_experiment(build(config, CPU), run, save_seconds=1e9), 12))
    assert [snapshot["epoch"] for snapshot in run.snapshots()] == [0, 1, 2]
    advance_run(build(config, CPU), run, until=16)  # this step ends no epoch
    assert [snapshot["epoch"] for snapshot in run.snapshots()] == [0, 1]
    advance_run(build(config, CPU), run)
    assert finished_result(run) == expected


def test_without_diagnostics_only_the_diagnostics_file_is_missing(tmp_path: Path) -> None:
    expected = uninterrupted_result(tmp_path / "whole", make_config(tmp_path))
    config = make_config(tmp_path, "train.diagnostics_every=0")
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run)
    assert list_run_files(run.path) == EXPERIMENT_FILES - {"diagnostics.jsonl"}
    assert (run.path / "model.safetensors").read_bytes() == expected["files"]["model.safetensors"]
    assert [without_timings(record) for record in run.records()] == expected["records"]
    assert run.summary()["test_loss"] == expected["summary"]["test_loss"]


def test_snapshots_do_not_read_the_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, "train.diagnostics_every=1")
    run, experiment = make_run(tmp_path, config), build(config, CPU)
    inverted, rows = experiment.test.images.clone(), experiment.test.rows
    assert experiment.test.images.data_ptr() != experiment.training.batches.images.data_ptr()
    inverted[rows] = 255 - inverted[rows]
    monkeypatch.setattr(experiment.test, "_flat_images", inverted.view(len(inverted), -1))
    advance_run(experiment, run)
    assert run.snapshots() == uninterrupted_result(tmp_path / "whole", config)["snapshots"]


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_a_run_with_a_damaged_checkpoint_resumes_from_the_one_before(ending: str, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=17, save_seconds=0.0)
    (newest,) = run.path.glob(f"checkpoints/step-*17.{ending}")
    newest.write_bytes(newest.read_bytes()[:-7])
    experiment = build(config, CPU)
    events = run_experiment(experiment, run, save_seconds=1e9)
    assert experiment.training.step == 16
    assert next(events) is None
    advance_run(build(config, CPU), run)
    assert finished_result(run) == expected


class KilledError(BaseException):
    """Stands for the end of the process."""


def count_replacements(config: Config, run: Run, patch: pytest.MonkeyPatch, allowed: int) -> int:
    """Trains until a number of files has been replaced, as a process does that is killed; returns their number."""
    replace, count = Path.replace, [0]

    def replace_or_die(source: Path, target: Path) -> Path:
        if count[0] == allowed:
            raise KilledError
        count[0] += 1
        return replace(source, target)

    patch.setattr(Path, "replace", replace_or_die)
    with contextlib.suppress(KilledError):
        advance_run(build(config, CPU), run, save_seconds=0.0)
    patch.undo()
    return count[0]


def test_a_full_batch_run_killed_between_any_two_files_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is saved twice or three times: after the step, after its epoch, and at the end."""
    changes = ["train.batch_size=all", "train.epochs=2", "train.diagnostics_every=1"]
    config = make_config(tmp_path, *changes)
    expected = uninterrupted_result(tmp_path / "whole", config)
    (tmp_path / "counted").mkdir()
    total = count_replacements(config, make_run(tmp_path / "counted", config), monkeypatch, 10_000)
    assert total > 20
    saved = False
    for allowed in range(1, total):
        folder = tmp_path / str(allowed)
        folder.mkdir()
        run = make_run(folder, config)
        count_replacements(config, run, monkeypatch, allowed)
        left, notes = Run(run.path), list[str]()
        if not left.finished:
            assert (
                left.checkpoints.saved_step is not None or not saved
            )  # once there is a checkpoint, there always is one
            saved = left.checkpoints.saved_step is not None
            list(run_experiment(build(config, CPU), left, save_seconds=1e9, note=notes.append))
        assert notes == []
        assert finished_result(left) == expected, allowed


@pytest.mark.parametrize("name", ["metrics.jsonl", "diagnostics.jsonl", "checksums.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damage_beside_a_damaged_checkpoint_loses_nothing(name: str, damage: str, tmp_path: Path) -> None:
    """The run goes back one checkpoint, and its records and snapshots are ahead of it."""
    config = make_config(tmp_path, "train.diagnostics_every=1")
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=24, save_seconds=0.0)
    list(itertools.islice(run_experiment(build(config, CPU), run, save_seconds=1e9), 3))
    assert [record["epoch"] for record in run.records()] == [1, 2]
    (newest,) = run.path.glob("checkpoints/step-*24.json")
    flip_bit(newest)
    if damage == "changed":
        flip_bit(run.path / name)
    else:
        (run.path / name).unlink()
    notes: list[str] = []
    left = Run(run.path)
    assert len(list(run_experiment(build(config, CPU), left, save_seconds=1e9, note=notes.append))) == 15
    assert finished_result(left) == expected
    first, second = notes
    assert first.endswith("; the run resumes from step-0000000023")
    assert second.startswith(f"{run.path / name}")
    assert second.endswith("; it is written again")


def test_a_run_that_continues_with_another_number_of_processes_says_so(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=2)
    tensors, metadata = read_checksummed(run.path / "checkpoints" / "step-0000000002")
    assert metadata["ranks"] == 1
    run.checkpoints.save(3, tensors, metadata | {"ranks": 2})
    notes: list[str] = []
    run_experiment(build(config, CPU), run, save_seconds=1e9, note=notes.append)
    rounding = "sums over processes round differently, so the result is not that of an uninterrupted run"
    assert notes == [f"{run.path} was saved by 2 processes and continues with 1; {rounding}"]


def test_there_are_at_most_two_checkpoints_while_a_run_lasts(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run = make_run(tmp_path, config)
    counts = set()

    def count() -> None:
        names = {file.name for file in (run.path / "checkpoints").iterdir()}
        stems = {name.partition(".")[0] for name in names}
        assert names == {f"{stem}.{ending}" for stem in stems for ending in ("json", "safetensors")}
        counts.add(len(stems))

    advance_run(build(config, CPU), run, save_seconds=0.0, on_event=count)
    assert counts == {1, 2}
    finished_result(run)


def test_files_a_killed_process_left_half_written_are_removed(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=5)
    for name in (".metrics.jsonl.abcd1234.tmp", "checkpoints/.step-0000000006.safetensors.efgh5678.tmp"):
        (run.path / name).mkdir()
        (run.path / name / ".tmpbOR864").write_bytes(b"half of")
    (run.path / ".gitignore").write_text("*\n")
    advance_run(build(config, CPU), run, until=6)
    assert sorted(file.name for file in run.path.rglob(".*")) == [".gitignore"]


def test_a_resumed_run_keeps_its_number_of_threads(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_config(tmp_path))
    advance_run(build(make_config(tmp_path, "train.threads=1"), CPU), run, until=5)
    advance_run(build(make_config(tmp_path, "train.threads=2"), CPU), run, until=6)
    assert torch.get_num_threads() == 1


def test_a_run_does_not_resume_on_other_data(tmp_path: Path) -> None:
    write_image_folder(
        tmp_path / "pets",
        ("cat", "dog"),
        {"train": 12, "test": 4},
        lambda label, number: np.full((6, 6), number * (label + 1) * 10, dtype=np.uint8),
    )
    config = make_config(tmp_path, "data.source=images", f"data.path={tmp_path / 'pets'}")
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=2)
    Image.new("L", (6, 6), 255).save(tmp_path / "pets" / "train" / "cat" / "3.png")
    with pytest.raises(UserError) as error:
        advance_run(build(config, CPU), run)
    assert str(error.value) == (
        f"{run.path} was trained on other data than this (data.path: {tmp_path / 'pets'}): "
        "it has as many images, but other pixels or labels; --set data.path=PATH names another place"
    )
    assert json.loads((run.path / "checkpoints" / "step-0000000002.json").read_text())["step"] == 2


PETS = ["data.source=images", "data.validation=0", "train.epochs=2"]


def write_pets(folder: Path) -> Path:
    write_image_folder(
        folder,
        ("cat", "dog"),
        {"train": 12, "test": 4},
        lambda label, number: np.full((6, 6), number * (label + 1) * 10, dtype=np.uint8),
    )
    return folder


def copy_and_rename(pets: Path) -> None:
    shutil.copytree(pets, pets.with_name("copy"))
    shutil.rmtree(pets)
    pets.with_name("copy").rename(pets)


def replace_by_link(pets: Path) -> None:
    pets.rename(pets.with_name("elsewhere"))
    pets.symlink_to(pets.with_name("elsewhere"))


CHANGES: dict[str, Callable[[Path], object]] = {
    "copied": copy_and_rename,
    "touched": lambda pets: (pets / "train" / "cat" / "3.png").touch(),
    "chmod": lambda pets: (pets / "train" / "cat" / "3.png").chmod(0o600),
    "linked": replace_by_link,
    "a hidden file": lambda pets: (pets / ".DS_Store").write_bytes(b"x"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_resumes_on_data_of_the_same_content(change: str, tmp_path: Path) -> None:
    config = make_config(tmp_path, *PETS, f"data.path={write_pets(tmp_path / 'pets')}")
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=2)
    CHANGES[change](tmp_path / "pets")
    advance_run(build(config, CPU), run)
    assert finished_result(run) == expected


def test_a_run_resumes_with_another_decoder_that_decodes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, *PETS, f"data.path={write_pets(tmp_path / 'pets')}")
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=2)
    monkeypatch.setattr(image_folder, "version", lambda _: "99.0")
    advance_run(build(config, CPU), run)
    assert finished_result(run) == expected


def test_the_error_names_a_decoder_that_decodes_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, *PETS, f"data.path={write_pets(tmp_path / 'pets')}")
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=2)
    Image.new("L", (6, 6), 255).save(tmp_path / "pets" / "train" / "cat" / "3.png")
    monkeypatch.setattr(image_folder, "version", lambda _: "99.0")
    with pytest.raises(UserError) as error:
        advance_run(build(config, CPU), run)
    decoders = f"pillow {version('pillow')} decoded the images then, pillow 99.0 now"
    assert f"but other pixels or labels; {decoders}; --set data.path" in str(error.value)


def test_data_path_names_where_the_data_lies_now(tmp_path: Path) -> None:
    config = make_config(tmp_path, *PETS, f"data.path={write_pets(tmp_path / 'pets')}")
    expected = uninterrupted_result(tmp_path / "whole", config)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=2)
    (tmp_path / "pets").rename(tmp_path / "moved")
    resume = ["--resume", "--out", str(run.path)]
    missing = run_command(train.main, *resume)
    assert missing.code == 2
    assert "pets: no such file or folder" in missing.err
    assert run_command(train.main, *resume, "--set", f"data.path={tmp_path / 'moved'}").code == 0
    assert run.load_config().data.path == str(tmp_path / "moved")
    assert without_timings(run.summary()) == without_timings(expected["summary"])


def test_data_path_cannot_name_other_data(tmp_path: Path) -> None:
    config = make_config(tmp_path, *PETS, f"data.path={write_pets(tmp_path / 'pets')}")
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=2)
    shutil.copytree(tmp_path / "pets", tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "train" / "dog")
    shutil.copytree(tmp_path / "other" / "train" / "cat", tmp_path / "other" / "train" / "dog")
    flags = ["--resume", "--out", str(run.path), "--set", f"data.path={tmp_path / 'other'}"]
    refused = run_command(train.main, *flags)
    assert refused.code == 2
    assert f"was trained on other data than this (data.path: {tmp_path / 'other'})" in refused.err
    assert run.load_config().data.path == str(tmp_path / "pets")
    assert run_command(train.main, *flags[:3]).code == 0


def test_only_the_place_of_the_data_may_change_without_a_configuration(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_config(tmp_path))
    refused = run_command(train.main, "--resume", "--out", run.path, "--set", "seed=4")
    assert (refused.code, refused.err) == (
        2,
        "--set seed=4: a run that continues takes another data.path or train.epochs, nothing else\n",
    )


@pytest.mark.parametrize("package", ["fcnet", "torch"])
def test_another_version_of_a_package_is_said(package: str, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run = make_run(tmp_path, config)
    advance_run(build(config, CPU), run, until=2)
    tensors, metadata = run.checkpoints.latest() or ({}, {})
    installed = metadata[package]
    run.checkpoints.save(3, tensors, metadata | {package: "0.0.1"})
    notes: list[str] = []
    run_experiment(build(config, CPU), run, save_seconds=1000.0, note=notes.append)
    (note,) = notes
    assert note == (
        f"{run.path} was saved by {package} 0.0.1 and continues with {package} {installed}; "
        "the result may not be that of one version to the last bit"
    )
