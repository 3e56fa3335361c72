"""Confidence intervals: of probabilities, of their differences, of means, and by bootstrap of any other figure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fcnet.metrics.checks import check_quantile, check_successes, to_scores

NORMAL_QUANTILE_95 = 1.959963984540054


def wilson_interval(num_correct: int, count: int, z: float = NORMAL_QUANTILE_95) -> tuple[float, float]:
    """Computes Wilson's confidence interval of a probability: all p that a score test of the counts accepts.

    (p̂ + z²/2n ± z √(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n) with p̂ = num_correct/n. Unlike p̂ ± z·σ, it stays within [0, 1]
    and has a width at 0 and n successes.

    Args:
        num_correct: the number of successes.
        count: the number of trials, n.
        z: the normal quantile; the default gives 95%.

    Returns:
        Lower and upper bound as fractions; (0, 1) without trials.

    Raises:
        UserError: a ValueError; the successes are not from 0 to n.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Example:
        >>> low, high = wilson_interval(90, 100)
        >>> round(low, 4), round(high, 4)
        (0.8256, 0.9448)
    """
    num_correct, count = check_successes(num_correct, count, least=0)
    check_quantile(z)
    if count == 0:
        return 0.0, 1.0
    fraction = num_correct / count
    spread = z * math.sqrt(fraction * (1 - fraction) / count + z * z / (4 * count * count))
    center, scale = fraction + z * z / (2 * count), 1 + z * z / count
    # At 0 and n successes, center and spread agree up to rounding; the bound is exact.
    low = 0.0 if num_correct == 0 else (center - spread) / scale
    high = 1.0 if num_correct == count else (center + spread) / scale
    return low, high


def difference_interval(
    num_correct: int, count: int, other_num_correct: int, other_count: int, z: float = NORMAL_QUANTILE_95
) -> tuple[float, float]:
    """Computes Newcombe's confidence interval of the difference of two independent probabilities.

    With the fractions p, q and their Wilson intervals [l, u], [m, v], it is from p − q − √((p−l)² + (v−q)²) to
    p − q + √((u−p)² + (q−m)²). It stays within [−1, 1] and has a width even if both fractions are 0 or 1.

    Args:
        num_correct: the number of successes in ``count`` trials.
        count: at least 1.
        other_num_correct: the number of successes in the other, independent set.
        other_count: the number of its trials, at least 1.
        z: the normal quantile; the default gives 95%.

    Returns:
        Lower and upper bound of num_correct/count − other_num_correct/other_count.

    Raises:
        UserError: a ValueError; a set is empty, or its successes are more than its trials.

    Source:
        Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10.

    Example:
        >>> low, high = difference_interval(56, 70, 48, 80)
        >>> round(low, 4), round(high, 4)
        (0.0524, 0.3339)
    """
    num_correct, count = check_successes(num_correct, count)
    other_num_correct, other_count = check_successes(other_num_correct, other_count, "other_")
    p, q = num_correct / count, other_num_correct / other_count
    (low, high), (other_low, other_high) = (
        wilson_interval(num_correct, count, z),
        wilson_interval(other_num_correct, other_count, z),
    )
    return p - q - math.hypot(p - low, other_high - q), p - q + math.hypot(high - p, q - other_low)


def mean_interval(values: Any, z: float = NORMAL_QUANTILE_95) -> tuple[float, float]:  # noqa: ANN401 - array-like
    """Computes the confidence interval of a mean, such as the log loss, from its standard error s / √N.

    Args:
        values: one per example, (N,).
        z: the normal quantile; the default gives 95%.

    Returns:
        Lower and upper bound; infinite with fewer than two examples, or if a value is.

    Raises:
        UserError: a ValueError; a value is NaN, or they are not (N,).

    Example:
        >>> low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
        >>> round(low, 4), round(high, 4)
        (1.2348, 3.7652)
    """
    checked = to_scores(values, "values", ndim=1).astype(np.float64)
    check_quantile(z)
    if len(checked) < 2 or not np.isfinite(checked).all():
        return -math.inf, math.inf
    mean, error = float(checked.mean()), float(checked.std(ddof=1)) / math.sqrt(len(checked))
    return mean - z * error, mean + z * error


def influence_interval(
    value: float,
    influences: Any,  # noqa: ANN401 - array-like
    z: float = NORMAL_QUANTILE_95,
) -> tuple[float, float] | None:
    """Computes the confidence interval of a fraction from the influence of each example on it.

    The standard error is √(Σ_i d_i²), with the derivatives d_i by the weights of the examples. The interval is
    symmetric in log(v / (1 − v)), so it stays within (0, 1).

    Args:
        value: v, a fraction such as mAP or the ROC AUC.
        influences: the derivatives, (N,); see `fcnet.metrics.RankingInfluences`.
        z: the normal quantile; the default gives 95%.

    Returns:
        Lower and upper bound; None at 0 and 1, where no example has an influence, so nothing is known of the error.

    Example:
        >>> low, high = influence_interval(0.9, [0.01, -0.01, 0.02, -0.02])
        >>> round(low, 3), round(high, 3)
        (0.819, 0.947)
    """
    check_quantile(z)
    error = math.sqrt(float(np.square(np.asarray(influences, dtype=np.float64)).sum()))
    if not (0.0 < value < 1.0 and error > 0.0):
        return None
    odds, spread = math.log(value / (1.0 - value)), z * error / (value * (1.0 - value))
    low, high = (0.5 + 0.5 * math.tanh(each / 2.0) for each in (odds - spread, odds + spread))
    return low, high
