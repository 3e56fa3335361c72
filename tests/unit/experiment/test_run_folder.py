"""Tests of fcnet.experiment.run_folder."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.testing import assert_close

from fcnet.config.schema import Train
from fcnet.experiment.run_folder import Run, check_new, claim_folder
from fcnet.experiment.run_identity import settings
from fcnet.runtime import files
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import ChecksummedFolder
from tests.helpers import flip_bit, make_record, make_snapshot, make_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "digits", "seed = 3\n[train]\nepochs = 1\n")


def list_names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def save_checkpoints(run: Run, steps: Iterable[int]) -> None:
    for step in steps:
        run.checkpoints.save(step, {"x": torch.tensor([float(step)])}, {"step": step})


def checkpoint_file(run: Run, step: int, ending: str) -> Path:
    return run.path / "checkpoints" / f"step-{step:010d}.{ending}"


def checkpoint_names(*steps: int) -> set[str]:
    return {f"step-{step:010d}.{ending}" for step in steps for ending in ("json", "safetensors")}


def latest_step(run: Run) -> Any:
    found = run.checkpoints.latest()
    assert found is not None
    tensors, metadata = found
    assert_close(tensors["x"], torch.tensor([float(metadata["step"])]), rtol=0, atol=0)
    return metadata["step"]


def test_a_new_run_folder_holds_the_configuration(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "some" / "where", "digits", "name = 'é'\n")
    assert run.path == tmp_path / "some" / "where"
    assert run.config.read_text(encoding="utf-8") == "name = 'é'\n"
    assert (run.started, run.finished, run.records(), run.checkpoints.latest()) == (True, False, [], None)


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
        reason = (
            "already holds a run; --resume continues it, another folder begins a new one"
            if held == "config.toml"
            else "is not empty and holds no run; name a new or an empty folder"
        )
        assert str(error.value) == f"--out: {tmp_path / 'run'} {reason}"
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
    first, second = make_record(1, train_loss=0.1 + 0.2), make_record(2, train_loss=1e-300)
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
    snapshots = [make_snapshot(epoch) for epoch in (0, 5)]
    run.write_records([make_record(1)])
    run.write_snapshots(snapshots)
    assert (run.snapshots(), run.records()) == (snapshots, [make_record(1)])
    assert (run.path / "diagnostics.jsonl").read_text().count("\n") == 2


def test_nonfinite_values_are_written_as_null(run: Run) -> None:
    for value in (math.nan, math.inf, -math.inf):
        run.write_records([make_record(1, train_loss=value)])
        assert run.records() == [make_record(1, train_loss=None)]
        run.finish(make_summary(test_loss=value, platform="é"))
        assert run.summary() == make_summary(test_loss=None, platform="é")


def test_the_newest_two_checkpoints_are_kept(run: Run) -> None:
    save_checkpoints(run, [1, 2, 9, 10, 100])
    assert list_names(run.path / "checkpoints") == checkpoint_names(10, 100)
    assert latest_step(run) == 100


def test_checkpoints_of_the_same_step_are_not_written_over(run: Run) -> None:
    save_checkpoints(run, [3, 4])
    names, kept = [], checkpoint_names(4)
    for _ in range(12):
        first = {file: file.read_bytes() for file in (run.path / "checkpoints").iterdir() if file.name in kept}
        run.checkpoints.save(4, {"x": torch.tensor([4.0])}, {"step": 4})
        assert {file: file.read_bytes() for file in first} == first
        (stem,) = {name.partition(".")[0] for name in list_names(run.path / "checkpoints") - kept}
        names.append(stem)
        kept = {f"{stem}.json", f"{stem}.safetensors"}
        assert latest_step(run) == 4
        assert run.checkpoints.saved_step == 4
    assert names == [f"step-0000000004-{number}" for number in range(2, 14)]
    save_checkpoints(run, [5])
    assert list_names(run.path / "checkpoints") == checkpoint_names(5) | kept


@pytest.mark.parametrize("step", [4, 5])
@pytest.mark.parametrize("replaced", range(3))
def test_a_kill_at_any_moment_of_a_save_leaves_the_checkpoint_before(
    replaced: int, step: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file appears when its temporary file replaces it: the tensors, then the metadata."""
    save_checkpoints(run, [4])
    replace, left = Path.replace, [replaced]

    def replace_or_die(source: Path, target: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", replace_or_die)
    with contextlib.suppress(KeyboardInterrupt):
        run.checkpoints.save(step, {"x": torch.tensor([-1.0])}, {"step": -1})
    monkeypatch.undo()
    checkpoint = Run(run.path).checkpoints.latest()
    assert checkpoint is not None
    assert checkpoint[1]["step"] == (-1 if replaced == 2 else 4)


def test_the_checkpoint_before_is_the_one_that_was_restored(run: Run) -> None:
    """A newer one that is damaged would not do as the second one."""
    save_checkpoints(run, [6, 7])
    flip_bit(checkpoint_file(run, 7, "safetensors"))
    resumed, notes = Run(run.path), list[str]()
    assert resumed.checkpoints.latest(notes.append) is not None
    damaged = checkpoint_file(run, 7, "safetensors")
    problem = "is damaged: its bytes do not match the checksum in step-0000000007.json"
    assert notes == [f"{damaged} {problem}; the run resumes from step-0000000006"]
    save_checkpoints(resumed, [9])
    assert list_names(run.path / "checkpoints") == checkpoint_names(6, 9)


@pytest.mark.parametrize("key", ["records", "snapshots"])
@pytest.mark.parametrize("lines", [1, {}, [None], [{}], [make_record(2)], [make_snapshot(3), make_snapshot(3)]])
def test_a_checkpoint_whose_lines_are_wrong_is_skipped(key: str, lines: Any, run: Run) -> None:
    save_checkpoints(run, [1])
    run.checkpoints.save(2, {"x": torch.tensor([2.0])}, {"step": 2, key: lines})
    notes: list[str] = []
    found = run.checkpoints.latest(notes.append)
    assert found is not None
    assert found[1]["step"] == 1
    assert [note.startswith(f"{checkpoint_file(run, 2, 'json')} is damaged: ") for note in notes] == [True]


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
        run.checkpoints.latest()
    problem = ": no such file" if damage == "missing" else " is damaged: its bytes do not match the checksum in "
    assert str(error.value).startswith(f"{checkpoint_file(run, 2, 'safetensors')}{problem}")


def test_tensors_without_metadata_are_not_a_checkpoint(run: Run) -> None:
    save_checkpoints(run, [1])
    checkpoint_file(run, 1, "json").unlink()
    assert run.checkpoints.latest() is None


def damage_file(file: Path, damage: str) -> None:
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "cut off" else content[:-3] + b"?" + content[-2:])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ('[optimizer]\nschedule = "constant"\n[train]\nepochs = 9\n', True),
        ('[optimizer]\nschedule = "steps"\nmilestones = [2]\n[train]\nepochs = 9\npatience = 2\n', True),
        ('[optimizer]\nschedule = "cosine"\n[train]\nepochs = 9\n', False),
        ("[train]\nepochs = 20\npatience = 1\n", False),  # it stopped early
    ],
)
def test_finish_writes_the_summary_and_keeps_the_last_checkpoint_if_more_epochs_can_follow(
    settings: str, *, kept: bool
) -> None:
    run, summary = Run.create(Path("run"), "run", settings), make_summary(epochs=9, best_epoch=8)
    save_checkpoints(run, [8, 9])
    run.finish(summary)
    assert (run.finished, run.summary()) == (True, summary)
    assert list_names(run.path) - {"checkpoints"} == {"config.toml", "summary.json", "checksums.json"}
    if kept:
        assert list_names(run.path / "checkpoints") == checkpoint_names(9)
    else:
        assert not (run.path / "checkpoints").exists()


