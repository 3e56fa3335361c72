"""The arrays source: ``x_train``, ``y_train``, ``x_test`` and ``y_test`` in one ``.npz`` file.

N images of C channels, H rows and W columns.
"""

from __future__ import annotations

import lzma
import math
import tokenize
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fcnet.data.decoding.image_decoding import decode_image
from fcnet.data.sources.array_labels import LABEL_KINDS, TEXT_KINDS, name_classes
from fcnet.data.sources.file_listing import check_unchanged, scan_path
from fcnet.data.sources.size_limits import MAX_EXPANSION, check_fits_memory, expanded_limit
from fcnet.data.sources.source import Contents, SourceSnapshot, split_into_chunks
from fcnet.data.sources.unused import Reason, UnusedItems, conversion_notes
from fcnet.data.sources.zip import ZIP_START_BYTES, holds_arrays
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources.file_listing import FileListing
    from fcnet.data.sources.source import Source, SplitArrays, SplitName

# NumPy parses a header as a literal of Python.
_HEADER_ERRORS = (
    RecursionError,
    MemoryError,
    SyntaxError,
    TypeError,
    LookupError,
    AttributeError,
    tokenize.TokenError,
)
READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError)
"""The errors of a damaged archive; RuntimeError is that of an encrypted member."""
_CLASSES = "classes"
SUFFIXES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "val"),
    "test": ("test",),
}
"""What may follow ``x_`` and ``y_`` in the names of the arrays of a split."""
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_REMEDY = 'write the images as files and use data.source = "images"'
_LAYOUTS = "(N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 channels"
_MAX_NAMED = 8


def arrays(path: Path, *, test_only: bool = False, shape: Sequence[int] = ()) -> Source:
    """Returns the images and labels of a ``.npz`` file; see `read_arrays` for its contents.

    Args:
        path: the file.
        test_only: whether to read only the test split; the file may lack the others.
        shape: (C, H, W) to convert each image to, as an image file is converted; empty to keep the shape.
    """
    return _Arrays(path, test_only, tuple(shape))


def is_npz(path: Path) -> bool:
    """Returns whether a file is a zip archive of NumPy arrays, whatever its name."""
    try:
        with path.open("rb") as file:
            return holds_arrays(file.read(ZIP_START_BYTES))
    except OSError:
        return False


@dataclass(frozen=True)
class _Arrays:
    path: Path
    test_only: bool
    shape: tuple[int, ...]

    def snapshot(self) -> SourceSnapshot:
        if self.path.is_dir():
            raise UserError(f"{self.path} must be a NumPy archive (.npz), got a folder")
        if not self.path.exists():
            raise UserError(f"{self.path}: no such file")
        listing = scan_path(self.path)
        fingerprint = listing.fingerprint("arrays")
        if self.test_only:
            fingerprint["test_only"] = 1
        if self.shape:
            fingerprint["shape"] = self.shape
        return SourceSnapshot(fingerprint, partial(self._read, listing))

    def _read(self, listing: FileListing) -> Contents:
        read = read_arrays(self.path, test_only=self.test_only)
        check_unchanged(listing)
        splits, notes = read.splits, read.notes
        if self.shape:
            notes += tuple(note for x, _ in splits.values() for note in _conversion_notes(x, self.shape))
            splits = {split: (_convert_images(x, self.shape, self.path), y) for split, (x, y) in splits.items()}
        return Contents(read.classes, split_into_chunks(splits), notes=notes, test_only=self.test_only)


class LabelledArrays(NamedTuple):
    """The contents of a ``.npz`` file.

    Attributes:
        classes: the class names.
        splits: the pixels (N, C, H, W) and labels (N,) of each split, in the order of `SPLITS`.
        notes: sentences on the labels and on what is not used.
    """

    classes: tuple[str, ...]
    splits: dict[SplitName, SplitArrays]
    notes: tuple[str, ...]


