"""A training's figures as TensorBoard's events, beside the run's own records."""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from typing import IO, TYPE_CHECKING, Self

from fcnet.runtime.errors import UserError
from fcnet.runtime.files import disk_full_as_user_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from fcnet.training.records import EpochRecord

TAGS = {
    "epoch": "epoch",
    "lr": "learning_rate",
    "train_loss": "loss/train",
    "train_accuracy": "accuracy/train",
    "validation_loss": "loss/validation",
    "validation_accuracy": "accuracy/validation",
    "images_per_second": "images_per_second",
}
"""What TensorBoard calls the figures of an epoch; its step is the training's."""
_FILES = "events.out.tfevents."


def check_tensorboard() -> None:
    """Refuses to write events where TensorBoard's writer is missing.

    Raises:
        UserError: it is.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("events for TensorBoard take a package that is not installed here: pip install tensorboard")


def has_events(folder: Path) -> bool:
    """Whether a run has left events, so that going on with it leaves more."""
    return any(folder.glob(f"{_FILES}*"))


class EventLog:
    """The events of one run, in one file, which grows by the epoch and can be watched meanwhile.

    The file is made anew from the records each time a run is gone on with, so no step is in it twice. TensorBoard's
    time counts the seconds of training alone.

    Args:
        folder: where the file belongs; what events of an earlier start are there are removed.
        records: the epochs that are done.

    Raises:
        UserError: there is no room for it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fcnet.training.records import EpochRecord
        >>> first = EpochRecord(1, 10, 0.1, 2.0, 0.5, None, None, 3.0, 100.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with EventLog(Path(folder), [first]):
        ...         print([file.name[:20] for file in Path(folder).iterdir()])
        ['events.out.tfevents.']
    """

    def __init__(self, folder: Path, records: Iterable[EpochRecord] = ()) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        done = list(records)
        for file in folder.glob(f"{_FILES}*"):
            file.unlink()
        began = time.time()
        self.path = folder / f"{_FILES}{began:010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._seconds = began - sum(record.seconds for record in done)
        self._file: IO[bytes] = self.path.open("wb")
        self._writer = RecordWriter(self._file)
        with disk_full_as_user_error(self.path):
            self._writer.write(Event(wall_time=self._seconds, file_version="brain.Event:2").SerializeToString())
            self._file.flush()
        for record in done:
            self.add(record)

    def add(self, record: EpochRecord) -> None:
        """Writes one epoch's figures, where a reader sees them at once."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._seconds += record.seconds
        figures = {tag: getattr(record, name) for name, tag in TAGS.items()}
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items() if value is not None]
        event = Event(wall_time=self._seconds, step=record.step, summary=Summary(value=values))
        with disk_full_as_user_error(self.path):
            self._writer.write(event.SerializeToString())
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """As `close`."""
        self.close()


def log_to_tensorboard(
    events: Iterator[EpochRecord | None], folder: Path, before: Iterable[EpochRecord]
) -> Iterator[EpochRecord | None]:
    """A training that leaves its figures for TensorBoard as it goes on.

    Args:
        events: as `fcnet.experiment.runner.run_experiment` gives them.
        folder: the run's.
        before: the epochs that were done when it was gone on with.

    Yields:
        The same, each record after it is written.
    """
    with EventLog(folder, before) as log:
        for record in events:
            if record is not None:
                log.add(record)
            yield record
