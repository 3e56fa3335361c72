"""Tests of stores: built once, complete or not at all, and shared by processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fcnet
from fcnet.data.sources import digits, images, synthetic
from fcnet.data.sources.source import Contents, ImageChunk, SourceSnapshot
from fcnet.data.store import build as module
from fcnet.data.store.store import Store, cache_folder, find_store, mean_and_std, open_store
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fcnet.data.sources.source import SplitName

ROOT = Path(fcnet.__file__).parents[1]
PARTS = ("pixels", "labels", "moments", "names", "name_ends")
FILES = {f"{split}_{part}.bin" for split in ("train", "validation", "test") for part in PARTS}


@dataclass
class MemorySource:
    """A source in memory that counts how often it is read."""

    labels: tuple[int, ...] = (0, 1, 2, 0)
    classes: tuple[str, ...] = ("ant", "bee", "cat")
    name: str = "made"
    prefix: str = ""
    reads: int = 0
    pixels: list[Any] = field(default_factory=list)

    def snapshot(self) -> SourceSnapshot:
        return SourceSnapshot({"kind": "made", "name": self.name}, self.read)

    def read(self) -> Contents:
        self.reads += 1
        return Contents(self.classes, self.chunks())

    def chunks(self) -> Iterator[ImageChunk]:
        rng = np.random.default_rng(0)
        splits: tuple[SplitName, ...] = ("train", "train", "validation", "test")
        for number, split in enumerate(splits):
            pixels = rng.integers(0, 256, (len(self.labels), 3, 4, 5), dtype=np.uint8)
            self.pixels.append(pixels)
            image_names = tuple(f"{split}/{number}/{self.prefix}{row}.png" for row in range(len(self.labels)))
            yield ImageChunk(split, pixels, np.array(self.labels), names=image_names)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def flip_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def equal(first: Store, second: Store) -> bool:
    return first.fingerprint == second.fingerprint and torch.equal(first.train.pixels, second.train.pixels)


def test_a_store_holds_the_images_of_its_source(tmp_path: Path) -> None:
    source = MemorySource()
    store = open_store(source, tmp_path)
    train, validation, test = np.concatenate(source.pixels[:2]), source.pixels[2], source.pixels[3]
    assert store.classes == ("ant", "bee", "cat")
    assert store.shape == (3, 4, 5)
    for split, pixels in ((store.train, train), (store.validation, validation), (store.test, test)):
        assert (split.pixels.dtype, split.labels.dtype, split.moments.dtype) == (
            torch.uint8,
            torch.int64,
            torch.int64,
        )
        assert torch.equal(split.pixels, torch.from_numpy(pixels))
        x = torch.from_numpy(pixels).long()
        assert torch.equal(split.moments, torch.stack([x.sum((2, 3)), (x * x).sum((2, 3))], 1))
    assert store.train.labels.tolist() == [0, 1, 2, 0] * 2
    assert store.test.labels.tolist() == [0, 1, 2, 0]


def test_the_moments_of_large_bright_images_do_not_overflow(tmp_path: Path) -> None:
    class Bright(MemorySource):
        def chunks(self) -> Iterator[ImageChunk]:
            white = np.full((2, 1, 300, 300), 255, dtype=np.uint8)
            for split in ("train", "test"):
                yield ImageChunk(split, white, np.array([0, 1]))

    store = open_store(Bright(classes=("a", "b")), tmp_path)
    assert store.train.moments[0].tolist() == [[300 * 300 * 255], [300 * 300 * 255**2]]


def test_a_store_is_built_once_and_then_mapped(tmp_path: Path) -> None:
    source = MemorySource()
    first = open_store(source, tmp_path)
    second = open_store(source, tmp_path)
    assert source.reads == 1
    assert equal(first, second)
    assert [names(folder) for folder in folders(tmp_path)] == [FILES | {"store.json"}]


def test_another_state_of_the_source_makes_another_store_of_the_same_data(tmp_path: Path) -> None:
    first, second = (open_store(MemorySource(name=name), tmp_path) for name in ("one", "two"))
    assert first.fingerprint == second.fingerprint
    assert [store.source["name"] for store in (first, second)] == ["one", "two"]
    assert len(folders(tmp_path)) == 2


def test_another_format_makes_another_store_of_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_store(MemorySource(), tmp_path)
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    assert open_store(MemorySource(), tmp_path).fingerprint == first.fingerprint
    assert len(folders(tmp_path)) == 2


def test_other_data_has_another_fingerprint(tmp_path: Path) -> None:
    class OnePixel(MemorySource):
        def chunks(self) -> Iterator[ImageChunk]:
            for chunk in super().chunks():
                chunk.pixels[-1, -1, -1, -1] ^= 1
                yield chunk

    made = [
        MemorySource(),
        OnePixel(name="pixel"),
        MemorySource(name="labels", labels=(0, 1, 2, 1)),
        MemorySource(name="order", labels=(1, 0, 2, 0)),
        MemorySource(name="count", labels=(0, 1, 2)),
        MemorySource(name="classes", classes=("ant", "bee", "cow")),
    ]
    assert len({open_store(source, tmp_path).fingerprint for source in made}) == len(made)


def test_a_store_is_found_by_the_fingerprint_of_its_data(tmp_path: Path) -> None:
    source = MemorySource()
    store = open_store(source, tmp_path)
    found = find_store(store.fingerprint, tmp_path)
    assert found is not None
    assert equal(found, store)
    assert source.reads == 1
    assert find_store("0" * 64, tmp_path) is None
    assert find_store(store.fingerprint, tmp_path / "absent") is None


def test_a_damaged_store_is_not_found(tmp_path: Path) -> None:
    fingerprint = open_store(MemorySource(), tmp_path).fingerprint
    flip_bit(folders(tmp_path)[0] / "train_labels.bin", 3)
    assert find_store(fingerprint, tmp_path) is None


def test_a_store_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    fingerprint = open_store(MemorySource(), tmp_path).fingerprint
    labels = folders(tmp_path)[0] / "train_labels.bin"
    labels.unlink()
    labels.mkdir()
    with pytest.raises(IsADirectoryError):
        find_store(fingerprint, tmp_path)
    assert find_store("0" * 64, tmp_path) is None


def test_writing_to_a_store_changes_no_file(tmp_path: Path) -> None:
    store = open_store(MemorySource(), tmp_path)
    before = store.train.pixels.clone()
    store.train.pixels.zero_()
    assert torch.equal(open_store(MemorySource(), tmp_path).train.pixels, before)


def test_the_environment_chooses_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "a" / "b"))
    open_store(MemorySource())
    assert len(folders(tmp_path / "a" / "b")) == 1
    monkeypatch.delenv("FCNET_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    open_store(MemorySource())
    assert len(folders(tmp_path / "home" / ".cache" / "fcnet")) == 1


# --- complete or not at all ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES | {"store.json"}))
@pytest.mark.parametrize("damage", ["missing", "short", "long"])
def test_an_incomplete_store_is_built_again(tmp_path: Path, name: str, damage: str) -> None:
    source = MemorySource()
    good = open_store(source, tmp_path).train.pixels.clone()
    path = folders(tmp_path)[0] / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-2] if damage == "short" else content + b"x")
    assert torch.equal(open_store(source, tmp_path).train.pixels, good)
    assert source.reads == 2
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", sorted(FILES | {"store.json"}))
def test_a_store_with_one_flipped_bit_is_built_again(tmp_path: Path, name: str) -> None:
    source = MemorySource()
    good = open_store(source, tmp_path).train.pixels.clone()
    path = folders(tmp_path)[0] / name
    content = path.read_bytes()
    rng = random.Random(name)
    for reads in range(2, 12):
        flip_bit(path, rng.randrange(8 * len(content)))
        assert torch.equal(open_store(source, tmp_path).train.pixels, good)
        assert source.reads == reads
        assert path.read_bytes() == content


class StoppedError(Exception):
    pass


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Failing(MemorySource):
        def chunks(self) -> Iterator[ImageChunk]:
            yield next(super().chunks())
            raise StoppedError

    with pytest.raises(StoppedError):
        open_store(Failing(), tmp_path)
    assert folders(tmp_path) == []


BUILD = """
import sys, time
from pathlib import Path
from fcnet.data.sources import synthetic
from fcnet.data.store import store

