"""Rules of fcnet.metrics."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fcnet.metrics import (
    accuracy,
    class_figures,
    difference_interval,
    homogeneity_test,
    two_proportion_test,
    wilson_interval,
)

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(LABELS)
def test_figures_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, called = zip(*pairs, strict=True)
    confusion = confusion_matrix(truth, called, labels=range(4)).tolist()
    precision, recall, f1, count = precision_recall_fscore_support(
        truth, called, labels=range(4), zero_division=math.nan
    )
    rows = class_figures(confusion)
    assert [row.count for row in rows] == count.tolist()
    for ours, theirs in (
        ([row.precision for row in rows], precision),
        ([row.recall for row in rows], recall),
        ([row.f1 for row in rows], f1),
    ):
        assert [math.nan if value is None else value for value in ours] == pytest.approx(theirs.tolist(), nan_ok=True)
    assert accuracy(confusion) == pytest.approx(sum(t == c for t, c in pairs) / len(pairs))


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_the_interval_is_the_published_one(hits: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998 prints 0.2553 and 0.3662 for 81 of 263."""
    assert wilson_interval(hits, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_stays_in_0_to_1(case: tuple[int, int]) -> None:
    hits, count = case
    low, high = wilson_interval(hits, count)
    assert 0.0 <= low <= hits / count <= high <= 1.0
    assert high - low > 0.0


def test_nothing_seen_means_nothing_known() -> None:
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
def test_the_interval_of_a_difference_is_the_published_one(
    sides: tuple[int, int, int, int], low: float, high: float
) -> None:
    """Newcombe 1998, table II, method 10."""
    assert difference_interval(*sides) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 30), st.integers(1, 30))
def test_the_test_of_two_shares_is_pearsons_of_their_table(a: int, n: int, b: int, m: int) -> None:
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
def test_the_test_of_many_shares_is_pearsons_of_their_table(pairs: list[tuple[int, int]]) -> None:
    counts, others = ([*row, 1] for row in zip(*pairs, strict=True))  # so that there is one in each
    p = homogeneity_test(counts, others)
    table = [pair for pair in zip(counts, others, strict=True) if sum(pair)]
    assert p == pytest.approx(chi2_contingency(table, correction=False).pvalue, rel=1e-9, abs=1e-300)
    assert homogeneity_test(others, counts) == pytest.approx(p)


def test_of_a_thousand_classes_the_test_is_still_pearsons() -> None:
    counts, others = [5 + place % 7 for place in range(1000)], [3 + place % 11 for place in range(1000)]
    expected = chi2_contingency([counts, others], correction=False).pvalue
    assert homogeneity_test(counts, others) == pytest.approx(expected, rel=1e-9)
