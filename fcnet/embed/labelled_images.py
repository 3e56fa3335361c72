"""Labelled images of any source at their own size, decoded only when a network asks for them.

N images of C channels, H rows and W columns.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from fcnet.data import sources
from fcnet.data.decoding.decode_batch import ImageFile
from fcnet.data.sources.class_folders import find_images
from fcnet.data.sources.file_listing import scan_path
from fcnet.data.sources.npz import is_npz
from fcnet.data.sources.source import SPLITS

if TYPE_CHECKING:
    from fcnet.data.sources.source import Fingerprint, ImageChunk, Source, SplitName

CIFAR_FOLDER = Path("data")
"""Where ``cifar10`` and ``cifar100`` lie or are downloaded to, as in the presets."""
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class LabelledImages:
    """The images of a source.

    Attributes:
        classes: the class names, in the order of the labels.
        splits: the images of each split that has any, in the order of `SPLITS`.
        location: the folder, archive or name of the images, for errors.
        state: changes with the source; see `fcnet.data.sources.source.SourceSnapshot`.
        have_paths: whether the names of the images are paths of files.
        notes: one sentence for each kind of thing that the source left out.
    """

    classes: tuple[str, ...]
    splits: dict[SplitName, Sequence[ImageFile]]
    location: str
    state: Fingerprint
    have_paths: bool
    notes: tuple[str, ...]


def open_images(images: str) -> LabelledImages:
    """Opens labelled images without decoding one.

    Args:
        images: ``digits``, ``cifar10`` or ``cifar100``; or the path of a folder or an archive of images, of a ``.npz``
            file of pixels, or of a folder with CIFAR. Without splits, a fifth of each class is held out for testing.

    Raises:
        UserError: the images are unreadable; see `fcnet.data.sources`.

    Example:
        >>> digits = open_images("digits")
        >>> {split: len(files) for split, files in digits.splits.items()}, len(digits.classes)
        ({'train': 1437, 'test': 360}, 10)
    """
    path = Path(images)
    match images:
        case "digits":
            return _open_arrays(sources.digits(), images)
        case "cifar10":
            return _open_arrays(sources.cifar10(CIFAR_FOLDER), images)
        case "cifar100":
            return _open_arrays(sources.cifar100(CIFAR_FOLDER), images)
    if path.suffix == ".npz" or is_npz(path):
        return _open_arrays(sources.arrays(path), images)
    for name, open_source in (("cifar-10-", sources.cifar10), ("cifar-100-", sources.cifar100)):
        if path.is_dir() and any(path.glob(f"{name}*")):
            return _open_arrays(open_source(path, download=False), images)
    listing = scan_path(path)
    found = find_images(listing, _TEST_SHARE)
    splits = {split: [file for file in found.images if file.split == split] for split in SPLITS}
    return LabelledImages(
        found.classes,
        {split: files for split, files in splits.items() if files},
        images,
        listing.fingerprint("images"),
        have_paths=True,
        notes=found.notes,
    )


def _open_arrays(source: Source, name: str) -> LabelledImages:
    snapshot = source.snapshot()
    contents = snapshot.read()
    chunks: dict[SplitName, list[ImageChunk]] = {}
    for chunk in contents.chunks:
        chunks.setdefault(chunk.split, []).append(chunk)
    splits = {split: ArrayImages(chunks[split]) for split in SPLITS if split in chunks}
    return LabelledImages(
        contents.classes, {**splits}, name, snapshot.fingerprint, have_paths=False, notes=contents.notes
    )


class ArrayImages(Sequence[ImageFile]):
    """Images in arrays, each as the bytes of a PGM or PPM file, so that they are decoded like files.

    Args:
        chunks: the pixels and labels, of one split.
    """

    def __init__(self, chunks: Sequence[ImageChunk]) -> None:
        self._chunks = chunks
        self._ends = list(itertools.accumulate(len(chunk.labels) for chunk in chunks))

    def __len__(self) -> int:
        """Returns N."""
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, rows: int) -> ImageFile: ...
    @overload
    def __getitem__(self, rows: slice) -> list[ImageFile]: ...
    def __getitem__(self, rows: int | slice) -> ImageFile | list[ImageFile]:
        """Returns an image, or a list of images."""
        if isinstance(rows, slice):
            return [self[row] for row in range(*rows.indices(len(self)))]
        row = range(len(self))[rows]
        number = bisect.bisect_right(self._ends, row)
        chunk = self._chunks[number]
        place = row - (self._ends[number] - len(chunk.labels))
        pixels = chunk.pixels[place]
        channels, height, width = pixels.shape
        header = f"P{5 if channels == 1 else 6} {width} {height} 255\n".encode()
        content = header + pixels.transpose(1, 2, 0).tobytes()
        return ImageFile(f"image {row} of {chunk.split}", content, None, chunk.split, int(chunk.labels[place]))
