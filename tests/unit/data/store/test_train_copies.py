"""Tests of the search for copies of training images: all are found, and nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from fcnet.data.store import train_copies as module
from fcnet.data.store.train_copies import SplitArrays, TrainCopies, find_train_copies


def arrays(pixels: npt.NDArray[np.uint8]) -> SplitArrays:
    x = pixels.astype(np.int64)
    return SplitArrays(pixels, np.stack([x.sum((2, 3)), (x * x).sum((2, 3))], axis=1))


@pytest.mark.parametrize("levels", [2, 256])  # with two levels, many different images have the same moments
def test_the_copies_are_the_images_that_are_equal_pixel_for_pixel(levels: int) -> None:
    draws = np.random.default_rng(0)
    train, other = (draws.integers(levels, size=(count, 2, 2, 3), dtype=np.uint8) for count in (90, 60))
    other[[7, 8, 31, 50]] = train[[3, 3, 80, 0]]
    other[9] = train[3, :, ::-1]  # the same moments, other pixels
    equal = [row for row, image in enumerate(other) if (image == train).all((1, 2, 3)).any()]
    assert {7, 8, 31, 50} <= set(equal)
    assert find_train_copies(arrays(train), arrays(other)) == TrainCopies(len(equal), tuple(equal[:3]))


def test_a_split_without_images_has_no_copies() -> None:
    train = np.zeros((4, 1, 2, 2), dtype=np.uint8)
    assert find_train_copies(arrays(train), arrays(train[:0])) == TrainCopies(0, ())


def test_pixels_of_images_with_other_moments_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def read_row(pixels: npt.NDArray[np.uint8], row: int) -> bytes:
        read.append(row)
        return b""

    monkeypatch.setattr(module, "_hash_pixels", read_row)
    train = np.arange(400, dtype=np.uint8).reshape(100, 1, 2, 2)
    find_train_copies(arrays(train[:50]), arrays(train[49:60]))
    assert read == [0, 49]
