"""The bootstrap: confidence intervals of figures for which no formula serves.

R resamples of N examples. A resample draws N examples with replacement, so it is a count of each example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fcnet.metrics.checks import to_labels
from fcnet.metrics.confusion import Confusion
from fcnet.metrics.counts import average_columns
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

_COUNTS_AT_ONCE = 1 << 20


def bootstrap_interval(
    counts: Any,  # noqa: ANN401 - array-like
    statistic: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]],
    *,
    generator: np.random.Generator,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> npt.NDArray[np.float64]:
    """Computes percentile intervals of one or more statistics of a set.

    Args:
        counts: the number of examples of each kind, whole numbers (P,): ones for N different examples, or the counts of
            the P pairs of a `Confusion`.
        statistic: the counts of some resamples, int64 (r, P) -> float64 (r,), or (r, S) for S statistics at once.
        generator: the source of the resamples.
        num_resamples: R.
        confidence: the probability of the interval.

    Returns:
        Lower and upper bounds, float64 (2,) or (2, S).

    Raises:
        UserError: a ValueError; there are no examples, or an argument is out of its range.

    Source:
        Efron, "Bootstrap methods: another look at the jackknife", 1979.

    Example:
        >>> values = np.arange(100.0)
        >>> generator = np.random.default_rng(0)
        >>> low, high = bootstrap_interval(np.ones(100, int), lambda n: n @ values / 100, generator=generator)
        >>> bool(42.0 < low < 45.0 and 54.0 < high < 57.0)  # 49.5 ± 1.96 · 2.9
        True
    """
    counts = to_labels(counts, None, "counts")
    if not counts.sum():
        raise UserError("counts must hold at least one example, got 0")
    if num_resamples < 1 or not 0.0 < confidence < 1.0:
        found = f"{num_resamples} and {confidence:g}"
        raise UserError(f"num_resamples must be at least 1 and confidence between 0 and 1, got {found}")
    at_once = max(_COUNTS_AT_ONCE // len(counts), 1)
    sizes = [min(at_once, num_resamples - start) for start in range(0, num_resamples, at_once)]
    values = np.concatenate([statistic(_resample(counts, size, generator)) for size in sizes])
    bounds: npt.NDArray[np.float64] = np.quantile(values, [(1.0 - confidence) / 2, (1.0 + confidence) / 2], axis=0)
    return bounds


def average_intervals(
    confusion: Confusion | Sequence[Sequence[int]], *, generator: np.random.Generator, num_resamples: int = 1000
) -> dict[str, tuple[float, float]]:
    """Computes 95% intervals of the averages of `fcnet.metrics.average_metrics` and of the mean class accuracy.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C), or a `Confusion`.
        generator: the source of the resamples.
        num_resamples: R.

    Returns:
        Lower and upper bound of ``macro_precision``, ``macro_recall``, ``macro_f1``, ``weighted_precision``,
        ``weighted_f1`` and ``mean_class_accuracy``. (Wilson's is the interval of the weighted recall, the accuracy.)

    Raises:
        UserError: a ValueError; it is no table of counts, or there are no examples.

    Example:
        >>> found = average_intervals([[80, 20], [10, 90]], generator=np.random.default_rng(0))
        >>> [round(bound, 1) for bound in found["macro_f1"]]
        [0.8, 0.9]
    """
    table = confusion if isinstance(confusion, Confusion) else Confusion.from_table(confusion)
    # Classes without examples and predictions count as 0 in every resample.
    seen, places = np.unique(np.concatenate([table.labels, table.predictions]), return_inverse=True)
    labels, predictions = places.reshape(2, -1)
    scale = len(seen) / max(table.num_classes, 1)
    names = ("macro_precision", "macro_recall", "macro_f1", "weighted_precision", "weighted_f1", "mean_class_accuracy")

    def statistics(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        columns = _class_columns(labels, predictions, counts, len(seen))
        precision, recall, f1 = average_columns(*columns)
        weighted_precision, _, weighted_f1 = average_columns(*columns, weighted=True)
        # The mean class accuracy leaves out the classes without examples, whose recall is 0.
        mean_class_accuracy = recall * len(seen) / (columns[0] > 0).sum(1)
        macro = (precision * scale, recall * scale, f1 * scale)
        return np.stack([*macro, weighted_precision, weighted_f1, mean_class_accuracy], axis=1)

    low, high = bootstrap_interval(table.counts, statistics, generator=generator, num_resamples=num_resamples)
    return dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def _resample(counts: npt.NDArray[np.int64], size: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draws resamples, int64 (size, P)."""
    total = int(counts.sum())
    if len(counts) == total:  # N different examples: drawing them is faster than drawing P binomial numbers
        draws = generator.integers(total, size=(size, total)) + np.arange(size)[:, None] * total
        return np.bincount(draws.reshape(-1), minlength=size * total).reshape(size, total)
    return generator.multinomial(total, counts / total, size=size)


def _class_columns(
    labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], num_classes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sums counts of pairs, int64 (r, P), by class, float64 (r, C): examples, predictions, correct predictions."""
    rows = np.arange(len(counts))[:, None] * num_classes

    def add(classes: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        cells = (rows + classes).reshape(-1)
        # bincount's float64 is exact up to 2⁵³ examples.
        sums = np.bincount(cells, weights.reshape(-1), len(counts) * num_classes).astype(np.float64)
        return sums.reshape(-1, num_classes)

    is_correct = labels == predictions
    return add(labels, counts), add(predictions, counts), add(labels[is_correct], counts[:, is_correct])
