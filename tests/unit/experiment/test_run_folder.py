"""Tests of fcnet.experiment.run_folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.testing import assert_close

from fcnet.experiment.run_folder import Run, check_new
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "digits", "seed = 3\n")


def list_names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def save_checkpoints(run: Run, steps: Iterable[int]) -> None:
    for step in steps:
        run.save_checkpoint(step, {"x": torch.tensor([float(step)])}, {"step": step})


def checkpoint_file(run: Run, step: int, ending: str) -> Path:
    return run.path / "checkpoints" / f"step-{step:010d}.{ending}"


def checkpoint_names(*steps: int) -> set[str]:
    return {f"step-{step:010d}.{ending}" for step in steps for ending in ("json", "safetensors")}


def latest_step(run: Run) -> Any:
    found = run.latest_checkpoint()
    assert found is not None
    tensors, metadata = found
    assert_close(tensors["x"], torch.tensor([float(metadata["step"])]), rtol=0, atol=0)
    return metadata["step"]


def test_a_new_run_folder_holds_the_configuration(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "some" / "where", "digits", "name = 'é'\n")
    assert run.path == tmp_path / "some" / "where"
    assert run.config.read_text(encoding="utf-8") == "name = 'é'\n"
    assert (run.started, run.finished, run.records(), run.latest_checkpoint()) == (True, False, [], None)


def test_the_default_folder_has_the_name_of_the_run_and_a_number_if_it_exists() -> None:
    Path("runs/digits-3").mkdir(parents=True)
    paths = [Run.create(None, "digits", "").path for _ in range(3)]
    assert paths == [Path("runs/digits"), Path("runs/digits-2"), Path("runs/digits-4")]
    assert Run.create(None, "other", "").path == Path("runs/other")


@pytest.mark.parametrize("held", ["config.toml", "notes.txt", "checkpoints/step-0000000001.json"])
def test_a_folder_that_is_not_empty_is_refused(held: str, tmp_path: Path) -> None:
    file = tmp_path / "run" / held
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    for function in (check_new, lambda out: Run.create(out, "digits", "")):
        with pytest.raises(UserError) as error:
            function(tmp_path / "run")
        assert str(error.value) == (
            f"--out: {tmp_path / 'run'} already exists and is not empty (use --resume to continue a run)"
        )
    assert file.read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError) as error:
        Run.create(tmp_path / "run", "digits", "")
    assert str(error.value) == f"--out must be a folder, got the file {tmp_path / 'run'}"


@pytest.mark.parametrize("left", [[], ["checkpoints"], ["checkpoints", ".config.toml.k3_x9a2b"]])
def test_the_folder_of_a_run_killed_before_its_configuration_was_written_is_reused(
    left: list[str], tmp_path: Path
) -> None:
    for name in left:
        (tmp_path / "run" / name).mkdir(parents=True)
    run = Run.create(tmp_path / "run", "digits", "seed = 1")
    assert run.config.read_text() == "seed = 1"


def test_the_run_to_resume_is_the_one_in_the_given_folder(run: Run, tmp_path: Path) -> None:
    found = Run.find(run.path, "another name")
    assert found is not None
    assert found.path == run.path
    assert Run.find(tmp_path / "nowhere", "digits") is None
    (tmp_path / "empty").mkdir()
    assert Run.find(tmp_path / "empty", "digits") is None


def test_the_run_to_resume_is_the_newest_one_of_its_name() -> None:
    assert Run.find(None, "digits") is None
    for name in ("digits", "digits-2", "digits-9", "digits-10", "digits-new", "digits-2-11", "my-digits-12", "d.*s-7"):
        Run.create(Path("runs") / name, name, "")
    Path("runs/digits-11/checkpoints").mkdir(parents=True)
    Path("runs/digits-12").touch()
    found = [Run.find(None, name) for name in ("digits", "d.*s", "digits-9", "digit")]
    assert [run and run.path.name for run in found] == ["digits-10", "d.*s-7", "digits-9", None]


def test_records_are_written_one_per_line(run: Run) -> None:
    first, second = {"epoch": 1, "train_loss": 0.1 + 0.2}, {"epoch": 2, "train_loss": 1e-300}
    run.write_records([first])
    run.write_records([first, second])
    assert run.records() == [first, second]
    lines = (run.path / "metrics.jsonl").read_text().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [first, second]
    assert lines[-1] == ""
    run.write_records([])
    assert run.records() == []


def test_snapshots_are_written_one_per_line_in_their_own_file(run: Run) -> None:
    assert run.snapshots() == []
    snapshots = [{"epoch": epoch, "layers": [{"layer": 1, "dead": None}], "warnings": ["one"]} for epoch in (0, 5)]
    run.write_records([{"epoch": 5}])
    run.write_snapshots(snapshots)
    assert (run.snapshots(), run.records()) == (snapshots, [{"epoch": 5}])
    assert (run.path / "diagnostics.jsonl").read_text().count("\n") == 2


def test_nonfinite_values_are_written_as_null(run: Run) -> None:
    figures = {"loss": math.nan, "high": math.inf, "low": -math.inf, "none": None, "count": 3, "name": "é"}
    expected = {"loss": None, "high": None, "low": None, "none": None, "count": 3, "name": "é"}
    run.write_records([figures])
    assert run.records() == [expected]
    run.finish(figures)
    assert run.summary() == expected


def test_the_newest_two_checkpoints_are_kept(run: Run) -> None:
    save_checkpoints(run, [1, 2, 9, 10, 100])
    assert list_names(run.path / "checkpoints") == checkpoint_names(10, 100)
    assert latest_step(run) == 100


def test_a_checkpoint_can_be_written_again(run: Run) -> None:
    save_checkpoints(run, [3, 4, 4])
    assert list_names(run.path / "checkpoints") == checkpoint_names(3, 4)
    assert latest_step(run) == 4


@pytest.mark.parametrize("ending", ["json", "safetensors"])
@pytest.mark.parametrize("orphan", [2, 5, 8])
def test_an_incomplete_checkpoint_is_removed_by_the_next_save(orphan: int, ending: str, run: Run) -> None:
    save_checkpoints(run, [4, 6])
    checkpoint_file(run, orphan, ending).write_bytes(b"half of a checkpoint")
    save_checkpoints(run, [7])
    assert list_names(run.path / "checkpoints") == checkpoint_names(6, 7)
    assert latest_step(run) == 7


def test_other_files_in_the_checkpoint_folder_are_kept(run: Run) -> None:
    (run.path / "checkpoints" / "notes.txt").touch()
    save_checkpoints(run, [1, 2, 3])
    assert list_names(run.path / "checkpoints") == checkpoint_names(2, 3) | {"notes.txt"}


def test_earlier_checkpoints_are_kept_if_a_save_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoints(run, [1, 2])

    def full(*arguments: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="the disk is full"):
        save_checkpoints(run, [3])
    assert list_names(run.path / "checkpoints") == checkpoint_names(1, 2)
    assert latest_step(run) == 2


@pytest.mark.parametrize("ending", ["json", "safetensors"])
@pytest.mark.parametrize("damage", ["changed", "cut off", "missing"])
def test_a_damaged_checkpoint_is_skipped(ending: str, damage: str, run: Run) -> None:
    save_checkpoints(run, [1, 2])
    damage_file(checkpoint_file(run, 2, ending), damage)
    assert latest_step(run) == 1


@pytest.mark.parametrize("damage", ["changed", "cut off", "missing"])
def test_if_all_checkpoints_are_damaged_the_newest_is_reported(damage: str, run: Run) -> None:
    save_checkpoints(run, [1, 2])
    for step in (1, 2):
        damage_file(checkpoint_file(run, step, "safetensors"), damage)
    with pytest.raises(UserError) as error:
        run.latest_checkpoint()
    problem = ": no such file" if damage == "missing" else " is damaged: its bytes do not match the checksum in "
    assert str(error.value).startswith(f"{checkpoint_file(run, 2, 'safetensors')}{problem}")


def test_tensors_without_metadata_are_not_a_checkpoint(run: Run) -> None:
    save_checkpoints(run, [1])
    checkpoint_file(run, 1, "json").unlink()
    assert run.latest_checkpoint() is None


def damage_file(file: Path, damage: str) -> None:
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "cut off" else content[:-3] + b"?" + content[-2:])


def test_finish_writes_the_summary_and_removes_the_checkpoints(run: Run) -> None:
    save_checkpoints(run, [1])
    run.finish({"test_accuracy": 0.5, "test_interval": [0.25, 0.75]})
    assert (run.finished, run.latest_checkpoint()) == (True, None)
    assert run.summary() == {"test_accuracy": 0.5, "test_interval": [0.25, 0.75]}
    assert list_names(run.path) == {"config.toml", "summary.json"}


def test_the_checkpoints_are_kept_if_the_summary_cannot_be_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoints(run, [1])
    with pytest.raises(TypeError):
        run.finish({"path": Path()})
    assert (run.finished, latest_step(run)) == (False, 1)
