"""Features of a sparse matrix in blocks of rows, standardised without becoming dense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_BLOCK_VALUES = 1 << 21
"""Values of a product, or of a block as a matrix: 16 MiB of float64."""


class SparseBlock(NamedTuple):
    """Some rows of a sparse matrix; mean and standard deviation go into what they are multiplied by.

    Attributes:
        x: CSR (n, D), as it is.
        mean: (D,), in the dtype of the products.
        std: (D,).
    """

    x: Any
    mean: Tensor
    std: Tensor

    def forward(self, weights: Tensor, intercepts: Tensor | None = None) -> Tensor:
        """Computes W Xᵀ + b, (M, D) and (M,) -> (M, n)."""
        raw = (weights / self.std).T.contiguous()
        offset = -(self.mean @ raw) if intercepts is None else intercepts - self.mean @ raw
        return torch.from_numpy(self.x @ raw.numpy()).add_(offset).T.contiguous()

    def adjoint(self, residuals: Tensor) -> Tensor:
        """Computes R X, (M, n) -> (M, D)."""
        sums = torch.from_numpy(self.x.T @ residuals.T.contiguous().numpy()).T
        return (sums - residuals.sum(1, keepdim=True) * self.mean) / self.std

    def square_sums(self, weight: Tensor) -> Tensor:
        """Computes Σ_i s_i x_id², (n,) -> (D,)."""
        squares, sums = (torch.from_numpy(power.T @ weight.numpy()) for power in (self.x.power(2), self.x))
        return (squares - 2.0 * self.mean * sums + self.mean.square() * weight.sum()).clamp_min(0.0) / self.std.square()

    def to_dense(self) -> Tensor:
        """Returns the rows as a matrix, (n, D)."""
        return torch.from_numpy(self.x.toarray()).sub_(self.mean).div_(self.std)


class SparseBlocks:
    """The features (x − mean) / std of a sparse matrix, on the CPU.

    Args:
        x: CSR (N, D) of float32 or float64.
        mean: float64 (D,).
        std: float64 (D,).
        rows: int64 (n,), the rows to take, ascending; None for all.

    Attributes:
        num_rows: n.
        num_features: D.
        num_values: the values that are stored.
        mean: float64 (D,).
        std: float64 (D,).
    """

    def __init__(self, x: Any, mean: Tensor, std: Tensor, rows: Tensor | None = None) -> None:  # noqa: ANN401
        taken = x if rows is None else x[rows.numpy()]
        self._x = scipy.sparse.csr_array((taken.data, taken.indices, taken.indptr), shape=taken.shape)
        self._single: Any = self._x if self._x.dtype == np.float32 else None
        self.num_rows, self.num_features = self._x.shape
        self.num_values = self._x.nnz
        self.mean, self.std = mean, std

    def blocks(self, dtype: torch.dtype, *, num_columns: int = 0, step: int = 1) -> Iterator[tuple[slice, SparseBlock]]:
        """Yields slices of rows and these rows; see `fcnet.linear_model.feature_blocks.Features`.

        Without ``num_columns`` a block fits in memory as a matrix.
        """
        if dtype == torch.float32 and self._single is None:
            self._single = self._x.astype(np.float32)
        x = self._single if dtype == torch.float32 else self._x
        mean, std = self.mean.to(dtype), self.std.to(dtype)
        rows_at_once = max(_BLOCK_VALUES // (num_columns or self.num_features), 256)
        for start in range(0, self.num_rows, rows_at_once):
            rows = slice(start, min(start + rows_at_once, self.num_rows))
            block = x if rows_at_once >= self.num_rows else x[rows]
            if dtype == torch.float64:
                block = block.astype(np.float64, copy=False)
            yield rows, SparseBlock(block if step == 1 else block[::step], mean, std)
