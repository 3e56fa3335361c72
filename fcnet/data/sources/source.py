"""The interface of a data source: a fingerprint of its data, and its images decoded in chunks.

A store is built from a source once, and everything else reads the store. N images of C channels, H rows and W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

SplitName: TypeAlias = Literal["train", "validation", "test"]
Fingerprint: TypeAlias = "Mapping[str, str | int | Sequence[int]]"
SplitArrays: TypeAlias = "tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]"
"""The pixels (N, C, H, W) and labels (N,) of one split."""

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
"""In the order of their images in a source. A source without a validation split has no image of it."""

CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """Consecutive decoded images of one split.

    Attributes:
        split: the split of the images.
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,), class indices.
        skipped: the unreadable images among them, as pairs of a name and the reason.
        names: the name of each image, a path relative to the folder or archive of the data such as
            ``test/cat/0001.png``; empty if the source has no names.
    """

    split: SplitName
    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    skipped: tuple[tuple[str, str], ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything in a source.

    Attributes:
        classes: the class names, in the order of the labels.
        chunks: the images in a fixed order, split by split as in `SPLITS`, decoded as the iterator advances.
        num_images: the number of images, skipped ones included; 0 if none has to be decoded.
        resume_after: returns the chunks without the first images, given their number; None if that saves no decoding.
        num_bytes: the bytes of all pixels, if they are known beforehand; else 0.
        notes: one sentence for each kind of thing that the source left out: files, folders, images or classes.
        test_only: whether there are test images alone, of one class or more.
    """

    classes: tuple[str, ...]
    chunks: Iterator[ImageChunk]
    num_images: int = 0
    resume_after: Callable[[int], Iterator[ImageChunk]] | None = None
    num_bytes: int = 0
    notes: tuple[str, ...] = ()
    test_only: bool = False


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """The state of a source at one moment.

    Attributes:
        fingerprint: everything that determines the contents: different contents have a different fingerprint.
        read: reads the contents. It raises `UserError` if the data is unreadable, breaks a rule or has changed since
            the snapshot, possibly only while the chunks are iterated.
    """

    fingerprint: Fingerprint
    read: Callable[[], Contents]


class Source(Protocol):
    """A set of labelled images."""

    def snapshot(self) -> SourceSnapshot:
        """Takes a snapshot of the source without decoding an image.

        Raises:
            UserError: the source does not exist or is unreadable.
        """


def split_into_chunks(splits: Mapping[SplitName, SplitArrays]) -> Iterator[ImageChunk]:
    """Yields the images of arrays in memory, about `CHUNK_BYTES` at a time."""
    return (
        ImageChunk(split, pixels[rows], labels[rows])
        for split, (pixels, labels) in splits.items()
        for rows in iter_slices(len(labels), pixels[0].nbytes)
    )


def iter_slices(count: int, bytes_each: int, chunk_bytes: int | None = None) -> Iterator[slice]:
    """Yields slices that cut ``count`` items into chunks of at most ``chunk_bytes``, by default `CHUNK_BYTES`.

    A chunk holds at least one item.
    """
    size = max(1, (chunk_bytes or CHUNK_BYTES) // bytes_each)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