def read_arrays(path: Path, *, test_only: bool = False) -> LabelledArrays:
    """Reads a ``.npz`` file into memory, without unpickling anything.

    Images are uint8 (N, H, W), (N, C, H, W) or (N, H, W, C) with one or three channels; channels come first where
    both layouts fit. Labels (N,) or (N, 1) are whole numbers or class names; see `name_classes`. ``classes`` may hold
    the class names, and ``x_validation`` and ``y_validation``, or ``x_val`` and ``y_val``, a validation split.

    Args:
        path: the file.
        test_only: whether to read only ``x_test``, ``y_test`` and ``classes``.

    Raises:
        UserError: the file is unreadable, or an array is missing or breaks a rule, or the arrays do not fit in memory.
            All that a header tells is checked before an array is read, and other arrays in the file are not read.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(f"{path} must be a whole NumPy archive (.npz), got something else")
            with zipfile.ZipFile(file) as archive:
                names, unused = _find_arrays(path, archive.namelist(), test_only=test_only)
                headers = read_headers(path, archive, [*names.values(), _CLASSES], _REMEDY)
                _check_headers(path, headers, names)
                arrays = {name: read_array(archive, name) for name in headers}
    except UserError:
        raise
    except READ_ERRORS as error:
        raise UserError(f"{path} must be a whole NumPy archive (.npz), got: {' '.join(str(error).split())}") from error
    named = name_classes(
        path, {split: (names["y", split], arrays[names["y", split]]) for _, split in names}, arrays.get(_CLASSES)
    )
    splits: dict[SplitName, SplitArrays] = {
        split: (_channels_first(arrays[names["x", split]]), labels) for split, labels in named.labels.items()
    }
    for name in () if test_only else named.unused:
        unused.add(Reason.UNUSED_NAME, name)
    return LabelledArrays(named.classes, splits, (*unused.notes(), *named.notes))


def _find_arrays(
    path: Path, members: Sequence[str], *, test_only: bool
) -> tuple[dict[tuple[str, SplitName], str], UnusedItems]:
    """Finds the arrays of each split.

    Returns:
        The name of each array, by "x" or "y" and the split; and everything else.
    """
    found = {name.removesuffix(".npy") for name in members if name.endswith(".npy")}
    present = {
        split: [suffix for suffix in suffixes if {f"x_{suffix}", f"y_{suffix}"} & found]
        for split, suffixes in SUFFIXES.items()
    }
    needed = ["test"] if test_only else ["train", "test"]
    if missing := {f"{kind}_{split}" for split in needed for kind in "xy"} - found:
        expected = "x_test and y_test" if test_only else "x_train, y_train, x_test and y_test"
        listed = format_names(sorted(found), _MAX_NAMED) or "no arrays"
        raise UserError(f"{path} must hold {expected}, found {listed}")
    if len(present["validation"]) > 1:
        raise UserError(f"{path} must have one validation split, found x_val or y_val beside x_validation")
    names: dict[tuple[str, SplitName], str] = {}
    unused = UnusedItems()
    known = {_CLASSES}
    for split, suffixes in present.items():
        pair = {kind: f"{kind}_{suffix}" for suffix in suffixes for kind in "xy"}
        known |= set(pair.values())
        if suffixes and test_only and split != "test":
            unused.add(Reason.OTHER_SPLIT, suffixes[0])
        elif missing := set(pair.values()) - found:
            raise UserError(f"{path} must hold {pair['x']} and {pair['y']}, or neither, found no {missing.pop()}")
        else:
            names |= {(kind, split): name for kind, name in pair.items()}
    for name in members:
        if name.removesuffix(".npy") not in known:
            is_array = name.endswith(".npy")
            unused.add(Reason.UNKNOWN_ARRAY if is_array else Reason.NO_ARRAY, name.removesuffix(".npy"))
    return names, unused


class _Header(NamedTuple):
    """The shape and the dtype of an array that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_headers(path: Path, archive: zipfile.ZipFile, names: Iterable[str], remedy: str) -> dict[str, _Header]:
    """Reads the headers of some arrays, and checks that the arrays have the sizes they claim and fit in memory.

    Args:
        path: the file, for errors.
        archive: the open file.
        names: the names of the arrays; those that the file lacks are left out.
        remedy: what to do if the arrays do not fit in memory.

    Raises:
        UserError: an array expands to more than its compressed size allows, or the arrays do not fit in memory.
        ValueError: a header is broken.
    """
    members = set(archive.namelist())
    headers, total = {}, 0
    for name in (name for name in names if f"{name}.npy" in members):
        info = archive.getinfo(f"{name}.npy")
        if info.file_size > expanded_limit(info.compress_size):
            raise UserError(
                f"{name} in {path} must expand to at most {MAX_EXPANSION} times its compressed size, got "
                f"{info.file_size / max(info.compress_size, 1):,.0f} times; write it with numpy.savez"
            )
        with archive.open(info.filename) as member:
            shape, dtype = _read_header(member, name)
            num_bytes = math.prod(shape) * dtype.itemsize
            # Pickled objects have any size; their dtype is refused below.
            if min(shape, default=1) < 0 or (num_bytes != info.file_size - member.tell() and not dtype.hasobject):
                raise ValueError(f"{name} has another size than its header says, {shape} of {dtype}")
        headers[name], total = _Header(shape, dtype), total + info.file_size
    check_fits_memory(total, path, remedy)
    return headers


