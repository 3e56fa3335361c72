"""Metrics and tests on counts: accuracy and its interval, per-class metrics, calibration, and comparisons."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NORMAL_QUANTILE_95 = 1.959963984540054


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class. A metric is None where its denominator is 0.

    Attributes:
        count: the number of examples of this class.
        precision: the fraction of examples predicted as this class that belong to it.
        recall: the fraction of examples of this class that are predicted as it.
        f1: the harmonic mean of precision and recall.
    """

    count: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class ConfidenceBin:
    """The examples with a confidence, the largest predicted probability, in one bin of [0, 1].

    Attributes:
        count: the number of examples, at least one.
        confidence: their mean confidence.
        num_correct: the number of correct predictions among them.
    """

    count: int
    confidence: float
    num_correct: int

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions."""
        return self.num_correct / self.count


def accuracy(confusion: Sequence[Sequence[int]]) -> float:
    """Computes the fraction of examples on the diagonal.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C).

    Returns:
        A fraction; NaN without examples.

    Raises:
        UserError: a ValueError; it is no table of counts.

    Example:
        >>> accuracy([[8, 2], [1, 9]])
        0.85
    """
    confusion = _to_counts(confusion)
    total = sum(map(sum, confusion))
    return sum(row[label] for label, row in enumerate(confusion)) / total if total else math.nan


def class_metrics(confusion: Sequence[Sequence[int]]) -> list[ClassMetrics]:
    """Computes count, precision, recall and F1 of each class.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C).

    Returns:
        One record per class, in the order of the classes.

    Raises:
        UserError: a ValueError; it is no table of counts.

    Example:
        >>> class_metrics([[8, 2], [0, 0]])[0]
        ClassMetrics(count=10, precision=1.0, recall=0.8, f1=0.8888888888888888)
    """
    confusion, rows = _to_counts(confusion), []
    for label, row in enumerate(confusion):
        num_correct, count, predicted = row[label], sum(row), sum(other[label] for other in confusion)
        rows.append(
            ClassMetrics(
                count,
                precision=num_correct / predicted if predicted else None,
                recall=num_correct / count if count else None,
                f1=2 * num_correct / (predicted + count) if predicted + count else None,
            )
        )
    return rows


def wilson_interval(num_correct: int, count: int, z: float = _NORMAL_QUANTILE_95) -> tuple[float, float]:
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
    num_correct, count = _check_successes(num_correct, count, least=0)
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
    num_correct: int, count: int, other_num_correct: int, other_count: int, z: float = _NORMAL_QUANTILE_95
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
    num_correct, count = _check_successes(num_correct, count)
    other_num_correct, other_count = _check_successes(other_num_correct, other_count, "other_")
    p, q = num_correct / count, other_num_correct / other_count
    (low, high), (other_low, other_high) = (
        wilson_interval(num_correct, count, z),
        wilson_interval(other_num_correct, other_count, z),
    )
    return p - q - math.hypot(p - low, other_high - q), p - q + math.hypot(high - p, q - other_low)


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
    num_correct, count = _check_successes(num_correct, count)
    other_num_correct, other_count = _check_successes(other_num_correct, other_count, "other_")
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
    counts, other_counts = _to_integers(counts, "counts"), _to_integers(other_counts, "other_counts")
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
    # Integers of NumPy would overflow below.
    only_first, only_second = _to_integers((only_first, only_second), "only_first and only_second")
    n, m = only_first + only_second, min(only_first, only_second)
    below, term = 0, 1  # term = C(n, k), exact as an integer
    for k in range(m):
        below += term
        term = term * (n - k) // (k + 1)
    return (2 * below + term) / 2**n if only_first != only_second else 1.0


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
    p_values = _to_fractions(p_values, "p_values")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def confidence_bins(confidences: Sequence[float], correct: Sequence[bool], num_bins: int = 15) -> list[ConfidenceBin]:
    """Sorts examples by confidence into bins of equal width, (i/n, (i+1)/n].

    Args:
        confidences: the largest predicted probability of each example, in [0, 1].
        correct: True where the prediction is correct.
        num_bins: n.

    Returns:
        The bins that are not empty, in rising order.

    Raises:
        UserError: a ValueError; a confidence is not from 0 to 1, or there is not one for each prediction.

    Example:
        >>> confidence_bins([0.55, 0.95, 1.0], [True, False, True], num_bins=10)[-1]
        ConfidenceBin(count=2, confidence=0.975, num_correct=1)
    """
    confidences, correct = _to_fractions(confidences, "confidences"), _to_list(correct)
    if len(confidences) != len(correct):
        raise UserError(f"confidences and correct must have one length, got {len(confidences)} and {len(correct)}")
    if num_bins < 1:
        raise UserError(f"num_bins must be at least 1, got {num_bins}")
    members: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_correct in zip(confidences, correct, strict=True):
        place = min(max(math.ceil(confidence * num_bins) - 1, 0), num_bins - 1)
        members.setdefault(place, []).append((confidence, is_correct))
    return [
        ConfidenceBin(len(rows), math.fsum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows))
        for _, rows in sorted(members.items())
    ]


def calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """Computes the expected calibration error: the mean distance between confidence and accuracy.

    It is Σ_b n_b / n · ``|accuracy_b − confidence_b|`` over the bins b.

    Args:
        bins: from `confidence_bins`.

    Returns:
        A fraction, 0 if accuracy equals confidence in every bin; NaN without examples.

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


def _to_list(values: Any) -> list[Any]:  # noqa: ANN401 - a sequence, an array or a tensor
    """Returns Python's own numbers: those of NumPy overflow, and those of torch stay tensors."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _to_integers(values: Any, name: str) -> list[int]:  # noqa: ANN401 - see `_to_list`
    counts = []
    for value in _to_list(values):
        try:
            counts.append(operator.index(value))
        except TypeError:
            raise UserError(f"{name} must be a count, which is a whole number, got {value!r}") from None
        if counts[-1] < 0:
            raise UserError(f"{name} must be at least 0, got {value}")
    return counts


def _to_counts(confusion: Any) -> list[list[int]]:  # noqa: ANN401 - see `_to_list`
    try:
        rows = [_to_integers(row, "each entry of confusion") for row in _to_list(confusion)]
    except TypeError:
        rows = [[]]
    if any(len(row) != len(rows) for row in rows):
        found = f"a {type(confusion).__name__}" + (f" {tuple(confusion.shape)}" if hasattr(confusion, "shape") else "")
        raise UserError(f"confusion must be a square table of counts such as [[8, 2], [1, 9]], got {found}")
    return rows


def _to_fractions(values: Any, name: str) -> list[float]:  # noqa: ANN401 - see `_to_list`
    for value in (fractions := _to_list(values)):
        if isinstance(value, list) or not 0.0 <= value <= 1.0:
            found = f"a row of {len(value)}" if isinstance(value, list) else f"{value:g}"
            raise UserError(f"{name} must be numbers from 0 to 1, got {found}")
    return [float(value) for value in fractions]


def _check_successes(num_correct: int, count: int, prefix: str = "", *, least: int = 1) -> tuple[int, int]:
    """Checks that successes are among the trials, and returns both as Python's integers."""
    names = f"{prefix}num_correct", f"{prefix}count"
    (num_correct,), (count,) = _to_integers([num_correct], names[0]), _to_integers([count], names[1])
    if count < least:
        raise UserError(f"{names[1]} must be at least {least}, got {count}")
    if num_correct > count:
        raise UserError(f"{names[0]} must be at most {names[1]}={count}, got {num_correct}")
    return num_correct, count