def test_a_run_whose_summary_is_of_fewer_epochs_than_its_configuration_is_not_finished(run: Run) -> None:
    save_checkpoints(run, [1])
    run.finish(make_summary())
    run.change_config(run.load_config().model_copy(update={"train": Train(epochs=2)}))
    assert not run.finished
    run.finish(make_summary(epochs=2))
    assert run.finished


def test_a_lost_summary_is_reported_whether_or_not_there_is_a_checkpoint(run: Run) -> None:
    save_checkpoints(run, [1])
    run.finish(make_summary())
    (run.path / "summary.json").unlink()
    for is_cleared in (False, True):
        if is_cleared:
            run.checkpoints.clear()
        with pytest.raises(UserError, match=r"/summary\.json: no such file, but the run was finished$"):
            _ = run.finished


def test_remove_results_leaves_what_more_epochs_continue_from(run: Run) -> None:
    save_checkpoints(run, [1])
    run.finish(make_summary())
    before = list_names(run.path)
    for name in (
        "model.json",
        "model.safetensors",
        "predictions.json",
        "report.html",
        "corruptions-dark.png",
        "my.txt",
    ):
        (run.path / name).touch()
    run.remove_results()
    assert list_names(run.path) == before | {"my.txt"}


def test_the_checkpoints_are_kept_if_the_summary_cannot_be_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoints(run, [1])
    with pytest.raises(TypeError):
        run.finish({"path": Path()})
    assert (run.finished, latest_step(run)) == (False, 1)