def _read_header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    read = _HEADER_READERS.get(np.lib.format.read_magic(member))
    if read is None:
        raise ValueError(f"{name} has an unknown format")
    try:
        with warnings.catch_warnings(action="ignore"):
            shape, _, dtype = read(member)
    except _HEADER_ERRORS:
        raise ValueError(f"{name} has a broken header") from None
    return shape, dtype


def _check_headers(path: Path, headers: Mapping[str, _Header], names: Mapping[tuple[str, SplitName], str]) -> None:
    first, shapes = "", {}
    for x_name, y_name in ((names["x", split], names["y", split]) for kind, split in names if kind == "x"):
        shapes[x_name] = _check_pair(path, x_name, headers[x_name], y_name, headers[y_name])
        first = first or x_name
        if shapes[x_name] != shapes[first]:
            raise UserError(
                f"expected {first} and {x_name} of one shape in {path}, got {shapes[first]} and {shapes[x_name]}"
            )
    classes = headers.get(_CLASSES)
    if classes is not None and (len(classes.shape) != 1 or classes.dtype.kind not in TEXT_KINDS):
        raise UserError(f"classes in {path} must be (C,) different strings, got {classes.dtype} {classes.shape}")


def _check_pair(path: Path, x_name: str, x: _Header, y_name: str, y: _Header) -> tuple[int, ...]:
    """Checks the headers of the images and labels of a split; returns (C, H, W)."""
    if x.dtype != np.uint8:
        raise UserError(f"{x_name} in {path} must be uint8, got {x.dtype}{_describe_scaling(x_name, x.dtype)}")
    if y.dtype.kind not in LABEL_KINDS:
        raise UserError(f"{y_name} in {path} must be whole numbers or class names, got {y.dtype}")
    if _layout(x.shape) is None:
        raise UserError(f"{x_name} in {path} must be {_LAYOUTS}, got {x.shape}")
    if y.shape not in ((x.shape[0],), (x.shape[0], 1)):
        is_one_hot = len(y.shape) == 2 and y.shape[0] == x.shape[0]
        remedy = f"; if {y_name} is one-hot, save {y_name}.argmax(1)" * is_one_hot
        raise UserError(f"expected {x_name} (N, …) and {y_name} (N,) in {path}, got {x.shape} and {y.shape}{remedy}")
    return _channels_first(np.broadcast_to(np.uint8(0), x.shape)).shape[1:]


def _describe_scaling(name: str, dtype: np.dtype[Any]) -> str:
    """Returns the end of the error of images that are not uint8: how to convert them."""
    match dtype.kind:
        case "f":
            return f'; for values from 0 to 1, save ({name} * 255).round().astype("uint8")'
        case "i" | "u":
            return f'; for values from 0 to 255, save {name}.astype("uint8")'
        case "b":
            return f'; save {name}.astype("uint8") * 255'
    return ""


def read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Reads an array of an open archive, and compares its checksum.

    Args:
        archive: the open file.
        name: the name of the array.

    Raises:
        ValueError: the array holds pickled objects, or is damaged; so do the other `READ_ERRORS`.
    """
    with archive.open(f"{name}.npy") as member:
        array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        member.read()  # zipfile compares the checksum at the end of a member
        return array


def _layout(shape: tuple[int, ...]) -> str | None:
    """Returns the meaning of the axes of images, or None if they have none."""
    if len(shape) == 3 and all(shape):
        return "NHW"
    if len(shape) == 4 and all(shape):
        return "NCHW" if shape[1] in (1, 3) else "NHWC" if shape[3] in (1, 3) else None
    return None


def _channels_first(x: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns the images as (N, C, H, W)."""
    layout = _layout(x.shape)
    return x[:, None] if layout == "NHW" else x if layout == "NCHW" else x.transpose(0, 3, 1, 2)


def _conversion_notes(x: npt.NDArray[np.uint8], shape: Sequence[int]) -> Iterator[str]:
    count, channels, *size = x.shape
    return conversion_notes(
        count, channels=count * (channels != shape[0]), size=count * (size != list(shape[1:])), shape=shape
    )


def _convert_images(x: npt.NDArray[np.uint8], shape: Sequence[int], path: Path) -> npt.NDArray[np.uint8]:
    """Converts images (N, C, H, W) as image files are converted."""
    from PIL import Image

    if x.shape[1:] == tuple(shape):
        return x
    converted = np.empty((len(x), *shape), np.uint8)
    for row, pixels in enumerate(x):
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        converted[row] = decode_image(image, shape[0], f"image {row} in {path}", (shape[1], shape[2]))
    return converted
