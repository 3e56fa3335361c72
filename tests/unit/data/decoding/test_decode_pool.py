"""Worker processes decode images exactly as one process does, and end with it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import fcnet
from fcnet.data.decoding import decode_pool
from fcnet.data.decoding.decode_batch import DecodedImages, DecodeOptions, ImageFile
from fcnet.data.sources import image_folder as sources
from fcnet.data.sources import images
from fcnet.runtime.errors import UserError
from tests.helpers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fcnet.data.sources.source import ImageChunk, Source

ROOT = Path(fcnet.__file__).parents[1]
TIMEOUT_SECONDS = 60
BATCH_BYTES = 600  # ten images of 4×5 pixels


def write_images(folder: Path, count: int = 30, *, mode: str = "RGB") -> Path:
    """A folder of noise: ``count`` 4×5 images in each of two classes and two splits."""
    rng = np.random.default_rng(0)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (folder / place).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / place / f"{number:03}.png")
    return folder


def as_lists(chunks: Iterator[ImageChunk]) -> list[tuple[Any, ...]]:
    return [(chunk.split, chunk.pixels.tolist(), chunk.labels.tolist(), chunk.skipped) for chunk in chunks]


def decode(source: Source) -> list[tuple[Any, ...]]:
    return as_lists(source.snapshot().read().chunks)


def worker_processes() -> set[int]:
    """The running children of this process, without `multiprocessing`'s idle resource trackers, which stay."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z" and b"resource_tracker" not in command:
            found.add(int(entry.name))
    return found


