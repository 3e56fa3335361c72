"""Images and labels in one NumPy archive: ``x_train``, ``y_train``, ``x_test``, ``y_test``, and ``classes`` if given.

N images of C channels, H rows and W columns.
"""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fcnet.data.sources.image_folder import SPLITS, SplitName
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LabeledImages: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
_READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
_LAYOUTS = "(N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 channels"


def read_arrays(path: Path) -> tuple[tuple[str, ...], dict[SplitName, LabeledImages]]:
    """Reads a ``.npz`` file whole; no pickle in it is opened.

    Images are uint8, (N, H, W) for grey ones, else with the channels before or after the pixels: where
    both axes could be the channels, they are the first. Labels are whole numbers (N,) or (N, 1).

    Args:
        path: the file.

    Returns:
        The class names, "0", "1", … where the file has none, and for each split pixels (N, C, H, W)
        and labels (N,).

    Raises:
        UserError: the file cannot be read, or what it holds is not this.
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
    parts = {split: _read_split(path, split, arrays) for split in SPLITS}
    shapes = [pixels.shape[1:] for pixels, _ in parts.values()]
    if shapes[0] != shapes[1]:
        raise UserError(f"x_train and x_test of {path} must hold images of one shape, got {shapes[0]} and {shapes[1]}")
    return _class_names(path, arrays, parts), parts


def _read_split(path: Path, split: SplitName, arrays: Mapping[str, npt.NDArray[Any]]) -> LabeledImages:
    x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
    if x.dtype != np.uint8:
        raise UserError(f"x_{split} in {path} must be uint8, got {x.dtype}")
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"y_{split} in {path} must be whole numbers, got {y.dtype}")
    pixels, labels = _channels_first(path, split, x), y.reshape(len(y)) if y.shape == (len(y), 1) else y
    if labels.shape != (len(pixels),) or not len(labels):
        raise UserError(f"expected x_{split} (N, …) and y_{split} (N,) in {path}, got {x.shape} and {y.shape}")
    return pixels, labels.astype(np.int64)


def _channels_first(path: Path, split: SplitName, x: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if x.ndim == 3 and x.size:
        return x[:, None]
    if x.ndim == 4 and x.size and x.shape[1] in (1, 3):
        return x
    if x.ndim == 4 and x.size and x.shape[3] in (1, 3):
        return x.transpose(0, 3, 1, 2)
    raise UserError(f"x_{split} in {path} must be {_LAYOUTS}, got {x.shape}")


def _class_names(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], parts: Mapping[SplitName, LabeledImages]
) -> tuple[str, ...]:
    if "classes" not in arrays:
        return tuple(str(label) for label in range(int(max(labels.max() for _, labels in parts.values())) + 1))
    names = arrays["classes"]
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) < len(names):
        raise UserError(f"classes in {path} must be different names in one row, got {names.dtype} {names.shape}")
    return tuple(names.tolist())
