"""Charts as inline SVG, each with a text description for screen readers and a table of its values.

The style sheet colours the charts, so they follow the page's light or dark theme.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
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
    percent_tick_formatter,
)
from fcnet.runtime.formatting import format_count, format_interval, format_number, format_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_MAX_MARKED_POINTS = 25
"""A line with more points than this is drawn without a marker at each point."""
_NUM_LINE_STYLES = 16


@dataclass(frozen=True)
class Series:
    """One line of a chart. A y that is None, NaN or infinite makes a gap.

    Attributes:
        name: the legend entry.
        x: increasing.
        y: one value for each x.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """A chart, its legend and the table of its values.

    Attributes:
        title: the caption.
        svg: the drawing.
        names: the legend entries.
        header: the table's header.
        rows: the table's rows, each as long as the header.
        always_show_legend: whether to show the legend even if it has a single entry.
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
    """Draws lines that differ in colour and in dash pattern.

    Args:
        title: the caption.
        series: the lines; a line without a finite value is omitted.
        x_label: the label of the x axis.
        as_percent: whether the values are fractions to be shown as percentages.
        log: whether the y axis is logarithmic.
        low: the lower end of the y axis; None: chosen from the values.
        high: the upper end of the y axis; None: chosen from the values.

    Example:
        >>> chart = line_chart("Loss", [Series("training", [1, 2], [0.5, 0.25])], x_label="epoch")
        >>> chart.rows
        [('1', '0.5'), ('2', '0.25')]
    """
    lines = [line for line in series if any(map(_is_finite, line.y))]
    xs = sorted({x for line in lines for x in line.x})
    values = [y for line in lines for y in line.y if _is_finite(y)]
    # A single x gets half a unit on either side: a scale needs two different ends.
    ends = (0.0, 1.0) if not xs else (xs[0], xs[-1]) if xs[-1] > xs[0] else (xs[0] - 0.5, xs[0] + 0.5)
    x_scale = Scale(*ends, LEFT, RIGHT, integer_ticks=all(float(x).is_integer() for x in xs))
    y_scale = fit_scale(values, BOTTOM, TOP, low=low, high=high, log=log)
    format_tick = percent_tick_formatter(y_scale.ticks()) if as_percent else format_number
    parts = [draw_axes(x_scale, y_scale, x_label, format_number, format_tick)]
    parts += [_draw_line(line, x_scale, y_scale, number) for number, line in enumerate(lines)]
    format_y = format_percent if as_percent else format_number
    columns = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    rows = [(format_number(x), *(_format_or_dash(column.get(x), format_y) for column in columns)) for x in xs]
    labels = [
        f"{x_label} {row[0]}: " + ", ".join(f"{line.name} {y}" for line, y in zip(lines, row[1:], strict=True))
        for row in rows
    ]
    last = f"; last value at {labels[-1]}" if labels else ""
    svg = draw_svg(parts, f"{title} by {x_label}{last}", [x_scale(x) for x in xs], labels)
    return Chart(title, svg, [line.name for line in lines], [x_label, *(line.name for line in lines)], rows)


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[int], *, x_label: str, before: Sequence[int] | None = None,
    before_edges: Sequence[float] | None = None,
) -> Chart:  # fmt: skip
    """Draws a histogram as bars, with an optional earlier histogram as an outline.

    The height of a bar is its bin's fraction of all values.

    Args:
        title: the caption.
        edges: the bin edges, increasing, one more than counts.
        counts: the number of values in each bin.
        x_label: the label of the x axis.
        before: the counts of the earlier histogram; None: no outline.
        before_edges: its bin edges; None: ``edges``.

    Example:
        >>> histogram("a", [0.0, 1.0, 2.0], [3, 1], x_label="a").rows
        [('0 to 1', '75.00%'), ('1 to 2', '25.00%')]
    """
    fractions = _fractions(counts)
    outline = _fractions(before) if before is not None else []
    outline_edges = before_edges or edges
    low, high = min(edges[0], outline_edges[0]), max(edges[-1], outline_edges[-1])
    x_scale = Scale(low, high if high > low else low + 1.0, LEFT, RIGHT)
    y_scale = fit_scale([0.0, *fractions, *outline], BOTTOM, TOP, low=0.0)
    parts = [draw_axes(x_scale, y_scale, x_label, format_number, percent_tick_formatter(y_scale.ticks()))]
    for (left, right), fraction in zip(itertools.pairwise(edges), fractions, strict=True):
        x, top = x_scale(left), y_scale(fraction)
        width = max(x_scale(right) - x - 0.5, 0.5)  # a gap of half a unit separates neighbouring bars
        parts.append(Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
            x, top, round(width, 1), round(BOTTOM - top, 1)))  # fmt: skip
    if outline:
        steps = "".join(
            f"V{y_scale(fraction)}H{x_scale(right)}" for right, fraction in zip(outline_edges[1:], outline, strict=True)
        )
        parts.append(Markup('<path class="outline" d="M{} {}{}V{}"/>').format(
            x_scale(outline_edges[0]), BOTTOM, steps, BOTTOM))  # fmt: skip
    rows = [
        (f"{format_number(a)} to {format_number(b)}", format_percent(fraction))
        for (a, b), fraction in zip(itertools.pairwise(edges), fractions, strict=True)
    ]
    centres = [round((x_scale(a) + x_scale(b)) / 2, 1) for a, b in itertools.pairwise(edges)]
    svg = draw_svg(parts, f"{title}: fraction of values by {x_label}", centres, [": ".join(row) for row in rows])
    return Chart(title, svg, header=[x_label, "fraction"], rows=rows)


def reliability_diagram(
    title: str, bins: Sequence[tuple[float, float, int, float, float]], *, num_bins: int = 15
) -> Chart:
    """Draws accuracy against confidence, with the diagonal of perfect calibration, above the number of images per bin.

    Args:
        title: the caption.
        bins: for each bin its mean confidence, accuracy, number of images, and the ends of the accuracy's interval.
        num_bins: the number of bins of equal width in which these are, with the empty ones.

    Example:
        >>> reliability_diagram("Reliability diagram", [(0.75, 0.5, 4, 0.15, 0.85)]).rows
        [('75.00%', '50.00%', '15.00% to 85.00%', '4')]
    """
    x_scale, y_scale = Scale(0.0, 1.0, LEFT, RIGHT), Scale(0.0, 1.0, BOTTOM, TOP)
    format_tick = percent_tick_formatter(y_scale.ticks())
    top, bottom = BOTTOM + 20, BOTTOM + 70
    most = max((count for _, _, count, _, _ in bins), default=1)
    count_scale = Scale(0.0, most, bottom, top)
    x_label = "confidence (probability of the predicted class)"
    parts = [
        draw_axes(x_scale, y_scale, "", format_tick, format_tick),
        Markup('<path class="line s1" d="M{} {}L{} {}"/>').format(LEFT, BOTTOM, RIGHT, TOP),
        draw_axes(x_scale, count_scale, x_label, format_tick, format_number, y_ticks=[0.0, float(most)], bottom=bottom),
        Markup('<text x="{}" y="{}">images</text>').format(LEFT + 5, top - 5),
    ]
    rows, labels = [], []
    for confidence, accuracy, count, low, high in bins:
        x = x_scale(confidence)
        parts.append(Markup('<path class="line s0" style="stroke-dasharray:none" d="M{0} {1}V{2}"/>').format(
            x, y_scale(low), y_scale(high)))  # fmt: skip
        parts.append(Markup('<circle class="dot s0" cx="{}" cy="{}" r="4"/>').format(x, y_scale(accuracy)))
        place = min(int(confidence * num_bins), num_bins - 1)
        left, right = x_scale(place / num_bins), x_scale((place + 1) / num_bins)
        parts.append(Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
            left, count_scale(count), round(right - left - 1.0, 1), round(bottom - count_scale(count), 1)))  # fmt: skip
        mean, share, interval = format_percent(confidence), format_percent(accuracy), format_interval(low, high)
        rows.append((mean, share, interval, f"{count:,}"))
        labels.append(f"confidence {mean}: accuracy {share}, interval {interval}, {format_count(count, 'image')}")
    positions = [x_scale(each[0]) for each in bins]
    size = WIDTH, HEIGHT - BOTTOM + bottom
    svg = draw_svg(parts, f"{title}. " + "; ".join(labels), positions, labels, size=size, cursor=(TOP, bottom))
    return Chart(
        title, svg, ["accuracy with 95% interval", "perfect calibration"],
        ["mean confidence", "accuracy", "95% interval", "images"], rows, always_show_legend=True,
    )  # fmt: skip


def draw_svg(
    parts: Sequence[Markup],
    description: str,
    at: Sequence[float],
    labels: Sequence[str],
    *,
    size: tuple[float, float] = (WIDTH, HEIGHT),
    cursor: tuple[float, float] = (TOP, BOTTOM),
    by_row: bool = False,
) -> Markup:
    """Returns the SVG element of a chart.

    ``page.js`` shows ``labels[i]``, and a cursor, when the pointer is nearest to ``at[i]``.

    Args:
        parts: the contents.
        description: the text for screen readers.
        at: the positions of the labels on the x axis.
        labels: one text for each.
        size: width and height.
        cursor: the ends of the cursor, a line across the chart at one of these positions.
        by_row: whether the positions are on the y axis, from top to bottom.
    """
    across, along = ("y", "x") if by_row else ("x", "y")
    line = Markup('<line class="cursor" {0}1="{1}" {0}2="{2}"/>').format(along, *cursor)
    positions, texts = json.dumps(list(at)), json.dumps(list(labels), ensure_ascii=False)
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-{}="{}" data-labels="{}">{}{}</svg>'
    ).format(*size, description, across, positions, texts, Markup("").join(parts), line)


def _draw_line(line: Series, x_scale: Scale, y_scale: Scale, number: int) -> Markup:
    style = number % _NUM_LINE_STYLES
    path, points, command = [], [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        if not _is_finite(y) or (y_scale.log and y <= 0):
            command = "M"  # the next point starts a new piece: the line has a gap here
            continue
        point = x_scale(x), y_scale(min(max(y, y_scale.low), y_scale.high))
        path.append(f"{command}{point[0]} {point[1]}")
        points.append(point)
        command = "L"
    drawn = Markup('<path class="line s{}" d="{}"/>').format(style, "".join(path))
    if len(points) > _MAX_MARKED_POINTS:
        return drawn
    marks = [Markup('<circle class="dot s{}" cx="{}" cy="{}" r="2"/>').format(style, x, y) for x, y in points]
    return Markup("").join([drawn, *marks])


def _fractions(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _format_or_dash(value: float | None, format_value: Callable[[float], str]) -> str:
    return format_value(value) if _is_finite(value) else "–"


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