# --- damage -----------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Run], object]] = {
    "config.toml": Run.load_config,
    "metrics.jsonl": Run.records,
    "diagnostics.jsonl": Run.snapshots,
    "summary.json": Run.summary,
}


@pytest.fixture
def finished(run: Run) -> Run:
    save_checkpoints(run, [1])
    for epochs in (1, 2):
        run.write_records([make_record(epoch) for epoch in range(1, epochs + 1)])
        run.write_snapshots([make_snapshot(epoch) for epoch in range(epochs)])
    run.finish(make_summary())
    return run


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_of_any_file_of_a_run_is_refused_by_name(name: str, finished: Run) -> None:
    file = finished.path / name
    whole = file.read_bytes()
    READERS[name](finished)
    for bit in range(0, 8 * len(whole), 1 if len(whole) < 100 else 7):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(UserError) as error:
            READERS[name](finished)
        problem = "is damaged: its bytes do not match the checksum in checksums.json"
        if name == "config.toml":
            problem = "was changed after the run began; undo the change, or begin a new run"
        assert str(error.value) == f"{file} {problem}"


@pytest.mark.parametrize("name", READERS)
def test_without_whole_checksums_nothing_is_believed(name: str, finished: Run) -> None:
    checksums = finished.path / "checksums.json"
    flip_bit(checksums)
    with pytest.raises(UserError, match=r"checksums\.json is damaged: its bytes do not match the checksum in it$"):
        READERS[name](finished)
    checksums.unlink()
    with pytest.raises(UserError, match=r"checksums\.json: no such file$"):
        READERS[name](finished)


@pytest.mark.parametrize("name", ["metrics.jsonl", "diagnostics.jsonl"])
def test_a_file_of_a_finished_run_that_is_gone_is_named(name: str, finished: Run) -> None:
    (finished.path / name).unlink()
    with pytest.raises(UserError) as error:
        READERS[name](finished)
    assert str(error.value) == f"{finished.path / name}: no such file"


@pytest.mark.parametrize(("name", "key"), [("metrics.jsonl", "records"), ("diagnostics.jsonl", "snapshots")])
def test_a_file_that_is_gone_after_it_was_first_written_is_named_once_there_is_a_checkpoint(
    name: str, key: str, run: Run
) -> None:
    if key == "records":
        run.write_records([make_record(1)])
    else:
        run.write_snapshots([make_snapshot(0)])
    (run.path / name).unlink()
    run.checkpoints.save(1, {"x": torch.tensor([1.0])}, {key: []})
    assert READERS[name](run) == []
    run.checkpoints.save(
        2, {"x": torch.tensor([2.0])}, {key: [make_record(1) if key == "records" else make_snapshot(0)]}
    )
    with pytest.raises(UserError) as error:
        READERS[name](run)
    assert str(error.value) == f"{run.path / name}: no such file"


