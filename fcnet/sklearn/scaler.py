"""Mean and standard deviation of features, dense or sparse, weighted, and updated by further examples.

B examples, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_BLOCK_VALUES = 1 << 18
_HEAVY_TAIL = 100.0


@dataclass(frozen=True)
class Statistics:
    """The weighted mean and variance of each feature.

    Attributes:
        mean: float64 (D,).
        variance: float64 (D,); exactly 0 for a feature that has had a single value.
        total: the sum of the examples' weights.
    """

    mean: Floats
    variance: Floats
    total: float

    @property
    def std(self) -> Floats:
        """The standard deviation, float64 (D,); 1 for a constant feature."""
        return np.where(self.variance > 0.0, np.sqrt(self.variance), 1.0)

    def merge(self, other: Statistics) -> Statistics:
        """Returns the statistics of both sets of examples together.

        Source:
            Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
        """
        total = self.total + other.total
        ours, theirs = self.total / total, other.total / total
        apart = other.mean - self.mean
        variance = ours * self.variance + theirs * other.variance + ours * theirs * apart**2
        return Statistics(self.mean + theirs * apart, variance, total)


def compute_statistics(x: Any, weight: Floats | None = None, rows: npt.NDArray[np.int64] | None = None) -> Statistics:
    """Computes the mean and the variance of each feature in float64.

    Args:
        x: float32 or float64 (B, D), an array or a sparse CSR matrix, which stays sparse.
        weight: the weights of the examples, (B,); None for 1.
        rows: the examples to take, B of more; None for all.

    Raises:
        UserError: values are so large that their variance is not finite.

    Example:
        >>> found = compute_statistics(np.array([[1.0, 5.0], [3.0, 5.0]]))
        >>> found.mean.tolist(), found.std.tolist()
        ([2.0, 5.0], [1.0, 1.0])
    """
    count = x.shape[0] if rows is None else len(rows)
    weight = np.ones(count) if weight is None else weight
    total = float(weight.sum())
    share = weight / total
    with np.errstate(over="ignore", invalid="ignore"):
        if scipy.sparse.issparse(x):
            x = x if rows is None else x[rows]
            mean, variance = _sparse_moments(x, share)
            low, high = (_dense_row(x, name) for name in ("min", "max"))
        else:
            mean, low, high = np.zeros(x.shape[1]), np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
            for some, block in _blocks(x, rows):
                mean += share[some] @ block
                low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
            variance = sum((share[some] @ (block - mean) ** 2 for some, block in _blocks(x, rows)), np.zeros_like(mean))
    if not np.isfinite(variance).all():
        largest = max(np.abs(low).max(), np.abs(high).max())
        raise UserError(f"X must have values with a finite variance in float64, got {largest:.1e}; divide them")
    # The computed mean of a constant feature may differ from its value in the last digit, and dividing by a variance of
    # nearly 0 would turn that into a feature of ±1.
    constant = low == high
    return Statistics(np.where(constant, low, mean), np.where(constant, 0.0, variance), total)


def search_scales(
    x: Any, statistics: Statistics, *, centred: bool, rows: npt.NDArray[np.int64] | None = None
) -> tuple[Floats, Floats]:
    """Returns a center and a scale of each feature on which a search is well conditioned, each (D,).

    They are the mean and the standard deviation, or without a center the root mean square. A few huge values in a
    column would leave all others equal to many digits, so there they are the median and the median deviation from it.

    Args:
        x: (B, D), an array or a sparse CSR matrix; a sparse matrix has no medians, because most would be 0.
        statistics: those of ``x``.
        centred: whether the features may be centered; otherwise the center is 0.
        rows: the examples to take, those of the statistics; None for all.
    """
    center = statistics.mean if centred else np.zeros_like(statistics.mean)
    size = np.sqrt(statistics.variance + (statistics.mean - center) ** 2)
    if not scipy.sparse.issparse(x):
        median, deviation = center.copy(), np.zeros_like(center)
        step = max(1, _BLOCK_VALUES // len(x))
        for start in range(0, x.shape[1], step):
            some = slice(start, start + step)
            columns = x[:, some] if rows is None else x[rows, some]
            if centred:
                median[some] = np.median(columns, 0)
            deviation[some] = np.median(np.abs(columns - median[some]), 0)
        heavy = (deviation > 0.0) & (size > _HEAVY_TAIL * deviation)
        center, size = np.where(heavy, median, center), np.where(heavy, deviation, size)
    return center, np.where(size > 0.0, size, 1.0)


def _blocks(x: npt.NDArray[Any], rows: npt.NDArray[np.int64] | None) -> Iterator[tuple[slice, Floats]]:
    """Yields a few rows at a time in float64, so that float32 is never copied whole."""
    count = len(x) if rows is None else len(rows)
    step = max(1, _BLOCK_VALUES // max(x.shape[1], 1))
    for start in range(0, count, step):
        some = slice(start, start + step)
        yield some, x[some if rows is None else rows[some]].astype(np.float64)


def _sparse_moments(x: Any, share: Floats) -> tuple[Floats, Floats]:
    """Returns the mean and the variance; entries that are not stored are 0, and add mean² each."""
    values = x.data.astype(np.float64)
    columns, rows = x.indices, np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    mean: Floats = np.bincount(columns, share[rows] * values, x.shape[1]).astype(np.float64)
    stored = np.bincount(columns, share[rows], x.shape[1])
    deviations = np.bincount(columns, share[rows] * (values - mean[columns]) ** 2, x.shape[1])
    return mean, deviations + np.maximum(1.0 - stored, 0.0) * mean**2


def _dense_row(x: Any, name: str) -> Floats:
    row: Floats = getattr(x, name)(axis=0).toarray().ravel().astype(np.float64)
    return row
