"""Tests of fcnet.runtime.locks."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fcnet
from fcnet.runtime import locks
from fcnet.runtime.locks import UseMark, exclusive_lock, file_lock, is_in_use, lock_holder

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(fcnet.__file__).parents[1]

HOLD_LOCK = """
import sys
from pathlib import Path
from fcnet.runtime.locks import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

HOLD_EXCLUSIVE_LOCK = HOLD_LOCK.replace("file_lock", "exclusive_lock")

HOLD_MARK = """
import sys
from pathlib import Path
from fcnet.runtime.locks import UseMark
mark = UseMark(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def start_holder(script: str, path: Path) -> subprocess.Popen[str]:
    """Starts a process that holds a lock or a mark of ``path`` until its standard input closes."""
    command = [sys.executable, "-c", script, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end_holder(process: subprocess.Popen[str], *, kill: bool) -> None:
    if kill:
        process.kill()
    process.communicate()


def files_and_changes(folder: Path) -> dict[str, tuple[int, int, int]]:
    """The inode, size and time of change of each file; not the time of access, which reading may set."""
    stats = {entry.name: entry.stat() for entry in folder.iterdir()}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def mark_files(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if ".use-" in entry.name]


@pytest.mark.parametrize("kill", [False, True])
def test_the_holder_of_a_lock_is_known_while_it_lives_and_nothing_changes(kill: bool, tmp_path: Path) -> None:
    path = tmp_path / "data"
    assert lock_holder(path) is None
    process = start_holder(HOLD_EXCLUSIVE_LOCK, path)
    try:
        files = files_and_changes(tmp_path)
        assert lock_holder(path) == f"process {process.pid} on {socket.gethostname()}"
        assert files_and_changes(tmp_path) == files
    finally:
        end_holder(process, kill=kill)
    assert lock_holder(path) is None
    assert (tmp_path / ".data.holder").exists() is kill
    (tmp_path / ".data.holder").write_text("12 elsewhere\n")
    assert lock_holder(path) == "process 12 on elsewhere"


@pytest.mark.parametrize("kill", [False, True])
def test_a_lock_ends_with_its_process(kill: bool, tmp_path: Path) -> None:
    path = tmp_path / "data"
    process = start_holder(HOLD_LOCK, path)
    try:
        with pytest.raises(BlockingIOError) as error, file_lock(path, wait=False):
            pass
    finally:
        end_holder(process, kill=kill)
    assert (error.value.strerror, error.value.filename) == ("another process holds the lock", str(path))
    with file_lock(path):
        pass


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), file_lock(tmp_path / "data"):
        raise KeyError
    with file_lock(tmp_path / "data", wait=False):
        pass


def test_paths_have_locks_of_their_own(tmp_path: Path) -> None:
    with file_lock(tmp_path / "one"), file_lock(tmp_path / "two", wait=False):
        pass


def test_a_waiting_thread_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with file_lock(tmp_path / "data"):
            order.append("second")

    with file_lock(tmp_path / "data"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_creates_its_folder_and_leaves_no_other_file(tmp_path: Path) -> None:
    with file_lock(tmp_path / "new" / "data"):
        pass
    assert {entry.name for entry in (tmp_path / "new").iterdir()} <= {".data.lock"}


@pytest.mark.parametrize("kill", [False, True])
def test_an_exclusive_lock_names_its_process_and_ends_with_it(kill: bool, tmp_path: Path) -> None:
    path = tmp_path / "run"
    process = start_holder(HOLD_EXCLUSIVE_LOCK, path)
    try:
        for _ in range(2):  # a refused process changes nothing
            with pytest.raises(BlockingIOError) as error, exclusive_lock(path):
                pass
            message = f"process {process.pid} on {socket.gethostname()} holds the lock"
            assert (error.value.strerror, error.value.filename) == (message, str(path))
    finally:
        end_holder(process, kill=kill)
    assert (list(tmp_path.iterdir()) != []) is kill
    with exclusive_lock(path):
        assert (tmp_path / ".run.holder").read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"12", b"12 \x1b[31mhost", b"12 host\nmore", b"1" * 11 + b" host", b"1 h" + b"o" * 999]
)
def test_a_holder_that_is_not_a_process_is_not_shown(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_HOLDER_SECONDS", 0.0)
    with exclusive_lock(tmp_path / "run"):
        (tmp_path / ".run.holder").write_bytes(content)
        with pytest.raises(BlockingIOError) as error, exclusive_lock(tmp_path / "run"):
            pass
        assert error.value.strerror == "another process holds the lock"
        (tmp_path / ".run.holder").unlink()
        with pytest.raises(BlockingIOError, match="another process holds the lock"), exclusive_lock(tmp_path / "run"):
            pass


@pytest.mark.parametrize("left", [None, "2147483646 {host}\n"])
def test_a_process_that_has_just_taken_an_exclusive_lock_is_named(left: str | None, tmp_path: Path) -> None:
    """Its file is missing, or that of a killed process."""
    holder, own = tmp_path / ".run.holder", f"{os.getpid()} {socket.gethostname()}"
    with exclusive_lock(tmp_path / "run"):
        if left is None:
            holder.unlink()
        else:
            holder.write_text(left.format(host=socket.gethostname()))
        timer = threading.Timer(0.2, holder.write_text, [f"{own}\n"])
        timer.start()
        with pytest.raises(BlockingIOError) as error, exclusive_lock(tmp_path / "run"):
            pass
        timer.join()
    assert error.value.strerror == f"process {own.replace(' ', ' on ')} holds the lock"


def test_two_processes_never_hold_an_exclusive_lock_while_its_files_come_and_go(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from fcnet.runtime.locks import exclusive_lock
path, held = Path(sys.argv[1]), 0
while held < 200:
    try:
        with exclusive_lock(path):
            (path.parent / "inside").mkdir()
            (path.parent / "inside").rmdir()
            held += 1
    except BlockingIOError:
        pass
"""
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_in_use_while_any_mark_lives(tmp_path: Path) -> None:
    path = tmp_path / "data"
    assert not is_in_use(path)
    marks = [UseMark(path), UseMark(path)]
    assert is_in_use(path)
    marks.pop()
    gc.collect()
    assert is_in_use(path)
    assert not is_in_use(tmp_path / "dat")
    marks.clear()
    gc.collect()
    assert not is_in_use(path)
    assert list(tmp_path.iterdir()) == []


