"""Writes the figures of each epoch as TensorBoard events into the run folder."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from typing import TYPE_CHECKING, Self

from fcnet.config.selection import DEFAULT_SELECTION
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import disk_full_as_user_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from fcnet.config.selection import Selection
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
"""The TensorBoard tag of each field of `fcnet.training.records.EpochRecord` but ``validation_score``, whose tag has the
name of the figure, such as ``macro_f1/validation``. The step is that of the training."""
_FILES = "events.out.tfevents.*"


def check_tensorboard() -> None:
    """Checks that the tensorboard package is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("TensorBoard events need the tensorboard package: pip install tensorboard")


def has_events(folder: Path) -> bool:
    """Returns whether a run folder holds events, so that a resumed run continues to write them."""
    return any(folder.glob(_FILES))


class EventLog:
    """The events of one run, which TensorBoard can read while the run is in progress.

    Each start of a run adds a file with all completed epochs and purges the events of the earlier files, so TensorBoard
    shows each epoch exactly once: also if a killed run logged epochs after its last checkpoint, or if an earlier start
    logged nothing at all. TensorBoard's wall time counts the seconds of training alone.

    Args:
        folder: the run folder.
        records: the completed epochs.
        select: the figure that ``validation_score`` is.

    Raises:
        UserError: the disk is full.

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

    def __init__(
        self, folder: Path, records: Iterable[EpochRecord] = (), select: Selection = DEFAULT_SELECTION
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import

        completed = list(records)
        self._tags = {**TAGS, "validation_score": f"{select}/validation"}
        self._files = folder / _FILES
        self._wall_time = time.time() - sum(record.seconds for record in completed)
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_quiet_writer_thread())
        with disk_full_as_user_error(self._files):
            # All steps from 0 on are purged. The earlier files stay: a server that has one open stops at its removal.
            self._writer = SummaryWriter(folder, purge_step=0)
        for record in completed:
            self.add(record)

    def add(self, record: EpochRecord) -> None:
        """Writes the figures of one epoch; they can be read as soon as the method returns."""
        self._wall_time += record.seconds
        with disk_full_as_user_error(self._files):
            for name, tag in self._tags.items():
                if (value := getattr(record, name)) is not None:
                    self._writer.add_scalar(tag, value, record.step, walltime=self._wall_time)
            self._writer.flush()

    def close(self) -> None:
        """Closes the file.

        Raises:
            UserError: the disk is full.
        """
        with self._stack, disk_full_as_user_error(self._files):
            try:
                self._writer.flush()
            finally:
                # `SummaryWriter.close` does not wait for the thread if a write failed.
                with contextlib.suppress(OSError):
                    self._writer.file_writer.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        """Returns the log."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes the file; an error in the block takes precedence over an error here."""
        with contextlib.suppress(UserError) if error is not None else contextlib.nullcontext():
            self.close()


def log_to_tensorboard(
    events: Iterator[EpochRecord | None],
    folder: Path,
    completed: Iterable[EpochRecord],
    select: Selection = DEFAULT_SELECTION,
) -> Iterator[EpochRecord | None]:
    """Writes the records of a training as TensorBoard events while it runs.

    Args:
        events: the events of `fcnet.experiment.runner.run_experiment`.
        folder: the run folder.
        completed: the epochs that were completed before the run was resumed.
        select: the figure that ``validation_score`` is.

    Yields:
        The same events, each record after it has been written.
    """
    with EventLog(folder, completed, select) as log:
        for record in events:
            if record is not None:
                log.add(record)
            yield record


@contextlib.contextmanager
def _quiet_writer_thread() -> Iterator[None]:
    """Suppresses the traceback of the writer's thread, whose errors are raised again by `SummaryWriter.flush`."""
    previous = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
            previous(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous
