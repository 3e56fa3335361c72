"""The lecture's line plots: activations, losses, and risks during training.

Each function takes the data and returns a figure. Call it inside `fcnet.figures.style.use_theme`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from matplotlib import rcParams

from fcnet.figures.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor


class Dot(NamedTuple):
    """A point at a discontinuity, filled if it lies on the function's graph."""

    x: float
    y: float
    filled: bool


class Line(NamedTuple):
    """The graph of a function.

    Attributes:
        label: the legend entry.
        x: (N,), increasing.
        y: (N,), NaN where the graph has a gap.
        dots: the one-sided limits and the value at each discontinuity.
    """

    label: str
    x: Tensor
    y: Tensor
    dots: tuple[Dot, ...] = ()


def scaled_sigmoids(curves: Sequence[Line]) -> Figure:
    """Plots s(cu) for several c, with the limits 0 on the left and 1 on the right."""
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    axes.set(xlabel="$u$", ylabel="$s(cu)$", ylim=(-0.16, 1.16), yticks=[0.0, 0.5, 1.0])
    for limit in (0.0, 1.0):
        axes.axhline(limit, color=rcParams["grid.color"], linewidth=0.8)
    _draw(axes, curves)
    low, high = float(curves[0].x[0]), float(curves[0].x[-1])
    axes.text(low + 0.1, -0.03, r"$s(u)\to 0$ as $u\to-\infty$", va="top")
    axes.text(high - 0.1, 1.03, r"$s(u)\to 1$ as $u\to+\infty$", ha="right", va="bottom")
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.35))
    return figure


def saturation(derivative: Line, bound: Line) -> Figure:
    """Plots the sigmoid's derivative and its upper bound on a linear and on a logarithmic axis."""
    figure = new_figure(6.4, 3.6)
    linear, logarithmic = figure.subplots(1, 2)
    for axes in (linear, logarithmic):
        axes.set_xlabel("$x$")
        _draw(axes, (derivative, bound))
    linear.set_ylim(-0.03, 1.1)
    linear.annotate(derivative.label, (-0.4, 0.24), (-9.5, 0.36), va="center", arrowprops=_leader())
    linear.annotate(bound.label, (0.45, 0.64), (1.8, 0.72), va="center", arrowprops=_leader())
    logarithmic.set(yscale="log", ylim=(1e-5, 3.0), title="same curves, logarithmic axis")
    return figure


def activations(panels: Sequence[tuple[str, Line, Line]]) -> Figure:
    """Plots each activation with its derivative, given as (title, g, g′)."""
    figure = new_figure(6.4, 4.6)
    grid = figure.subplots(2, 3, sharex=True, sharey=True)
    for axes, (title, function, derivative) in zip(grid.flat, panels, strict=True):
        axes.set(title=title, ylim=(-1.3, 3.2), yticks=[-1, 0, 1, 2, 3], xticks=[-3, 0, 3])
        axes.axhline(0.0, color=rcParams["grid.color"], linewidth=0.6)
        _draw(axes, (function, derivative))
    for axes in grid[-1]:
        axes.set_xlabel("$x$")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def losses(curves: Sequence[Line]) -> Figure:
    """Plots losses against the margin y h, which is positive for a correct prediction."""
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    axes.set(xlabel="margin $y\\,h$", ylabel="loss", ylim=(-0.1, 4.2))
    axes.axvline(0.0, color=rcParams["grid.color"], linewidth=0.6)
    _draw(axes, curves)
    axes.text(-2.9, -0.06, "incorrect", va="bottom", fontstyle="italic")
    axes.text(2.9, 0.16, "correct", ha="right", va="bottom", fontstyle="italic")
    axes.legend(loc="upper right", bbox_to_anchor=(0.96, 1.02))
    return figure


def links(curves: Sequence[Line]) -> Figure:
    """Plots the step function and the smooth distribution functions that replace it."""
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    axes.set(xlabel="score $u$", ylabel="probability of the second class", ylim=(-0.06, 1.06), yticks=[0.0, 0.5, 1.0])
    _draw(axes, curves)
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.3))
    return figure


def generalisation(sizes: Sequence[int], training: Sequence[float], test: Sequence[float]) -> Figure:
    """Plots training and test risk against the number of training samples, with the generalisation gap hatched."""
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    axes.fill_between(sizes, training, test, facecolor="none", hatch="///", edgecolor=rcParams["hatch.color"], lw=0)
    axes.plot(sizes, test, marker="o", clip_on=False, zorder=3)
    axes.plot(sizes, training, marker="s", clip_on=False, zorder=3)
    axes.set(xscale="log", xlabel="training samples $n$", ylabel="risk $R$ (cross-entropy)", ylim=(0.0, None))
    axes.annotate("test risk", (sizes[2], test[2]), (8, 8), textcoords="offset points")
    axes.annotate(
        "training risk", (sizes[2], training[2]), (-14, 14), textcoords="offset points", bbox=_text_background()
    )
    axes.annotate("gap", (sizes[1], (training[1] + test[1]) / 2), ha="center", va="center", bbox=_text_background())
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    return figure


def descent(curves: Sequence[Line], lr: float) -> Figure:
    """Plots the training risk by epoch for several batch sizes at one learning rate."""
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    axes.set(xlabel="epoch", ylabel="training risk $R_n(w)$")
    _draw(axes, curves)
    axes.set_ylim(0.0, None)
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.53), title=f"learning rate {lr:g}")
    return figure


def _draw(axes: Axes, curves: Sequence[Line]) -> None:
    """Draws lines; a dot off the graph is open, which takes the background colour as its face."""
    for curve in curves:
        (line,) = axes.plot(curve.x.numpy(), curve.y.numpy(), label=curve.label)
        for x, y, filled in curve.dots:
            face = line.get_color() if filled else rcParams["axes.facecolor"]
            axes.plot(x, y, "o", markersize=5, color=line.get_color(), markerfacecolor=face, zorder=3)


def _text_background() -> dict[str, object]:
    return {"boxstyle": "square,pad=0.2", "facecolor": rcParams["axes.facecolor"], "edgecolor": "none"}


def _leader() -> dict[str, object]:
    return {"arrowstyle": "-", "color": rcParams["grid.color"], "linewidth": 0.8, "shrinkB": 2}
