"""Tests of the chunks into which a source cuts its images."""

from __future__ import annotations

import numpy as np
import pytest

from fcnet.data.sources import source
from fcnet.data.sources.source import SplitArrays, SplitName, iter_slices, split_into_chunks


@pytest.mark.parametrize(("chunk_bytes", "sizes"), [(1, [1] * 7), (30, [3, 3, 1]), (39, [3, 3, 1]), (1000, [7])])
def test_slices_hold_as_many_items_as_fit_and_at_least_one(chunk_bytes: int, sizes: list[int]) -> None:
    slices = list(iter_slices(7, 10, chunk_bytes))
    assert [rows.stop - rows.start for rows in slices] == sizes
    assert [row for rows in slices for row in range(rows.start, rows.stop)] == list(range(7))


def test_no_items_have_no_slices() -> None:
    assert list(iter_slices(0, 10)) == []


def test_chunks_hold_the_images_of_each_split_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "CHUNK_BYTES", 24)
    pixels = np.arange(5 * 12, dtype=np.uint8).reshape(5, 3, 2, 2)
    splits: dict[SplitName, SplitArrays] = {
        "train": (pixels, np.arange(5)),
        "test": (pixels[:3], np.arange(3) + 5),
    }
    chunks = list(split_into_chunks(splits))
    assert [(chunk.split, chunk.labels.tolist()) for chunk in chunks] == [
        ("train", [0, 1]),
        ("train", [2, 3]),
        ("train", [4]),
        ("test", [5, 6]),
        ("test", [7]),
    ]
    np.testing.assert_array_equal(np.concatenate([chunk.pixels for chunk in chunks[:3]]), pixels)
