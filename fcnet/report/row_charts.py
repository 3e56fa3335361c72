"""Charts with a row for each thing, its name written above it, so that names of any length have room."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING

from markupsafe import Markup

from fcnet.report.axes import WIDTH, Scale, fit_scale, percent_tick_formatter
from fcnet.report.charts import Chart, draw_svg
from fcnet.runtime.formatting import format_number, format_percent, shorten_middle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LEFT, _RIGHT, _TOP = 8, 372, 4
_ROW = 30
_MIDDLE = 21  # of a row: its name is above
_MAX_NAME = 60


def error_bar_chart(
    title: str, groups: Sequence[tuple[str, Sequence[float]]], *, value_label: str, group_name: str, as_percent: bool
) -> Chart:
    """Draws the mean of each group, its standard deviation as an error bar, and each value as a small dot.

    Args:
        title: the caption.
        groups: a name and at least one value for each group, from top to bottom.
        value_label: the label of the value axis.
        group_name: the header of the table's first column.
        as_percent: whether the values are fractions to be shown as percentages.

    Example:
        >>> groups = [("a", [0.5, 0.7]), ("b", [0.4])]
        >>> error_bar_chart("Ranking", groups, value_label="accuracy", group_name="trial", as_percent=True).rows
        [('a', '60.00%', '14.14%', '2'), ('b', '40.00%', '–', '1')]
    """
    statistics = [(name, fmean(values), stdev(values) if len(values) > 1 else None, values) for name, values in groups]
    bar_ends = [mean + sign * (std or 0.0) for _, mean, std, _ in statistics for sign in (-1, 1)]
    scale = fit_scale([*bar_ends, *(value for _, values in groups for value in values)], _LEFT, _RIGHT)
    format_value = format_percent if as_percent else format_number
    parts = [_draw_axis(scale, len(groups), value_label, as_percent=as_percent)]
    rows, labels = [], []
    for number, (name, mean, std, values) in enumerate(statistics):
        y = _TOP + _ROW * number + _MIDDLE
        parts.append(_draw_name(name, number))
        if std is not None:
            parts.append(
                Markup('<path class="line s0" d="M{1} {0}H{2}"/>').format(y, scale(mean - std), scale(mean + std))
            )
        parts.append(Markup('<circle class="dot s0" cx="{}" cy="{}" r="3.5"/>').format(scale(mean), y))
        parts += [
            Markup('<circle class="dot s1" cx="{}" cy="{}" r="1.6"/>').format(scale(value), y + 5) for value in values
        ]
        row = (name, format_value(mean), "–" if std is None else format_value(std), str(len(values)))
        rows.append(row)
        spread = "" if std is None else f" ± {row[2].removesuffix('%')}"
        labels.append(f"{name}: {row[1]}{spread} (n = {row[3]})")
    header = [group_name, "mean", "standard deviation", "n"]
    return Chart(title, _svg(parts, title, labels), header=header, rows=rows)


def bar_chart(title: str, bars: Sequence[tuple[str, float]], *, value_label: str, group_name: str) -> Chart:
    """Draws a bar for each of some fractions, with its percentage beside its name.

    Args:
        title: the caption.
        bars: a name and a fraction each, from top to bottom.
        value_label: the label of the value axis.
        group_name: the header of the table's first column.

    Example:
        >>> bar_chart("Importance", [("lr", 0.75), ("dropout", 0.25)], value_label="share", group_name="setting").rows
        [('lr', '75.0%'), ('dropout', '25.0%')]
    """
    scale = Scale(0.0, 1.0, _LEFT, _RIGHT)
    rows = [(name, format_percent(fraction, 1)) for name, fraction in bars]
    labels = [": ".join(row) for row in rows]
    parts = [_draw_axis(scale, len(bars), value_label, as_percent=True)]
    for number, (label, (_, fraction)) in enumerate(zip(labels, bars, strict=True)):
        parts += [
            _draw_name(label, number),
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="10"/>').format(
                _LEFT, _TOP + _ROW * number + _MIDDLE - 5, round(scale(fraction) - _LEFT, 1)
            ),
        ]
    return Chart(title, _svg(parts, title, labels), header=[group_name, value_label], rows=rows)


def _draw_name(name: str, number: int) -> Markup:
    return Markup('<text x="{}" y="{}">{}</text>').format(
        _LEFT, _TOP + _ROW * number + 11, shorten_middle(name, _MAX_NAME)
    )


def _draw_axis(scale: Scale, num_rows: int, label: str, *, as_percent: bool) -> Markup:
    """Draws the axis of the values below the rows, and a line across them at each tick."""
    ticks, bottom = scale.ticks(), _TOP + _ROW * num_rows
    format_tick: Callable[[float], str] = percent_tick_formatter(ticks) if as_percent else format_number
    parts = [
        Markup('<path class="gridline" d="{}"/>').format("".join(f"M{scale(tick)} {_TOP}V{bottom}" for tick in ticks)),
        Markup('<path class="axis" d="M{} {}H{}"/>').format(_LEFT, bottom, _RIGHT),
        *(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                min(max(scale(tick), _LEFT + 10), _RIGHT - 12), bottom + 15, format_tick(tick)
            )
            for tick in ticks
        ),
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format((_LEFT + _RIGHT) / 2, bottom + 31, label),
    ]
    return Markup("").join(parts)


def _svg(parts: Sequence[Markup], title: str, labels: Sequence[str]) -> Markup:
    places = [_TOP + _ROW * number + _MIDDLE for number in range(len(labels))]
    return draw_svg(
        parts,
        f"{title}. " + "; ".join(labels),
        places,
        labels,
        size=(WIDTH, _TOP + _ROW * len(labels) + 36),
        cursor=(_LEFT, _RIGHT),
        by_row=True,
    )
