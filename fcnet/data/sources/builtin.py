"""Built-in sources, which need no files: scikit-learn's digits, and synthetic images.

N images of C channels, H rows and W columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch

from fcnet.data.sources.source import Contents, ImageChunk, SourceSnapshot, iter_slices
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.data.sources.source import Fingerprint, Source, SplitName

_SPLITS: tuple[SplitName, ...] = ("train", "test")
_PATTERN_LEVELS = 32


def digits() -> Source:
    """Returns scikit-learn's 1,797 handwritten digits: grey, 8×8 pixels, scaled from 17 to 256 levels.

    The test split has 360 images, every fifth one in the order of their classes. It does not depend on a seed.
    """
    return _Digits()


def synthetic(shape: Sequence[int], train_size: int, test_size: int, num_classes: int) -> Source:
    """Returns random images with a faint pattern for each class, the same in every run.

    Args:
        shape: (C, H, W).
        train_size: the number of training images; classes differ in size by at most one image.
        test_size: the number of test images.
        num_classes: the number of classes, from 2 to ``train_size``.

    Raises:
        UserError: a number is outside its range.

    Example:
        >>> contents = synthetic((1, 2, 2), train_size=4, test_size=2, num_classes=2).snapshot().read()
        >>> contents.classes
        ('0', '1')
        >>> [(chunk.split, chunk.labels.tolist()) for chunk in contents.chunks]
        [('train', [0, 1, 0, 1]), ('test', [0, 1])]
    """
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"shape must be three positive numbers (C, H, W), got {list(shape)}")
    if num_classes < 2:
        raise UserError(f"num_classes must be at least 2, got {num_classes}")
    if train_size < num_classes:
        raise UserError(f"train_size must be at least num_classes ({num_classes}), got {train_size}")
    if test_size < 1:
        raise UserError(f"test_size must be at least 1, got {test_size}")
    return _Synthetic(tuple(shape), train_size, test_size, num_classes)


@dataclass(frozen=True)
class _Digits:
    def snapshot(self) -> SourceSnapshot:
        return SourceSnapshot({"kind": "digits", "scikit-learn": version("scikit-learn")}, self._read)

    def _read(self) -> Contents:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.rint(bunch.images * 255 / 16).astype(np.uint8)[:, None]
        labels = bunch.target.astype(np.int64)
        is_test = np.zeros(len(labels), dtype=bool)
        # Every fifth image in the order of the classes: a fifth of each class, rounded.
        is_test[np.argsort(labels, kind="stable")[::5]] = True
        chunks = [
            ImageChunk(split, pixels[rows], labels[rows])
            for split, rows in zip(_SPLITS, (~is_test, is_test), strict=True)
        ]
        return Contents(tuple("0123456789"), iter(chunks))


@dataclass(frozen=True)
class _Synthetic:
    shape: tuple[int, ...]
    train_size: int
    test_size: int
    num_classes: int

    def snapshot(self) -> SourceSnapshot:
        fingerprint: Fingerprint = {
            "kind": "synthetic",
            "shape": self.shape,
            "train_size": self.train_size,
            "test_size": self.test_size,
            "num_classes": self.num_classes,
            "torch": str(torch.__version__),
        }
        return SourceSnapshot(fingerprint, self._read)

    def _read(self) -> Contents:
        num_bytes = (self.train_size + self.test_size) * math.prod(self.shape)
        return Contents(tuple(map(str, range(self.num_classes))), self._iter_chunks(), num_bytes=num_bytes)

    def _iter_chunks(self) -> Iterator[ImageChunk]:
        patterns = torch.randint(
            _PATTERN_LEVELS,
            (self.num_classes, *self.shape),
            dtype=torch.uint8,
            generator=generator(0, "synthetic", "pattern"),
        )
        for split, size in zip(_SPLITS, (self.train_size, self.test_size), strict=True):
            draws = generator(0, "synthetic", split)
            for rows in iter_slices(size, math.prod(self.shape)):
                labels = torch.arange(rows.start, rows.stop) % self.num_classes
                noise = torch.randint(
                    256 - _PATTERN_LEVELS, (len(labels), *self.shape), dtype=torch.uint8, generator=draws
                )
                yield ImageChunk(split, noise.add_(patterns[labels]).numpy(), labels.numpy())
