"""Tests of builds: they report progress, and interrupted builds resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import fcnet
from fcnet.data.decoding import decode_batch
from fcnet.data.decoding.image_decoding import decode_planes
from fcnet.data.sources import digits, images
from fcnet.data.sources import image_folder as sources
from fcnet.data.store.store import open_store
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(fcnet.__file__).parents[1]
BROKEN = ("train/a/03.png", "train/b/11.png")
SIZE_BYTES = 3 * 4 * 5


class StopError(BaseException):
    """Interrupts a build as a signal does, without being an `Exception`."""


@pytest.fixture(autouse=True)
def _five_images_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DECODE_BATCH_BYTES", 5 * SIZE_BYTES)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """48 images of noise, two of them broken; each split has batches of 5, 5, 5, 5 and 4."""
    rng = np.random.default_rng(0)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "images" / place).mkdir(parents=True)
        for number in range(12):
            file = tmp_path / "images" / place / f"{number:02}.png"
            Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(file)
    for name in BROKEN:
        (tmp_path / "images" / name).write_bytes(b"not an image")
    return tmp_path / "images"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the names of the decoded images."""
    names: list[str] = []

    def counting(file: Any, channels: int, name: str, size: tuple[int, int] | None = None) -> object:
        names.append(name.partition(" ")[0])
        return real(file, channels, name, size)

    real = decode_planes
    monkeypatch.setattr(decode_batch, "decode_planes", counting)
    return names


def build(image_folder: Path, cache: Path, stop_after: int | None = None) -> list[tuple[int, int]]:
    """Builds the store, or stops after some images; returns the reported progress."""
    reports: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        reports.append((done, total))
        if stop_after is not None and done >= stop_after:
            raise StopError

    open_store(images(image_folder, skip_broken=True), cache, progress)
    return reports


def stop_build(image_folder: Path, cache: Path, after: int) -> Path:
    """Stops a build after some images; returns the folder it leaves."""
    with pytest.raises(StopError):
        build(image_folder, cache, after)
    (left,) = cache.glob(".*.unfinished")
    return left


def read_store(cache: Path) -> dict[str, bytes]:
    """Returns the files of the only store in a cache."""
    (folder,) = (entry for entry in cache.iterdir() if entry.is_dir())
    assert not folder.name.startswith(".")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_progress_counts_all_images_including_broken_ones(image_folder: Path, tmp_path: Path) -> None:
    reports = build(image_folder, tmp_path / "cache")
    assert reports == [(done, 48) for done in (0, 5, 10, 15, 20, 24, 29, 34, 39, 44, 48)]
    assert build(image_folder, tmp_path / "cache") == []