class Slow:
    inner = synthetic((1, 4, 4), 30, 10, num_classes=3).snapshot()
    def snapshot(self):
        return type(self.inner)(self.inner.fingerprint, self.read)
    def read(self):
        Path(sys.argv[2]).open("a").write("read\\n")
        contents = self.inner.read()
        return type(contents)(contents.classes, self.slowly(contents.chunks))
    def slowly(self, chunks):
        yield next(chunks)
        time.sleep(float(sys.argv[3]))
        yield from chunks

opened = store.open_store(Slow(), Path(sys.argv[1]))
print(opened.train.pixels.sum().item())
"""


def start_build(cache: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(cache), str(log), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def test_one_of_several_processes_builds_a_new_store(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [start_build(tmp_path / "cache", log, 1.0) for _ in range(2)]
    sums = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(set(sums)) == 1
    assert log.read_text() == "read\n"


def test_the_next_build_removes_what_a_killed_build_left(tmp_path: Path) -> None:
    process = start_build(tmp_path / "cache", tmp_path / "log", 60)
    wait_for(tmp_path / "log")
    while not list((tmp_path / "cache").glob(".*.unfinished/train_pixels.bin")):
        time.sleep(0.01)
    open_store(MemorySource(name="beside"), tmp_path / "cache")
    assert len(folders(tmp_path / "cache")) == 2  # the running build is not removed
    process.send_signal(signal.SIGKILL)
    process.communicate()
    open_store(MemorySource(name="another"), tmp_path / "cache")
    assert {folder.name.split("-")[0] for folder in folders(tmp_path / "cache")} == {"made"}
    open_store(synthetic((1, 4, 4), 30, 10, num_classes=3), tmp_path / "cache")
    assert len(folders(tmp_path / "cache")) == 3


def test_leftovers_do_not_get_into_a_store(tmp_path: Path) -> None:
    folder = module.unfinished_folder(tmp_path / f"made-{module.store_key(MemorySource().snapshot().fingerprint)[:16]}")
    folder.mkdir()
    (folder / "train_pixels.bin").write_bytes(b"old")
    (folder / "stray").touch()
    store = open_store(MemorySource(), tmp_path)
    assert store.train.pixels.shape == (8, 3, 4, 5)
    assert [names(folder) for folder in folders(tmp_path)] == [FILES | {"store.json"}]


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (MemorySource(labels=(0, 1, 2, 3)), "labels must be 0 to 2, got 3 in train"),
        (MemorySource(labels=(0, 1, 2, -1)), "labels must be 0 to 2, got -1 in train"),
        (MemorySource(labels=(0, 2, 2, 0)), "every class must have a training image, found none of bee"),
        (MemorySource(labels=(0, 0), classes=("ant",)), "classes must be two or more, got ant"),
    ],
)
def test_wrong_labels_are_an_error(tmp_path: Path, source: MemorySource, message: str) -> None:
    with pytest.raises(UserError) as error:
        open_store(source, tmp_path)
    assert str(error.value) == message
    assert folders(tmp_path) == []


def test_a_class_without_training_images_is_an_error(tmp_path: Path) -> None:
    class Lopsided(MemorySource):
        def chunks(self) -> Iterator[ImageChunk]:
            for chunk in super().chunks():
                labels = chunk.labels if chunk.split == "test" else chunk.labels % 2
                yield ImageChunk(chunk.split, chunk.pixels, labels)

    with pytest.raises(UserError, match=r"^every class must have a training image, found none of cat$"):
        open_store(Lopsided(), tmp_path)


def test_the_error_names_a_cache_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as error:
            open_store(MemorySource(), cache)
        start = f"the cache (FCNET_CACHE) must be a writable folder with free space, got {cache}: "
        assert str(error.value).startswith(start)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_an_error_unless_it_has_the_store(tmp_path: Path) -> None:
    open_store(MemorySource(), tmp_path)
    tmp_path.chmod(0o500)
    try:
        assert open_store(MemorySource(), tmp_path).shape == (3, 4, 5)
        with pytest.raises(UserError, match=r"^the cache .*: Permission denied$"):
            open_store(MemorySource(name="new"), tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_the_error_names_a_full_cache_which_stays_unchanged(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # acts like a full disk
    try:
        with pytest.raises(UserError, match=rf"got {tmp_path}: {os.strerror(errno.EFBIG)}$"):
            open_store(synthetic((3, 32, 32), 100, 100, num_classes=2), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folders(tmp_path) == []


# --- existing stores --------------------------------------------------------------------------------------

WARM = """
import sys
from pathlib import Path
from fcnet.data import sources
from fcnet.data.store import store
cache, folder = Path(sys.argv[1]), Path(sys.argv[2])
store.open_store(sources.digits(), cache)
store.open_store(sources.images(folder), cache)
print([name for name in ("PIL", "sklearn", "torchvision") if name in sys.modules])
"""


def test_a_warm_store_is_opened_without_the_decoders(tmp_path: Path) -> None:
    from PIL import Image

    folder, cache = tmp_path / "images", tmp_path / "cache"
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (2, 2), 7).save(folder / name / "1.png")
    open_store(images(folder), cache)
    open_store(digits(), cache)
    command = [sys.executable, "-c", WARM, str(cache), str(folder)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"
    assert {path.name for path in folder.rglob("*")} == {"train", "test", "a", "b", "1.png"}


def test_a_store_can_be_read_by_a_child_process(tmp_path: Path) -> None:
    store = open_store(MemorySource(), tmp_path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        got = pool.apply(_total, (tmp_path,))
    assert got == store.train.pixels.sum().item()


def _total(cache: Path) -> float:
    return open_store(MemorySource(), cache).train.pixels.sum().item()


# --- mean and standard deviation --------------------------------------------------------------------------


def moments(pixels: torch.Tensor) -> torch.Tensor:
    x = pixels.long().flatten(2)
    return torch.stack([x.sum(-1), (x * x).sum(-1)], dim=1)


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 4), st.integers(1, 6), st.integers(2, 6)),
    seed=st.integers(0, 1000),
)
def test_mean_and_std_agree_with_torchs(shape: tuple[int, int, int, int], seed: int) -> None:
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    mean, std = mean_and_std(moments(pixels), shape[2] * shape[3])
    x = pixels.double() / 255
    expected = x.std((0, 2, 3), correction=0)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)).float(), rtol=1.2e-7, atol=0)  # one rounding
    torch.testing.assert_close(std, torch.where(expected == 0, 1.0, expected).float(), rtol=1.2e-7, atol=0)


def test_the_order_of_the_images_does_not_change_a_bit_of_mean_and_std() -> None:
    sums = moments(torch.randint(0, 256, (500, 3, 8, 8), generator=torch.Generator().manual_seed(0)))
    for first, second in zip(mean_and_std(sums, 64), mean_and_std(sums.flip(0), 64), strict=True):
        assert torch.equal(first, second)


def test_std_is_exact_where_the_sums_exceed_64_bits() -> None:
    # 60,000 images of 32·32 pixels of 254 or 255: n·Σx² is 2.4e20, above 2⁶³.
    half = torch.tensor([[1024 * 254], [1024 * 254**2]]), torch.tensor([[1024 * 255], [1024 * 255**2]])
    mean, std = mean_and_std(torch.stack(half * 30_000), 1024)
    torch.testing.assert_close(mean, torch.tensor([254.5 / 255]), rtol=0, atol=0)
    torch.testing.assert_close(std, torch.tensor([0.5 / 255]), rtol=0, atol=0)


def test_a_constant_channel_has_a_standard_deviation_of_1() -> None:
    pixels = torch.randint(0, 256, (5, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    pixels[:, 1] = 200
    mean, std = mean_and_std(moments(pixels), 9)
    assert std[1] == 1
    assert std[0] != 1
    torch.testing.assert_close(mean[1], torch.tensor(200 / 255), rtol=0, atol=0)


def test_the_mean_of_no_images_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^mean and standard deviation need at least one image, got none$"):
        mean_and_std(torch.zeros(0, 2, 3, dtype=torch.int64), 64)


def test_a_user_without_a_home_is_asked_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``docker --user 12345``: neither HOME nor an entry in the list of users."""
    pwd = pytest.importorskip("pwd")

    def find_nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", find_nobody)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("FCNET_CACHE", raising=False)
    with pytest.raises(UserError) as error:
        cache_folder()
    assert str(error.value) == "FCNET_CACHE must be set to a folder for the cache, because this user has no home"
    monkeypatch.setenv("FCNET_CACHE", "here")
    assert cache_folder() == Path("here")


