"""Tests of fcnet.metrics.intervals: published tables are the oracles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.metrics import difference_interval, wilson_interval


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


def test_without_trials_the_interval_is_0_to_1() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


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
