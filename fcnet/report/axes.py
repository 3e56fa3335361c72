"""Axes of inline SVG charts: round ticks, and where a value lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 362, 10, 184


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` on a line from ``start`` to ``stop``.

    Attributes:
        low: the least value.
        high: the greatest.
        start: where the least lies.
        stop: where the greatest lies.
        log: whether equal factors are equal lengths; values must then be positive.
        integer_ticks: whether only whole numbers are ticks.

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
        """Where a value lies, to a tenth."""
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return round(self.start + (at - low) / (high - low) * (self.stop - self.start), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """About so many round values within the scale.

        Example:
            >>> Scale(1.0, 3.0, 0.0, 1.0).ticks(), Scale(1.0, 3.0, 0.0, 1.0, integer_ticks=True).ticks()
            ([1.0, 1.5, 2.0, 2.5, 3.0], [1.0, 2.0, 3.0])
        """
        if self.log:
            return _decades(self.low, self.high)
        values = round_values(self.low, self.high, count)
        return [value for value in values if value.is_integer()] if self.integer_ticks else values


def round_values(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 · 10ⁿ from low to high, about ``count`` of them.

    Example:
        >>> round_values(0.0, 1.0), round_values(1, 15)
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [5.0, 10.0, 15.0])
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, -(-(last - first) // 5))
    decades = [10.0**power for power in range(first, last + 1, step)]
    return decades if len(decades) > 1 else [low, high]


def fit_scale(values: list[float], start: float, stop: float, *, low: float | None = None, high: float | None = None,
           log: bool = False) -> Scale:  # fmt: skip
    """A scale that holds all values; an end that is given stays, the others stand a little off."""
    values = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    least, most = min(values), max(values)
    if log:
        least, most = (least / 1.5, most * 1.5) if most > least else (least / 3, most * 3)
        return Scale(least, most, start, stop, log=True)
    margin = 0.05 * (most - least) or 0.05 * abs(most) or 1.0
    low = least - margin if low is None else low
    high = most + margin if high is None else high
    return Scale(low, high if high > low else low + 1.0, start, stop)


def format_number(value: float) -> str:
    """A value in few characters.

    Example:
        >>> [format_number(value) for value in (0.0, 0.25, -12.0, 1500.0, 2_500_000.0, 0.000032, 1.0)]
        ['0', '0.25', '−12', '1,500', '2.5e6', '3.2e−5', '1']
    """
    if value == 0.0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        text = f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    else:
        mantissa, power = f"{value:.2e}".split("e")
        text = f"{float(mantissa):g}e{int(power)}"
    return text.replace("-", "−")


def format_percent(value: float) -> str:
    """A share in per cent, in few characters."""
    return f"{100 * value:.3g}%"


def draw_axes(
    x: Scale, y: Scale, x_label: str, format_x: Callable[[float], str], format_y: Callable[[float], str]
) -> Markup:
    """Both axes with their ticks, rules and labels."""
    parts = [Markup('<path class="gridline" d="{}"/>').format("".join(f"M{LEFT} {y(v)}H{RIGHT}" for v in y.ticks()))]
    parts += [
        Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 5, y(v) + 4, format_y(v))
        for v in y.ticks()
    ]
    parts += [
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x(v), BOTTOM + 15, format_x(v))
        for v in x.ticks()
    ]
    parts.append(Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(LEFT, TOP, BOTTOM, RIGHT))
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format((LEFT + RIGHT) / 2, HEIGHT - 5, x_label)
    )
    return Markup("").join(parts)