def test_a_finished_run_without_its_summary_does_not_start_again(finished: Run) -> None:
    (finished.path / "summary.json").unlink()
    with pytest.raises(UserError) as error:
        assert finished.finished
    assert str(error.value) == f"{finished.path / 'summary.json'}: no such file, but the run was finished"


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_while_the_summary_is_written_leaves_a_run_to_resume_or_a_finished_one(
    writes: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoints(run, [1])
    run.write_records([make_record(1)])
    write, left = files.write_bytes, [writes]

    def write_or_die(path: Path, data: bytes) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", write_or_die)
    with contextlib.suppress(KeyboardInterrupt):
        run.finish(make_summary())
    monkeypatch.undo()
    left_behind = Run(run.path)
    assert left_behind.records() == [make_record(1)]
    assert left_behind.finished is (writes == 2)
    if not left_behind.finished:
        assert latest_step(left_behind) == 1
        left_behind.finish(make_summary())
    assert left_behind.summary() == make_summary()


def test_a_damaged_file_of_an_unfinished_run_is_written_again_from_the_checkpoint(run: Run) -> None:
    records, snapshots = [make_record(1)], [make_snapshot(0), make_snapshot(1)]
    run.write_records([*records, make_record(2)])  # ahead of the checkpoint
    run.write_snapshots(snapshots)
    notes: list[str] = []
    run.rewind(records, snapshots, notes.append)
    assert (run.records(), run.snapshots(), notes) == (records, snapshots, [])
    flip_bit(run.path / "metrics.jsonl")
    (run.path / "diagnostics.jsonl").unlink()
    run.rewind(records, snapshots, notes.append)
    assert (run.records(), run.snapshots()) == (records, snapshots)
    problem = "is damaged: its bytes do not match the checksum in checksums.json"
    assert notes == [
        f"{run.path / 'metrics.jsonl'} {problem}; it is written again",
        f"{run.path / 'diagnostics.jsonl'}: no such file; it is written again",
    ]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_checksums_of_an_unfinished_run_are_written_again(damage: str, run: Run) -> None:
    save_checkpoints(run, [1])
    run.checkpoints.save(2, {"x": torch.tensor([2.0])}, {"step": 2, "config": settings(run.load_config())})
    run.write_records([make_record(1)])
    damage_file(run.path / "checksums.json", damage)
    assert run.load_config().seed == 3  # the checkpoint vouches for it
    notes: list[str] = []
    run.rewind([make_record(1)], [], notes.append)
    assert (run.records(), run.snapshots(), run.load_config().seed) == ([make_record(1)], [], 3)
    (note,) = notes
    assert note.startswith(f"{run.path / 'checksums.json'}")
    assert note.endswith("; it is written again")
    run.config.write_text("seed = 4\n[train]\nepochs = 1\n")
    with pytest.raises(UserError, match=r"^seed \(.*config.toml\) must be 3 as when the run began, got 4$"):
        run.load_config()


def write_resealed(run: Run, name: str, text: str) -> None:
    """Writes a file with a checksum that fits, as a stranger may."""
    (run.path / name).write_text(text)
    ChecksummedFolder(run.path).adopt("config.toml", name)


@pytest.mark.parametrize("text", ["{}", "null", "[]", "3", '"x"', "", "{", "[" * 100_000, '{"test_accuracy": NaN}'])
def test_a_resealed_summary_without_its_figures_is_refused(text: str, finished: Run) -> None:
    write_resealed(finished, "summary.json", text)
    with pytest.raises(UserError) as error:
        finished.summary()
    assert str(error.value).startswith(f"{finished.path / 'summary.json'} is damaged: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{}", "null", "[]", "3", "{", "\n"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "diagnostics.jsonl"])
def test_a_resealed_line_that_is_none_is_refused(name: str, text: str, finished: Run) -> None:
    write_resealed(finished, name, f"{text}\n")
    with pytest.raises(UserError) as error:
        READERS[name](finished)
    assert str(error.value).startswith(f"{finished.path / name} is damaged: ")


# --- one writer -------------------------------------------------------------------------------------------------


def test_one_process_at_a_time_trains_in_a_run(run: Run) -> None:
    run.check_unlocked()
    with run.lock():
        with pytest.raises(UserError) as error, run.lock():
            pass
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        assert str(error.value) == f"{run.path} is in training: {holder} holds the lock; wait until it ends, or stop it"
        with pytest.raises(UserError, match=holder):
            run.check_unlocked()
    with run.lock():
        pass
    assert list_names(run.path) == {"config.toml", "checkpoints", "checksums.json"}


def test_a_folder_is_claimed_before_it_is_locked(tmp_path: Path) -> None:
    assert [claim_folder(None, "digits") for _ in range(2)] == [Path("runs/digits"), Path("runs/digits-2")]
    for _ in range(2):
        folder = claim_folder(tmp_path / "a" / "b", "digits")
        with Run(folder).lock():
            pass
    assert Run.create(folder, "digits", "").path == tmp_path / "a" / "b"


def test_the_checksums_of_a_run_killed_before_its_configuration_was_written_are_no_content(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "digits", "seed = 1")
    run.config.unlink()
    assert Run.create(run.path, "digits", "seed = 2").load_config().seed == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "checksums.json").write_text("{}")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        check_new(tmp_path / "mine")


def test_a_folder_with_a_nul_character_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--out must be a path without NUL characters, got 'a\\x00b'$"):
        Run.create(Path("a\0b"), "x", "")
