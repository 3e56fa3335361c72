"""Tests of fcnet.data.store.cleanup."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

from fcnet.data.sources import images
from fcnet.data.store.cleanup import CachedStore, list_stores, remove_store
from fcnet.data.store.store import open_store
from tests.helpers import leave_unfinished_store, make_store

if TYPE_CHECKING:
    from pathlib import Path


def folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_the_list_gives_the_source_size_and_age_of_each_store(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert list_stores(cache) == []
    folder = make_store(cache).metadata_file.parent
    os.utime(folder / "store.json", (1000, 1000))
    leave_unfinished_store(cache, tmp_path / "images")
    (cache / "notes").mkdir()
    gc.collect()
    first, second = list_stores(cache)
    assert (first.source, first.num_images, first.finished, first.in_use) == (
        str(tmp_path / "images"),
        2,
        False,
        False,
    )
    assert not first.folder.exists()
    assert first.size_bytes == folder_size(cache / f".{first.name}.unfinished")
    assert second == CachedStore(folder, True, "synthetic", 30, folder_size(folder), 1000.0, False)


def test_opening_a_store_updates_its_last_use(tmp_path: Path) -> None:
    file = make_store(tmp_path).metadata_file
    os.utime(file, (1000, 1000))
    make_store(tmp_path)
    assert file.stat().st_mtime > 1000


def test_a_store_is_not_removed_while_one_of_its_tensors_exists(tmp_path: Path) -> None:
    rows = make_store(tmp_path).train.pixels[3:5]
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


def test_a_store_that_is_being_built_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    states: list[tuple[bool, bool, bool]] = []

    def progress(done: int, total: int) -> None:
        (stored,) = list_stores(tmp_path / "cache")
        states.append((stored.finished, stored.in_use, remove_store(stored)))

    leave_unfinished_store(tmp_path / "other", tmp_path / "images" / "set")
    open_store(images(tmp_path / "images" / "set"), tmp_path / "cache", progress)
    assert set(states) == {(False, True, False)}


def test_a_removed_store_is_built_again(tmp_path: Path) -> None:
    pixels = make_store(tmp_path).train.pixels.clone()
    gc.collect()
    assert remove_store(list_stores(tmp_path)[0])
    assert make_store(tmp_path).train.pixels.equal(pixels)
