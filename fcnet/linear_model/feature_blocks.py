"""Features read in blocks of rows, standardised, in the dtype of a computation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

from fcnet.data.arrays import to_tensor
from fcnet.runtime.distributed import all_reduce, rank, world_size
from fcnet.runtime.errors import UserError
from fcnet.runtime.memory import free_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_BLOCK_VALUES = 1 << 21
"""Features in a block: 8 MiB of float32."""
_LEAST_ROWS = 512
"""Rows in a block however wide the products are: each block adds to a gradient of their width."""
_MOST_COPIED = 1 << 32
"""Bytes of the largest standardised copy, or a quarter of the memory that is free if that is less."""
_RANGE = torch.finfo(torch.float32)


class Block(Protocol):
    """Some rows of the features, n of them, that are only multiplied."""

    def forward(self, weights: Tensor, intercepts: Tensor | None = None) -> Tensor:
        """Computes W Xᵀ + b, (M, D) and (M,) -> (M, n)."""
        ...

    def adjoint(self, residuals: Tensor) -> Tensor:
        """Computes R X, (M, n) -> (M, D)."""
        ...

    def square_sums(self, weight: Tensor) -> Tensor:
        """Computes Σ_i s_i x_id², (n,) -> (D,)."""
        ...

    def to_dense(self) -> Tensor:
        """Returns the rows as a matrix, (n, D)."""
        ...


class Features(Protocol):
    """Standardised features.

    Attributes:
        num_rows: N.
        num_features: D.
        num_values: N D, or less for a sparse matrix.
        mean: float64 (D,), what is subtracted.
        std: float64 (D,), the divisor; 1 where a column is constant.
    """

    num_rows: int
    num_features: int
    num_values: int
    mean: Tensor
    std: Tensor

    def blocks(self, dtype: torch.dtype, *, num_columns: int = 0, step: int = 1) -> Iterator[tuple[slice, Block]]:
        """Yields slices of rows and these rows, in order.

        Args:
            dtype: float32 or float64, of the products.
            num_columns: M, the height of the products, which should fit in memory as well.
            step: the distance between the rows of a block; 1 for all rows.
        """
        ...


class DenseBlock(NamedTuple):
    """Rows as a matrix, (n, D)."""

    x: Tensor

    def forward(self, weights: Tensor, intercepts: Tensor | None = None) -> Tensor:
        """Computes W Xᵀ + b, (M, D) and (M,) -> (M, n)."""
        # Few rows from the left: BLAS is several times slower at a narrow product from the right.
        return weights @ self.x.T if intercepts is None else torch.addmm(intercepts[:, None], weights, self.x.T)

    def adjoint(self, residuals: Tensor) -> Tensor:
        """Computes R X, (M, n) -> (M, D)."""
        return residuals @ self.x

    def square_sums(self, weight: Tensor) -> Tensor:
        """Computes Σ_i s_i x_id², (n,) -> (D,)."""
        return weight @ self.x.square()

    def to_dense(self) -> Tensor:
        """Returns the rows as a matrix, (n, D)."""
        return self.x


class FeatureBlocks:
    """The features (x − mean) / std of an array that may be larger than memory.

    Reading standardises block by block. Features of float32 or float64 in memory are standardised once, into a copy in
    float32, if it has at most 4 GiB and a quarter of the free memory; float16 features and NumPy's memory maps stay as
    they are.

    Args:
        x: (N, D), a tensor or a memory map of numbers.
        weight: float64 (n,), the weights of the examples in mean and standard deviation.
        center: whether to subtract the mean of each column.
        device: the device of the blocks.
        rows: int64 (n,), the rows to take, ascending; None for all.
        scales: float64 (D,) each, what to take for mean and standard deviation; None for those of the rows.

    Attributes:
        num_rows: n.
        num_features: D.
        num_values: n D.
        mean: float64 (D,), what is subtracted.
        std: float64 (D,), the divisor; 1 where a column is constant in the rows that have a weight.

    Raises:
        UserError: the mean or the standard deviation of a column is outside the range of float32.
    """

    def __init__(
        self,
        x: Any,  # noqa: ANN401 - a tensor or an array
        weight: Tensor,
        *,
        center: bool,
        device: torch.device,
        rows: Tensor | None = None,
        scales: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self._x, self._device = x, device
        self._copy: Tensor | None = None
        self._rows: Any = rows
        if rows is not None:
            self._rows = rows.cpu().numpy() if isinstance(x, np.memmap) else rows.to(x.device)
        self.num_rows, self.num_features = len(x) if rows is None else len(rows), x.shape[1]
        self.num_values = self.num_rows * self.num_features
        self._dtype = self._read(slice(0, 0)).dtype
        self.mean, self.std = self._measure(weight, center=center) if scales is None else scales
        size = 4 * self.num_rows * self.num_features
        most = min(_MOST_COPIED, (free_bytes(device) or 4 * _MOST_COPIED) // 4)
        is_wide = self._dtype in (torch.float32, torch.float64)
        self._is_copied = is_wide and not isinstance(x, np.memmap) and size <= most

    def blocks(self, dtype: torch.dtype, *, num_columns: int = 0, step: int = 1) -> Iterator[tuple[slice, DenseBlock]]:
        """Yields slices of rows and their standardised features; see `Features`."""
        for rows, block in self._blocks(dtype, num_columns, step):
            yield rows, DenseBlock(block)

    def _measure(self, weight: Tensor, *, center: bool) -> tuple[Tensor, Tensor]:
        """Finds mean and standard deviation in two passes, so that no digits cancel."""
        # Differences from a row are exactly 0 in a constant column, and small where an offset is large.
        origin = self._first_row(weight)
        total = all_reduce(weight.sum())
        sums, squares = torch.zeros_like(origin), torch.zeros_like(origin)
        for rows in self._slices():
            sums += weight[rows] @ (self._read(rows) - origin)
        shift = all_reduce(sums) / total
        mean = origin + shift
        if self._dtype != torch.float64:
            # Any center near the mean serves. This one is exact in float32, so that all dtypes subtract the same.
            mean = mean.float().double()
        for rows in self._slices():
            squares += weight[rows] @ (self._read(rows) - mean).square_()
        rounding = shift - (mean - origin)
        std = (all_reduce(squares) / total - rounding.square()).clamp_min(0.0).sqrt()
        is_constant = (squares == 0.0) & (shift == 0.0)
        is_within = is_constant | ((std >= _RANGE.tiny) & (std <= _RANGE.max) & (mean.abs() <= _RANGE.max))
        if not bool(is_within.all()):
            column = int((~is_within).nonzero()[0])
            found = f"the mean {float(mean[column]):g} and the standard deviation {float(std[column]):g}"
            raise UserError(f"x must be in the range of float32, got {found} in column {column}; scale the column")
        return mean if center else torch.zeros_like(mean), std.masked_fill(is_constant, 1.0)

    def _first_row(self, weight: Tensor) -> Tensor:
        """Returns the first row of all ranks that has a weight, float64 (D,)."""
        weighted = (weight > 0.0).nonzero()[:1].flatten()
        has_row = torch.zeros(world_size(), device=self._device)
        has_row[rank()] = len(weighted)
        result = torch.zeros(self.num_features, dtype=torch.float64, device=self._device)
        if int(all_reduce(has_row).argmax()) == rank() and len(weighted):
            row = int(weighted)
            result += self._read(slice(row, row + 1))[0]
        return all_reduce(result)

    def _slices(self, num_columns: int = 0) -> Iterator[slice]:
        rows_at_once = max(_BLOCK_VALUES // max(self.num_features, num_columns, 1), _LEAST_ROWS)
        for start in range(0, self.num_rows, rows_at_once):
            yield slice(start, min(start + rows_at_once, self.num_rows))

    def _blocks(self, dtype: torch.dtype, num_columns: int, step: int) -> Iterator[tuple[slice, Tensor]]:
        is_copied = dtype == torch.float32 and self._is_copied
        if is_copied and self._copy is None:
            self._copy = torch.empty(self.num_rows, self.num_features, device=self._device)
            for rows in self._slices():
                self._copy[rows] = self._standardize(rows, dtype)
        for rows in self._slices(num_columns):
            some = slice(rows.start, rows.stop, step)  # the others are not even read
            yield rows, self._copy[some] if is_copied and self._copy is not None else self._standardize(some, dtype)

    def _standardize(self, rows: slice, dtype: torch.dtype) -> Tensor:
        block = self._read(rows)
        if block.dtype == torch.float64:
            return ((block - self.mean) / self.std).to(dtype)
        return (block.to(dtype) - self.mean.to(dtype)).mul_((1.0 / self.std).to(dtype))

    def _read(self, rows: slice) -> Tensor:
        return to_floating(self._x[rows if self._rows is None else self._rows[rows]]).to(self._device)


def to_floating(x: Any) -> Tensor:  # noqa: ANN401 - a tensor or an array
    """Returns numbers as a floating tensor that holds them exactly, as far as float64 does.

    Example:
        >>> to_floating(np.array([1, 2], np.uint8)).dtype, to_floating(np.array([1 << 40])).dtype
        (torch.float32, torch.float64)
    """
    values = to_tensor(x, "x")
    if values.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return values
    return values.to(torch.float32 if values.is_floating_point() or values.element_size() <= 2 else torch.float64)