def test_progress_is_not_reported_without_decoding(tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    open_store(digits(), tmp_path, lambda done, total: reports.append((done, total)))
    assert reports == []


@pytest.mark.parametrize("after", [5, 20, 24, 39, 48])
def test_a_stopped_build_resumes_where_it_stopped(
    after: int, image_folder: Path, tmp_path: Path, decodings: list[str]
) -> None:
    build(image_folder, tmp_path / "whole")
    stop_build(image_folder, tmp_path / "cache", after)
    decodings.clear()
    reports = build(image_folder, tmp_path / "cache")
    assert reports[0] == (after, 48)
    assert len(decodings) == 1 + 48 - after  # one for the size
    assert read_store(tmp_path / "cache") == read_store(tmp_path / "whole")
    skipped = json.loads(read_store(tmp_path / "cache")["store.json"])["skipped"]
    assert [name for name, _ in skipped] == list(BROKEN)


def test_a_build_stopped_several_times_gives_the_same_store(image_folder: Path, tmp_path: Path) -> None:
    build(image_folder, tmp_path / "whole")
    for after in (5, 20, 24, 44):
        stop_build(image_folder, tmp_path / "cache", after)
    build(image_folder, tmp_path / "cache")
    assert read_store(tmp_path / "cache") == read_store(tmp_path / "whole")


def flip_bit(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def append_bytes(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")


def truncate(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def journal_offset(left: Path, line: int) -> int:
    """Returns the offset of a line of the journal."""
    return sum(map(len, (left / "journal").read_bytes().splitlines(keepends=True)[:line]))


DAMAGE: dict[str, tuple[Callable[[Path], object], int]] = {
    "nothing": (lambda left: None, 24),
    "a bit of an image": (lambda left: flip_bit(left / "train_pixels.bin", 5 * SIZE_BYTES), 5),
    "a bit of the first image": (lambda left: flip_bit(left / "train_pixels.bin", 0), 0),
    "a bit of a label": (lambda left: flip_bit(left / "train_labels.bin", 8 * 9), 10),
    "a bit of the moments": (lambda left: flip_bit(left / "train_moments.bin", 48 * 14), 15),
    "a bit of a name": (lambda left: flip_bit(left / "train_names.bin", len("train/a/00.png") * 9), 10),
    "a bit of the end of a name": (lambda left: flip_bit(left / "train_name_ends.bin", 8 * 14), 15),
    "truncated pixels": (lambda left: truncate(left / "train_pixels.bin", 12 * SIZE_BYTES), 10),
    "extra pixels": (lambda left: append_bytes(left / "train_pixels.bin"), 24),
    "no labels": (lambda left: (left / "train_labels.bin").unlink(), 0),
    "a bit of the journal": (lambda left: flip_bit(left / "journal", journal_offset(left, 3) + 70), 10),
    "a bit of a checksum": (lambda left: flip_bit(left / "journal", journal_offset(left, 2)), 5),
    "a truncated journal": (lambda left: truncate(left / "journal", journal_offset(left, 5) - 9), 15),
    "no journal": (lambda left: (left / "journal").unlink(), 0),
    "an extra file": (lambda left: (left / ".store.json.abc").touch(), 24),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_build_resumes_after_the_last_undamaged_chunk(kind: str, image_folder: Path, tmp_path: Path) -> None:
    damage, num_valid = DAMAGE[kind]
    build(image_folder, tmp_path / "whole")
    damage(stop_build(image_folder, tmp_path / "cache", 24))
    assert build(image_folder, tmp_path / "cache")[0] == (num_valid, 48)
    assert read_store(tmp_path / "cache") == read_store(tmp_path / "whole")


def test_a_build_does_not_resume_from_other_data(image_folder: Path, tmp_path: Path) -> None:
    left = stop_build(image_folder, tmp_path / "cache", 24)
    flip_bit(image_folder / "train/a/00.png", 60)
    build(image_folder, tmp_path / "other")
    (name,) = (entry.name for entry in (tmp_path / "other").iterdir() if entry.is_dir())
    left.rename(left.with_name(f".{name}.unfinished"))
    assert build(image_folder, tmp_path / "cache")[0] == (0, 48)
    assert read_store(tmp_path / "cache") == read_store(tmp_path / "other")


def test_a_failed_build_and_one_without_progress_leave_nothing(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        open_store(images(image_folder), tmp_path / "cache")
    with pytest.raises(StopError):
        build(image_folder, tmp_path / "cache", 0)
    assert {entry.suffix for entry in (tmp_path / "cache").iterdir()} <= {".lock"}


KILLED = """
import os, signal, sys
from pathlib import Path
from fcnet.data.sources import image_folder
from fcnet.data.store.store import open_store
image_folder.DECODE_BATCH_BYTES = int(sys.argv[3])
source = image_folder.images(Path(sys.argv[1]), skip_broken=True)
for point in map(int, sys.argv[4:]):
    child = os.fork()
    if child == 0:
        open_store(source, Path(sys.argv[2]) / str(point),
                   lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done >= point else None)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_killed_build_resumes(image_folder: Path, tmp_path: Path, decodings: list[str]) -> None:
    build(image_folder, tmp_path / "whole")
    points = (5, 20, 24, 29, 48)
    arguments = [str(image_folder), str(tmp_path), str(5 * SIZE_BYTES), *map(str, points)]
    subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, env=os.environ, check=True)
    for point in points:
        decodings.clear()
        reports = build(image_folder, tmp_path / str(point))
        assert reports[0] == (point, 48)
        assert len(decodings) == 1 + 48 - point
        assert read_store(tmp_path / str(point)) == read_store(tmp_path / "whole")
