"""The arrays source: ``x_train``, ``y_train``, ``x_test``, ``y_test`` and optional ``classes`` in one ``.npz`` file.

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

from fcnet.data.sources.file_listing import check_unchanged, scan_path
from fcnet.data.sources.size_limits import MAX_EXPANSION, check_fits_memory, expanded_limit
from fcnet.data.sources.source import Contents, SourceSnapshot, split_into_chunks
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
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
# RuntimeError: an encrypted member.
_READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError)
_SPLITS: tuple[SplitName, ...] = ("train", "test")
_CLASSES = "classes"
_NAMES = (*(f"{kind}_{split}" for split in _SPLITS for kind in "xy"), _CLASSES)
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LAYOUTS = "(N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 channels"


def arrays(path: Path) -> Source:
    """Returns the images and labels of a ``.npz`` file; see `read_arrays` for its contents."""
    return _Arrays(path)


@dataclass(frozen=True)
class _Arrays:
    path: Path

    def snapshot(self) -> SourceSnapshot:
        if self.path.is_dir():
            raise UserError(f"{self.path} must be a NumPy archive (.npz), got a folder")
        if not self.path.exists():
            raise UserError(f"{self.path}: no such file")
        listing = scan_path(self.path)
        return SourceSnapshot(listing.fingerprint("arrays"), partial(self._read, listing))

    def _read(self, listing: FileListing) -> Contents:
        classes, splits = read_arrays(self.path)
        check_unchanged(listing)
        return Contents(classes, split_into_chunks(splits))


def read_arrays(path: Path) -> tuple[tuple[str, ...], dict[SplitName, SplitArrays]]:
    """Reads a ``.npz`` file into memory, without unpickling anything.

    Images are uint8 (N, H, W), (N, C, H, W) or (N, H, W, C) with one or three channels; channels come first where
    both layouts fit. Labels are integers (N,) or (N, 1). ``classes`` holds the class names.

    Args:
        path: the file.

    Returns:
        The class names, by default "0", "1", …, and for each split the pixels (N, C, H, W) and labels (N,).

    Raises:
        UserError: the file is unreadable, or an array is missing or breaks a rule, or the arrays do not fit in memory.
            All that a header tells is checked before an array is read, and other arrays in the file are not read.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(f"{path} must be a whole NumPy archive (.npz), got something else")
            with zipfile.ZipFile(file) as archive:
                headers = _read_headers(path, archive)
                _check_headers(path, headers)
                arrays = {name: _read_array(archive, name) for name in headers}
    except UserError:
        raise
    except _READ_ERRORS as error:
        raise UserError(f"{path} must be a whole NumPy archive (.npz), got: {' '.join(str(error).split())}") from error
    splits: dict[SplitName, SplitArrays] = {
        split: (_channels_first(arrays[f"x_{split}"]), _int64_labels(path, split, arrays[f"y_{split}"]))
        for split in _SPLITS
    }
    return _class_names(path, arrays, splits), splits


class _Header(NamedTuple):
    """The shape and the dtype of an array that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _read_headers(path: Path, archive: zipfile.ZipFile) -> dict[str, _Header]:
    """Reads the headers of the known arrays, and checks that the arrays have the sizes they claim and fit in memory."""
    members = set(archive.namelist())
    headers, total = {}, 0
    for name in (name for name in _NAMES if f"{name}.npy" in members):
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
    missing = [name for name in _NAMES if name not in headers and name != _CLASSES]
    if missing:
        raise UserError(f"{path} must hold x_train, y_train, x_test and y_test, found no {', '.join(missing)}")
    check_fits_memory(total, path, 'write the images as files and use data.source = "images"')
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


def _check_headers(path: Path, headers: Mapping[str, _Header]) -> None:
    shapes = []
    for split in _SPLITS:
        x, y = headers[f"x_{split}"], headers[f"y_{split}"]
        if x.dtype != np.uint8:
            raise UserError(f"x_{split} in {path} must be uint8, got {x.dtype}")
        if not np.issubdtype(y.dtype, np.integer):
            raise UserError(f"y_{split} in {path} must be integers, got {y.dtype}")
        if _layout(x.shape) is None:
            raise UserError(f"x_{split} in {path} must be {_LAYOUTS}, got {x.shape}")
        if y.shape not in ((x.shape[0],), (x.shape[0], 1)):
            raise UserError(f"expected x_{split} (N, …) and y_{split} (N,) in {path}, got {x.shape} and {y.shape}")
        shapes.append(_channels_first(np.broadcast_to(np.uint8(0), x.shape)).shape[1:])
    if shapes[0] != shapes[1]:
        raise UserError(f"expected x_train and x_test of one shape in {path}, got {shapes[0]} and {shapes[1]}")
    names = headers.get(_CLASSES)
    if names is not None and (len(names.shape) != 1 or names.dtype.kind != "U"):
        raise UserError(f"classes in {path} must be (C,) different strings, got {names.dtype} {names.shape}")


def _read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
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


def _int64_labels(path: Path, split: SplitName, y: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    for label in (y.min(), y.max()):
        if not 0 <= label < 2**31:
            raise UserError(f"y_{split} in {path} must be from 0 to {2**31 - 1}, got {label}")
    return y.reshape(-1).astype(np.int64)


def _class_names(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], splits: Mapping[SplitName, SplitArrays]
) -> tuple[str, ...]:
    names = arrays.get(_CLASSES)
    num_classes = max(int(labels.max()) for _, labels in splits.values()) + 1 if names is None else len(names)
    num_images = len(splits["train"][1])
    if num_classes > num_images:
        raise UserError(
            f"every class in {path} must have a training image, got {num_classes:,} classes "
            f"and {num_images:,} training images; labels must be 0, 1, 2, …"
        )
    if names is None:
        return tuple(map(str, range(num_classes)))
    if len(set(names.tolist())) < len(names):
        raise UserError(f"classes in {path} must be (C,) different strings, got {names.dtype} {names.shape}")
    return tuple(names.tolist())
