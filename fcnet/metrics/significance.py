"""Tests whether two sets have the same probabilities, and whether two models are equally accurate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fcnet.metrics.checks import check_successes, to_fractions, to_integers
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIN_STIRLING = 20  # from here on, the first terms of Stirling's series give all digits
_MIN_SADDLE_POINT = 1000


def two_proportion_test(num_correct: int, count: int, other_num_correct: int, other_count: int) -> float:
    """Computes the p-value of the z-test that two independent sets have the same probability of success.

    z = (p − q) / √(r (1 − r) (1/n + 1/m)) with the pooled fraction r; z² is Pearson's χ² of the 2 × 2 table. Two models
    on the same images are not independent; use `mcnemar_test` for them.

    Args:
        num_correct: the number of successes in ``count`` trials.
        count: n, at least 1.
        other_num_correct: the number of successes in the other set.
        other_count: m, the number of its trials, at least 1.

    Returns:
        The two-sided p-value; 1 if all trials of both sets have the same outcome.

    Raises:
        UserError: a ValueError; a set is empty, or its successes are more than its trials.

    Source:
        Pearson, "On the criterion that a given system of deviations…", 1900.

    Example:
        >>> round(two_proportion_test(56, 70, 48, 80), 4)
        0.008
    """
    num_correct, count = check_successes(num_correct, count)
    other_num_correct, other_count = check_successes(other_num_correct, other_count, "other_")
    pooled = (num_correct + other_num_correct) / (count + other_count)
    variance = pooled * (1.0 - pooled) * (1.0 / count + 1.0 / other_count)
    difference = num_correct / count - other_num_correct / other_count
    return math.erfc(abs(difference) / math.sqrt(2.0 * variance)) if variance else 1.0


def homogeneity_test(counts: Sequence[int], other_counts: Sequence[int]) -> float:
    """Computes the p-value of Pearson's test that two independent sets have the same class frequencies.

    χ² = Σ (o − e)² / e over the 2 × k table of observed counts o, with the counts e expected from pooled frequencies.
    It has k − 1 degrees of freedom. For two classes it is `two_proportion_test`.

    Args:
        counts: the number of examples of each class, at least one in all.
        other_counts: the same for the other set; classes without examples in both sets are left out.

    Returns:
        The p-value; 1 if there is only one class.

    Raises:
        UserError: a ValueError; the sets have other classes, or one is empty.

    Source:
        Pearson, "On the criterion that a given system of deviations…", 1900.

    Example:
        >>> round(homogeneity_test([56, 14], [48, 32]), 4) == round(two_proportion_test(56, 70, 48, 80), 4)
        True
    """
    counts, other_counts = to_integers(counts, "counts"), to_integers(other_counts, "other_counts")
    if len(counts) != len(other_counts):
        raise UserError(
            f"counts and other_counts must have one entry a class, got {len(counts)} and {len(other_counts)}"
        )
    if not (sum(counts) and sum(other_counts)):
        raise UserError("counts and other_counts must each hold at least one example, got 0")
    pairs = [pair for pair in zip(counts, other_counts, strict=True) if sum(pair)]
    totals = [sum(row) for row in zip(*pairs, strict=True)]
    cells = [
        (count, total * sum(pair) / sum(totals)) for pair in pairs for count, total in zip(pair, totals, strict=True)
    ]
    statistic = sum((count - expected) ** 2 / expected for count, expected in cells)
    from scipy.special import chdtrc  # slow to import

    return float(chdtrc(len(pairs) - 1, statistic)) if len(pairs) > 1 else 1.0


def mcnemar_test(only_first: int, only_second: int) -> float:
    """Computes the mid-p-value of McNemar's exact test that two models are equally accurate on the same examples.

    Of n examples that exactly one model gets right, the first model's number is Binomial(n, ½) if both are equally
    accurate. With m the smaller number, p = 2 P(X < m) + P(X = m). The exact test counts P(X = m) twice, which makes it
    conservative.

    Args:
        only_first: the number of examples that only the first model gets right.
        only_second: the number of examples that only the second model gets right.

    Returns:
        The two-sided p-value; 1 if there are no such examples.

    Raises:
        UserError: a ValueError; a number is not a count.

    Source:
        McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", 1947;
        Fagerland, Lydersen, Laake, "The McNemar test for binary matched-pairs data", 2013.

    Example:
        >>> mcnemar_test(1, 3)  # 2 · 1/16 + 4/16
        0.375
    """
    only_first, only_second = to_integers((only_first, only_second), "only_first and only_second")
    if only_first == only_second:
        return 1.0
    n, m = only_first + only_second, min(only_first, only_second)
    # P(X = k − 1) / P(X = k) = k / (n − k + 1), so P(X < m) / P(X = m) is a sum of products of factors below 1.
    k = np.arange(m, 0, -1, dtype=np.float64)
    return _binomial_half(n, m) * (1.0 + 2.0 * float(np.cumprod(k / (n - k + 1.0)).sum()))


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """Adjusts the p-values of several tests by Holm's method.

    The i-th smallest of m, from 0, is multiplied by m − i, limited to 1, and raised to at least its predecessor.
    Rejecting below α then keeps the probability of any false rejection at most α.

    Args:
        p_values: one per test.

    Returns:
        The adjusted values, in the order of the tests.

    Raises:
        UserError: a ValueError; a value is not from 0 to 1.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Example:
        >>> holm_adjust([0.25, 0.125, 0.5])
        [0.5, 0.375, 0.5]
    """
    p_values = to_fractions(p_values, "p_values")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _binomial_half(n: int, m: int) -> float:
    """Computes C(n, m) / 2ⁿ for m ≤ n / 2 with all digits, also where its logarithm is a difference of large numbers.

    Source:
        Loader, "Fast and accurate computation of binomial probabilities", 2000.
    """
    if m < _MIN_STIRLING or n < _MIN_SADDLE_POINT:
        return math.ldexp(math.comb(n, m), -n)
    d = (n - 2 * m) / n
    deviance = n / 2 * (math.log1p(-d * d) + 2.0 * d * math.atanh(d))
    correction = _stirling_error(n) - _stirling_error(m) - _stirling_error(n - m)
    return math.sqrt(n / (2.0 * math.pi * m * (n - m))) * math.exp(correction - deviance)


def _stirling_error(k: int) -> float:
    """Computes log k! − log(√(2πk) (k/e)ᵏ) for k ≥ 20 by its asymptotic series."""
    x = 1.0 / (k * k)
    return (1 / 12 - x * (1 / 360 - x * (1 / 1260 - x * (1 / 1680 - x / 1188)))) / k