def test_images_that_do_not_fit_on_the_disk_are_refused_before_they_are_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot write .*: the images need 12,288.0 GiB and .* GiB are free; lower "):
        open_store(synthetic((3, 32, 32), 2**32 - 10, 10, num_classes=2), tmp_path)
    assert {entry.suffix for entry in tmp_path.iterdir()} <= {".lock"}


# --- names, notes and the validation split -----------------------------------------------------------------


def test_a_store_keeps_the_name_of_each_image(tmp_path: Path) -> None:
    prefix = "ü-\udcff-\ud800-"  # not UTF-8 on this system, or a lone surrogate of another
    store = open_store(MemorySource(prefix=prefix), tmp_path)
    assert store.train.names is not None
    assert list(store.train.names) == [f"train/{number}/{prefix}{row}.png" for number in (0, 1) for row in range(4)]
    assert store.test.names is not None
    assert store.test.names[-1] == f"test/3/{prefix}3.png"


def test_a_source_without_names_has_none(tmp_path: Path) -> None:
    store = open_store(synthetic((1, 4, 4), 30, 10, num_classes=3), tmp_path)
    assert (store.train.names, store.test.names) == (None, None)
    assert len(store.validation.labels) == 0


def test_renamed_images_are_the_same_data(tmp_path: Path) -> None:
    first, second = (open_store(MemorySource(name=name, prefix=name), tmp_path) for name in ("one", "two"))
    assert first.train.names is not None
    assert second.train.names is not None
    assert list(first.train.names) != list(second.train.names)
    assert first.fingerprint == second.fingerprint


