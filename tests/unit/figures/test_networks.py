"""Tests of fcnet.figures.networks."""

from __future__ import annotations

import math

import pytest
from matplotlib.patches import Circle, FancyArrowPatch

from fcnet.figures import networks
from fcnet.figures.style import LIGHT, use_theme


def test_a_network_has_a_circle_for_each_unit_and_a_line_for_each_weight() -> None:
    with use_theme(LIGHT):
        (axes,) = networks.network((4, 5, 3)).axes
    assert sum(isinstance(patch, Circle) for patch in axes.patches) == 4 + 5 + 3
    assert len(axes.lines) == 4 * 5 + 5 * 3
    texts = [text.get_text() for text in axes.texts]
    for text in ("input", "hidden: layer 1", "output: layer $L = 2$", "$n^{[1]} = 5$", "$W^{[2]},\\, b^{[2]}$"):
        assert text in texts


def test_a_neuron_has_its_inputs_weights_sum_activation_and_output() -> None:
    with use_theme(LIGHT):
        (axes,) = networks.neuron().axes
    assert sum(isinstance(patch, Circle) for patch in axes.patches) == 3 + 2  # inputs, sum and activation
    assert sum(isinstance(patch, FancyArrowPatch) for patch in axes.patches) == 3 + 1 + 2  # inputs, bias, z and a
    texts = {text.get_text() for text in axes.texts}
    assert {"$x_1$", "$w_1$", "$x_D$", "$w_D$", "$b$", "$z$", "$a = g(z)$", r"$z = \sum_i w_i x_i + b$"} <= texts


def test_a_point_towards_another_lies_at_its_distance() -> None:
    x, y = networks._point_towards((1.0, 2.0), (4.0, 6.0), 2.5)
    assert math.dist((1.0, 2.0), (x, y)) == pytest.approx(2.5)
    assert (x, y) == pytest.approx((2.5, 4.0))
