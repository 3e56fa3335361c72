"""Charts of a figure with its interval over a quantity that grows by factors, as inline SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from fcnet.report.axes import BOTTOM, LEFT, RIGHT, TOP, Scale, draw_axes, fit_scale, percent_tick_formatter
from fcnet.report.charts import Chart, draw_svg
from fcnet.runtime.formatting import format_interval, format_number, format_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_MARKED_POINTS = 25


@dataclass(frozen=True)
class Estimate:
    """A figure at one value of x.

    Attributes:
        x: greater than 0.
        value: the figure.
        interval: the ends of its interval; None if it has none.
    """

    x: float
    value: float
    interval: tuple[float, float] | None


def interval_chart(
    title: str,
    estimates: Sequence[Estimate],
    *,
    x_label: str,
    value_label: str,
    as_percent: bool = False,
    chosen: float | None = None,
    log: bool = False,
) -> Chart:
    """Draws a line with a band of intervals over a logarithmic x axis.

    Args:
        title: the caption.
        estimates: the figures, by ascending x.
        x_label: the label of the x axis.
        value_label: what the figure is, for the table and for screen readers.
        as_percent: whether the figures are fractions to be shown as percentages.
        chosen: the x that a line across the chart marks; None for none.
        log: whether the y axis is logarithmic as well.

    Example:
        >>> points = [Estimate(1.0, 0.5, (0.4, 0.6)), Estimate(10.0, 0.75, None)]
        >>> chart = interval_chart("Accuracy", points, x_label="shots", value_label="accuracy", as_percent=True)
        >>> chart.rows
        [('1', '50.00%', '40.00% to 60.00%'), ('10', '75.00%', '–')]
    """
    xs = [each.x for each in estimates]
    ends = (xs[0], xs[-1]) if xs[-1] > xs[0] else (xs[0] / 2.0, xs[0] * 2.0)
    x_scale = Scale(*ends, LEFT, RIGHT, log=True)
    values = [bound for each in estimates for bound in (each.value, *(each.interval or ()))]
    y_scale = fit_scale([value for value in values if value > 0.0 or not log], BOTTOM, TOP, log=log)
    format_tick = percent_tick_formatter(y_scale.ticks()) if as_percent else format_number
    parts = [draw_axes(x_scale, y_scale, x_label, format_number, format_tick)]
    if chosen is not None:
        parts.append(Markup('<path class="chosen" d="M{} {}V{}"/>').format(x_scale(chosen), TOP, BOTTOM))
    parts.append(_draw_band(estimates, x_scale, y_scale))
    points = [(x_scale(each.x), y_scale(_clamp(each.value, y_scale))) for each in estimates]
    path = "L".join(f"{x} {y}" for x, y in points)
    parts.append(Markup('<path class="line s0" d="M{}"/>').format(path))
    if len(points) <= _MAX_MARKED_POINTS:
        parts += [Markup('<circle class="dot s0" cx="{}" cy="{}" r="2.5"/>').format(x, y) for x, y in points]
    parts += [
        Markup('<circle class="dot s1" cx="{}" cy="{}" r="4"/>').format(*point)
        for each, point in zip(estimates, points, strict=True)
        if each.x == chosen
    ]
    rows = [_row(each, as_percent=as_percent) for each in estimates]
    labels = [
        f"{x_label} {x}{', chosen' if each.x == chosen else ''}: {value_label} {value}"
        + (f", interval {interval}" if each.interval else "")
        for each, (x, value, interval) in zip(estimates, rows, strict=True)
    ]
    shown = next((label for each, label in zip(estimates, labels, strict=True) if each.x == chosen), labels[-1])
    svg = draw_svg(parts, f"{title} by {x_label}; {shown}", [x for x, _ in points], labels)
    return Chart(title, svg, header=[x_label, value_label, "95% interval"], rows=rows)


def _draw_band(estimates: Sequence[Estimate], x_scale: Scale, y_scale: Scale) -> Markup:
    """Draws the area between the ends of the intervals, where there are some."""
    known = [(x_scale(each.x), each.interval) for each in estimates if each.interval is not None]
    lower = [f"{x} {y_scale(_clamp(interval[0], y_scale))}" for x, interval in known]
    upper = [f"{x} {y_scale(_clamp(interval[1], y_scale))}" for x, interval in reversed(known)]
    return Markup('<path class="band" d="M{}Z"/>').format("L".join([*lower, *upper])) if known else Markup("")


def _clamp(value: float, scale: Scale) -> float:
    return min(max(value, scale.low), scale.high)


def _row(each: Estimate, *, as_percent: bool) -> tuple[str, str, str]:
    format_value = format_percent if as_percent else format_number
    interval = "–"
    if each.interval is not None:
        low, high = each.interval
        interval = format_interval(low, high) if as_percent else f"{format_number(low)} to {format_number(high)}"
    return format_number(each.x), format_value(each.value), interval
