"""The lecture's drawings of a neuron and of a layered network.

Call each function inside `fcnet.figures.style.use_theme`. Lengths are in the units of the axes.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from matplotlib import rcParams
from matplotlib.patches import Circle, FancyArrowPatch

from fcnet.figures.style import drawing_axes, new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RADIUS = 0.42
_UNIT_RADIUS = 0.2

Point = tuple[float, float]


def neuron() -> Figure:
    """Draws a neuron: inputs, weights, bias, sum, activation and output."""
    figure = new_figure(6.4, 3.4)
    axes = drawing_axes(figure, 11.2, 5.6)
    total, activation = (5.0, 2.5), (7.8, 2.5)
    inputs = {"x_1": 4.6, "x_2": 3.3, "x_D": 0.7}
    for number, (name, height) in enumerate(inputs.items()):
        start = (1.2, height)
        _node(axes, start, f"${name}$", _RADIUS)
        _arrow(axes, start, total, _RADIUS, _RADIUS)
        _label_edge(axes, start, total, f"${name.replace('x', 'w')}$", 0.4 - 0.02 * number)
    _center_text(axes, 1.2, 2.0, r"$\vdots$")
    _node(axes, total, r"$\Sigma$", _RADIUS)
    _node(axes, activation, "$g$", _RADIUS)
    _center_text(axes, 5.0, 4.75, "$b$")
    _arrow(axes, (5.0, 4.6), total, 0.1, _RADIUS)
    _arrow(axes, total, activation, _RADIUS, _RADIUS)
    _arrow(axes, activation, (9.6, 2.5), _RADIUS, 0.0)
    axes.text(6.4, 2.65, "$z$", ha="center", va="bottom")
    axes.text(9.7, 2.5, "$a = g(z)$", va="center")
    axes.text(5.6, 1.05, r"$z = \sum_i w_i x_i + b$", va="center")
    captions = {1.2: "inputs", 3.1: "weights", 5.0: "bias, sum", 7.8: "activation", 10.3: "output"}
    for x, caption in captions.items():
        _center_text(axes, x, 5.3, caption)
    return figure


def network(widths: Sequence[int]) -> Figure:
    """Draws a layered network with n[0], …, n[L] units."""
    figure = new_figure(6.4, 4.2)
    spacing, middle = 3.0, 3.9
    last = len(widths) - 1
    axes = drawing_axes(figure, spacing * last + 2.4, 7.2)
    columns = [
        [(1.2 + spacing * layer, middle + 0.95 * ((width - 1) / 2 - unit)) for unit in range(width)]
        for layer, width in enumerate(widths)
    ]
    for before, after in itertools.pairwise(columns):
        for start in before:
            for end in after:
                axes.plot(*zip(start, end, strict=True), "-", color=rcParams["grid.color"], linewidth=0.6, zorder=1)
    for layer, column in enumerate(columns):
        centre = column[0][0]
        for position in column:
            _node(axes, position, "", _UNIT_RADIUS)
        kind = "input" if layer == 0 else f"output: layer $L = {layer}$" if layer == last else f"hidden: layer {layer}"
        _center_text(axes, centre, 6.85, kind)
        _center_text(axes, centre, 0.95, f"$a^{{[{layer}]}}$" if layer else "$a^{[0]} = x$")
        _center_text(axes, centre, 0.35, f"$n^{{[{layer}]}} = {widths[layer]}$")
        if layer:
            _center_text(axes, centre - spacing / 2, 6.15, f"$W^{{[{layer}]}},\\, b^{{[{layer}]}}$")
    return figure


def _center_text(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:  # noqa: ANN401 - options of `Axes.text`
    axes.text(x, y, text, ha="center", va="center", **options)


def _node(axes: Axes, centre: Point, name: str, radius: float) -> None:
    axes.add_patch(
        Circle(centre, radius, facecolor=rcParams["axes.facecolor"], edgecolor=rcParams["text.color"], lw=1.2, zorder=2)
    )
    _center_text(axes, *centre, name, zorder=3)


def _arrow(axes: Axes, start: Point, end: Point, start_gap: float, end_gap: float) -> None:
    """Draws an arrow between two points, with a gap at either end."""
    tail, head = _point_towards(start, end, start_gap), _point_towards(end, start, end_gap)
    style = {"arrowstyle": "-|>", "mutation_scale": 10, "color": rcParams["text.color"]}
    axes.add_patch(FancyArrowPatch(tail, head, lw=1.0, shrinkA=0, shrinkB=0, **style))


def _label_edge(axes: Axes, start: Point, end: Point, name: str, fraction: float) -> None:
    """Writes a label on the line between two points, at a fraction of its length; its background covers the line."""
    x, y = (a + fraction * (b - a) for a, b in zip(start, end, strict=True))
    paper = {"boxstyle": "square,pad=0.15", "facecolor": rcParams["axes.facecolor"], "edgecolor": "none"}
    _center_text(axes, x, y, name, bbox=paper, zorder=3)


def _point_towards(start: Point, end: Point, distance: float) -> Point:
    """Returns the point at a distance from ``start`` towards ``end``."""
    x, y = end[0] - start[0], end[1] - start[1]
    fraction = distance / (x * x + y * y) ** 0.5
    return start[0] + fraction * x, start[1] + fraction * y
