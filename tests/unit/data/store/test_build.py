"""A store's making: told of as it goes, and gone on with where it was broken off."""

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
from fcnet.data.sources import source as sources
from fcnet.data.sources.source import digits, images
from fcnet.data.store.store import open_store
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(fcnet.__file__).parents[1]
BROKEN = ("train/a/03.png", "train/b/11.png")
SIZE_BYTES = 3 * 4 * 5


class StopError(BaseException):
    """What ends a process without being an error of the build."""


@pytest.fixture(autouse=True)
def _five_pictures_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DECODE_BATCH_BYTES", 5 * SIZE_BYTES)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """48 pictures of noise, two of them broken: runs of 5, 5, 5, 5, 4 to train on and as many to test on."""
    rng = np.random.default_rng(0)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "pictures" / place).mkdir(parents=True)
        for number in range(12):
            file = tmp_path / "pictures" / place / f"{number:02}.png"
            Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(file)
    for name in BROKEN:
        (tmp_path / "pictures" / name).write_bytes(b"no picture")
    return tmp_path / "pictures"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that are decoded, one after another."""
    names: list[str] = []

    def counting(file: Any, channels: int, name: str, size: tuple[int, int] | None = None) -> object:
        names.append(name.partition(" ")[0])
        return real(file, channels, name, size)

    real = decode_planes
    monkeypatch.setattr(decode_batch, "decode_planes", counting)
    return names


def build(image_folder: Path, cache: Path, stop_after: int | None = None) -> list[tuple[int, int]]:
    """Builds the store, or stops once so many pictures are done; what was told of it."""
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        if stop_after is not None and done >= stop_after:
            raise StopError

    open_store(images(image_folder, skip_broken=True), cache, progress)
    return told


def stopped(image_folder: Path, cache: Path, after: int) -> Path:
    """What a build leaves that is stopped after so many pictures."""
    with pytest.raises(StopError):
        build(image_folder, cache, after)
    (left,) = cache.glob(".*.unfinished")
    return left


def content(cache: Path) -> dict[str, bytes]:
    """All files of the one store in a cache."""
    (folder,) = (entry for entry in cache.iterdir() if entry.is_dir())
    assert not folder.name.startswith(".")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_progress_counts_up_to_all_pictures_and_broken_ones_count(image_folder: Path, tmp_path: Path) -> None:
    told = build(image_folder, tmp_path / "cache")
    assert told == [(done, 48) for done in (0, 5, 10, 15, 20, 24, 29, 34, 39, 44, 48)]
    assert build(image_folder, tmp_path / "cache") == []


