"""File locks between processes: one process at a time, and marks of what is in use.

Every lock ends with the process that holds it, however that ends. The locks are those of `filelock`: the
operating system's where it has them, else files with the holder's process number.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import socket
import time
import uuid
import warnings
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from filelock import BaseFileLock

_ABANDONED_SECONDS = 60.0
"""Age from which an unlocked mark counts as left behind. A younger one may be about to be locked."""
_HOLDER = re.compile(rb"(\d{1,10}) ([A-Za-z0-9._-]{1,255})\s*")
_MAX_HOLDER_BYTES = 300
_HOLDER_SECONDS = 1.0
"""Time for a process that has just taken a lock to write who it is."""
_INHERITED: list[BaseFileLock] = []
"""Locks that a forked child keeps: collecting one would release the parent's lock."""


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of ``path`` while the block runs, so that one process at a time builds or removes it.

    The lock's file is ``.NAME.lock`` beside ``path``. It may stay: removing it while another process waits
    would let two processes hold the lock.

    Args:
        path: file or folder to lock. It need not exist; a missing parent folder is created.
        wait: wait for another holder to release the lock.

    Raises:
        BlockingIOError: another process holds the lock and ``wait`` is false.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder, file_lock(Path(folder) / "data"):
        ...     with file_lock(Path(folder) / "data", wait=False):
        ...         pass
        Traceback (most recent call last):
            ...
        BlockingIOError: [Errno ...] another process holds the lock: '...data'
    """
    lock = _new_lock(path.with_name(f".{path.name}.lock"))
    if not _acquire(lock, -1.0 if wait else 0.0):
        raise BlockingIOError(errno.EAGAIN, "another process holds the lock", str(path))
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Holds the lock of ``path`` while the block runs, and tells other processes who does.

    The number and the host of the process are in ``.NAME.holder`` beside the lock's file. Both files go at the end;
    what a killed process leaves locks nothing.

    Args:
        path: file or folder to lock. It need not exist; its folder must.

    Raises:
        BlockingIOError: another process holds the lock; the message names the process if it is known.
    """
    holder, lock_file = path.with_name(f".{path.name}.holder"), path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path, wait=False))
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, f"{_describe_holder(holder)} holds the lock", str(path)) from None
        # Removed while the lock is held: a process that has just opened the lock's file then makes a new one.
        for file in (lock_file, holder):
            stack.callback(_remove_file, file)
        holder.write_text(f"{os.getpid()} {socket.gethostname()}\n")
        yield


def lock_holder(path: Path) -> str | None:
    """Returns the process that holds the `exclusive_lock` of ``path``, from what it has written beside the lock.

    Nothing is locked, opened for writing or removed. A process that was killed holds no lock. One on another host
    counts as living, since nobody can tell from here.

    Args:
        path: the file or folder that is locked.

    Returns:
        Text such as ``process 12 on ada``; None if no process holds the lock.
    """
    return _read_holder(path.with_name(f".{path.name}.holder"))


class UseMark:
    """Marks a path as in use by this process for as long as the mark lives.

    Any number of processes may mark a path. Each mark is a locked file of its own, ``.NAME.use-ID.lock`` beside
    ``path``, which goes with the mark. A folder that cannot be written takes no mark.

    Args:
        path: file or folder in use.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = Path(folder) / "data"
        ...     mark = UseMark(data)
        ...     before = is_in_use(data)
        ...     del mark
        ...     before, is_in_use(data)
        (True, False)
    """

    def __init__(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            for file in _mark_files(path):
                _remove_if_abandoned(file)
            file = path.with_name(f".{path.name}.use-{uuid.uuid4().hex}.lock")
            lock = _new_lock(file)
            weakref.finalize(self, _remove_mark, lock, file, os.getpid())
            _acquire(lock, 1.0)


def is_in_use(path: Path) -> bool:
    """Returns whether a living process holds a `UseMark` of ``path``; removes marks that dead processes left."""
    abandoned = [_remove_if_abandoned(file, min_age=0.0) for file in _mark_files(path)]  # every dead mark goes
    return not all(abandoned)


def _describe_holder(file: Path) -> str:
    """Returns the process that a holder's file names. Anybody may have written the file: it is only shown."""
    deadline = time.monotonic() + _HOLDER_SECONDS
    while (holder := _read_holder(file)) is None:
        if time.monotonic() > deadline:
            return "another process"
        time.sleep(_HOLDER_SECONDS / 20)
    return holder


def _read_holder(file: Path) -> str | None:
    """Returns the living process that a holder's file names; None if there is none."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        found = _HOLDER.fullmatch(opened.read(_MAX_HOLDER_BYTES))
        if found and not _has_ended(int(found[1]), found[2].decode()):
            return f"process {found[1].decode()} on {found[2].decode()}"
    return None


def _has_ended(pid: int, host: str) -> bool:
    """Returns whether a process has certainly ended: one that was killed leaves its holder's file."""
    if os.name != "posix" or host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)  # sends no signal
    except PermissionError:
        return False  # it is another user's
    except (ProcessLookupError, OverflowError):
        return True
    return False


def _remove_file(file: Path) -> None:
    with contextlib.suppress(OSError):  # Windows removes no open file
        file.unlink()


def _mark_files(path: Path) -> list[Path]:
    return list(path.parent.glob(f".{glob.escape(path.name)}.use-*.lock"))


def _remove_if_abandoned(file: Path, min_age: float = _ABANDONED_SECONDS) -> bool:
    """Removes a mark without a holder; returns whether there was none."""
    try:
        if time.time() - file.stat().st_mtime < min_age:
            return False
    except FileNotFoundError:
        return True
    lock = _new_lock(file)
    if not _acquire(lock, 0.0):
        return False
    _remove_mark(lock, file, os.getpid())
    return True


def _remove_mark(lock: BaseFileLock, file: Path, pid: int) -> None:
    if os.getpid() != pid:
        _INHERITED.append(lock)
        return
    with contextlib.suppress(OSError):
        lock.release(force=True)
        file.unlink(missing_ok=True)


def _new_lock(file: Path) -> BaseFileLock:
    with warnings.catch_warnings():
        # Without the system's locks filelock warns when it is imported; its own serve as well here.
        warnings.simplefilter("ignore")
        from filelock import FileLock

    # A mark may be collected in another thread than the one that made it.
    return FileLock(file, thread_local=False)


def _acquire(lock: BaseFileLock, timeout: float) -> bool:
    """Returns whether the lock was acquired within ``timeout`` seconds; -1 waits for ever."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    return True
