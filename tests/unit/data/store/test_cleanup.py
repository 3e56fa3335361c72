"""The stores of a cache: what is said of them, and which can be removed."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest

from fcnet import cache as command
from fcnet.data.sources import source as sources
from fcnet.data.sources.source import images, synthetic
from fcnet.data.store.cleanup import CachedStore, list_stores, remove_store
from fcnet.data.store.store import Store, open_store
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400


class StopError(BaseException):
    """What ends a process without being an error of the build."""


def made(cache: Path, size: int = 20) -> Store:
    return open_store(synthetic((1, 4, 4), size, 10, num_classes=2), cache)


def broken_off(cache: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves a store of two of four pictures."""
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (image_folder / place).mkdir(parents=True)
        (image_folder / place / "1.pgm").write_bytes(b"P5 1 1 255 \x07")
    monkeypatch.setattr(sources, "DECODE_BATCH_BYTES", 1)

    def progress(done: int, total: int) -> None:
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        open_store(images(image_folder), cache, progress)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_a_list_says_what_a_store_is_made_from_and_how_large_and_old_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    assert list_stores(cache) == []
    folder = made(cache).metadata_file.parent
    os.utime(folder / "store.json", (1000, 1000))
    broken_off(cache, tmp_path / "pictures", monkeypatch)
    (cache / "notes").mkdir()
    gc.collect()
    first, second = list_stores(cache)
    assert (first.source, first.num_images, first.finished, first.in_use) == (
        str(tmp_path / "pictures"),
        2,
        False,
        False,
    )
    assert not first.folder.exists()
    assert first.size_bytes == size_of(cache / f".{first.name}.unfinished")
    assert second == CachedStore(folder, True, "synthetic", 30, size_of(folder), 1000.0, False)


def test_opening_a_store_is_using_it(tmp_path: Path) -> None:
    about = made(tmp_path).metadata_file
    os.utime(about, (1000, 1000))
    made(tmp_path)
    assert about.stat().st_mtime > 1000


def test_a_store_is_in_use_while_one_of_its_tensors_lives_and_is_not_removed(tmp_path: Path) -> None:
    rows = made(tmp_path).train.pixels[3:5]
    gc.collect()
    (stored,) = list_stores(tmp_path)
    assert stored.in_use
    assert not remove_store(stored)
    assert stored.folder.exists()
    del rows
    gc.collect()
    (stored,) = list_stores(tmp_path)
    assert not stored.in_use
    assert remove_store(stored)
    assert list_stores(tmp_path) == []


def test_a_store_that_is_being_built_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    seen: list[tuple[bool, bool, bool]] = []

    def progress(done: int, total: int) -> None:
        (stored,) = list_stores(tmp_path / "cache")
        seen.append((stored.finished, stored.in_use, remove_store(stored)))

    with pytest.MonkeyPatch.context() as patch:
        broken_off(tmp_path / "other", tmp_path / "pictures" / "set", patch)
    open_store(images(tmp_path / "pictures" / "set"), tmp_path / "cache", progress)
    assert set(seen) == {(False, True, False)}


def test_a_store_that_was_removed_is_made_again(tmp_path: Path) -> None:
    pixels = made(tmp_path).train.pixels.clone()
    gc.collect()
    assert remove_store(list_stores(tmp_path)[0])
    assert made(tmp_path).train.pixels.equal(pixels)


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stores last used now, three days ago and ten days ago, the last unfinished; their names."""
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    names = [made(tmp_path / "cache", size).metadata_file.parent.name for size in (30, 20)]
    broken_off(tmp_path / "cache", tmp_path / "pictures", monkeypatch)
    gc.collect()
    last = list_stores(tmp_path / "cache")[0]
    names, now = [*names, last.name], last.last_used
    for name, days in zip(names, (0, 3, 10), strict=True):
        for file in (tmp_path / "cache").glob(f"*{name}*/*"):
            os.utime(file, (now - days * DAY, now - days * DAY))
    return names


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (["--clean", "--all"], []),
        (["--clean", "--older-than", "3"], [0]),
        (["--clean", "--older-than", "4"], [0, 1]),
        (["--clean", "1"], [0, 2]),
        (["--clean", "0", "2"], [1]),
        ([], [0, 1, 2]),
    ],
)
def test_what_is_named_or_old_is_removed_and_nothing_else(
    flags: list[str], kept: list[int], three: list[str], tmp_path: Path
) -> None:
    named = [three[int(flag)] if flag in "012" and flags[-2] != "--older-than" else flag for flag in flags]
    assert command.main(named) == 0
    assert [stored.name for stored in list_stores(tmp_path / "cache")] == [three[place] for place in kept]


def test_the_command_lists_names_sizes_ages_and_origins(
    three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([]) == 0
    heading, *rows, last = capsys.readouterr().out.splitlines()
    assert heading.split() == ["store", "size", "images", "last", "used", "made", "from"]
    assert [row.split()[0] for row in rows] == three
    assert [row[heading.index("last") :].rstrip() for row in rows] == [
        "just now    synthetic",
        "3 days      synthetic",
        f"10 days     {tmp_path}/pictures (unfinished)",
    ]
    assert [row[: heading.index("last")].split()[-1] for row in rows] == ["40", "30", "2"]
    assert last.startswith("3 stores, ")
    assert last.endswith(f" in {tmp_path}/cache")


def test_what_is_in_use_is_said_and_stays(three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = made(tmp_path / "cache", 20)
    assert command.main(["--clean", "--all"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{three[1]} is in use and stays"
    assert said[1].startswith("removed 2 stores, ")
    assert [stored.name for stored in list_stores(tmp_path / "cache")] == [store.metadata_file.parent.name]


def test_an_empty_cache_has_no_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "gone"))
    assert command.main([]) == 0
    assert capsys.readouterr().out == f"0 stores, 0 B in {tmp_path}/gone\n"
    assert not (tmp_path / "gone").exists()
    monkeypatch.setenv("FCNET_CACHE", __file__)
    with pytest.raises(UserError, match=r"^the cache \(FCNET_CACHE\) must be a folder, got the file "):
        command.main([])


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (184_320_000, "184.3 MB"), (2.5e15, "2500.0 TB")]
)
def test_sizes_are_said_as_people_read_them(size: float, said: str) -> None:
    assert command._format_size(size) == said
