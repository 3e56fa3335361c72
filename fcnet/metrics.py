"""Counts -> figures: accuracy, its interval, and what each class looks like on its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ClassFigures:
    """One class's row of the table; a figure is None where its denominator is 0.

    Attributes:
        count: how many examples are of this class.
        precision: of those called this class, the share that is.
        recall: of those that are this class, the share called so.
        f1: the harmonic mean of the two.
    """

    count: int
    precision: float | None
    recall: float | None
    f1: float | None


def accuracy(confusion: Sequence[Sequence[int]]) -> float:
    """The share of examples on the diagonal.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C).

    Returns:
        A fraction, or NaN where there is no example.

    Example:
        >>> accuracy([[8, 2], [1, 9]])
        0.85
    """
    total = sum(map(sum, confusion))
    return sum(row[label] for label, row in enumerate(confusion)) / total if total else math.nan


def wilson_interval(hits: int, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The interval of all probabilities p that a score test of ``hits`` in ``count`` does not refuse.

    (p̂ + z²/2n ± z √(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n) with p̂ = hits/n: unlike p̂ ± z·σ it stays within
    [0, 1] and has a width at 0 and n hits.

    Args:
        hits: the number of successes.
        count: the number of trials, n.
        z: the normal quantile; the default gives 95 %.

    Returns:
        Lower and upper bound as fractions; (0, 1) without a trial.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Example:
        >>> low, high = wilson_interval(90, 100)
        >>> round(low, 4), round(high, 4)
        (0.8256, 0.9448)
    """
    if count == 0:
        return 0.0, 1.0
    share = hits / count
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    center, scale = share + z * z / (2 * count), 1 + z * z / count
    low = 0.0 if hits == 0 else (center - spread) / scale
    high = 1.0 if hits == count else (center + spread) / scale
    return low, high


def difference_interval(
    hits: int, count: int, other_hits: int, other_count: int, z: float = 1.959963984540054
) -> tuple[float, float]:
    """The interval of the difference of two independent shares, hits/count − other_hits/other_count.

    With the shares p, q and their Wilson intervals [l, u], [m, v]: from p − q − √((p−l)² + (v−q)²) to
    p − q + √((u−p)² + (q−m)²). It stays within [−1, 1] and has a width where both shares are 0 or 1.

    Args:
        hits: the number of successes, of ``count`` trials.
        count: at least 1.
        other_hits: likewise of the other set, which shares no trial with the first.
        other_count: at least 1.
        z: the normal quantile; the default gives 95 %.

    Returns:
        Lower and upper bound.

    Source:
        Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10.

    Example:
        >>> low, high = difference_interval(56, 70, 48, 80)
        >>> round(low, 4), round(high, 4)
        (0.0524, 0.3339)
    """
    p, q = hits / count, other_hits / other_count
    (low, high), (other_low, other_high) = wilson_interval(hits, count, z), wilson_interval(other_hits, other_count, z)
    return p - q - math.hypot(p - low, other_high - q), p - q + math.hypot(high - p, q - other_low)


def two_proportion_test(hits: int, count: int, other_hits: int, other_count: int) -> float:
    """How probable a difference of two shares this large is, either way, where there is none.

    z = (p − q) / √(r (1 − r) (1/n + 1/m)) with the common share r, against the normal distribution; z² is
    Pearson's χ² of the 2 × 2 table. It is for independent sets: two networks on the same images are paired.

    Args:
        hits: the number of successes, of ``count`` trials.
        count: n, at least 1.
        other_hits: likewise of the other set.
        other_count: m, at least 1.

    Returns:
        The two-sided p-value; 1 where every trial of both sets came out alike.

    Source:
        Pearson, "On the criterion that a given system of deviations…", 1900.

    Example:
        >>> round(two_proportion_test(56, 70, 48, 80), 4)
        0.008
    """
    common = (hits + other_hits) / (count + other_count)
    variance = common * (1.0 - common) * (1.0 / count + 1.0 / other_count)
    difference = hits / count - other_hits / other_count
    return math.erfc(abs(difference) / math.sqrt(2.0 * variance)) if variance else 1.0


def homogeneity_test(counts: Sequence[int], other_counts: Sequence[int]) -> float:
    """How probable two rows of counts differ this much in their shares where there is no difference.

    χ² = Σ (o − e)² / e over the 2 × k table of the counts o, with what is expected of common shares e, against the χ²
    distribution of k − 1 degrees of freedom. Of two classes it is `two_proportion_test`.

    Args:
        counts: of each class, one at least in all.
        other_counts: likewise of the other, independent set; classes without any in both are left out.

    Returns:
        The p-value; 1 where there is but one class.

    Source:
        Pearson, "On the criterion that a given system of deviations…", 1900.

    Example:
        >>> round(homogeneity_test([56, 14], [48, 32]), 4) == round(two_proportion_test(56, 70, 48, 80), 4)
        True
    """
    pairs = [pair for pair in zip(counts, other_counts, strict=True) if sum(pair)]
    totals = [sum(row) for row in zip(*pairs, strict=True)]
    cells = [
        (count, total * sum(pair) / sum(totals)) for pair in pairs for count, total in zip(pair, totals, strict=True)
    ]
    statistic = sum((count - expected) ** 2 / expected for count, expected in cells)
    from scipy.special import chdtrc  # takes long to import

    return float(chdtrc(len(pairs) - 1, statistic)) if len(pairs) > 1 else 1.0


def class_figures(confusion: Sequence[Sequence[int]]) -> list[ClassFigures]:
    """Count, precision, recall and F1 of each class.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C).

    Returns:
        One row a class, in the order of the classes.

    Example:
        >>> class_figures([[8, 2], [0, 0]])[0]
        ClassFigures(count=10, precision=1.0, recall=0.8, f1=0.8888888888888888)
    """
    rows = []
    for label, row in enumerate(confusion):
        hits, count, called = row[label], sum(row), sum(other[label] for other in confusion)
        rows.append(
            ClassFigures(
                count,
                precision=hits / called if called else None,
                recall=hits / count if count else None,
                f1=2 * hits / (called + count) if called + count else None,
            )
        )
    return rows
