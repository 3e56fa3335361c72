"""Tests of fcnet.cache."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest

from fcnet import cache
from fcnet.data.sources import source
from fcnet.data.sources.source import images, synthetic
from fcnet.data.store.cleanup import list_stores
from fcnet.data.store.store import Store, open_store
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400


class StopError(BaseException):
    """Ends a build like a signal."""


def make_store(folder: Path, size: int = 20) -> Store:
    return open_store(synthetic((1, 4, 4), size, 10, num_classes=2), folder)


def interrupt_build(folder: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves an unfinished store with two of four images."""
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (image_folder / name).mkdir(parents=True)
        (image_folder / name / "1.pgm").write_bytes(b"P5 1 1 255 \x07")
    monkeypatch.setattr(source, "DECODE_BATCH_BYTES", 1)

    def progress(done: int, total: int) -> None:
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        open_store(images(image_folder), folder, progress)


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stores last used now, stores days ago and ten days ago, the last unfinished; their names."""
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    names = [make_store(tmp_path / "cache", size).metadata_file.parent.name for size in (30, 20)]
    interrupt_build(tmp_path / "cache", tmp_path / "images", monkeypatch)
    gc.collect()
    last = list_stores(tmp_path / "cache")[0]
    names, now = [*names, last.name], last.last_used
    for name, days in zip(names, (0, 3, 10), strict=True):
        for file in (tmp_path / "cache").glob(f"*{name}*/*"):
            os.utime(file, (now - days * DAY, now - days * DAY))
    return names


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (["--clean", "--all"], []),
        (["--clean", "--older-than", "3"], [0]),
        (["--clean", "--older-than", "4"], [0, 1]),
        (["--clean", "1"], [0, 2]),
        (["--clean", "0", "2"], [1]),
        ([], [0, 1, 2]),
    ],
)
def test_only_the_chosen_stores_are_removed(
    flags: list[str], left: list[int], stores: list[str], tmp_path: Path
) -> None:
    arguments = [stores[int(flag)] if flag in "012" and flags[-2] != "--older-than" else flag for flag in flags]
    assert cache.main(arguments) == 0
    assert [stored.name for stored in list_stores(tmp_path / "cache")] == [stores[place] for place in left]


def test_stores_are_listed_with_size_age_and_source(
    stores: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache.main([]) == 0
    heading, *rows, last = capsys.readouterr().out.splitlines()
    assert heading.split() == ["store", "size", "images", "last", "used", "source"]
    assert [row.split()[0] for row in rows] == stores
    assert [row[heading.index("last") :].rstrip() for row in rows] == [
        "just now    synthetic",
        "3 days      synthetic",
        f"10 days     {tmp_path}/images (unfinished)",
    ]
    assert [row[: heading.index("last")].split()[-1] for row in rows] == ["40", "30", "2"]
    assert last.startswith("3 stores, ")
    assert last.endswith(f" in {tmp_path}/cache")


def test_a_store_in_use_is_reported_and_left(
    stores: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "cache", 20)
    assert cache.main(["--clean", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{stores[1]} is in use and was not removed"
    assert lines[1].startswith("removed 2 stores, ")
    assert [stored.name for stored in list_stores(tmp_path / "cache")] == [store.metadata_file.parent.name]


def test_an_empty_cache_has_no_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "gone"))
    assert cache.main([]) == 0
    assert capsys.readouterr().out == f"0 stores, 0 B in {tmp_path}/gone\n"
    assert not (tmp_path / "gone").exists()
    monkeypatch.setenv("FCNET_CACHE", __file__)
    with pytest.raises(UserError, match=r"^FCNET_CACHE must be a folder, got the file "):
        cache.main([])


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (184_320_000, "184.3 MB"), (2.5e15, "2500.0 TB")]
)
def test_sizes_have_a_suitable_unit(size: float, text: str) -> None:
    assert cache._format_size(size) == text
