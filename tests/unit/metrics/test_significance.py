"""Tests of fcnet.metrics.significance: scipy is the oracle."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, chi2_contingency

from fcnet.metrics import difference_interval, holm_adjust, homogeneity_test, mcnemar_test, two_proportion_test


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


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemars_mid_p_is_scipys_exact_p_minus_the_observed_probability(first: int, second: int) -> None:
    n, m = first + second, min(first, second)
    exact = binomtest(m, n).pvalue if n else 1.0
    expected = 1.0 if first == second else exact - binom.pmf(m, n, 0.5)
    assert mcnemar_test(first, second) == mcnemar_test(second, first) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("first", "second"),
    [(2450, 2550), (3000, 3300), (19, 900), (20, 979), (20, 980), (480, 520), (499_000, 501_000), (499_900, 500_100)],
)
def test_mcnemars_test_keeps_its_digits_for_many_images(first: int, second: int) -> None:
    n = first + second
    expected = 2 * binom.cdf(first - 1, n, 0.5) + binom.pmf(first, n, 0.5)
    assert mcnemar_test(first, second) == pytest.approx(expected, rel=1e-12)


def test_mcnemars_test_takes_linear_time_and_goes_to_0_and_1() -> None:
    assert mcnemar_test(500_000, 500_000) == 1.0
    assert mcnemar_test(0, 5000) == mcnemar_test(0, 10**12) == mcnemar_test(400_000, 600_000) == 0.0
    start = time.perf_counter()
    assert 0.9 < mcnemar_test(5_000_000, 5_000_100) < 1.0
    assert time.perf_counter() - start < 5.0  # minutes in integers of unlimited size


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
