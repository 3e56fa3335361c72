"""Standard output and standard error of a command, either of which may be closed, full or broken.

Nothing depends on standard error: what cannot be written there is dropped. If standard output fails, a command that
prints its result ends, and a command that only prints its progress says so once and continues.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any, cast

from fcnet.runtime.formatting import escape_unprintable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


@contextlib.contextmanager
def protect_streams() -> Iterator[None]:
    """Lets a command print whatever its streams are. Characters that they cannot encode are printed as escapes."""
    sys.stdout = sys.stdout or _unwritable_stream()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with contextlib.redirect_stderr(cast("TextIO", _LossyStream(sys.stderr or _unwritable_stream()))):
        yield


def print_line(line: str) -> None:
    """Prints a line of progress. If standard output fails, one line says so and the command continues."""
    from tqdm import tqdm

    try:
        tqdm.write(escape_unprintable(line), file=sys.stdout)  # moves a progress bar out of the way
        sys.stdout.flush()
    except OSError as error:
        lose_output(error, "; the command continues without it")


def print_result(line: str) -> None:
    """Prints a line of the command's result. If standard output fails, the command ends.

    Raises:
        SystemExit: with exit code 2 and one line of error, or 0 if the reader has gone.
    """
    try:
        sys.stdout.write(escape_unprintable(line) + "\n")
        sys.stdout.flush()
    except OSError as error:
        raise SystemExit(lose_output(error)) from None
    if isinstance(sys.stdout, _LostOutput):
        raise SystemExit(sys.stdout.exit_code)


def lose_output(error: OSError, consequence: str = "") -> int:
    """Replaces standard output, which failed; returns the exit code of a command that cannot print its result.

    It prints why, unless the reader has gone and nothing else follows.
    """
    _silence(sys.stdout)
    sys.stdout = _LostOutput()
    sys.stdout.exit_code = 0 if isinstance(error, BrokenPipeError) else 2
    if consequence or sys.stdout.exit_code:
        write_error(f"standard output: {error.strerror or error}{consequence}")
    return sys.stdout.exit_code


def _silence(stream: TextIO) -> None:
    """Redirects a stream to the null device, so that flushing it at exit does not fail again."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def write_error(*lines: str) -> int:
    """Prints lines on standard error; returns the exit code 2."""
    sys.stderr.write("".join(f"{escape_unprintable(line)}\n" for line in lines))
    return 2


class _LossyStream:
    """Standard error, on which nothing depends: what cannot be written is dropped.

    Args:
        stream: the stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text, or drops it."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            _silence(self._stream)
        return len(text)

    def flush(self) -> None:
        """Does nothing: each write is flushed."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - that of any attribute
        return getattr(self._stream, name)


class _LostOutput(io.StringIO):
    """Takes the place of standard output after it has failed, and drops what is written.

    Attributes:
        exit_code: exit code of a command that cannot print its result.
    """

    exit_code = 2

    def write(self, text: str) -> int:
        """Drops the text."""
        return len(text)


def _unwritable_stream() -> TextIO:
    """Returns a stream in place of a closed one. Its writes fail, and no other file takes the closed one's number."""
    return os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
