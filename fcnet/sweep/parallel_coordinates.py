"""Parallel coordinates: a line for each trial through its settings to its result."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from fcnet.config.values import format_value
from fcnet.report.axes import fit_scale, percent_tick_formatter
from fcnet.report.charts import Chart, draw_svg
from fcnet.runtime.formatting import format_number, shorten_middle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WIDTH, _HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 680, 34, 284
_MAX_NAME, _MAX_TICK = 24, 12
_NUM_SHADES = 4


@dataclass(frozen=True)
class Coordinate:
    """One vertical axis.

    Attributes:
        name: the name of the setting, or of the result.
        values: one value for each trial, None for a trial without one.
        scale: ``linear``, ``log`` or ``categories``.
        low_is_up: whether small values are at the top.
        as_percent: whether the values are fractions, to be shown as percentages.
    """

    name: str
    values: Sequence[Any]
    scale: Literal["linear", "log", "categories"] = "linear"
    low_is_up: bool = False
    as_percent: bool = False


def parallel_coordinates(
    title: str, coordinates: Sequence[Coordinate], names: Sequence[str], best: int | None
) -> Chart:
    """Draws a line for each trial through its values; a trial without a result ends, dashed, at the last value.

    Args:
        title: the caption.
        coordinates: the axes from left to right, at least two; the last one is the result.
        names: the names of the trials, the best first.
        best: the position of the trial to emphasise; None for none.

    Example:
        >>> axes = [Coordinate("lr", [0.01, 0.1], "log"), Coordinate("accuracy", [0.9, 0.8], as_percent=True)]
        >>> chart = parallel_coordinates("Trials", axes, ["trial 2", "trial 1"], best=0)
        >>> str(chart.svg).count('class="trial')
        2
    """
    step = (_RIGHT - _LEFT) / (len(coordinates) - 1)
    places = [round(_LEFT + number * step, 1) for number in range(len(coordinates))]
    axes = [_Axis(coordinate) for coordinate in coordinates]
    ranked = [number for number, value in enumerate(coordinates[-1].values) if _is_drawable(value)]
    lines = []
    for number in range(len(names)):
        heights = [axis.height(axis.values[number]) for axis in axes]
        points = [
            f"{x} {y}" for x, y in zip(places, itertools.takewhile(lambda y: y is not None, heights), strict=False)
        ]
        place = ranked.index(number) if number in ranked else None
        if len(points) > 1:
            style = "dropped" if place is None else f"ranked shade-{place * _NUM_SHADES // len(ranked)}"
            style = "best" if number == best else style
            lines.append(Markup('<path class="trial {}" d="M{}"/>').format(style, "L".join(points)))
    lines.reverse()  # the best is drawn last, above the others
    parts = [*lines, *(axis.draw(x) for axis, x in zip(axes, places, strict=True))]
    labels = [_describe(axis, names, best) for axis in axes]
    return Chart(title, draw_svg(
        parts, f"{title}. " + "; ".join(labels), places, labels, size=(_WIDTH, _HEIGHT), cursor=(_TOP, _BOTTOM)
    ))  # fmt: skip


class _Axis:
    """An axis with its scale and its ticks."""

    def __init__(self, coordinate: Coordinate) -> None:
        self.name, self.values = coordinate.name, coordinate.values
        known = [value for value in coordinate.values if _is_drawable(value)]
        self.ticks: list[Any]
        self.format: Callable[[Any], str]
        ends = (_TOP, _BOTTOM) if coordinate.low_is_up else (_BOTTOM, _TOP)
        if coordinate.scale == "categories":
            with contextlib.suppress(TypeError):  # of different types
                known = sorted(known)
            texts = list(dict.fromkeys(map(_text, known)))
            step = (_BOTTOM - _TOP) / max(len(texts) - 1, 1)
            self._heights = {
                text: round(_BOTTOM - place * step, 1) if len(texts) > 1 else (_TOP + _BOTTOM) / 2
                for place, text in enumerate(texts)
            }
            self.height: Callable[[Any], float | None] = lambda value: self._heights.get(_text(value))
            self.ticks, self.format = texts, _text
        else:
            scale = fit_scale([float(value) for value in known], *ends, log=coordinate.scale == "log")
            self.height = lambda value: scale(float(value)) if _is_drawable(value) else None
            self.ticks = [tick for tick in scale.ticks() if scale.low <= tick <= scale.high]
            self.format = percent_tick_formatter(self.ticks) if coordinate.as_percent else format_number

    def draw(self, x: float) -> Markup:
        """Draws the axis at a position, with its name above it and its ticks on its left."""
        name = Markup('<text x="{}" y="{}" text-anchor="middle" class="name">{}</text>').format(
            x, _TOP - 16, shorten_middle(self.name, _MAX_NAME)
        )
        ticks = [
            Markup('<text x="{}" y="{}" text-anchor="end" class="tick">{}</text>').format(
                x - 5, (self.height(tick) or 0.0) + 4, shorten_middle(self.format(tick), _MAX_TICK)
            )
            for tick in self.ticks
        ]
        marks = "".join(f"M{x - 3} {self.height(tick)}h6" for tick in self.ticks)
        line = Markup('<path class="axis" d="M{} {}V{}{}"/>').format(x, _TOP, _BOTTOM, marks)
        return Markup("").join([line, name, *ticks])


def _text(value: object) -> str:
    return value if isinstance(value, str) else format_value(value, digits=4)


def _is_drawable(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _describe(axis: _Axis, names: Sequence[str], best: int | None) -> str:
    """Returns the values of one axis in a line: those of all trials, and that of the best."""
    known = [value for value in axis.values if _is_drawable(value)]
    if not known:
        return f"{axis.name}: none yet"
    is_number = all(isinstance(value, int | float) for value in known)
    texts = [axis.format(value) for value in ([min(known), max(known)] if is_number else known)]
    text = " to ".join(texts) if is_number else ", ".join(dict.fromkeys(texts))
    if best is None or not _is_drawable(axis.values[best]):
        return f"{axis.name}: {text}"
    return f"{axis.name}: {text}; {names[best]}: {axis.format(axis.values[best])}"
