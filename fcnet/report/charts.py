"""Charts as inline SVG that follows the page's colours, each with what it says in words and as a table."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, TypeGuard

from markupsafe import Markup

from fcnet.report.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    draw_axes,
    fit_scale,
    format_number,
    format_percent,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_MAX_MARKED_POINTS = 25
"""So many points of a line are marked each."""


@dataclass(frozen=True)
class Series:
    """One line of a chart; where y is None or no number, it has a gap.

    Attributes:
        name: as in the legend.
        x: where, rising.
        y: how much.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """A chart with all that belongs to it.

    Attributes:
        title: what it shows.
        svg: the drawing.
        names: of its lines.
        header: of the table.
        rows: of the table, with as many cells as the header.
        always_show_legend: whether the legend is there for one line alone.
    """

    title: str
    svg: Markup
    names: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    always_show_legend: bool = False


def line_chart(
    title: str,
    series: Iterable[Series],
    *,
    x_label: str,
    as_percent: bool = False,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Chart:
    """Lines over one axis, told apart by colour and by dashes.

    Args:
        title: what it shows.
        series: the lines; those without a number are left out.
        x_label: what x is.
        as_percent: whether y are shares, shown in per cent.
        log: whether y is on a logarithmic axis.
        low: where the y axis begins; None: by the values.
        high: where it ends; None: by the values.

    Example:
        >>> chart = line_chart("Loss", [Series("training", [1, 2], [0.5, 0.25])], x_label="epoch")
        >>> chart.rows
        [('1', '0.5'), ('2', '0.25')]
    """
    lines = [line for line in series if any(map(_is_finite, line.y))]
    format_y = format_percent if as_percent else format_number
    places = sorted({x for line in lines for x in line.x})
    values = [y for line in lines for y in line.y if _is_finite(y)]
    x_scale = Scale(*_x_range(places), LEFT, RIGHT, integer_ticks=all(float(x).is_integer() for x in places))
    y_scale = fit_scale(values, BOTTOM, TOP, low=low, high=high, log=log)
    parts = [draw_axes(x_scale, y_scale, x_label, format_number, format_y)]
    parts += [_draw_line(line, x_scale, y_scale, place) for place, line in enumerate(lines)]
    found = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    rows = [(format_number(x), *(_format(each.get(x), format_y) for each in found)) for x in places]
    labels = [
        f"{x_label} {row[0]}: " + ", ".join(f"{line.name} {y}" for line, y in zip(lines, row[1:], strict=True))
        for row in rows
    ]
    last = f"; at the end, {labels[-1]}" if labels else ""
    svg = _svg(parts, f"{title} over {x_label}{last}", [x_scale(x) for x in places], labels)
    return Chart(title, svg, [line.name for line in lines], [x_label, *(line.name for line in lines)], rows)


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[int], *, x_label: str, before: Sequence[int] | None = None,
    before_edges: Sequence[float] | None = None,
) -> Chart:  # fmt: skip
    """Counts between edges as bars, each its share of all; and those of another time as an outline.

    Args:
        title: what it shows.
        edges: one more than counts, rising.
        counts: how many fell between two edges.
        x_label: what is counted.
        before: the other time's counts; None: none.
        before_edges: their edges; None: the same.

    Example:
        >>> histogram("a", [0.0, 1.0, 2.0], [3, 1], x_label="a").rows
        [('0 to 1', '75%'), ('1 to 2', '25%')]
    """
    shares = _fractions(counts)
    other = _fractions(before) if before is not None else []
    other_edges = before_edges or edges
    low, high = min(edges[0], other_edges[0]), max(edges[-1], other_edges[-1])
    x_scale = Scale(low, high if high > low else low + 1.0, LEFT, RIGHT)
    y_scale = fit_scale([0.0, *shares, *other], BOTTOM, TOP, low=0.0)
    parts = [draw_axes(x_scale, y_scale, x_label, format_number, format_percent)]
    for left, right, share in zip(edges, edges[1:], shares, strict=False):
        parts.append(_draw_bar(x_scale(left), x_scale(right), y_scale(share), "bar"))
    if other:
        steps = "".join(
            f"V{y_scale(share)}H{x_scale(right)}" for right, share in zip(other_edges[1:], other, strict=True)
        )
        parts.append(Markup('<path class="outline" d="M{} {}{}V{}"/>').format(
            x_scale(other_edges[0]), BOTTOM, steps, BOTTOM))  # fmt: skip
    rows = [
        (f"{format_number(a)} to {format_number(b)}", format_percent(share))
        for a, b, share in zip(edges, edges[1:], shares, strict=False)
    ]
    at = [round((x_scale(a) + x_scale(b)) / 2, 1) for a, b in itertools.pairwise(edges)]
    svg = _svg(parts, f"{title}: shares by {x_label}", at, [": ".join(row) for row in rows])
    return Chart(title, svg, header=[x_label, "share"], rows=rows)


