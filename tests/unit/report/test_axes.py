"""Tests of fcnet.report.axes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.report.axes import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Scale,
    draw_axes,
    fit_scale,
    percent_tick_formatter,
    round_values,
)
from fcnet.runtime.formatting import format_number

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))


@given(NUMBERS, st.floats(0.001, 1e5), st.integers(2, 8))
def test_ticks_are_round_evenly_spaced_and_within_the_range(low: float, length: float, count: int) -> None:
    high = low + length
    ticks = round_values(low, high, count)
    assert len(ticks) <= count + 1
    assert all(low - 1e-6 * length <= tick <= high + 1e-6 * length for tick in ticks)
    if len(ticks) > 2:
        steps = np.diff(ticks)
        assert np.allclose(steps, steps[0], rtol=1e-3)
        power = 10.0 ** math.floor(math.log10(steps[0] * 1.0001))
        resolution = 4 * np.spacing(max(abs(low), abs(high)))  # a step is the difference of two rounded ticks
        assert min(abs(steps[0] - digit * power) for digit in (1, 2, 5)) <= 1e-9 * steps[0] + resolution


def test_a_scale_maps_its_ends_to_its_ends() -> None:
    scale = Scale(2.0, 4.0, 100.0, 0.0)
    assert (scale(2.0), scale(3.0), scale(4.0)) == (100.0, 50.0, 0.0)


def test_a_logarithmic_scale_maps_equal_factors_to_equal_lengths() -> None:
    scale = Scale(0.01, 100.0, 0.0, 40.0, log=True)
    assert [scale(10.0**power) for power in (-2, -1, 0, 1, 2)] == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert scale.ticks() == [0.01, 0.1, 1.0, 10.0, 100.0]


def test_a_logarithmic_scale_within_one_decade_has_ticks_at_its_ends() -> None:
    assert Scale(2.0, 7.0, 0.0, 1.0, log=True).ticks() == [2.0, 7.0]


def test_a_logarithmic_scale_over_many_decades_has_few_ticks() -> None:
    ticks = Scale(1e-12, 1e12, 0.0, 1.0, log=True).ticks()
    assert len(ticks) <= 6
    assert all(math.log10(tick) == pytest.approx(round(math.log10(tick))) for tick in ticks)


def test_integer_ticks_leave_out_fractions() -> None:
    assert Scale(1.0, 2.0, 0.0, 1.0, integer_ticks=True).ticks() == [1.0, 2.0]


@given(st.lists(NUMBERS, min_size=1, max_size=10))
def test_a_fitted_scale_contains_its_values(values: list[float]) -> None:
    scale = fit_scale(values, 0.0, 1.0)
    assert scale.low < min(values)
    assert max(values) < scale.high


def test_given_ends_of_a_fitted_scale_stay() -> None:
    scale = fit_scale([0.2, 0.4], 0.0, 1.0, low=0.0, high=0.5)
    assert (scale.low, scale.high) == (0.0, 0.5)
    assert fit_scale([0.0], 0.0, 1.0, low=0.0, high=0.0).high > 0.0


def test_a_fitted_scale_ignores_values_that_it_cannot_show() -> None:
    scale = fit_scale([math.nan, math.inf, 1.0, 3.0], 0.0, 1.0)
    assert (scale.low, scale.high) == pytest.approx((0.9, 3.1))
    scale = fit_scale([-1.0, 0.0, 1.0, 100.0], 0.0, 1.0, log=True)
    assert (scale.low, scale.high) == pytest.approx((1 / 1.5, 150.0))
    assert fit_scale([math.nan], 0.0, 1.0).low < 1.0 < fit_scale([], 0.0, 1.0).high


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([0.0, 0.5, 1.0], ["0%", "50%", "100%"]),
        ([0.995, 1.0], ["99.5%", "100.0%"]),
        ([0.0, 0.00025], ["0.000%", "0.025%"]),
    ],
)
def test_percentage_ticks_have_as_many_digits_as_the_finest_tick(ticks: list[float], texts: list[str]) -> None:
    assert list(map(percent_tick_formatter(ticks), ticks)) == texts


def test_axes_have_a_tick_label_at_each_tick_and_escape_their_label() -> None:
    x, y = Scale(0.0, 2.0, LEFT, RIGHT, integer_ticks=True), Scale(0.0, 1.0, BOTTOM, TOP)
    drawn = draw_axes(x, y, "<b>", format_number, percent_tick_formatter(y.ticks()))
    for position, text in ((x(0.0), "0"), (x(1.0), "1"), (x(2.0), "2")):
        assert f'<text x="{position}" y="{BOTTOM + 15}" text-anchor="middle">{text}</text>' in drawn
    assert f'y="{y(0.6) + 4}" text-anchor="end">60%</text>' in drawn
    assert ">&lt;b&gt;</text>" in drawn
