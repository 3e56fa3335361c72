"""Charts as inline SVG that follows the page's colours, each with what it says in words and as a table."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, TypeGuard

from markupsafe import Markup

from fcnet.report.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, fitted, frame, number, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_DOTTED = 25
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
        always_named: whether the legend is there for one line alone.
    """

    title: str
    svg: Markup
    names: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    always_named: bool = False


def line_chart(
    title: str,
    series: Iterable[Series],
    *,
    x_label: str,
    share: bool = False,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Chart:
    """Lines over one axis, told apart by colour and by dashes.

    Args:
        title: what it shows.
        series: the lines; those without a number are left out.
        x_label: what x is.
        share: whether y are shares, shown in per cent.
        log: whether y is on a logarithmic axis.
        low: where the y axis begins; None: by the values.
        high: where it ends; None: by the values.

    Example:
        >>> chart = line_chart("Loss", [Series("training", [1, 2], [0.5, 0.25])], x_label="epoch")
        >>> chart.rows
        [('1', '0.5'), ('2', '0.25')]
    """
    lines = [line for line in series if any(map(_drawn, line.y))]
    form = percent if share else number
    places = sorted({x for line in lines for x in line.x})
    values = [y for line in lines for y in line.y if _drawn(y)]
    across = Scale(*_ends(places), LEFT, RIGHT, whole=all(float(x).is_integer() for x in places))
    up = fitted(values, BOTTOM, TOP, low=low, high=high, log=log)
    parts = [frame(across, up, x_label, number, form)]
    parts += [_line(line, across, up, place) for place, line in enumerate(lines)]
    found = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    rows = [(number(x), *(_said(each.get(x), form) for each in found)) for x in places]
    said = [
        f"{x_label} {row[0]}: " + ", ".join(f"{line.name} {y}" for line, y in zip(lines, row[1:], strict=True))
        for row in rows
    ]
    last = f"; at the end, {said[-1]}" if said else ""
    svg = _drawing(parts, f"{title} over {x_label}{last}", [across(x) for x in places], said)
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
    shares = _shares(counts)
    other = _shares(before) if before is not None else []
    other_edges = before_edges or edges
    low, high = min(edges[0], other_edges[0]), max(edges[-1], other_edges[-1])
    across = Scale(low, high if high > low else low + 1.0, LEFT, RIGHT)
    up = fitted([0.0, *shares, *other], BOTTOM, TOP, low=0.0)
    parts = [frame(across, up, x_label, number, percent)]
    for left, right, share in zip(edges, edges[1:], shares, strict=False):
        parts.append(_bar(across(left), across(right), up(share), "bar"))
    if other:
        steps = "".join(f"V{up(share)}H{across(right)}" for right, share in zip(other_edges[1:], other, strict=True))
        parts.append(Markup('<path class="outline" d="M{} {}{}V{}"/>').format(
            across(other_edges[0]), BOTTOM, steps, BOTTOM))  # fmt: skip
    rows = [
        (f"{number(a)} to {number(b)}", percent(share)) for a, b, share in zip(edges, edges[1:], shares, strict=False)
    ]
    at = [round((across(a) + across(b)) / 2, 1) for a, b in itertools.pairwise(edges)]
    svg = _drawing(parts, f"{title}: shares by {x_label}", at, [": ".join(row) for row in rows])
    return Chart(title, svg, header=[x_label, "share"], rows=rows)


def reliability(title: str, bins: Sequence[tuple[float, float, int, float, float]]) -> Chart:
    """How often the network is right against how sure it is, beside the diagonal on which both are equal.

    Args:
        title: what it shows.
        bins: for each the mean probability, the accuracy, the count, and the accuracy's interval.

    Example:
        >>> reliability("Reliability", [(0.75, 0.5, 4, 0.15, 0.85)]).rows
        [('75%', '50%', '15% to 85%', '4')]
    """
    across, up = Scale(0.0, 1.0, LEFT, RIGHT), Scale(0.0, 1.0, BOTTOM, TOP)
    parts = [frame(across, up, "probability that the network gave", percent, percent)]
    parts.append(Markup('<path class="line s1" d="M{} {}L{} {}"/>').format(LEFT, BOTTOM, RIGHT, TOP))
    for sure, right, _, low, high in bins:
        x = across(sure)
        parts.append(Markup('<path class="line s0" style="stroke-dasharray:none" d="M{0} {1}V{2}"/>').format(
            x, up(low), up(high)))  # fmt: skip
        parts.append(Markup('<circle class="dot s0" cx="{}" cy="{}" r="4"/>').format(x, up(right)))
    rows = [
        (percent(sure), percent(right), f"{percent(low)} to {percent(high)}", f"{count:,}")
        for sure, right, count, low, high in bins
    ]
    said = [f"{row[3]} images at {row[0]} on average, {row[1]} of them right ({row[2]})" for row in rows]
    svg = _drawing(parts, f"{title}. " + "; ".join(said), [across(each[0]) for each in bins], said)
    return Chart(
        title, svg, ["accuracy, with its 95 % interval", "as sure as right"],
        ["mean probability", "accuracy", "95 % interval", "images"], rows, always_named=True,
    )  # fmt: skip


def spread(title: str, points: Sequence[tuple[str, Sequence[float]]], *, x_label: str, x_name: str) -> Chart:
    """Shares of several groups: their mean, their standard deviation either way, and beside it each value.

    Args:
        title: what it shows.
        points: each group's name and its values, at least one, in the order in which they stand.
        x_label: what the order is.
        x_name: what a group is.

    Example:
        >>> spread("Accuracy", [("a", [0.5, 0.7]), ("b", [0.4])], x_label="rank", x_name="point").rows
        [('a', '60%', '14.1%', '2'), ('b', '40%', '–', '1')]
    """
    across = Scale(0.5, len(points) + 0.5, LEFT, RIGHT)
    figures = [(name, fmean(values), stdev(values) if len(values) > 1 else None, values) for name, values in points]
    reach = [mean + way * (std or 0.0) for _, mean, std, _ in figures for way in (-1, 1)]
    up = fitted([*reach, *(value for _, values in points for value in values)], BOTTOM, TOP)
    parts = [frame(across, up, x_label, lambda place: number(place) if place == int(place) else "", percent)]
    for place, (_, mean, std, values) in enumerate(figures, 1):
        x = across(place)
        if std is not None:
            parts.append(Markup('<path class="line s0" d="M{0} {1}V{2}"/>').format(x, up(mean - std), up(mean + std)))
        parts += [
            Markup('<circle class="dot s1" cx="{}" cy="{}" r="1.6"/>').format(x + 4, up(value)) for value in values
        ]
        parts.append(Markup('<circle class="dot s0" cx="{}" cy="{}" r="3.5"/>').format(x, up(mean)))
    rows = [(name, percent(mean), _said(std, percent), str(len(values))) for name, mean, std, values in figures]
    said = [f"{name}: {mean} ± {std} (n = {count})" for name, mean, std, count in rows]
    svg = _drawing(parts, f"{title}. " + "; ".join(said), [across(place) for place in range(1, len(rows) + 1)], said)
    return Chart(title, svg, header=[x_name, "mean", "standard deviation", "n"], rows=rows)


def _drawing(parts: Sequence[Markup], words: str, at: Sequence[float], said: Sequence[str]) -> Markup:
    """An SVG of the parts that says in words what it shows, and what stands where for the page's script."""
    cursor = Markup('<line class="cursor" y1="{}" y2="{}"/>').format(TOP, BOTTOM)
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-at="{}" data-said="{}">{}{}</svg>'
    ).format(WIDTH, HEIGHT, words, json.dumps(list(at)), json.dumps(list(said), ensure_ascii=False),
             Markup("").join(parts), cursor)  # fmt: skip


