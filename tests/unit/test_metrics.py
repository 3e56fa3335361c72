"""fcnet.metrics: scikit-learn, scipy and published tables are the oracles."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, chi2_contingency
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fcnet import metrics
from fcnet.metrics import (
    accuracy,
    calibration_error,
    class_metrics,
    confidence_bins,
    difference_interval,
    holm_adjust,
    homogeneity_test,
    mcnemar_test,
    two_proportion_test,
    wilson_interval,
)
from fcnet.runtime.errors import UserError

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(LABELS)
def test_class_metrics_and_accuracy_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = zip(*pairs, strict=True)
    confusion = confusion_matrix(truth, predicted, labels=range(4)).tolist()
    precision, recall, f1, count = precision_recall_fscore_support(
        truth, predicted, labels=range(4), zero_division=math.nan
    )
    rows = class_metrics(confusion)
    assert [row.count for row in rows] == count.tolist()
    for ours, theirs in (
        ([row.precision for row in rows], precision),
        ([row.recall for row in rows], recall),
        ([row.f1 for row in rows], f1),
    ):
        assert [math.nan if value is None else value for value in ours] == pytest.approx(theirs.tolist(), nan_ok=True)
    assert accuracy(confusion) == pytest.approx(sum(t == c for t, c in pairs) / len(pairs))


@pytest.mark.parametrize(
    ("num_correct", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilsons_interval_is_the_published_one(num_correct: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998 prints 0.2553 and 0.3662 for 81 of 263."""
    assert wilson_interval(num_correct, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_contains_the_fraction_and_stays_in_0_to_1(case: tuple[int, int]) -> None:
    num_correct, count = case
    low, high = wilson_interval(num_correct, count)
    assert 0.0 <= low <= num_correct / count <= high <= 1.0
    assert high - low > 0.0


def test_without_trials_the_interval_is_0_to_1_and_the_accuracy_nan() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert math.isnan(accuracy([[0, 0], [0, 0]]))


@pytest.mark.parametrize(
    ("sides", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_newcombes_interval_is_the_published_one(sides: tuple[int, int, int, int], low: float, high: float) -> None:
    """Newcombe 1998, table II, method 10."""
    assert difference_interval(*sides) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 30), st.integers(1, 30))
def test_the_two_proportion_test_is_pearsons(a: int, n: int, b: int, m: int) -> None:
    a, b = min(a, n), min(b, m)
    p = two_proportion_test(a, n, b, m)
    if 0 < a + b < n + m:
        assert p == pytest.approx(chi2_contingency([[a, n - a], [b, m - b]], correction=False).pvalue, rel=1e-9)
    else:
        assert p == 1.0
    assert two_proportion_test(b, m, a, n) == pytest.approx(p)
    low, high = difference_interval(a, n, b, m)
    assert -1.0 <= low <= a / n - b / m <= high <= 1.0
    assert difference_interval(b, m, a, n) == pytest.approx((-high, -low))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12))
def test_the_homogeneity_test_is_pearsons(pairs: list[tuple[int, int]]) -> None:
    counts, others = ([*row, 1] for row in zip(*pairs, strict=True))  # so that neither set is empty
    p = homogeneity_test(counts, others)
    table = [pair for pair in zip(counts, others, strict=True) if sum(pair)]
    assert p == pytest.approx(chi2_contingency(table, correction=False).pvalue, rel=1e-9, abs=1e-300)
    assert homogeneity_test(others, counts) == pytest.approx(p)


def test_the_homogeneity_test_of_1000_classes_is_pearsons() -> None:
    counts, others = [5 + place % 7 for place in range(1000)], [3 + place % 11 for place in range(1000)]
    expected = chi2_contingency([counts, others], correction=False).pvalue
    assert homogeneity_test(counts, others) == pytest.approx(expected, rel=1e-9)


PREDICTED = st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=80)


@given(PREDICTED, st.integers(1, 20))
def test_each_example_is_in_the_bin_of_its_confidence(predicted: list[tuple[float, bool]], num_bins: int) -> None:
    confidences, correct = zip(*predicted, strict=True)
    bins = confidence_bins(confidences, correct, num_bins)
    assert sum(each.count for each in bins) == len(predicted)
    assert sum(each.num_correct for each in bins) == sum(correct)
    assert sum(each.count * each.confidence for each in bins) == pytest.approx(sum(confidences))
    assert all(each.count for each in bins)
    places = [each.confidence * num_bins for each in bins]
    assert all(later - earlier > -1e-9 for earlier, later in itertools.pairwise(places))
    edges = np.arange(1, num_bins) / num_bins
    expected = np.bincount(np.digitize(np.array(confidences), edges, right=True), minlength=num_bins)
    ours = {math.ceil(place - 1e-9): each.count for place, each in zip(places, bins, strict=True)}
    if all(min(abs(c * num_bins - edge) for edge in range(num_bins + 1)) > 1e-6 for c in confidences):
        assert ours == {place + 1: count for place, count in enumerate(expected.tolist()) if count}


@given(PREDICTED)
def test_the_calibration_error_is_the_mean_gap_over_examples(predicted: list[tuple[float, bool]]) -> None:
    confidences, correct = zip(*predicted, strict=True)
    bins = confidence_bins(confidences, correct, 10)
    gaps = [abs(each.num_correct / each.count - each.confidence) for each in bins for _ in range(each.count)]
    assert calibration_error(bins) == pytest.approx(np.mean(gaps))


