"""Feature vectors and labels in the columns of Parquet files, read by pyarrow."""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fcnet.data.sources.size_limits import check_fits_memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count, format_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

_MAX_NAMED = 8
_DTYPES = {"halffloat": np.float16, "float": np.float32, "double": np.float64}
_REMEDY = "save each array as a .npy file in one folder, which is mapped instead of read"
_PATH_COLUMN = "path"


@dataclass(frozen=True)
class Column:
    """A column of a Parquet file.

    Attributes:
        file: the file.
        name: the name of the column.
        is_vector: whether it holds a vector in each row.
    """

    file: Path
    name: str
    is_vector: bool

    def read(self) -> Tensor | npt.NDArray[Any]:
        """Reads the column: vectors as a tensor (N, D) in their dtype, other values as an array (N,).

        Raises:
            UserError: a value is missing, or the column holds something else, or does not fit in memory.
        """
        with _open(self.file) as table:
            return self._read_vectors(table) if self.is_vector else self._read_values(table)

    def _read_values(self, table: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - pyarrow is not typed
        values = table.read(columns=[self.name]).column(0)
        if values.null_count:
            nulls = format_count(values.null_count, "null")
            raise UserError(f"{self.name} in {self.file} must have a value in each row, found {nulls}")
        return np.array(values.to_pylist())

    def _read_vectors(self, table: Any) -> Tensor:  # noqa: ANN401
        import pyarrow as pa

        kind = table.schema_arrow.field(self.name).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        dtype = _DTYPES.get(str(kind.value_type)) if is_list else None
        if dtype is None:
            raise UserError(
                f"{self.name} in {self.file} must be a column of lists of floating numbers, got {kind}; "
                "data.feature_column names the column"
            )
        num_rows, row = table.metadata.num_rows, 0
        x = np.empty((0, 0), dtype)
        for batch in table.iter_batches(columns=[self.name]):
            vectors = batch.column(0)
            if not len(vectors):
                continue
            values = vectors.flatten()
            if vectors.null_count or values.null_count:
                raise UserError(f"{self.name} in {self.file} must have a number in each place, found nulls")
            lengths = np.asarray(vectors.value_lengths())
            if not row:
                width = int(lengths[0])
                check_fits_memory(num_rows * width * np.dtype(dtype).itemsize, self.file, _REMEDY)
                x = np.empty((num_rows, width), dtype)
            if (lengths != x.shape[1]).any():
                broken = int((lengths != x.shape[1]).argmax())
                raise UserError(
                    f"{self.name} in {self.file} must have vectors of one length, got {x.shape[1]} and "
                    f"{lengths[broken]} in row {row + broken}"
                )
            x[row : row + len(vectors)] = values.to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
            row += len(vectors)
        return torch.from_numpy(x)


def parquet_columns(file: Path, split: str, feature_column: str, label_column: str) -> dict[str, Column]:
    """Finds the columns of a split.

    Args:
        file: the Parquet file.
        split: the split that the file holds.
        feature_column: the name of the column of vectors.
        label_column: the name of the column of labels.

    Returns:
        The columns, under ``x_SPLIT``, ``y_SPLIT`` and, if there is a column ``path``, ``paths_SPLIT``.

    Raises:
        UserError: pyarrow is not installed, the file is damaged, or a column is missing.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{file} needs the pyarrow package: pip install pyarrow")
    with _open(file) as table:
        known = list(table.schema_arrow.names)
    for key, name in (("data.feature_column", feature_column), ("data.label_column", label_column)):
        if name not in known:
            listed = format_names(known, _MAX_NAMED) or "no columns"
            raise UserError(f"{key} must be a column of {file} ({listed}), got {name}")
    columns = {
        f"x_{split}": Column(file, feature_column, is_vector=True),
        f"y_{split}": Column(file, label_column, is_vector=False),
    }
    if _PATH_COLUMN in known:
        columns[f"paths_{split}"] = Column(file, _PATH_COLUMN, is_vector=False)
    return columns


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} must be a whole Parquet file, got: {reason}") from error