def _line(line: Series, across: Scale, up: Scale, place: int) -> Markup:
    pieces, pen = [], "M"
    dots = []
    for x, y in zip(line.x, line.y, strict=True):
        if not _drawn(y) or (up.log and y <= 0):
            pen = "M"
            continue
        held = min(max(y, up.low), up.high)
        pieces.append(f"{pen}{across(x)} {up(held)}")
        dots.append((across(x), up(held)))
        pen = "L"
    drawn = Markup('<path class="line s{}" d="{}"/>').format(place % 16, "".join(pieces))
    if len(dots) > _DOTTED:
        return drawn
    marks = [Markup('<circle class="dot s{}" cx="{}" cy="{}" r="2"/>').format(place % 16, x, y) for x, y in dots]
    return Markup("").join([drawn, *marks])


def _bar(left: float, right: float, top: float, name: str) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        name, left, top, round(max(right - left - 0.5, 0.5), 1), round(BOTTOM - top, 1)
    )


def _ends(places: Sequence[float]) -> tuple[float, float]:
    if not places:
        return 0.0, 1.0
    return (places[0], places[-1]) if places[-1] > places[0] else (places[0] - 0.5, places[0] + 0.5)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _said(value: float | None, form: Callable[[float], str]) -> str:
    return form(value) if _drawn(value) else "–"


def _drawn(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
