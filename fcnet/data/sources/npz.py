"""The arrays source: ``x_train``, ``y_train``, ``x_test``, ``y_test`` and optional ``classes`` in one ``.npz`` file.

N images of C channels, H rows and W columns.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fcnet.data.sources.file_listing import check_unchanged, scan_path
from fcnet.data.sources.source import SPLITS, Contents, SourceSnapshot, split_into_chunks
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources.file_listing import FileListing
    from fcnet.data.sources.source import Source, SplitArrays, SplitName

_READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
_LAYOUTS = "(N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 channels"


def arrays(path: Path) -> Source:
    """Returns the images and labels of a ``.npz`` file; see `read_arrays` for its contents."""
    return _Arrays(path)


@dataclass(frozen=True)
class _Arrays:
    path: Path

    def snapshot(self) -> SourceSnapshot:
        if not self.path.is_file():
            raise UserError(
                f"{self.path} must be a NumPy archive (.npz), got a folder"
                if self.path.is_dir()
                else f"{self.path}: no such file"
            )
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
        UserError: the file is unreadable, or an array is missing or breaks a rule.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(f"{path} must be a whole NumPy archive (.npz), got something else")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
    except UserError:
        raise
    except _READ_ERRORS as error:
        raise UserError(f"{path} must be a whole NumPy archive (.npz), got: {' '.join(str(error).split())}") from error
    missing = [name for split in SPLITS for name in (f"x_{split}", f"y_{split}") if name not in arrays]
    if missing:
        raise UserError(f"{path} must hold x_train, y_train, x_test and y_test, found no {', '.join(missing)}")
    splits = {split: _read_split(path, split, arrays) for split in SPLITS}
    shapes = [pixels.shape[1:] for pixels, _ in splits.values()]
    if shapes[0] != shapes[1]:
        raise UserError(f"expected x_train and x_test of one shape in {path}, got {shapes[0]} and {shapes[1]}")
    return _class_names(path, arrays, splits), splits


def _read_split(path: Path, split: SplitName, arrays: Mapping[str, npt.NDArray[Any]]) -> SplitArrays:
    x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
    if x.dtype != np.uint8:
        raise UserError(f"x_{split} in {path} must be uint8, got {x.dtype}")
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"y_{split} in {path} must be integers, got {y.dtype}")
    pixels, labels = _channels_first(path, split, x), y.reshape(len(y)) if y.shape == (len(y), 1) else y
    if labels.shape != (len(pixels),) or not len(labels):
        raise UserError(f"expected x_{split} (N, …) and y_{split} (N,) in {path}, got {x.shape} and {y.shape}")
    return pixels, labels.astype(np.int64)


def _channels_first(path: Path, split: SplitName, x: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns the images as (N, C, H, W)."""
    if x.ndim == 3 and x.size:
        return x[:, None]
    if x.ndim == 4 and x.size and x.shape[1] in (1, 3):
        return x
    if x.ndim == 4 and x.size and x.shape[3] in (1, 3):
        return x.transpose(0, 3, 1, 2)
    raise UserError(f"x_{split} in {path} must be {_LAYOUTS}, got {x.shape}")


def _class_names(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], splits: Mapping[SplitName, SplitArrays]
) -> tuple[str, ...]:
    if "classes" not in arrays:
        return tuple(str(label) for label in range(int(max(labels.max() for _, labels in splits.values())) + 1))
    names = arrays["classes"]
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) < len(names):
        raise UserError(f"classes in {path} must be (C,) different strings, got {names.dtype} {names.shape}")
    return tuple(names.tolist())
