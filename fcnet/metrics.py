"""Counts -> figures: accuracy, its interval, each class on its own, how far a probability is one, and who is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ClassMetrics:
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


@dataclass(frozen=True)
class ConfidenceBin:
    """The examples whose largest probability lies in one part of [0, 1].

    Attributes:
        count: how many there are, at least one.
        confidence: their mean largest probability.
        num_correct: how many of them are of the class that it is of.
    """

    count: int
    confidence: float
    num_correct: int

    @property
    def accuracy(self) -> float:
        """Hits as a fraction of all."""
        return self.num_correct / self.count


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


def wilson_interval(num_correct: int, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The interval of all probabilities p that a score test of ``num_correct`` in ``count`` does not refuse.

    (p̂ + z²/2n ± z √(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n) with p̂ = num_correct/n: unlike p̂ ± z·σ it stays within
    [0, 1] and has a width at 0 and n hits.

    Args:
        num_correct: the number of successes.
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
    share = num_correct / count
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    center, scale = share + z * z / (2 * count), 1 + z * z / count
    low = 0.0 if num_correct == 0 else (center - spread) / scale
    high = 1.0 if num_correct == count else (center + spread) / scale
    return low, high


def difference_interval(
    num_correct: int, count: int, other_num_correct: int, other_count: int, z: float = 1.959963984540054
) -> tuple[float, float]:
    """The interval of the difference of two independent shares, num_correct/count − other_num_correct/other_count.

    With the shares p, q and their Wilson intervals [l, u], [m, v]: from p − q − √((p−l)² + (v−q)²) to
    p − q + √((u−p)² + (q−m)²). It stays within [−1, 1] and has a width where both shares are 0 or 1.

    Args:
        num_correct: the number of successes, of ``count`` trials.
        count: at least 1.
        other_num_correct: likewise of the other set, which shares no trial with the first.
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
    p, q = num_correct / count, other_num_correct / other_count
    (low, high), (other_low, other_high) = (
        wilson_interval(num_correct, count, z),
        wilson_interval(other_num_correct, other_count, z),
    )
    return p - q - math.hypot(p - low, other_high - q), p - q + math.hypot(high - p, q - other_low)


def two_proportion_test(num_correct: int, count: int, other_num_correct: int, other_count: int) -> float:
    """How probable a difference of two shares this large is, either way, where there is none.

    z = (p − q) / √(r (1 − r) (1/n + 1/m)) with the common share r, against the normal distribution; z² is
    Pearson's χ² of the 2 × 2 table. It is for independent sets: two networks on the same images are paired.

    Args:
        num_correct: the number of successes, of ``count`` trials.
        count: n, at least 1.
        other_num_correct: likewise of the other set.
        other_count: m, at least 1.

    Returns:
        The two-sided p-value; 1 where every trial of both sets came out alike.

    Source:
        Pearson, "On the criterion that a given system of deviations…", 1900.

    Example:
        >>> round(two_proportion_test(56, 70, 48, 80), 4)
        0.008
    """
    common = (num_correct + other_num_correct) / (count + other_count)
    variance = common * (1.0 - common) * (1.0 / count + 1.0 / other_count)
    difference = num_correct / count - other_num_correct / other_count
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


def class_metrics(confusion: Sequence[Sequence[int]]) -> list[ClassMetrics]:
    """Count, precision, recall and F1 of each class.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C).

    Returns:
        One row a class, in the order of the classes.

    Example:
        >>> class_metrics([[8, 2], [0, 0]])[0]
        ClassMetrics(count=10, precision=1.0, recall=0.8, f1=0.8888888888888888)
    """
    rows = []
    for label, row in enumerate(confusion):
        num_correct, count, called = row[label], sum(row), sum(other[label] for other in confusion)
        rows.append(
            ClassMetrics(
                count,
                precision=num_correct / called if called else None,
                recall=num_correct / count if count else None,
                f1=2 * num_correct / (called + count) if called + count else None,
            )
        )
    return rows


def confidence_bins(confidences: Sequence[float], correct: Sequence[bool], num_bins: int = 15) -> list[ConfidenceBin]:
    """Sorts examples by their largest probability into parts of [0, 1] of one width, (i/n, (i+1)/n].

    Args:
        confidences: the largest probability of each example, in [0, 1].
        correct: whether its class is the example's.
        num_bins: n.

    Returns:
        The parts with an example in them, rising.

    Example:
        >>> confidence_bins([0.55, 0.95, 1.0], [True, False, True], num_bins=10)
        [ConfidenceBin(count=1, confidence=0.55, num_correct=1), ConfidenceBin(count=2, confidence=0.975, num_correct=1)]
    """
    members: dict[int, list[tuple[float, bool]]] = {}
    for confidence, hit in zip(confidences, correct, strict=True):
        place = min(max(math.ceil(confidence * num_bins) - 1, 0), num_bins - 1)
        members.setdefault(place, []).append((confidence, hit))
    return [
        ConfidenceBin(len(rows), math.fsum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows))
        for _, rows in sorted(members.items())
    ]


def calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """The expected calibration error: how far a probability is from a frequency.

    Σ_b n_b / n times the distance of accuracy_b from confidence_b, over the parts b.

    Args:
        bins: as `confidence_bins` gives them.

    Returns:
        A fraction, 0 where every part is right as often as it is sure; NaN without an example.

    Source:
        Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017.

    Example:
        >>> round(calibration_error([ConfidenceBin(10, 0.9, 6), ConfidenceBin(30, 0.7, 21)]), 3)
        0.075
    """
    total = sum(each.count for each in bins)
    if not total:
        return math.nan
    return math.fsum(each.count * abs(each.accuracy - each.confidence) for each in bins) / total


def mcnemar_test(only_first: int, only_second: int) -> float:
    """The mid-p value of McNemar's exact test: whether two networks are right equally often on the same examples.

    Of the n examples that one alone gets right, each is the first's with probability ½ if they are equally good. With
    X ~ Binomial(n, ½) and m the smaller count, p = 2 P(X < m) + P(X = m): the exact test, in which half of what
    was seen counts, and which so is not too careful.

    Args:
        only_first: how many examples the first alone gets right.
        only_second: how many the second alone gets right.

    Returns:
        The two-sided p value; 1 where there is no such example.

    Source:
        McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", 1947;
        Fagerland, Lydersen, Laake, "The McNemar test for binary matched-pairs data", 2013.

    Example:
        >>> mcnemar_test(1, 3)  # 2 · 1/16 + 4/16
        0.375
    """
    n, m = only_first + only_second, min(only_first, only_second)
    below, term = 0, 1  # C(n, k), exact
    for k in range(m):
        below += term
        term = term * (n - k) // (k + 1)
    return (2 * below + term) / 2**n if only_first != only_second else 1.0


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """p values of several tests, adjusted by Holm: below α for all, the chance of any false alarm is at most α.

    In rising order the i-th of m, from 0, is multiplied by m − i, and is at least the one before it, at most 1.

    Args:
        p_values: one a test.

    Returns:
        The adjusted values, in the order of the tests.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Example:
        >>> holm_adjust([0.25, 0.125, 0.5])
        [0.5, 0.375, 0.5]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
