"""Vectors of features without labels, to predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fcnet.data.features.checks import read_features, read_names, scan_features
from fcnet.data.features.named_arrays import NamedArrays, open_arrays, read_npy
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_names

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from fcnet.data.store.image_names import ImageNames

_NAMES = {"x": "paths", "x_test": "paths_test"}
_MAX_NAMED = 8


class FeatureRows(NamedTuple):
    """Vectors of features.

    Attributes:
        x: floating (N, D), in the dtype of the file; all are finite.
        names: the name of each vector; None if the file has no names.
    """

    x: Tensor
    names: ImageNames | None


def read_feature_rows(path: Path, num_features: int) -> FeatureRows:
    """Reads or maps vectors of features.

    Args:
        path: a ``.npy`` file of features (N, D); or another file or folder that `open_arrays` takes, with an array
            ``x`` and perhaps ``paths``, or ``x_test`` and perhaps ``paths_test``, or a single array.
        num_features: D.

    Raises:
        UserError: the file is unreadable, its array breaks a rule, or it holds several arrays of other names.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/new.npy", np.ones((2, 3), np.float32))
        ...     rows = read_feature_rows(Path(folder) / "new.npy", num_features=3)
        >>> rows.x.shape, rows.names
        (torch.Size([2, 3]), None)
    """
    if path.suffix == ".npy" and path.is_file():
        arrays = NamedArrays(path, {"x": lambda: read_npy(path)}, {})
    else:
        arrays = open_arrays(path)
    known = [name for name in _NAMES if name in arrays.readers] or list(arrays.readers)
    if not known or (len(known) > 1 and known[0] not in _NAMES):
        found = format_names(sorted(known), _MAX_NAMED) or "no arrays"
        raise UserError(f"{path} must hold an array x (N, D), found {found}")
    name = known[0]
    x = read_features(arrays, name)
    where = f"{arrays.label(name)} in {arrays.path}"
    if x.shape[1] != num_features:
        raise UserError(f"{where} must be features (N, {num_features}) for this model, got {tuple(x.shape)}")
    scan_features(x, where)
    return FeatureRows(x, read_names(arrays, _NAMES.get(name, "paths"), len(x)))
