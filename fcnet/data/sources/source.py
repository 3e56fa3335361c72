"""Where images come from: each source says what it is made from, and can be decoded once.

What a source yields goes into a store, which is what everything else reads. N images of
C channels, H rows and W columns.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch

from fcnet.data.decoding.decode_batch import DecodeOptions, decode_image_file, decode_images, detect_grey, skip_or_raise
from fcnet.data.decoding.decode_pool import parallel_map
from fcnet.data.decoding.image_decoding import decode_image
from fcnet.data.sources.cifar import read_cifar
from fcnet.data.sources.image_folder import SPLITS, SplitName, check_unchanged, find_images, scan_path
from fcnet.data.sources.npz import read_arrays
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.decoding.decode_batch import ImageFile
    from fcnet.data.sources.cifar import CifarName
    from fcnet.data.sources.image_folder import FileListing

__all__ = [
    "Contents",
    "Fingerprint",
    "ImageChunk",
    "Source",
    "SourceSnapshot",
    "arrays",
    "cifar10",
    "cifar100",
    "decode_image",
    "digits",
    "images",
    "synthetic",
]

Fingerprint: TypeAlias = "Mapping[str, str | int | Sequence[int]]"
CHUNK_BYTES = 1 << 24
DECODE_BATCH_BYTES = 1 << 20
_GREY_CHECK_SIZE = 1000


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """Some decoded images of one split, as many as are handy at once.

    Attributes:
        split: the split they belong to.
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,), each a place among the classes.
        skipped: names of images that belong here but cannot be read, each with the reason.
    """

    split: SplitName
    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a source holds.

    Attributes:
        classes: the names of the classes.
        chunks: the images in a fixed order, train before test, decoded as they are asked for.
        num_images: how many there are, those to be skipped among them; 0 where none has to be decoded.
        resume_after: the same examples without the first so many images, where that saves the work of decoding them.
    """

    classes: tuple[str, ...]
    chunks: Iterator[ImageChunk]
    num_images: int = 0
    resume_after: Callable[[int], Iterator[ImageChunk]] | None = None


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """A source as it was at one moment.

    Attributes:
        fingerprint: all that the contents depend on; other contents, another one.
        read: reads them, as they were then. `UserError` where they cannot be read, are not what they
            should be or have changed since; perhaps only while the examples are gone through.
    """

    fingerprint: Fingerprint
    read: Callable[[], Contents]


class Source(Protocol):
    """A set of labelled images that can be decoded."""

    def snapshot(self) -> SourceSnapshot:
        """Looks at the source without decoding anything.

        Raises:
            UserError: it is not there.
        """


def digits() -> Source:
    """scikit-learn's 1,797 handwritten digits, 8×8, grey, round(x·255/16) of their 17 levels.

    Sorted by class, otherwise in scikit-learn's order, every fifth image is for testing: 360 of
    them, and of each class a fifth. So the split depends on nothing but the images.
    """
    return _Digits()


def cifar10(path: Path) -> Source:
    """CIFAR-10 as torchvision verifies and reads it.

    Args:
        path: the folder in which ``cifar-10-batches-py`` or ``cifar-10-python.tar.gz`` lies, or in
            which they are to be put. What is there is used when its checksums hold; see `read_cifar`.
    """
    return _Cifar(path, "cifar10")


def cifar100(path: Path) -> Source:
    """CIFAR-100 with its 100 fine labels, as torchvision verifies and reads it.

    Args:
        path: the folder in which ``cifar-100-python`` or ``cifar-100-python.tar.gz`` lies, or in
            which they are to be put. What is there is used when its checksums hold; see `read_cifar`.
    """
    return _Cifar(path, "cifar100")


def images(path: Path, test: float = 0.2, size: Sequence[int] = (), *, skip_broken: bool = False) -> Source:
    """Image files: a folder ``train/CLASS/…`` and ``test/CLASS/…`` or ``CLASS/IMAGE``, or a tar archive of one.

    They have three channels unless every image is grey, in which case one.

    Args:
        path: the folder or the archive; see `find_images` for what may be in it and for how a
            folder without train and test is split, `decode_image` for how an image becomes pixels.
        test: for such a folder the share of each class's images for testing, in (0, 1).
        size: (H, W) that every image is brought to; empty: they are all of one size.
        skip_broken: whether an image that cannot be read is left out, else it is an error.

    Raises:
        UserError: ``test`` is out of its range.
    """
    if not 0 < test < 1:
        raise UserError(f"test must be greater than 0 and less than 1, got {test}")
    return _Images(path, test, tuple(size), skip_broken)


def arrays(path: Path) -> Source:
    """The arrays of a ``.npz`` file.

    Args:
        path: the file; see `read_arrays` for what is in it.
    """
    return _Arrays(path)


