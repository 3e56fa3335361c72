"""Confidence intervals of probabilities and of their differences."""

from __future__ import annotations

import math

from fcnet.metrics.checks import check_successes

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
