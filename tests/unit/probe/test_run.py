"""Tests of fcnet.probe.run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fcnet.experiment.run_folder import Run
from fcnet.probe.arguments import Settings
from fcnet.probe.run import RECORD, ProbeRecord, ProbeRun, check_new, find_run
from fcnet.runtime.errors import UserError
from tests.helpers import flip_bit


def make_run(path: str = "runs/probe") -> ProbeRun:
    Path(path).mkdir(parents=True)
    run = ProbeRun(Path(path))
    settings = Settings(Cs=(1e-6, 1 / 3), folds=3)
    run.write_record(
        ProbeRecord(
            features="f", settings=settings, data="made", threads=2, device="cpu", ranks=1, fcnet="0", torch="1"
        )
    )
    return run


def test_what_a_run_began_with_is_read_back_and_damage_is_refused(working_folder: Path) -> None:
    run = make_run()
    assert run.record().settings == Settings(Cs=(1e-6, 1 / 3), folds=3)
    assert run.started
    assert not run.finished
    assert Run(run.path).is_probe
    flip_bit(run.path / RECORD)
    with pytest.raises(UserError, match=r"probe.json is damaged"):
        run.record()


def test_a_result_is_kept_and_a_damaged_one_is_computed_again(working_folder: Path) -> None:
    run, notes = make_run(), list[str]()
    assert run.result("split-1", notes.append) is None
    run.save_search("split-1", {"x": torch.ones(2)}, 1.5)
    run.write_result("split-1", {"coef": torch.arange(3)}, 2.5)
    found = run.result("split-1", notes.append)
    assert found is not None
    assert (found[0]["coef"].tolist(), found[1]) == ([0, 1, 2], 2.5)
    assert run.search_state("split-1") is None
    flip_bit(run.state / "split-1.safetensors")
    assert run.result("split-1", notes.append) is None
    assert len(notes) == 1
    assert notes[0].endswith("; it is computed again")


def test_the_newest_whole_state_of_a_search_is_found(working_folder: Path) -> None:
    run = make_run()
    for number in range(3):
        run.save_search("split-1", {"x": torch.tensor(number)}, float(number))
    again = ProbeRun(run.path)
    assert again.search_state("split-2") is None
    found = again.search_state("split-1")
    assert found is not None
    assert (int(found[0]["x"]), found[1]) == (2, 2.0)
    newest = max(run.state.glob("search-*.json"), key=lambda file: file.stat().st_mtime_ns)
    flip_bit(newest.with_suffix(".safetensors"))
    found = ProbeRun(run.path).search_state("split-1")
    assert found is not None
    assert int(found[0]["x"]) == 1


def test_a_state_never_overwrites_the_newest_one(working_folder: Path) -> None:
    run = make_run()
    run.save_search("refit", {"x": torch.tensor(1)}, 0.0)
    again = ProbeRun(run.path)
    again.search_state("refit")
    again.save_search("refit", {"x": torch.tensor(2)}, 0.0)
    assert {path.name for path in run.state.iterdir()} == {
        f"search-{slot}.{ending}" for slot in (0, 1) for ending in ("json", "safetensors")
    }


def test_the_newest_run_is_found(working_folder: Path) -> None:
    assert find_run(None) is None
    for path in ("runs/probe", "runs/probe-10", "runs/probe-9", "runs/probe-x"):
        make_run(path)
    found = find_run(None)
    assert found is not None
    assert found.path == Path("runs/probe-10")
    assert find_run(Path("elsewhere")) is None


def test_a_new_run_needs_a_new_folder(working_folder: Path) -> None:
    make_run()
    check_new(None, "--out")
    check_new(Path("new"), "--out")
    with pytest.raises(UserError, match=r"^--out: runs/probe already holds a probe; --resume continues it, another"):
        check_new(Path("runs/probe"), "--out")
    with pytest.raises(UserError, match=r"^--out: runs is not empty and holds no run"):
        check_new(Path("runs"), "--out")


def test_tensors_that_are_read_begin_where_computed_ones_do(working_folder: Path) -> None:
    run = make_run()
    tensors = {name: torch.randn(size) for name, size in (("a", 3), ("b", 5), ("c", 7))}
    run.write_result("fit", tensors, 1.0)
    run.save_search("other", tensors, 1.0)
    for found in (run.result("fit", print), run.search_state("other")):
        assert found is not None
        assert [part.data_ptr() % 64 for part in found[0].values()] == [0, 0, 0]