def reliability_diagram(title: str, bins: Sequence[tuple[float, float, int, float, float]]) -> Chart:
    """How often the network is right against how sure it is, beside the diagonal on which both are equal.

    Args:
        title: what it shows.
        bins: for each the mean probability, the accuracy, the count, and the accuracy's interval.

    Example:
        >>> reliability_diagram("Reliability", [(0.75, 0.5, 4, 0.15, 0.85)]).rows
        [('75%', '50%', '15% to 85%', '4')]
    """
    x_scale, y_scale = Scale(0.0, 1.0, LEFT, RIGHT), Scale(0.0, 1.0, BOTTOM, TOP)
    parts = [draw_axes(x_scale, y_scale, "probability that the network gave", format_percent, format_percent)]
    parts.append(Markup('<path class="line s1" d="M{} {}L{} {}"/>').format(LEFT, BOTTOM, RIGHT, TOP))
    for sure, right, _, low, high in bins:
        x = x_scale(sure)
        parts.append(Markup('<path class="line s0" style="stroke-dasharray:none" d="M{0} {1}V{2}"/>').format(
            x, y_scale(low), y_scale(high)))  # fmt: skip
        parts.append(Markup('<circle class="dot s0" cx="{}" cy="{}" r="4"/>').format(x, y_scale(right)))
    rows = [
        (format_percent(sure), format_percent(right), f"{format_percent(low)} to {format_percent(high)}", f"{count:,}")
        for sure, right, count, low, high in bins
    ]
    labels = [f"{row[3]} images at {row[0]} on average, {row[1]} of them right ({row[2]})" for row in rows]
    svg = _svg(parts, f"{title}. " + "; ".join(labels), [x_scale(each[0]) for each in bins], labels)
    return Chart(
        title, svg, ["accuracy, with its 95 % interval", "as sure as right"],
        ["mean probability", "accuracy", "95 % interval", "images"], rows, always_show_legend=True,
    )  # fmt: skip


def error_bar_chart(
    title: str, groups: Sequence[tuple[str, Sequence[float]]], *, x_label: str, group_name: str
) -> Chart:
    """Shares of several groups: their mean, their standard deviation either way, and beside it each value.

    Args:
        title: what it shows.
        groups: each group's name and its values, at least one, in the order in which they stand.
        x_label: what the order is.
        group_name: what a group is.

    Example:
        >>> error_bar_chart("Accuracy", [("a", [0.5, 0.7]), ("b", [0.4])], x_label="rank", group_name="point").rows
        [('a', '60%', '14.1%', '2'), ('b', '40%', '–', '1')]
    """
    x_scale = Scale(0.5, len(groups) + 0.5, LEFT, RIGHT)
    figures = [(name, fmean(values), stdev(values) if len(values) > 1 else None, values) for name, values in groups]
    reach = [mean + way * (std or 0.0) for _, mean, std, _ in figures for way in (-1, 1)]
    y_scale = fit_scale([*reach, *(value for _, values in groups for value in values)], BOTTOM, TOP)
    parts = [
        draw_axes(
            x_scale, y_scale, x_label, lambda place: format_number(place) if place == int(place) else "", format_percent
        )
    ]
    for place, (_, mean, std, values) in enumerate(figures, 1):
        x = x_scale(place)
        if std is not None:
            parts.append(
                Markup('<path class="line s0" d="M{0} {1}V{2}"/>').format(x, y_scale(mean - std), y_scale(mean + std))
            )
        parts += [
            Markup('<circle class="dot s1" cx="{}" cy="{}" r="1.6"/>').format(x + 4, y_scale(value)) for value in values
        ]
        parts.append(Markup('<circle class="dot s0" cx="{}" cy="{}" r="3.5"/>').format(x, y_scale(mean)))
    rows = [
        (name, format_percent(mean), _format(std, format_percent), str(len(values)))
        for name, mean, std, values in figures
    ]
    labels = [f"{name}: {mean} ± {std} (n = {count})" for name, mean, std, count in rows]
    svg = _svg(parts, f"{title}. " + "; ".join(labels), [x_scale(place) for place in range(1, len(rows) + 1)], labels)
    return Chart(title, svg, header=[group_name, "mean", "standard deviation", "n"], rows=rows)


def _svg(parts: Sequence[Markup], description: str, at: Sequence[float], labels: Sequence[str]) -> Markup:
    """An SVG of the parts that says in words what it shows, and what stands where for the page's script."""
    cursor = Markup('<line class="cursor" y1="{}" y2="{}"/>').format(TOP, BOTTOM)
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-x="{}" data-labels="{}">{}{}</svg>'
    ).format(WIDTH, HEIGHT, description, json.dumps(list(at)), json.dumps(list(labels), ensure_ascii=False),
             Markup("").join(parts), cursor)  # fmt: skip


def _draw_line(line: Series, x_scale: Scale, y_scale: Scale, place: int) -> Markup:
    pieces, pen = [], "M"
    dots = []
    for x, y in zip(line.x, line.y, strict=True):
        if not _is_finite(y) or (y_scale.log and y <= 0):
            pen = "M"
            continue
        held = min(max(y, y_scale.low), y_scale.high)
        pieces.append(f"{pen}{x_scale(x)} {y_scale(held)}")
        dots.append((x_scale(x), y_scale(held)))
        pen = "L"
    drawn = Markup('<path class="line s{}" d="{}"/>').format(place % 16, "".join(pieces))
    if len(dots) > _MAX_MARKED_POINTS:
        return drawn
    marks = [Markup('<circle class="dot s{}" cx="{}" cy="{}" r="2"/>').format(place % 16, x, y) for x, y in dots]
    return Markup("").join([drawn, *marks])


def _draw_bar(left: float, right: float, top: float, name: str) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        name, left, top, round(max(right - left - 0.5, 0.5), 1), round(BOTTOM - top, 1)
    )


def _x_range(places: Sequence[float]) -> tuple[float, float]:
    if not places:
        return 0.0, 1.0
    return (places[0], places[-1]) if places[-1] > places[0] else (places[0] - 0.5, places[0] + 0.5)


def _fractions(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _format(value: float | None, format_y: Callable[[float], str]) -> str:
    return format_y(value) if _is_finite(value) else "–"


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
