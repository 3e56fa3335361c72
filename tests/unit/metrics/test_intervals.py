"""Tests of fcnet.metrics.intervals: published tables are the oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from fcnet.metrics import (
    difference_interval,
    influence_interval,
    mean_interval,
    rank_class_with_influences,
    wilson_interval,
)
from fcnet.runtime.errors import UserError


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


def test_the_interval_of_a_mean_is_scipys_normal_one() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    expected = stats.norm.interval(0.95, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected, rel=1e-12)
    assert mean_interval([1.0]) == mean_interval([1.0, math.inf]) == (-math.inf, math.inf)


def test_influences_have_the_spread_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(400) < 0.3
    scores = rng.normal(size=400) + positive
    found = rank_class_with_influences(positive, scores)
    resamples = rng.integers(400, size=(400, 400))
    for metric, influences in (
        (average_precision_score, found.average_precision),
        (roc_auc_score, found.roc_auc),
    ):
        spread = np.std([metric(positive[rows], scores[rows]) for rows in resamples])
        value = metric(positive, scores)
        interval = influence_interval(value, influences)
        assert interval is not None
        low, high = interval
        assert low < value < high
        # The standard deviation of 400 resamples has a relative error of 1 / √800 = 3.5%.
        assert (high - low) / (2 * 1.96) == pytest.approx(spread, rel=0.12)


def test_nothing_is_known_of_the_error_of_a_perfect_ranking() -> None:
    assert influence_interval(1.0, [0.0, 0.0]) is influence_interval(0.5, [0.0]) is None
    interval = influence_interval(0.99, [0.01] * 4)
    assert interval is not None
    assert 0.0 < interval[0] < 0.99 < interval[1] < 1.0
    assert influence_interval(1e-9, [1.0]) == (0.0, 1.0)


@pytest.mark.parametrize("z", [math.nan, -1.0, math.inf])
def test_a_quantile_is_a_positive_number(z: float) -> None:
    message = rf"^z must be a positive number, such as 1.96 for 95%, got {z:g}$"
    with pytest.raises(UserError, match=message):
        wilson_interval(1, 2, z)
    with pytest.raises(UserError, match=message):
        difference_interval(1, 2, 1, 2, z)
    with pytest.raises(UserError, match=message):
        mean_interval([1.0, 2.0], z)
    with pytest.raises(UserError, match=message):
        influence_interval(0.5, [0.1], z)