def test_an_own_validation_split_belongs_to_the_data(tmp_path: Path) -> None:
    class WithoutValidation(MemorySource):
        def chunks(self) -> Iterator[ImageChunk]:
            return (chunk for chunk in super().chunks() if chunk.split != "validation")

    store = open_store(WithoutValidation(name="without"), tmp_path)
    assert store.validation.pixels.shape == (0, 3, 4, 5)
    assert store.fingerprint != open_store(MemorySource(), tmp_path).fingerprint


def test_the_notes_of_a_source_are_kept_in_its_store(tmp_path: Path) -> None:
    class Noted(MemorySource):
        def read(self) -> Contents:
            self.reads += 1
            return Contents(self.classes, self.chunks(), notes=("2 files are not images: a.txt, b.txt",))

    source = Noted()
    for _ in range(2):
        assert open_store(source, tmp_path).notes == ("2 files are not images: a.txt, b.txt",)
    assert source.reads == 1


def test_a_class_may_be_absent_from_test_and_validation(tmp_path: Path) -> None:
    class Lopsided(MemorySource):
        def chunks(self) -> Iterator[ImageChunk]:
            for chunk in super().chunks():
                labels = chunk.labels if chunk.split == "train" else chunk.labels % 2
                yield ImageChunk(chunk.split, chunk.pixels, labels)

    store = open_store(Lopsided(), tmp_path)
    assert store.test.labels.unique().tolist() == store.validation.labels.unique().tolist() == [0, 1]
