"""Tests of fcnet.experiment.tensorboard: TensorBoard reads the figures of each epoch once, whatever happened."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import itertools
import threading
from typing import TYPE_CHECKING

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from fcnet.experiment.tensorboard import TAGS, EventLog, check_tensorboard, has_events, log_to_tensorboard
from fcnet.runtime.errors import UserError
from fcnet.training.records import EpochRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make_record(epoch: int, *, validation: bool = True) -> EpochRecord:
    loss, accuracy = (0.5 / epoch, 0.75) if validation else (None, None)
    return EpochRecord(epoch, 10 * epoch, 0.25, 1.0 / epoch, 0.5, loss, accuracy, 2.0, 640.0)


@pytest.fixture(autouse=True)
def _sorted_file_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the files of one second names in order; otherwise, those of one process end in .9 and .10."""
    monkeypatch.setattr(event_file_writer._global_uid, "get", itertools.count(10).__next__)


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The pairs (step, value) of each tag, as TensorBoard shows them."""
    reader = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_every_figure_of_every_epoch_is_written_at_its_step(tmp_path: Path) -> None:
    with EventLog(tmp_path, [make_record(1)]) as log:
        log.add(make_record(2))
    scalars = read_scalars(tmp_path)
    assert set(scalars) == set(TAGS.values())
    for field, tag in TAGS.items():
        assert scalars[tag] == [(10 * n, getattr(make_record(n), field)) for n in (1, 2)]
    others = {"step", "seconds", "validation_score"}
    assert set(TAGS) | others == {field.name for field in dataclasses.fields(EpochRecord)}


def test_a_selected_figure_has_a_tag_of_its_name(tmp_path: Path) -> None:
    with EventLog(tmp_path, [dataclasses.replace(make_record(1), validation_score=0.25)], "macro_f1"):
        pass
    assert read_scalars(tmp_path)["macro_f1/validation"] == [(10, 0.25)]


def test_figures_that_are_none_have_no_event(tmp_path: Path) -> None:
    EventLog(tmp_path, [make_record(1, validation=False)]).close()
    assert not any("validation" in tag for tag in read_scalars(tmp_path))


def test_an_epoch_can_be_read_during_the_training(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.add(make_record(1))
        assert read_scalars(tmp_path)["loss/train"] == [(10, 1.0)]


def test_a_run_resumed_from_an_earlier_epoch_has_every_step_once(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        for epoch in (1, 2, 3):
            log.add(make_record(epoch))
    events = [None, make_record(2), None]
    assert list(log_to_tensorboard(iter(events), tmp_path, [make_record(1)])) == events
    assert [step for step, _ in read_scalars(tmp_path)["loss/train"]] == [10, 20]


def test_a_reader_that_stays_open_follows_a_resumed_run(tmp_path: Path) -> None:
    with EventLog(tmp_path, [make_record(1), make_record(2)]):
        reader = EventAccumulator(str(tmp_path)).Reload()
        assert [event.step for event in reader.Scalars("loss/train")] == [10, 20]
    with EventLog(tmp_path, [make_record(1)]) as log:
        log.add(make_record(3))
        assert [event.step for event in reader.Reload().Scalars("loss/train")] == [10, 30]


def test_wall_time_counts_the_seconds_of_training(tmp_path: Path) -> None:
    EventLog(tmp_path, [make_record(1), make_record(2), make_record(3)]).close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss/train")
    assert [round(b.wall_time - a.wall_time, 3) for a, b in itertools.pairwise(events)] == [2.0, 2.0]


def test_has_events_detects_an_event_file(tmp_path: Path) -> None:
    assert not has_events(tmp_path)
    EventLog(tmp_path).close()
    assert has_events(tmp_path)


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def events() -> Iterator[EpochRecord]:
        monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", fail)
        yield make_record(1)

    hook = threading.excepthook
    message = r"^cannot write .*events\.out\.tfevents\..*: No space left"
    with pytest.raises(UserError, match=message):
        list(log_to_tensorboard(events(), tmp_path, []))
    assert threading.excepthook is hook
    assert capfd.readouterr().err == ""  # no traceback of the writer's thread


def test_a_missing_tensorboard_is_one_line_with_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tensorboard()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^TensorBoard events need the tensorboard package: pip install tensorboard$"):
        check_tensorboard()
