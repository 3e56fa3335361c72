"""Several processes decode what one would, and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import fcnet
from fcnet.data.decoding import decode_pool
from fcnet.data.sources import source as sources
from fcnet.data.sources.source import images
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fcnet.data.sources.source import ImageChunk, Source

ROOT = Path(fcnet.__file__).parents[1]
WAIT_SECONDS = 60


def draw(folder: Path, count: int = 30, *, mode: str = "RGB") -> Path:
    """A folder of noise, so many 4×5 pictures in each of four places."""
    rng = np.random.default_rng(0)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (folder / place).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / place / f"{number:03}.png")
    return folder


def decoded(source: Source) -> list[tuple[Any, ...]]:
    return [(e.split, e.pixels.tolist(), e.labels.tolist(), e.skipped) for e in source.snapshot().read().chunks]


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(entry.name))
    return found


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes ten pictures a run, and all runs but the first the work of three workers."""

    def share() -> None:
        monkeypatch.setattr(sources, "DECODE_BATCH_BYTES", 600)
        monkeypatch.setattr(decode_pool, "_WORTH_SECONDS", -1.0)
        monkeypatch.setattr(decode_pool, "num_processors", lambda: 3)

    return share


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DECODE_BATCH_BYTES", 600)
    monkeypatch.setattr(decode_pool, "num_processors", lambda: 1)


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("size", "broken"), [((), ()), ((3, 7), ("train/a/002.png", "test/b/029.png"))])
def test_workers_make_the_same_of_pictures_as_one_process_in_the_same_order(
    size: tuple[int, ...],
    broken: tuple[str, ...],
    mode: str,
    form: str,
    tmp_path: Path,
    shared: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = draw(tmp_path / "pictures", mode=mode)
    for name in broken:
        (path / name).write_bytes((path / name).read_bytes()[:40])
    if form == "archive":
        with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
            archive.add(path, "")
        path = tmp_path / "pictures.tar"
    source = images(path, size=size, skip_broken=bool(broken))
    alone(monkeypatch)
    expected = decoded(source)
    before = children()
    shared()
    found = source.snapshot().read().chunks
    got = [next(found), next(found)]
    assert len(children() - before) == 3
    got += list(found)
    assert [(e.split, e.pixels.tolist(), e.labels.tolist(), e.skipped) for e in got] == expected
    assert {name for examples in got for name, _ in examples.skipped} == set(broken)
    assert children() == before


def test_a_small_set_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refused)
    monkeypatch.setattr(sources, "DECODE_BATCH_BYTES", 600)
    monkeypatch.setattr(decode_pool, "num_processors", lambda: 2)
    assert len(decoded(images(draw(tmp_path / "pictures")))) == 12


@pytest.mark.parametrize("other", ["train/b/005.png", "test/a/000.png"])
def test_of_broken_pictures_the_first_is_named_as_by_one_process(
    other: str, tmp_path: Path, shared: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw(tmp_path / "pictures")
    for name in ("train/a/025.png", other):
        (path / name).write_bytes((path / name).read_bytes()[:60])
    lines = []
    ways: list[Callable[[], None]] = [lambda: alone(monkeypatch), shared]
    for way in ways:
        way()
        before = children()
        with pytest.raises(UserError) as error:
            decoded(images(path))
        lines.append(str(error.value))
        assert children() == before
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"train/a/025.png in {path} must be a whole image, got: ")


def test_a_picture_that_has_changed_is_refused_by_workers_too(tmp_path: Path, shared: Callable[[], None]) -> None:
    path = draw(tmp_path / "pictures")
    seen = images(path, skip_broken=True).snapshot()
    os.utime(path / "test/b/029.png", ns=(0, 0))
    shared()
    with pytest.raises(UserError, match=r"^test/b/029\.png in .* must stay as it is while it is read, got a change$"):
        list(seen.read().chunks)


def test_what_a_dead_worker_does_not_answer_is_decoded_here(
    tmp_path: Path, shared: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = images(draw(tmp_path / "pictures"))
    alone(monkeypatch)
    expected = decoded(source)
    before = children()
    shared()

    def killing(found: Iterator[ImageChunk], count: int) -> Iterator[ImageChunk]:
        for number, examples in enumerate(found):
            if number == 1:
                for worker in sorted(children() - before)[:count]:
                    os.kill(worker, signal.SIGKILL)
            yield examples

    for count in (1, 3):
        got = [
            (e.split, e.pixels.tolist(), e.labels.tolist(), e.skipped)
            for e in killing(source.snapshot().read().chunks, count)
        ]
        assert got == expected


def test_where_no_process_can_be_started_one_does_it_all(
    tmp_path: Path, shared: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = images(draw(tmp_path / "pictures"))
    alone(monkeypatch)
    expected = decoded(source)
    shared()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    assert decoded(source) == expected


def test_workers_end_when_nobody_wants_more(tmp_path: Path, shared: Callable[[], None]) -> None:
    before = children()
    shared()
    found = images(draw(tmp_path / "pictures")).snapshot().read().chunks
    next(found)
    next(found)
    assert len(children() - before) == 3
    del found
    assert children() == before


def test_a_worker_imports_no_torch(tmp_path: Path) -> None:
    program = decode_pool._PROGRAM.replace(
        "serve()\n", "print([n for n in ('torch', 'fcnet.data.decoding.image_decoding') if n in sys.modules])"
    )
    command = [sys.executable, "-P", "-c", program, str(ROOT / "fcnet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "['fcnet.data.decoding.image_decoding']\n"


PARENT = """
import sys, time
from pathlib import Path
from fcnet.data.sources import source as sources
from fcnet.data.decoding import decode_pool
sources.DECODE_BATCH_BYTES, decode_pool._WORTH_SECONDS, decode_pool.num_processors = 600, -1.0, lambda: 2
found = sources.images(Path(sys.argv[1])).snapshot().read().chunks
next(found), next(found)
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_do_not_outlive_the_process_that_asks(number: signal.Signals, tmp_path: Path) -> None:
    def with_mark() -> list[str]:
        marked = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"FCNET_MARK={tmp_path}".encode() in (entry / "environ").read_bytes():
                    marked.append(entry.name)
            except OSError:
                continue
        return marked

    environment = os.environ | {"FCNET_MARK": str(tmp_path)}
    command = [sys.executable, "-c", PARENT, str(draw(tmp_path / "pictures"))]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    assert len(with_mark()) == 3
    process.send_signal(number)
    process.communicate(timeout=WAIT_SECONDS)
    deadline = time.monotonic() + WAIT_SECONDS
    while with_mark():
        assert time.monotonic() < deadline
        time.sleep(0.05)