def test_the_calibration_error_is_0_if_accuracy_equals_confidence() -> None:
    assert calibration_error(confidence_bins([0.75] * 4 + [0.5] * 2, [True] * 3 + [False, True, False])) == 0.0
    assert calibration_error(confidence_bins([1.0] * 3, [False] * 3)) == 1.0
    assert math.isnan(calibration_error([]))


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemars_mid_p_is_scipys_exact_p_minus_the_observed_probability(first: int, second: int) -> None:
    n, m = first + second, min(first, second)
    exact = binomtest(m, n).pvalue if n else 1.0
    expected = 1.0 if first == second else exact - binom.pmf(m, n, 0.5)
    assert mcnemar_test(first, second) == mcnemar_test(second, first) == pytest.approx(expected, rel=1e-9)


def test_mcnemars_test_is_exact_for_many_images() -> None:
    assert mcnemar_test(5000, 5000) == 1.0
    assert mcnemar_test(2450, 2550) == pytest.approx(
        2 * binom.cdf(2449, 5000, 0.5) + binom.pmf(2450, 5000, 0.5), rel=1e-9
    )
    assert mcnemar_test(0, 5000) == 0.0


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """A hypothesis is rejected if Bonferroni rejects every set of hypotheses that contains it."""
    places = range(len(p_values))
    sets = [chosen for size in places for chosen in itertools.combinations(places, size + 1)]
    expected = [
        max(min(1.0, len(chosen) * min(p_values[each] for each in chosen)) for chosen in sets if place in chosen)
        for place in places
    ]
    assert holm_adjust(p_values) == pytest.approx(expected)


UNTYPED: Any = metrics  # arguments that its annotations do not allow


def test_arrays_and_tensors_of_counts_give_the_numbers_that_lists_give() -> None:
    table = [[8, 2], [1, 9]]
    for kind in (np.array, torch.tensor):
        for metric in (UNTYPED.accuracy, UNTYPED.class_metrics):
            assert repr(metric(kind(table))) == repr(metric(table))
        assert repr(UNTYPED.holm_adjust(kind([0.25, 0.5]))) == "[0.5, 0.5]"
        found = UNTYPED.confidence_bins(kind([0.25, 0.75]), kind([True, False]))
        assert repr(found) == repr(UNTYPED.confidence_bins([0.25, 0.75], [True, False]))
    # 2¹⁰⁰ and the binomial coefficients of 100 are beyond int64
    assert UNTYPED.mcnemar_test(np.int64(40), np.int64(60)) == UNTYPED.mcnemar_test(40, 60) < 0.1
    assert UNTYPED.accuracy(np.full((2, 2), 2**62)) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: UNTYPED.accuracy([0, 1, 1]),
            "confusion must be a square table of counts such as [[8, 2], [1, 9]], got a list",
        ),
        (
            lambda: UNTYPED.accuracy(np.ones((2, 3), int)),
            "confusion must be a square table of counts such as [[8, 2], [1, 9]], got a ndarray (2, 3)",
        ),
        (
            lambda: UNTYPED.class_metrics([[0.5, 0.5], [0.1, 0.9]]),
            "each entry of confusion must be a count, which is a whole number, got 0.5",
        ),
        (lambda: UNTYPED.accuracy([[-1, 2], [3, 4]]), "each entry of confusion must be at least 0, got -1"),
        (lambda: UNTYPED.wilson_interval(5, 4), "num_correct must be at most count=4, got 5"),
        (lambda: UNTYPED.wilson_interval(0.9, 100), "num_correct must be a count, which is a whole number, got 0.9"),
        (lambda: UNTYPED.difference_interval(1, 2, 1, 0), "other_count must be at least 1, got 0"),
        (lambda: UNTYPED.two_proportion_test(1, 0, 0, 1), "count must be at least 1, got 0"),
        (
            lambda: UNTYPED.homogeneity_test([1, 2], [1, 2, 3]),
            "counts and other_counts must have one entry a class, got 2 and 3",
        ),
        (
            lambda: UNTYPED.homogeneity_test([0, 0], [1, 2]),
            "counts and other_counts must each hold at least one example, got 0",
        ),
        (lambda: UNTYPED.mcnemar_test(-1, 3), "only_first and only_second must be at least 0, got -1"),
        (lambda: UNTYPED.holm_adjust([0.5, math.nan]), "p_values must be numbers from 0 to 1, got nan"),
        (lambda: UNTYPED.confidence_bins([55, 99], [True, False]), "confidences must be numbers from 0 to 1, got 55"),
        (
            lambda: UNTYPED.confidence_bins(torch.rand(2, 3), torch.tensor([True, False])),
            "confidences must be numbers from 0 to 1, got a row of 3",
        ),
        (
            lambda: UNTYPED.confidence_bins([0.5], [True, False]),
            "confidences and correct must have one length, got 1 and 2",
        ),
        (lambda: UNTYPED.confidence_bins([0.5], [True], 0), "num_bins must be at least 1, got 0"),
    ],
)
def test_what_are_no_counts_or_fractions_is_one_sentence(call: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == message
