"""SIGINT and SIGTERM, from the first import of a command to the end of its process.

A handler of Python runs only between two instructions of the main thread. Where it cannot wait for an exception to
reach the command, it ends the process itself: while the command is imported, after a first signal, and while another
rank keeps the main thread waiting outside Python.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time

TYPE_CHECKING = False  # typing takes longer to import than the rest, and no signal is handled before
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import NoReturn

    Handler = Callable[[int, FrameType | None], object] | int

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE_SECONDS = 1.0
"""Time for the main thread to return from a call outside Python."""
_REPEAT_SECONDS = 2.0
"""Time in which a signal counts as the same one. Launchers pass on what the terminal sends to each rank as well."""
_last_handled = -_REPEAT_SECONDS


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. It is no Exception, so that no handler of errors swallows it.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_on_signals() -> None:
    """Ends the process at the first signal, with one line. Nothing is lost while a command is being imported."""
    atexit.register(_handle_signals, signal.SIG_IGN)  # the first to be registered is the last to run
    _handle_signals(exit_now)


def raise_signals() -> None:
    """Raises `Interrupted` in the main thread at the first signal. A second one ends the process, with one line."""
    _handle_signals(_raise_interrupted)


def finish(code: int) -> None:
    """Ends the process at the first signal with the exit code that it has earned already, without a line."""
    _handle_signals(lambda number, frame: os._exit(code))


@contextlib.contextmanager
def defer_signals() -> Iterator[Callable[[], int]]:
    """Records SIGINT and SIGTERM while the block runs instead of raising, so that no step is interrupted.

    Yields:
        A function that returns the number of the last signal, or 0.
    """
    received = 0

    def record_signal(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = number
        _note_time()

    previous = {number: signal.signal(number, record_signal) for number in _SIGNALS}
    try:
        yield lambda: received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def exit_if_blocked() -> Iterator[None]:
    """Ends the process, with one line, if a signal finds the main thread in a long call outside Python.

    While signals are deferred the call may take its time.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch_signals, args=(reading,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writing)  # ends the thread


@contextlib.contextmanager
def exit_after(seconds: float, line: str) -> Iterator[None]:
    """Ends the process with exit code 2 and one line if the block, which may hang outside Python, lasts longer."""
    timer = threading.Timer(seconds, _exit, args=(2, line))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def exit_now(number: int, frame: FrameType | None = None) -> NoReturn:
    """Ends the process at once, with one line on standard error."""
    _exit(128 + number, describe(number))


def describe(number: int) -> str:
    """Returns the line for a command that a signal ended."""
    return f"stopped by {signal.Signals(number).name}"


def _exit(code: int, line: str) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
    os._exit(code)


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    _note_time()
    # Something may swallow the exception, as Python does in a destructor: a second signal does not depend on it.
    _handle_signals(_exit_unless_repeated)
    raise Interrupted(number)


def _exit_unless_repeated(number: int, frame: FrameType | None) -> None:
    if time.monotonic() - _last_handled > _REPEAT_SECONDS:
        exit_now(number)


def _watch_signals(reading: int) -> None:
    """Waits for signals. The system's own handler writes their numbers, also while Python's handlers cannot run."""
    while data := os.read(reading, 1):
        arrived = time.monotonic()
        time.sleep(_GRACE_SECONDS)
        is_deferred = signal.getsignal(data[0]) not in (_raise_interrupted, _exit_unless_repeated)
        if not is_deferred and arrived - _last_handled > _REPEAT_SECONDS:
            exit_now(data[0])
    os.close(reading)


def _note_time() -> None:
    global _last_handled
    _last_handled = time.monotonic()


def _handle_signals(handler: Handler) -> None:
    for number in _SIGNALS:
        signal.signal(number, handler)
