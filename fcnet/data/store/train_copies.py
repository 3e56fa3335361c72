"""Finds the images of a split that are also training images, pixel for pixel. N images, C channels."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_NUM_NAMED = 3


class TrainCopies(NamedTuple):
    """The images of a split that are copies of training images.

    Attributes:
        num_images: their number.
        first: the rows of the first few.
    """

    num_images: int = 0
    first: tuple[int, ...] = ()


class SplitArrays(NamedTuple):
    """The arrays of a split that copies are found in.

    Attributes:
        pixels: uint8 (N, …).
        moments: int64 (N, 2, C), the sums of x and x² over the pixels of each channel.
    """

    pixels: npt.NDArray[Any]
    moments: npt.NDArray[Any]


def find_train_copies(train: SplitArrays, other: SplitArrays) -> TrainCopies:
    """Finds the images of a split with the same pixels as a training image.

    Equal images have equal moments, which are a few numbers for each image. So only the pixels of images whose moments
    occur in both splits are read, and compared by their hashes. This takes about 100 bytes of memory for each of them,
    and 16 bytes for each other image.

    Args:
        train: the training images.
        other: the images of another split.

    Example:
        >>> pixels = np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2)
        >>> moments = np.stack([pixels.sum((2, 3), dtype=np.int64), (pixels.astype(np.int64) ** 2).sum((2, 3))], axis=1)
        >>> find_train_copies(SplitArrays(pixels[:2], moments[:2]), SplitArrays(pixels[1:], moments[1:]))
        TrainCopies(num_images=1, first=(0,))
    """
    train_keys, other_keys = _moment_keys(train.moments), _moment_keys(other.moments)
    # By sorting: the tables of NumPy before 2.1 overflow for keys of 64 bits.
    candidates = np.isin(other_keys, train_keys, kind="sort").nonzero()[0].tolist()
    train_candidates = np.isin(train_keys, other_keys, kind="sort").nonzero()[0].tolist()
    hashes = [_hash_pixels(other.pixels, row) for row in candidates]
    wanted = set(hashes)
    found = {each for row in train_candidates if (each := _hash_pixels(train.pixels, row)) in wanted}
    copies = [row for row, each in zip(candidates, hashes, strict=True) if each in found]
    return TrainCopies(len(copies), tuple(copies[:_NUM_NAMED]))


def _moment_keys(moments: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Returns one number for each image, (N,), from its moments: their sum modulo 2⁶⁴ with random odd weights."""
    values = moments.reshape(len(moments), math.prod(moments.shape[1:])).view(np.uint64)
    weights = np.random.default_rng(0).integers(2**63, size=values.shape[1], dtype=np.uint64) * np.uint64(2)
    return values @ (weights + np.uint64(1))


def _hash_pixels(pixels: npt.NDArray[Any], row: int) -> bytes:
    return hashlib.blake2b(pixels[row].data, digest_size=16).digest()