def synthetic(shape: Sequence[int], train_size: int, test_size: int, num_classes: int) -> Source:
    """Made images, always the same ones: noise and on it a faint pattern for each class.

    Args:
        shape: (C, H, W).
        train_size: images to train on, of each class as many give or take one.
        test_size: images to test on.
        num_classes: 2 or more; no more than ``train_size``.

    Raises:
        UserError: a number is out of its range.

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
        for_test = np.zeros(len(labels), dtype=bool)
        for_test[np.argsort(labels, kind="stable")[::5]] = True
        chunks = [
            ImageChunk(split, pixels[rows], labels[rows])
            for split, rows in zip(SPLITS, (~for_test, for_test), strict=True)
        ]
        return Contents(tuple("0123456789"), iter(chunks))


@dataclass(frozen=True)
class _Cifar:
    path: Path
    name: CifarName

    def snapshot(self) -> SourceSnapshot:
        # The checksums fix what is read; the path is whose copy of it was asked for.
        return SourceSnapshot({"kind": self.name, "path": str(self.path.resolve())}, self._read)

    def _read(self) -> Contents:
        classes, parts = read_cifar(self.path, self.name)
        return Contents(classes, _split_chunks(parts))


@dataclass(frozen=True)
class _Images:
    path: Path
    test: float
    size: tuple[int, ...]
    skip_broken: bool

    def snapshot(self) -> SourceSnapshot:
        listing = scan_path(self.path)
        fingerprint = _file_fingerprint("images", listing) | {"pillow": version("pillow")}
        # Only where they matter: the contents are else what they were before there were such settings.
        if listing.needs_split:
            fingerprint["test"] = str(self.test)
        if self.size:
            fingerprint["size"] = self.size
        if self.skip_broken:
            fingerprint["skip_broken"] = 1
        return SourceSnapshot(fingerprint, partial(self._read, listing))

    def _read(self, listing: FileListing) -> Contents:
        classes, files = find_images(listing, self.test)
        return Contents(classes, self._decode(files), len(files), lambda done: self._decode(files, done))

    def _decode(self, files: list[ImageFile], done: int = 0) -> Iterator[ImageChunk]:
        options = self._decode_options(files)
        runs = [
            mine[rows]
            for split in SPLITS
            for mine in [[file for file in files[done:] if file.split == split]]
            for rows in _slices(len(mine), options.channels * options.height * options.width, DECODE_BATCH_BYTES)
        ]
        with contextlib.closing(parallel_map(decode_images, runs, options)) as decoded:
            for run, rows in zip(runs, decoded, strict=True):
                reasons = dict(rows.skipped)
                labels = [file.label for place, file in enumerate(run) if place not in reasons]
                skipped = tuple((run[place].name, reason) for place, reason in rows.skipped)
                pixels = np.frombuffer(rows.data, dtype=np.uint8).reshape(
                    -1, options.channels, options.height, options.width
                )
                yield ImageChunk(run[0].split, pixels, np.array(labels, dtype=np.int64), skipped)

    def _decode_options(self, files: list[ImageFile]) -> DecodeOptions:
        options = DecodeOptions(str(self.path), self.skip_broken)
        # Stops at the first image in colour; only a source without any has all its headers read.
        runs = [files[start : start + _GREY_CHECK_SIZE] for start in range(0, len(files), _GREY_CHECK_SIZE)]
        with contextlib.closing(parallel_map(detect_grey, runs, options)) as surveyed:
            options = replace(options, channels=1 if all(all(rows.data) for rows in surveyed) else 3)
        if self.size:
            return replace(options, height=self.size[0], width=self.size[1], resize=True)
        for file in files:
            try:
                _, height, width = decode_image_file(file, options)
            except UserError as error:
                skip_or_raise(options, error)
            else:
                return replace(options, height=height, width=width, reference_name=file.name)
        raise UserError(f"of the images in {self.path} at least one must be whole, got {len(files):,} broken ones")


@dataclass(frozen=True)
class _Arrays:
    path: Path

    def snapshot(self) -> SourceSnapshot:
        if not self.path.is_file():
            raise UserError(f"{self.path} must be a NumPy archive (.npz), got no file")
        listing = scan_path(self.path)
        return SourceSnapshot(_file_fingerprint("arrays", listing), partial(self._read, listing))

    def _read(self, listing: FileListing) -> Contents:
        classes, parts = read_arrays(self.path)
        check_unchanged(listing)
        return Contents(classes, _split_chunks(parts))


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
        return Contents(tuple(str(label) for label in range(self.num_classes)), self._generate())

    def _generate(self) -> Iterator[ImageChunk]:
        faintness = 32
        pattern = torch.randint(
            faintness,
            (self.num_classes, *self.shape),
            dtype=torch.uint8,
            generator=generator(0, "synthetic", "pattern"),
        )
        for split, size in zip(SPLITS, (self.train_size, self.test_size), strict=True):
            draws = generator(0, "synthetic", split)
            for rows in _slices(size, math.prod(self.shape)):
                labels = torch.arange(rows.start, rows.stop) % self.num_classes
                pixels = torch.randint(256 - faintness, (len(labels), *self.shape), dtype=torch.uint8, generator=draws)
                yield ImageChunk(split, pixels.add_(pattern[labels]).numpy(), labels.numpy())


def _file_fingerprint(kind: str, listing: FileListing) -> dict[str, str | int | Sequence[int]]:
    """What a fingerprint says of a folder or a file; its path too, since two can agree in all the rest and differ."""
    return {"kind": kind, "path": str(listing.path.resolve()), "state": listing.state}


def _split_chunks(
    parts: Mapping[SplitName, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]],
) -> Iterator[ImageChunk]:
    """The splits of a source that is read whole, piece by piece."""
    return (
        ImageChunk(split, pixels[rows], labels[rows])
        for split, (pixels, labels) in parts.items()
        for rows in _slices(len(labels), pixels[0].nbytes)
    )


def _slices(count: int, bytes_each: int, chunk_bytes: int = 0) -> Iterator[slice]:
    """Cuts ``count`` images into runs of about ``chunk_bytes``; 0: `CHUNK_BYTES`."""
    size = max(1, (chunk_bytes or CHUNK_BYTES) // bytes_each)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
