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
