"""Tests of fcnet.figures.formulas."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch.testing import assert_close

from fcnet.figures import formulas
from fcnet.figures.curves import Dot

if TYPE_CHECKING:
    from fcnet.figures.curves import Line


def value_at(curve: Line, x: float) -> float:
    """The value at the sampled point nearest to x."""
    return float(curve.y[int((curve.x - x).abs().argmin())])


def test_scaled_sigmoids_go_from_0_to_1_and_are_steeper_for_larger_c() -> None:
    curves = formulas.scaled_sigmoids()
    for curve in curves:
        assert float(curve.y[0]) < 0.05
        assert float(curve.y[-1]) > 0.95
        assert value_at(curve, 0.0) == 0.5
    assert all(value_at(steep, 1.0) > value_at(flat, 1.0) for steep, flat in itertools.pairwise(curves))
    assert_close(curves[1].y, 1 / (1 + (-2.0 * curves[1].x).exp()))


def test_the_sigmoids_derivative_is_below_its_bound_which_jumps_at_0() -> None:
    derivative, bound = formulas.saturation()
    defined = ~bound.y.isnan()
    assert bool((derivative.y <= bound.y)[defined].all())
    s = 1 / (1 + (-derivative.x).exp())
    assert_close(derivative.y, s * (1 - s))
    assert bound.dots == (Dot(0.0, 0.5, filled=False), Dot(0.0, 1.0, filled=True))
    assert value_at(bound, 2.0) == pytest.approx(math.exp(-2.0))
    assert value_at(bound, -2.0) == pytest.approx(1 / (1 + math.exp(2.0)))


GRADIENTS_AT_0 = {
    "sigmoid": (0.25, 0.25, 0.25),
    "ReLU": (0.0, 1.0, 1.0),  # the lecture defines the subgradient at 0 as 1
    "leaky ReLU, $a = 0.1$": (0.1, 0.1, 1.0),
    "ELU": (1.0, 1.0, 1.0),
    "GELU": (0.5, 0.5, 0.5),
    "GELU, tanh form": (0.5, 0.5, 0.5),
}
"""The derivative's left limit, value and right limit at 0."""


def test_derivatives_match_finite_differences_and_have_a_gap_at_a_kink() -> None:
    panels = formulas.activations()
    assert [name for name, *_ in panels] == list(GRADIENTS_AT_0)
    for name, function, derivative in panels:
        left, value, right = GRADIENTS_AT_0[name]
        step = function.x.diff()
        inner = (step > 1e-3) & (step < 0.1)
        middle = (derivative.y[1:] + derivative.y[:-1]) / 2
        assert_close(middle[inner], (function.y.diff() / step)[inner], rtol=0.0, atol=2e-3)
        middle_index = len(derivative.x) // 2
        assert derivative.x[middle_index] == 0.0
        assert_close(
            derivative.y[[middle_index - 1, middle_index + 1]], torch.tensor([left, right], dtype=torch.float64)
        )
        assert not function.dots
        if left == right:
            assert not derivative.dots
            assert value_at(derivative, 0.0) == value
        else:
            assert bool(derivative.y[middle_index].isnan()), "the line must not cross the jump"
            assert {(dot.y, dot.filled) for dot in derivative.dots} == {(left, left == value), (right, right == value)}


def test_losses_are_functions_of_the_margin_and_the_0_1_loss_is_1_for_a_wrong_sign() -> None:
    log, hinge, quadratic, step = formulas.losses()
    assert_close(log.y, (-log.x).exp().log1p())
    assert_close(hinge.y, (1 - hinge.x).clamp(min=0))
    assert_close(quadratic.y, (1 - quadratic.x) ** 2)
    assert (value_at(step, -1.0), value_at(step, 1.0)) == (1.0, 0.0)
    assert set(step.dots) == {Dot(0.0, 1.0, filled=True), Dot(0.0, 0.0, filled=False)}


def test_every_link_increases_from_0_to_1_through_one_half() -> None:
    step, *links = formulas.links()
    assert {(dot.y, dot.filled) for dot in step.dots} == {(0.0, False), (0.5, True), (1.0, False)}
    for link in links:
        assert value_at(link, 0.0) == 0.5
        assert_close(link.y + link.y.flip(0), torch.ones_like(link.y))
        assert bool((link.y.diff() >= 0).all())
