"""Axes of inline SVG charts: scales, ticks and number formats. Lengths are in SVG user units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from fcnet.runtime.formatting import format_percent

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 362, 10, 184


@dataclass(frozen=True)
class Scale:
    """A map from values in [``low``, ``high``] to positions in [``start``, ``stop``].

    Attributes:
        low: the smallest value.
        high: the largest value.
        start: the position of ``low``.
        stop: the position of ``high``.
        log: whether the scale is logarithmic; values must then be positive.
        integer_ticks: whether to place ticks at integers only.

    Example:
        >>> Scale(0.0, 10.0, 100.0, 200.0)(2.5), Scale(1.0, 100.0, 0.0, 2.0, log=True)(10.0)
        (125.0, 1.0)
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    integer_ticks: bool = False

    def __call__(self, value: float) -> float:
        """Returns the position of ``value``, rounded to one decimal."""
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return round(self.start + (at - low) / (high - low) * (self.stop - self.start), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """Returns about ``count`` round values within the scale.

        Example:
            >>> Scale(1.0, 3.0, 0.0, 1.0).ticks(), Scale(1.0, 3.0, 0.0, 1.0, integer_ticks=True).ticks()
            ([1.0, 1.5, 2.0, 2.5, 3.0], [1.0, 2.0, 3.0])
        """
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, -(-(last - first) // 5))
            powers = [10.0**exponent for exponent in range(first, last + 1, step)]
            return powers if len(powers) > 1 else [self.low, self.high]
        values = round_values(self.low, self.high, count)
        return [value for value in values if value.is_integer()] if self.integer_ticks else values


def round_values(low: float, high: float, count: int = 5) -> list[float]:
    """Returns the multiples of 1, 2 or 5 times a power of ten from ``low`` to ``high``, about ``count`` of them.

    Example:
        >>> round_values(0.0, 1.0), round_values(1, 15)
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [5.0, 10.0, 15.0])
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def fit_scale(values: list[float], start: float, stop: float, *, low: float | None = None, high: float | None = None,
           log: bool = False) -> Scale:  # fmt: skip
    """Returns a scale that contains all values.

    An end that is None gets a margin of 5% of the range, or on a logarithmic axis a factor of 1.5. Non-finite
    values are ignored, as are values of 0 or less on a logarithmic axis.
    """
    values = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    smallest, largest = min(values), max(values)
    if log:
        factor = 1.5 if largest > smallest else 3.0
        return Scale(smallest / factor, largest * factor, start, stop, log=True)
    margin = 0.05 * (largest - smallest) or 0.05 * abs(largest) or 1.0
    low = smallest - margin if low is None else low
    high = largest + margin if high is None else high
    return Scale(low, high if high > low else low + 1.0, start, stop)


def percent_tick_formatter(ticks: list[float]) -> Callable[[float], str]:
    """Returns a function that formats fractions as percentages with as few digits as the ticks need.

    Example:
        >>> ticks = [0.96, 0.965, 0.97]
        >>> list(map(percent_tick_formatter(ticks), ticks)), percent_tick_formatter([0.0, 0.5, 1.0])(0.5)
        (['96.0%', '96.5%', '97.0%'], '50%')
    """
    digits = next((n for n in range(6) if all(abs(round(100 * t, n) - 100 * t) < 1e-9 for t in ticks)), 6)
    return lambda value: format_percent(value, digits)


def draw_axes(
    x: Scale, y: Scale, x_label: str, format_x: Callable[[float], str], format_y: Callable[[float], str],
    *, y_ticks: list[float] | None = None, bottom: float = BOTTOM,
) -> Markup:  # fmt: skip
    """Draws both axes with their ticks, the horizontal grid lines and the x axis label.

    Args:
        x: the scale of the x axis.
        y: the scale of the y axis; it starts at the bottom.
        x_label: the label of the x axis; empty for an axis without label and tick labels, which a panel below has.
        format_x: formats a tick of the x axis.
        format_y: formats a tick of the y axis.
        y_ticks: the ticks of the y axis; None: chosen by its scale.
        bottom: the position of the x axis.
    """
    y_ticks = y.ticks() if y_ticks is None else y_ticks
    parts = [
        Markup('<path class="gridline" d="{}"/>').format("".join(f"M{LEFT} {y(v)}H{RIGHT}" for v in y_ticks)),
        *(
            Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 5, y(v) + 4, format_y(v))
            for v in y_ticks
        ),
        Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(LEFT, y.stop, bottom, RIGHT),
    ]
    if x_label:
        parts += [
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x(v), bottom + 15, format_x(v))
            for v in x.ticks()
        ]
        middle = (LEFT + RIGHT) / 2
        parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, bottom + 31, x_label))
    return Markup("").join(parts)