@pytest.fixture
def three_workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that leaves all batches but the first to three workers."""

    def use() -> None:
        monkeypatch.setattr(sources, "DECODE_BATCH_BYTES", BATCH_BYTES)
        monkeypatch.setattr(decode_pool, "_MIN_SECONDS", -1.0)
        monkeypatch.setattr(decode_pool, "num_processors", lambda: 3)
        monkeypatch.setattr(decode_pool, "_is_done", lambda ready: ready.exception(TIMEOUT_SECONDS) is None)

    return use


def use_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DECODE_BATCH_BYTES", BATCH_BYTES)
    monkeypatch.setattr(decode_pool, "num_processors", lambda: 1)


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("size", "broken"), [((), ()), ((3, 7), ("train/a/002.png", "test/b/029.png"))])
def test_workers_return_the_same_images_as_one_process_in_the_same_order(
    size: tuple[int, ...],
    broken: tuple[str, ...],
    mode: str,
    form: str,
    tmp_path: Path,
    three_workers: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_images(tmp_path / "images", mode=mode)
    for name in broken:
        (path / name).write_bytes((path / name).read_bytes()[:40])
    if form == "archive":
        with tarfile.open(tmp_path / "images.tar", "w") as archive:
            archive.add(path, "")
        path = tmp_path / "images.tar"
    source = images(path, size=size, skip_broken=bool(broken))
    use_one_process(monkeypatch)
    expected = decode(source)
    before = worker_processes()
    three_workers()
    chunks = source.snapshot().read().chunks
    got = as_lists(iter([next(chunks), next(chunks)]))
    assert len(worker_processes() - before) == 3
    got += as_lists(chunks)
    assert got == expected
    assert {name for *_, skipped in got for name, _ in skipped} == set(broken)
    assert worker_processes() == before


def test_a_small_set_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(decode_pool, "_map_in_workers", refuse)
    monkeypatch.setattr(sources, "DECODE_BATCH_BYTES", BATCH_BYTES)
    monkeypatch.setattr(decode_pool, "num_processors", lambda: 2)
    assert len(decode(images(write_images(tmp_path / "images")))) == 12


@pytest.mark.parametrize("other", ["train/b/005.png", "test/a/000.png"])
def test_the_error_names_the_first_broken_image_as_in_one_process(
    other: str, tmp_path: Path, three_workers: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_images(tmp_path / "images")
    for name in ("train/a/025.png", other):
        (path / name).write_bytes((path / name).read_bytes()[:60])
    lines = []
    setups: list[Callable[[], None]] = [lambda: use_one_process(monkeypatch), three_workers]
    for set_up in setups:
        set_up()
        before = worker_processes()
        with pytest.raises(UserError) as error:
            decode(images(path))
        lines.append(str(error.value))
        assert worker_processes() == before
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"train/a/025.png in {path} must be a whole image, got: ")


def test_workers_refuse_an_image_that_has_changed(tmp_path: Path, three_workers: Callable[[], None]) -> None:
    path = write_images(tmp_path / "images")
    snapshot = images(path, skip_broken=True).snapshot()
    os.utime(path / "test/b/029.png", ns=(0, 0))
    three_workers()
    with pytest.raises(UserError, match=r"^test/b/029\.png in .* changed while it was being read$"):
        list(snapshot.read().chunks)


@pytest.mark.parametrize("num_killed", [1, 3])
def test_images_of_a_killed_worker_are_decoded_again(
    num_killed: int, tmp_path: Path, three_workers: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = images(write_images(tmp_path / "images"))
    use_one_process(monkeypatch)
    expected = decode(source)
    before = worker_processes()
    three_workers()
    got = []
    for number, chunk in enumerate(source.snapshot().read().chunks):
        if number == 1:
            for worker in sorted(worker_processes() - before)[:num_killed]:
                os.kill(worker, signal.SIGKILL)
        got += as_lists(iter([chunk]))
    assert got == expected
    assert worker_processes() == before


def die_in_a_worker(files: Sequence[ImageFile], options: DecodeOptions) -> DecodedImages:
    """Kills every worker process; does its work in the process whose ID is the location."""
    if os.getpid() != int(options.location):
        os.kill(os.getpid(), signal.SIGKILL)
    return DecodedImages(files[0].name.encode())


def test_one_process_decodes_everything_where_every_worker_dies(
    three_workers: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    map_in_workers = mock.Mock(wraps=decode_pool._map_in_workers)
    monkeypatch.setattr(decode_pool, "_map_in_workers", map_in_workers)
    three_workers()
    batches = [[ImageFile(str(number), b"")] for number in range(20)]
    options = DecodeOptions(str(os.getpid()), skip_broken=False)
    results = decode_pool.parallel_map(die_in_a_worker, batches, options)
    assert [int(result.data) for result in results] == list(range(20))
    assert map_in_workers.call_count == decode_pool._MAX_POOLS


@pytest.mark.parametrize("error", [OSError("no more processes"), ImportError("no semaphores")])
def test_one_process_decodes_everything_where_no_worker_can_start(
    error: Exception, tmp_path: Path, three_workers: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise error

    source = images(write_images(tmp_path / "images"))
    use_one_process(monkeypatch)
    expected = decode(source)
    three_workers()
    monkeypatch.setattr("joblib.externals.loky.backend.context.LokyProcess.start", refuse)
    assert decode(source) == expected


def test_workers_end_where_only_some_of_them_can_start(
    tmp_path: Path, three_workers: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from joblib.externals.loky.backend.context import LokyProcess

    def start_two(process: Any) -> None:
        if next(numbers) % 3 == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(process)

    source = images(write_images(tmp_path / "images"))
    use_one_process(monkeypatch)
    expected = decode(source)
    before = worker_processes()
    three_workers()
    start, numbers = LokyProcess.start, itertools.count()
    monkeypatch.setattr(LokyProcess, "start", start_two)
    assert decode(source) == expected
    assert worker_processes() == before
    assert next(numbers) >= 3


def test_one_process_decodes_everything_where_the_interpreter_is_gone(
    tmp_path: Path, three_workers: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = images(write_images(tmp_path / "images"))
    use_one_process(monkeypatch)
    expected = decode(source)
    three_workers()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    assert decode(source) == expected


def test_workers_end_when_the_images_are_no_longer_used(tmp_path: Path, three_workers: Callable[[], None]) -> None:
    before = worker_processes()
    three_workers()
    chunks = images(write_images(tmp_path / "images")).snapshot().read().chunks
    next(chunks)
    next(chunks)
    assert len(worker_processes() - before) == 3
    del chunks
    assert worker_processes() == before


def test_workers_end_though_a_call_still_waits_for_them(
    tmp_path: Path, three_workers: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from joblib.externals.loky.process_executor import _ExecutorManagerThread

    def wait_and_sleep(thread: Any) -> Any:
        result = wait(thread)
        time.sleep(0.1)
        return result

    before = worker_processes()
    three_workers()
    wait = _ExecutorManagerThread.wait_result_broken_or_wakeup
    monkeypatch.setattr(_ExecutorManagerThread, "wait_result_broken_or_wakeup", wait_and_sleep)
    chunks = images(write_images(tmp_path / "images")).snapshot().read().chunks
    next(chunks)
    next(chunks)
    time.sleep(1.0)  # more results arrive: the next one submits a call and returns at once
    next(chunks)
    assert len(worker_processes() - before) == 3
    del chunks
    assert worker_processes() == before


# A user's script without a guard: a worker that imported it would import torch and start the loop again.
PARENT = """
import sys, time
from pathlib import Path
from fcnet.data.sources import image_folder
from fcnet.data.decoding import decode_pool
image_folder.DECODE_BATCH_BYTES, decode_pool._MIN_SECONDS, decode_pool.num_processors = 600, -1.0, lambda: 2
decode_pool._is_done = lambda ready: ready.result() > 0
chunks = image_folder.images(Path(sys.argv[1])).snapshot().read().chunks
next(chunks), next(chunks)
print("started", flush=True)
time.sleep(60)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that waits while it has two workers; all three have FCNET_MARK=tmp_path in their environment."""
    (tmp_path / "script.py").write_text(PARENT)
    environment = os.environ | {"FCNET_MARK": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "script.py", str(write_images(tmp_path / "images"))]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield process
        process.kill()


def marked_processes(mark: Path) -> dict[int, Path]:
    """The processes of one `parent` by ID, each with its folder in /proc."""
    marked = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"FCNET_MARK={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                marked[int(entry.name)] = entry
        except OSError:
            continue
    return marked


def marked_workers(mark: Path, parent: subprocess.Popen[str]) -> list[Path]:
    return [
        entry
        for number, entry in marked_processes(mark).items()
        if number != parent.pid and b"resource_tracker" not in (entry / "cmdline").read_bytes()
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_do_not_outlive_their_parent(
    number: signal.Signals, tmp_path: Path, parent: subprocess.Popen[str]
) -> None:
    assert len(marked_workers(tmp_path, parent)) == 2
    parent.send_signal(number)
    parent.communicate(timeout=TIMEOUT_SECONDS)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while marked_processes(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def maps(process: Path, text: str) -> bool:
    """Whether a process has mapped a file with a text in its path."""
    return text in (process / "maps").read_text()


def test_a_worker_loads_neither_torch_nor_the_main_module(tmp_path: Path, parent: subprocess.Popen[str]) -> None:
    workers = marked_workers(tmp_path, parent)
    # One of them may have had nothing to decode.
    assert wait_until(lambda: any(maps(worker, "/PIL/") for worker in workers), parent)
    assert not any(maps(worker, "/torch/") for worker in workers)


def signal_in(process: Path, mask: str) -> bool:
    """Whether SIGINT is in one of a process's signal masks."""
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    return bool(int(status[mask], 16) & 1 << signal.SIGINT - 1)


def test_a_worker_runs_on_one_thread_and_leaves_an_interrupt_to_its_parent(
    tmp_path: Path, parent: subprocess.Popen[str]
) -> None:
    workers = marked_workers(tmp_path, parent)
    for worker in workers:
        assert b"OMP_NUM_THREADS=1" in (worker / "environ").read_bytes().split(b"\0")
        assert signal_in(worker, "SigBlk")
        assert wait_until(partial(signal_in, worker, "SigIgn"), parent)  # it may still be starting
        os.kill(int(worker.name), signal.SIGINT)
    time.sleep(0.2)
    assert marked_workers(tmp_path, parent) == workers