def test_a_mark_may_be_collected_by_another_thread(tmp_path: Path) -> None:
    marks = [UseMark(tmp_path / "data")]
    thread = threading.Thread(target=marks.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert not is_in_use(tmp_path / "data")


@pytest.mark.parametrize("kill", [False, True])
def test_a_mark_ends_with_its_process(kill: bool, tmp_path: Path) -> None:
    process = start_holder(HOLD_MARK, tmp_path / "data")
    try:
        assert is_in_use(tmp_path / "data")
    finally:
        end_holder(process, kill=kill)
    assert len(mark_files(tmp_path)) == kill  # a killed process cannot remove its mark
    assert not is_in_use(tmp_path / "data")
    assert mark_files(tmp_path) == []


def age(file: Path, seconds: float) -> None:
    os.utime(file, (time.time() - seconds, time.time() - seconds))


@pytest.mark.parametrize(("seconds", "num_left"), [(3600, 1), (0, 2)])
def test_a_new_mark_removes_old_marks_of_dead_processes(seconds: float, num_left: int, tmp_path: Path) -> None:
    process = start_holder(HOLD_MARK, tmp_path / "data")
    end_holder(process, kill=True)
    age(tmp_path / mark_files(tmp_path)[0], seconds)
    mark = UseMark(tmp_path / "data")
    assert len(mark_files(tmp_path)) == num_left
    del mark


def test_a_new_mark_leaves_old_marks_that_live(tmp_path: Path) -> None:
    first = UseMark(tmp_path / "data")
    (name,) = mark_files(tmp_path)
    age(tmp_path / name, 3600)
    second = UseMark(tmp_path / "data")
    assert name in mark_files(tmp_path)
    del first, second


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python's warning of forks beside threads
def test_a_forked_child_leaves_its_parents_mark_alone(tmp_path: Path) -> None:
    mark: list[UseMark] = [UseMark(tmp_path / "data")]
    child = os.fork()
    if child == 0:
        mark.clear()
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert is_in_use(tmp_path / "data")
    mark.clear()


def unwritable(path: Path) -> None:
    raise PermissionError(str(path))


def test_a_folder_that_cannot_be_written_takes_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse: Callable[[Path], None] = unwritable
    monkeypatch.setattr("fcnet.runtime.locks._new_lock", refuse)
    UseMark(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
