"""The mean and the standard deviation of each feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fcnet.data.sources.source import iter_slices
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from torch import Tensor

    from fcnet.data.features.joined_rows import JoinedRows


def feature_mean_and_std(x: Tensor | JoinedRows, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the mean and standard deviation of each feature over some examples.

    Blocks of examples are read twice: for the mean, then for the squared differences from it, in float64. NumPy adds
    rows one after another, so the result does not depend on the number of threads.

    Args:
        x: floating (N, D).
        rows: int64, the examples, at least one.

    Returns:
        Two float32 tensors (D,) on the CPU: the mean and the standard deviation, without Bessel's correction. The
        standard deviation of a constant feature is set to 1.

    Raises:
        UserError: a mean or a standard deviation is outside the range of float32.

    Example:
        >>> x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [100.0, 100.0]])
        >>> feature_mean_and_std(x, torch.tensor([0, 1]))
        (tensor([2., 5.]), tensor([1., 1.]))
    """
    total, low, high = np.zeros(x.shape[1]), np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
    for block in _iter_blocks(x, rows):
        total += block.sum(0)
        low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
    mean = total / len(rows)
    squares = np.zeros_like(mean)
    for block in _iter_blocks(x, rows):
        squares += ((block - mean) ** 2).sum(0)
    std = np.where(low == high, 1.0, np.sqrt(squares / len(rows)))
    statistics = torch.from_numpy(mean).float(), torch.from_numpy(std).float()
    broken = ~(statistics[0].isfinite() & statistics[1].isfinite() & (statistics[1] > 0))
    if broken.any():
        feature = int(broken.nonzero()[0])
        found = f"the mean {mean[feature]:g} and the standard deviation {std[feature]:g}"
        raise UserError(f"features must be in the range of float32, got {found} in column {feature}; scale the column")
    return statistics


def _iter_blocks(x: Tensor | JoinedRows, rows: Tensor) -> Iterator[npt.NDArray[np.float64]]:
    for part in iter_slices(len(rows), x.shape[1] * 8):
        yield x[rows[part]].double().numpy()
