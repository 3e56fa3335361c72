"""Image files as a source: a folder of classes, or an archive of one.

C channels, H rows and W columns.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from fcnet.data.decoding.decode_batch import (
    OTHER_CHANNELS,
    OTHER_SIZE,
    DecodeOptions,
    compare_headers,
    decode_image_file,
    decode_images,
    detect_grey,
    skip_or_raise,
)
from fcnet.data.decoding.decode_pool import parallel_map
from fcnet.data.sources.class_folders import find_images
from fcnet.data.sources.file_listing import scan_path
from fcnet.data.sources.source import SPLITS, Contents, ImageChunk, SourceSnapshot, iter_slices
from fcnet.data.sources.unused import conversion_notes
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fcnet.data.decoding.decode_batch import ImageFile
    from fcnet.data.sources.file_listing import FileListing
    from fcnet.data.sources.source import Source

DECODE_BATCH_BYTES = 1 << 20
_HEADER_BATCH_SIZE = 1000


def images(
    path: Path,
    test: float = 0.2,
    size: Sequence[int] = (),
    *,
    skip_broken: bool = False,
    test_only: bool = False,
    shape: Sequence[int] = (),
) -> Source:
    """Returns the images of a folder or archive ``train/CLASS/…`` and ``test/CLASS/…``, or ``CLASS/IMAGE``.

    Images have three channels, or one channel if all of them are grey.

    Args:
        path: the folder or the archive. `find_images` documents its layout, `decode_image` how an image is decoded.
        test: the fraction of each class for testing, in (0, 1), if there is no ``train`` and ``test``.
        size: (H, W) to resize each image to; empty if all images have one size.
        skip_broken: whether to skip unreadable images instead of raising an error.
        test_only: whether to read only the test images; without ``train`` and ``test``, these are all images.
        shape: (C, H, W) to convert each image to; empty for channels and a size that depend on the images.

    Raises:
        UserError: ``test`` is outside its range.
    """
    if not 0 < test < 1:
        raise UserError(f"test must be greater than 0 and less than 1, got {test}")
    return _ImageFolder(path, test, tuple(size), skip_broken, test_only, tuple(shape))


@dataclass(frozen=True)
class _ImageFolder:
    path: Path
    test: float
    size: tuple[int, ...]
    skip_broken: bool
    test_only: bool
    shape: tuple[int, ...]

    def snapshot(self) -> SourceSnapshot:
        listing = scan_path(self.path, test_only=self.test_only)
        fingerprint = listing.fingerprint("images") | {"pillow": version("pillow")}
        # A setting without effect must not change the fingerprint: the store would be built again.
        if not listing.splits and not self.test_only:
            fingerprint["test"] = str(self.test)
        if self.size and not self.shape:
            fingerprint["size"] = self.size
        if self.shape:
            fingerprint["shape"] = self.shape
        for name in ("skip_broken", "test_only"):
            if getattr(self, name):
                fingerprint[name] = 1
        return SourceSnapshot(fingerprint, partial(self._read, listing))

    def _read(self, listing: FileListing) -> Contents:
        found = find_images(listing, self.test)
        files = found.images
        return Contents(
            found.classes,
            self._decode(files),
            len(files),
            lambda done: self._decode(files, done),
            notes=(*found.notes, *self._conversion_notes(files)),
            test_only=self.test_only,
        )

    def _conversion_notes(self, files: list[ImageFile]) -> Iterator[str]:
        """Yields a sentence for each way in which some images are converted to ``shape``."""
        if not self.shape:
            return
        options = self._decode_options(files)
        counts: Counter[int] = Counter()
        with contextlib.closing(parallel_map(compare_headers, _batches_of(files), options)) as results:
            for result in results:
                counts.update(result.data)
        yield from conversion_notes(
            len(files),
            channels=sum(count for flags, count in counts.items() if flags & OTHER_CHANNELS),
            size=sum(count for flags, count in counts.items() if flags & OTHER_SIZE),
            shape=self.shape,
        )

    def _decode(self, files: list[ImageFile], done: int = 0) -> Iterator[ImageChunk]:
        """Decodes the images after the first ``done``, with options that depend on all of them."""
        options = self._decode_options(files)
        shape = (options.channels, options.height, options.width)
        batches = []
        for split in SPLITS:
            of_split = [file for file in files[done:] if file.split == split]
            image_bytes = options.channels * options.height * options.width
            batches += [of_split[rows] for rows in iter_slices(len(of_split), image_bytes, DECODE_BATCH_BYTES)]
        with contextlib.closing(parallel_map(decode_images, batches, options)) as results:
            for batch, decoded in zip(batches, results, strict=True):
                reasons = dict(decoded.skipped)
                readable = [file for index, file in enumerate(batch) if index not in reasons]
                skipped = tuple((batch[index].name, reason) for index, reason in decoded.skipped)
                pixels = np.frombuffer(decoded.data, dtype=np.uint8).reshape(-1, *shape)
                labels = np.array([file.label for file in readable], dtype=np.int64)
                yield ImageChunk(batch[0].split, pixels, labels, skipped, tuple(file.name for file in readable))

    def _decode_options(self, files: list[ImageFile]) -> DecodeOptions:
        options = DecodeOptions(str(self.path), self.skip_broken)
        if self.shape:
            channels, height, width = self.shape
            return replace(options, channels=channels, height=height, width=width, resize=True)
        # `all` stops at the first colour image, so only a grey source has all its headers read.
        with contextlib.closing(parallel_map(detect_grey, _batches_of(files), options)) as results:
            options = replace(options, channels=1 if all(all(result.data) for result in results) else 3)
        if self.size:
            return replace(options, height=self.size[0], width=self.size[1], resize=True)
        # Without a size, all images must have the size of the first readable one.
        for file in files:
            try:
                _, height, width = decode_image_file(file, options)
            except UserError as error:
                skip_or_raise(options, error)
            else:
                return replace(options, height=height, width=width, reference_name=file.name)
        raise UserError(f"{self.path} must hold at least one readable image, got {len(files):,} broken ones")


def _batches_of(files: list[ImageFile]) -> list[list[ImageFile]]:
    """Returns batches of files of which only the headers are read."""
    return [files[start : start + _HEADER_BATCH_SIZE] for start in range(0, len(files), _HEADER_BATCH_SIZE)]
