"""TensorBoard reads each epoch's figures once, whatever happened to the run."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import itertools
from typing import TYPE_CHECKING

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fcnet.experiment.tensorboard import TAGS, EventLog, check_tensorboard, has_events, log_to_tensorboard
from fcnet.runtime.errors import UserError
from fcnet.training.records import EpochRecord

if TYPE_CHECKING:
    from pathlib import Path


def record(epoch: int, *, kept: bool = True) -> EpochRecord:
    loss, accuracy = (0.5 / epoch, 0.75) if kept else (None, None)
    return EpochRecord(epoch, 10 * epoch, 0.25, 1.0 / epoch, 0.5, loss, accuracy, 2.0, 640.0)


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's own reader finds: (step, value) of each tag."""
    reader = EventAccumulator(str(folder), purge_orphaned_data=False).Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_every_figure_of_every_epoch_is_there_at_its_step(tmp_path: Path) -> None:
    with EventLog(tmp_path, [record(1)]) as log:
        log.add(record(2))
    found = read(tmp_path)
    assert set(found) == set(TAGS.values())
    for field, tag in TAGS.items():
        assert found[tag] == [(10 * n, getattr(record(n), field)) for n in (1, 2)]
    assert set(TAGS) | {"step", "seconds"} == {field.name for field in dataclasses.fields(EpochRecord)}


def test_what_was_not_measured_has_no_event(tmp_path: Path) -> None:
    EventLog(tmp_path, [record(1, kept=False)]).close()
    assert not any("validation" in tag for tag in read(tmp_path))


def test_an_epoch_can_be_read_while_the_training_goes_on(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.add(record(1))
        assert read(tmp_path)["loss/train"] == [(10, 1.0)]


def test_going_on_from_an_earlier_epoch_leaves_no_step_twice(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        for epoch in (1, 2, 3):
            log.add(record(epoch))
    assert list(log_to_tensorboard(iter([None, record(2), None]), tmp_path, [record(1)])) == [None, record(2), None]
    assert [step for step, _ in read(tmp_path)["loss/train"]] == [10, 20]
    assert len(list(tmp_path.iterdir())) == 1


def test_time_counts_the_seconds_of_training(tmp_path: Path) -> None:
    EventLog(tmp_path, [record(1), record(2), record(3)]).close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss/train")
    assert [round(b.wall_time - a.wall_time, 3) for a, b in itertools.pairwise(events)] == [2.0, 2.0]


def test_a_folder_tells_whether_events_are_kept_there(tmp_path: Path) -> None:
    assert not has_events(tmp_path)
    EventLog(tmp_path).close()
    assert has_events(tmp_path)


def test_a_full_disk_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with EventLog(tmp_path) as log:
        monkeypatch.setattr(log._writer, "write", full)
        with pytest.raises(UserError, match=r"^cannot write .*events\.out\.tfevents\..*: No space left"):
            log.add(record(1))


def test_where_tensorboard_is_missing_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tensorboard()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"TensorBoard take a package .* not installed here: pip install tensorboard$"):
        check_tensorboard()