def test_what_needs_no_decoding_is_not_told_of(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    open_store(digits(), tmp_path, lambda done, total: told.append((done, total)))
    assert told == []


@pytest.mark.parametrize("after", [5, 20, 24, 39, 48])
def test_a_stopped_build_is_gone_on_with_where_it_was(
    after: int, image_folder: Path, tmp_path: Path, decodings: list[str]
) -> None:
    build(image_folder, tmp_path / "whole")
    stopped(image_folder, tmp_path / "cache", after)
    decodings.clear()
    told = build(image_folder, tmp_path / "cache")
    assert told[0] == (after, 48)
    assert len(decodings) == 1 + 48 - after  # one for the size
    assert content(tmp_path / "cache") == content(tmp_path / "whole")
    skipped = json.loads(content(tmp_path / "cache")["store.json"])["skipped"]
    assert [name for name, _ in skipped] == list(BROKEN)


def test_a_build_that_was_stopped_again_and_again_comes_to_the_same_end(image_folder: Path, tmp_path: Path) -> None:
    build(image_folder, tmp_path / "whole")
    for after in (5, 20, 24, 44):
        stopped(image_folder, tmp_path / "cache", after)
    build(image_folder, tmp_path / "cache")
    assert content(tmp_path / "cache") == content(tmp_path / "whole")


def flipped(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def lengthened(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def journal(left: Path, line: int) -> int:
    """Where a line of the journal begins."""
    return sum(map(len, (left / "journal").read_bytes().splitlines(keepends=True)[:line]))


DAMAGE: dict[str, tuple[Callable[[Path], object], int]] = {
    "nothing": (lambda left: None, 24),
    "a bit of a picture": (lambda left: flipped(left / "train_pixels.bin", 5 * SIZE_BYTES), 5),
    "a bit of the first picture": (lambda left: flipped(left / "train_pixels.bin", 0), 0),
    "a bit of a label": (lambda left: flipped(left / "train_labels.bin", 8 * 9), 10),
    "a bit of the moments": (lambda left: flipped(left / "train_moments.bin", 48 * 14), 15),
    "pixels that are cut short": (lambda left: cut(left / "train_pixels.bin", 12 * SIZE_BYTES), 10),
    "pixels too many": (lambda left: lengthened(left / "train_pixels.bin"), 24),
    "no labels": (lambda left: (left / "train_labels.bin").unlink(), 0),
    "a bit of the journal": (lambda left: flipped(left / "journal", journal(left, 3) + 70), 10),
    "a bit of a checksum": (lambda left: flipped(left / "journal", journal(left, 2)), 5),
    "a journal that is cut short": (lambda left: cut(left / "journal", journal(left, 5) - 9), 15),
    "no journal": (lambda left: (left / "journal").unlink(), 0),
    "a file too many": (lambda left: (left / ".store.json.abc").touch(), 24),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_a_stopped_build_left_is_believed_only_as_far_as_it_is_whole(
    kind: str, image_folder: Path, tmp_path: Path
) -> None:
    damage, believed = DAMAGE[kind]
    build(image_folder, tmp_path / "whole")
    damage(stopped(image_folder, tmp_path / "cache", 24))
    assert build(image_folder, tmp_path / "cache")[0] == (believed, 48)
    assert content(tmp_path / "cache") == content(tmp_path / "whole")


def test_what_was_left_of_other_data_is_not_taken_up(image_folder: Path, tmp_path: Path) -> None:
    left = stopped(image_folder, tmp_path / "cache", 24)
    flipped(image_folder / "train/a/00.png", 60)
    build(image_folder, tmp_path / "other")
    (name,) = (entry.name for entry in (tmp_path / "other").iterdir() if entry.is_dir())
    left.rename(left.with_name(f".{name}.unfinished"))
    assert build(image_folder, tmp_path / "cache")[0] == (0, 48)
    assert content(tmp_path / "cache") == content(tmp_path / "other")


def test_a_build_that_fails_or_had_done_nothing_leaves_nothing(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        open_store(images(image_folder), tmp_path / "cache")
    with pytest.raises(StopError):
        build(image_folder, tmp_path / "cache", 0)
    assert {entry.suffix for entry in (tmp_path / "cache").iterdir()} == {".lock"}


KILLED = """
import os, signal, sys
from pathlib import Path
from fcnet.data.sources import source as sources
from fcnet.data.store.store import open_store
sources.DECODE_BATCH_BYTES = int(sys.argv[3])
source = sources.images(Path(sys.argv[1]), skip_broken=True)
for point in map(int, sys.argv[4:]):
    child = os.fork()
    if child == 0:
        open_store(source, Path(sys.argv[2]) / str(point),
                   lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done >= point else None)
    os.waitpid(child, 0)
"""


def test_a_killed_build_is_gone_on_with(image_folder: Path, tmp_path: Path, decodings: list[str]) -> None:
    build(image_folder, tmp_path / "whole")
    points = (5, 20, 24, 29, 48)
    arguments = [str(image_folder), str(tmp_path), str(5 * SIZE_BYTES), *map(str, points)]
    subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, env=os.environ, check=True)
    for point in points:
        decodings.clear()
        told = build(image_folder, tmp_path / str(point))
        assert told[0] == (point, 48)
        assert len(decodings) == 1 + 48 - point
        assert content(tmp_path / str(point)) == content(tmp_path / "whole")
