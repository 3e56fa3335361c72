"""``python -m fcnet.watch``: shows the learning curves of a run while it trains, from the files of the run alone."""

from __future__ import annotations

import math
import shlex
import time
from typing import TYPE_CHECKING, Any

from fcnet import cli
from fcnet.arguments import Parser
from fcnet.report.progress import (
    common_epochs,
    describe_state,
    file_versions,
    progress_page,
    read_progress,
)
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import write_text
from fcnet.runtime.signals import defer_signals
from fcnet.runtime.startup import command_line
from fcnet.runtime.terminal import terminal_columns
from fcnet.training.records import EpochRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fcnet.report.progress import RunProgress

_POLL_SECONDS = 0.5
_SETTLE_SECONDS = 2.0
"""Time after which an error, or a run without a process, is believed: a process may be about to write the rest."""
_HEARTBEAT_SECONDS = 30.0
"""Time after which the page is written again, so that its age tells whether anybody watches."""
_MAX_SHARE = 0.1
"""Share of the time, at most, in which files are read and the page is written: the training needs the processor."""
_WRITE_ATTEMPTS = 5


def main(arguments: list[str]) -> int:
    """Parses the arguments and watches the run until it is finished; returns the exit code."""
    parser = Parser(
        "watch",
        "Show the learning curves of a run while it trains: a line for each epoch, and a page that loads itself again. "
        "Reads the run's files alone, and ends when the run is finished.",
        ["runs/digits", "runs/digits --out digits.html"],
    )
    parser.add_run()
    parser.add_out("page to write (default: RUN/watch.html)", metavar="FILE.html")
    flags = parser.parse(arguments)
    file: Path = flags.out or flags.run / "watch.html"
    if file.is_dir():
        raise UserError(f"{'--out' if flags.out else file} must be a file, got the folder {file}")
    if flags.out is not None and not file.parent.is_dir():
        raise UserError(f"--out must be in an existing folder, got {file}")
    if flags.out is not None and flags.run.resolve() in file.resolve().parents and file.name != "watch.html":
        raise UserError(f"--out must be outside the run folder, whose files are the training's, got {file}")
    with defer_signals() as received_signal:
        return Watch(flags.run, file).follow(received_signal)


class Watch:
    """Follows a run: prints its epochs and keeps its page.

    Args:
        folder: the run folder.
        file: the page.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        self._folder, self._file = folder, file
        self._progress: RunProgress | None = None

    def follow(self, received_signal: Callable[[], int]) -> int:
        """Shows what comes until the run is finished or a signal arrives.

        Args:
            received_signal: returns the number of a signal that has arrived, or 0.

        Returns:
            The exit code.

        Raises:
            UserError: the folder contains no run, a file of the run is damaged, or the page cannot be written.
        """
        versions: tuple[object, ...] | None = None
        due = written = 0.0
        while not received_signal():
            now = time.monotonic()
            if now >= due and (found := file_versions(self._folder)) != versions:
                versions = found  # from before the files are read: one that changes meanwhile is read again
                progress, read_seconds = self._read()
                self._print(progress)
                if progress.state == "finished":
                    return self._finish(progress)
                began, written = time.monotonic(), self._write_page(progress)
                due = written + (read_seconds + written - began) / _MAX_SHARE
            elif self._progress is not None and now >= written + _HEARTBEAT_SECONDS:
                written = self._write_page(self._progress)
            time.sleep(_POLL_SECONDS)
        if self._progress is not None:
            command = f"{command_line('watch')} {shlex.quote(str(self._folder))}"
            self._write_page(self._progress, f"Watching has ended; {command} continues.")
        cli.print_status(f"stopped watching {self._folder}")
        return 128 + received_signal()

    def _read(self) -> tuple[RunProgress, float]:
        """Reads the progress, and once more if what it says may be passing; returns the seconds of reading, too."""
        is_stopped = self._progress is not None and self._progress.state == "stopped"
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            began = time.monotonic()
            is_last = began >= deadline
            try:
                progress = read_progress(self._folder)
            except (UserError, OSError):
                if is_last or not self._folder.is_dir():
                    raise
            else:
                if is_last or is_stopped or progress.state != "stopped":
                    return progress, time.monotonic() - began
            time.sleep(_POLL_SECONDS)

    def _print(self, progress: RunProgress) -> None:
        """Prints what has changed."""
        before, self._progress = self._progress, progress
        records, train = progress.run.records, progress.run.config.train
        if before is None:
            cli.print_status(f"{self._folder} is {describe_state(progress)}")
            if progress.state == "finished":
                return
            cli.print_status(f"curves: {self._file} (open it in a browser; the page updates itself)")
            new = records[-1:]
        else:
            kept = common_epochs(before.run.records, records)
            if kept < len(before.run.records):
                cli.print_status(f"resumed after epoch {kept}")
            new = records[kept:]
        for record in new:
            line = cli.format_epoch(_to_epoch_record(record), train.epochs, terminal_columns(), train.select)
            cli.print_status(line)
        if before is not None and progress.state != before.state:
            cli.print_status(describe_state(progress))
        if progress.state == "stopped" and (before is None or before.state != "stopped"):
            command = f"{command_line('train')} --resume {shlex.quote(str(self._folder))}"
            cli.print_status(f"to continue the run: {command}; watching goes on until Ctrl-C")

    def _finish(self, progress: RunProgress) -> int:
        report = self._folder / "report.html"
        has_report = report.is_file()
        if self._file.is_file() or self._file.parent != self._folder:
            link = None
            if has_report:
                link = report.name if self._file.parent == self._folder else report.resolve().as_uri()
            self._write_page(progress, "The run is finished.", link)
        command = f"{command_line('report')} {shlex.quote(str(self._folder))}"
        cli.print_status(f"report: {report}" if has_report else f"to write a report: {command}")
        return 0

    def _write_page(self, progress: RunProgress, ended: str = "", report: str | None = None) -> float:
        """Writes the page; returns the time."""
        page = progress_page(progress, ended=ended, report=report)
        for attempt in range(_WRITE_ATTEMPTS):
            try:
                write_text(self._file, page)
                break
            except OSError as error:
                # A run that resumes removes temporary files from its folder, also those of this page.
                if not isinstance(error, FileNotFoundError) or attempt + 1 == _WRITE_ATTEMPTS:
                    reason = error.strerror or error
                    raise UserError(f"cannot write {self._file}: {reason}; --out names another place") from None
        return time.monotonic()


def _to_epoch_record(record: dict[str, Any]) -> EpochRecord:
    """Returns a line of ``metrics.jsonl`` as a record, in which a loss that is not finite is NaN."""
    missing = {key: math.nan for key in ("train_loss", "train_accuracy") if record[key] is None}
    return EpochRecord(**(record | missing))


if __name__ == "__main__":
    cli.run_command(main)
