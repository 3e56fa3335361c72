"""Features read in blocks of rows, standardised, in the dtype of a computation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

from fcnet.runtime.distributed import all_reduce
from fcnet.runtime.memory import free_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_BLOCK_VALUES = 1 << 21
"""Features in a block: 8 MiB of float32."""
_MOST_COPIED = 1 << 32
"""Bytes of the largest standardised copy, or a quarter of the memory that is free if that is less."""


class Block(Protocol):
    """Some rows of the features, n of them, that are only multiplied."""

    def forward(self, weights: Tensor, intercepts: Tensor | None = None) -> Tensor:
        """Computes X W + b, (D, M) and (M,) -> (n, M)."""
        ...

    def adjoint(self, residuals: Tensor) -> Tensor:
        """Computes Xᵀ R, (n, M) -> (D, M)."""
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
        mean: float64 (D,), what is subtracted.
        std: float64 (D,), the divisor; 1 where a column is constant.
    """

    num_rows: int
    num_features: int
    mean: Tensor
    std: Tensor

    def blocks(self, dtype: torch.dtype, *, num_columns: int = 0, step: int = 1) -> Iterator[tuple[slice, Block]]:
        """Yields slices of rows and these rows, in order.

        Args:
            dtype: float32 or float64, of the products.
            num_columns: M, the width of the products, which should fit in memory as well.
            step: the distance between the rows of a block; 1 for all rows.
        """
        ...


class DenseBlock(NamedTuple):
    """Rows as a matrix, (n, D)."""

    x: Tensor

    def forward(self, weights: Tensor, intercepts: Tensor | None = None) -> Tensor:
        """Computes X W + b, (D, M) and (M,) -> (n, M)."""
        return self.x @ weights if intercepts is None else torch.addmm(intercepts, self.x, weights)

    def adjoint(self, residuals: Tensor) -> Tensor:
        """Computes Xᵀ R, (n, M) -> (D, M)."""
        return self.x.T @ residuals

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
        x: (N, D), a tensor or an array of float16, bfloat16, float32 or float64.
        weight: float64 (n,), the weights of the examples in mean and standard deviation.
        center: whether to subtract the mean of each column.
        device: the device of the blocks.
        rows: int64 (n,), the rows to take, ascending; None for all.

    Attributes:
        num_rows: n.
        num_features: D.
        mean: float64 (D,), what is subtracted.
        std: float64 (D,), the divisor; 1 where a column is constant.
    """

    def __init__(
        self,
        x: Any,  # noqa: ANN401 - a tensor or an array
        weight: Tensor,
        *,
        center: bool,
        device: torch.device,
        rows: Tensor | None = None,
    ) -> None:
        self._x, self._rows, self._device, self._copy = x, rows, device, None
        self.num_rows, self.num_features = len(x) if rows is None else len(rows), x.shape[1]
        self.mean = torch.zeros(self.num_features, dtype=torch.float64, device=device)
        self.std = torch.ones_like(self.mean)
        self._measure(weight, center=center)
        size = 4 * self.num_rows * self.num_features
        most = min(_MOST_COPIED, (free_bytes(device) or 4 * _MOST_COPIED) // 4)
        is_wide = x.dtype in (torch.float32, torch.float64, np.float32, np.float64)
        if is_wide and not isinstance(x, np.memmap) and size <= most:
            copy = torch.empty(self.num_rows, self.num_features, device=device)
            for rows_, block in self._blocks(torch.float32):
                copy[rows_] = block
            self._copy = copy

    def blocks(self, dtype: torch.dtype, *, num_columns: int = 0, step: int = 1) -> Iterator[tuple[slice, DenseBlock]]:
        """Yields slices of rows and their standardised features; see `Features`."""
        for rows, block in self._blocks(dtype, num_columns):
            yield (rows, DenseBlock(block)) if step == 1 else (rows, DenseBlock(block[::step]))

    def _measure(self, weight: Tensor, *, center: bool) -> None:
        """Finds mean and standard deviation in two passes, so that no digits cancel."""
        zeros = torch.zeros_like(self.mean)
        total = all_reduce(weight.sum())
        sums = sum((weight[rows] @ block for rows, block in self._blocks(torch.float64)), zeros)
        mean = all_reduce(sums) / total
        if self._x.dtype not in (torch.float64, np.float64):
            # Any center near the mean serves. This one is exact in float32, so that all dtypes subtract the same.
            mean = mean.float().double()
        squares = zeros
        for rows, block in self._blocks(torch.float64):
            squares = squares + weight[rows] @ (block - mean).square_()
        std = (all_reduce(squares) / total).sqrt()
        is_constant = std <= 1e-12 * mean.abs()
        self.std = std.masked_fill(is_constant | (std == 0.0), 1.0)
        self.mean = mean if center else zeros

    def _blocks(self, dtype: torch.dtype, num_columns: int = 0) -> Iterator[tuple[slice, Tensor]]:
        rows_at_once = max(_BLOCK_VALUES // max(self.num_features, num_columns, 1), 256)
        copied = self._copy if dtype == torch.float32 else None
        for start in range(0, self.num_rows, rows_at_once):
            rows = slice(start, min(start + rows_at_once, self.num_rows))
            if copied is not None:
                yield rows, copied[rows]
                continue
            block = self._read(rows).to(self._device)
            if block.dtype == torch.float64:
                yield rows, ((block - self.mean) / self.std).to(dtype)
            else:
                yield rows, (block.to(dtype) - self.mean.to(dtype)).mul_((1.0 / self.std).to(dtype))

    def _read(self, rows: slice) -> Tensor:
        block = self._x[rows if self._rows is None else self._rows[rows]]
        return block if isinstance(block, torch.Tensor) else torch.from_numpy(np.array(block))
