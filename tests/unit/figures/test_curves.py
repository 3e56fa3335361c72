"""Tests of fcnet.figures.curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.colors import to_hex

from fcnet.figures import curves
from fcnet.figures.curves import Dot, Line
from fcnet.figures.style import DARK, LIGHT, use_theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X = torch.linspace(-3.0, 3.0, 7)


def make_line(label: str, scale: float = 1.0, dots: tuple[Dot, ...] = ()) -> Line:
    return Line(label, X, scale * X, dots)


def labelled_lines(axes: Axes) -> dict[str, list[float]]:
    """The y values of the lines that have a label."""
    return {
        str(line.get_label()): np.asarray(line.get_ydata()).tolist()
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


def test_each_curve_is_a_line_with_its_label_in_the_legend() -> None:
    for draw in (curves.scaled_sigmoids, curves.losses, curves.links):
        with use_theme(LIGHT):
            (axes,) = draw([make_line("a"), make_line("b", 2.0)]).axes
        assert labelled_lines(axes) == {"a": X.tolist(), "b": (2.0 * X).tolist()}
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_a_dot_on_the_graph_is_filled_and_a_dot_off_it_is_open() -> None:
    dots = (Dot(0.0, 0.5, filled=False), Dot(0.0, 1.0, filled=True))
    with use_theme(DARK):
        (axes,) = curves.links([make_line("a", dots=dots)]).axes
    markers = [line for line in axes.lines if line.get_marker() == "o"]
    assert [np.asarray(line.get_ydata()).tolist() for line in markers] == [[0.5], [1.0]]
    open_dot, filled_dot = (to_hex(line.get_markerfacecolor()) for line in markers)
    assert open_dot == DARK.background
    assert filled_dot == to_hex(markers[1].get_color()) == DARK.colors[0]


def test_saturation_shows_the_same_curves_on_a_linear_and_a_logarithmic_axis() -> None:
    with use_theme(LIGHT):
        linear, logarithmic = curves.saturation(make_line("d"), make_line("b", 2.0)).axes
    assert (linear.get_yscale(), logarithmic.get_yscale()) == ("linear", "log")
    assert labelled_lines(linear) == labelled_lines(logarithmic) == {"d": X.tolist(), "b": (2.0 * X).tolist()}


def test_activations_have_a_panel_each() -> None:
    panels = [(f"g{number}", make_line("$g(x)$", number), make_line("$g'(x)$", -number)) for number in range(6)]
    with use_theme(LIGHT):
        figure = curves.activations(panels)
    assert [axes.get_title() for axes in figure.axes] == [f"g{number}" for number in range(6)]
    assert labelled_lines(figure.axes[3])["$g'(x)$"] == (-3.0 * X).tolist()


def test_the_generalisation_gap_is_the_area_between_the_risks() -> None:
    sizes, training, test = [10, 20, 40], [0.1, 0.2, 0.3], [1.0, 0.8, 0.5]
    with use_theme(LIGHT):
        (axes,) = curves.generalisation(sizes, training, test).axes
    lines = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
    assert lines == [[list(pair) for pair in zip(sizes, risks, strict=True)] for risks in (test, training)]
    (gap,) = axes.collections
    corners = {tuple(corner) for corner in gap.get_paths()[0].vertices.tolist()}  # type: ignore[union-attr]
    assert {(10.0, 0.1), (10.0, 1.0), (40.0, 0.3), (40.0, 0.5)} <= corners


def test_descent_names_the_learning_rate() -> None:
    with use_theme(LIGHT):
        (axes,) = curves.descent([make_line("full batch")], lr=0.05).axes
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "learning rate 0.05"
    assert axes.get_ylim()[0] == 0.0
