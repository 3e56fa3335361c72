"""Values as text, in one spelling everywhere: numbers, percentages, times, names of files and classes, CSV.

A negative number has the minus sign (U+2212), which is as wide as the plus sign; a missing one is an en dash.
"""

from __future__ import annotations

import csv
import datetime
import io
import math
import re
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Control characters, marks that reverse the direction of text, line separators, and what UTF-8 cannot encode.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def format_percent(fraction: float, digits: int = 2) -> str:
    """Returns a fraction as a percentage.

    Args:
        fraction: fraction, usually from 0 to 1.
        digits: digits after the decimal point.

    Example:
        >>> format_percent(0.9917), format_percent(0.3, digits=0)
        ('99.17%', '30%')
    """
    return f"{fraction:.{digits}%}".replace("-", "−")


def format_interval(low: float, high: float, digits: int = 2) -> str:
    """Returns the ends of an interval of fractions as percentages.

    Example:
        >>> format_interval(0.8186, 0.9846)
        '81.86% to 98.46%'
    """
    return f"{format_percent(low, digits)} to {format_percent(high, digits)}"


def format_points(difference: float) -> str:
    """Returns the difference of two fractions in percentage points, with its sign.

    Example:
        >>> format_points(0.0125), format_points(-0.0028)
        ('+1.25 points', '−0.28 points')
    """
    return f"{100.0 * difference:+.2f} points".replace("-", "−")


def format_number(value: float, digits: int = 4) -> str:
    """Formats a value in a few characters, with ``digits`` significant digits unless it has more before the point.

    Example:
        >>> [format_number(value) for value in (0.0, 0.25, -12.0, 1500.0, 2_500_000.0, 0.000032, 1.0)]
        ['0', '0.25', '−12', '1,500', '2.5e6', '3.2e−5', '1']
        >>> format_number(0.78912, 3), format_number(999.7, 3), format_number(1071.8, 3)
        ('0.789', '1,000', '1,072')
    """
    if value == 0.0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        text = f"{value:,.{digits}g}" if abs(value) < 1000 else ""
        if not text or "e" in text:  # more digits before the point than asked for
            text = f"{value:,.0f}"
    else:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text.replace("-", "−")


def format_loss(loss: float | None) -> str:
    """Returns a loss with four decimals, or a dash for one that is missing or not finite.

    Example:
        >>> format_loss(0.13348), format_loss(None), format_loss(float("nan"))
        ('0.1335', '–', '–')
    """
    return "–" if loss is None or not math.isfinite(loss) else f"{loss:,.4f}".replace("-", "−")


def format_p_value(p: float) -> str:
    """Returns a p-value with three decimals, or with four below 0.01.

    Example:
        >>> [format_p_value(p) for p in (0.5, 0.0123, 0.00123, 1e-9)]
        ['0.500', '0.012', '0.0012', '< 0.0001']
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def format_duration(seconds: float) -> str:
    """Formats a duration in seconds, minutes or hours.

    Example:
        >>> [format_duration(seconds) for seconds in (0.854, 75.0, 7322.0)]
        ['0.9 s', '1 min 15 s', '2 h 2 min']
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_time(moment: str) -> str:
    """Returns a moment in ISO 8601 as date, time and time zone; other text as it is.

    Example:
        >>> format_time("2026-11-30T02:14:09+01:00"), format_time("2026-11-30T02:14:09+00:00"), format_time("noon")
        ('2026-11-30 02:14 UTC+01:00', '2026-11-30 02:14 UTC', 'noon')
    """
    try:
        parsed = datetime.datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return f"{parsed:%Y-%m-%d %H:%M} {parsed.tzname() or ''}".rstrip()


def format_count(number: int, noun: str) -> str:
    """Returns a number and its noun, in the plural unless the number is 1.

    Args:
        number: count.
        noun: noun in the singular; its plural must end in s.

    Example:
        >>> format_count(1, "epoch"), format_count(1500, "image")
        ('1 epoch', '1,500 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_names(names: Sequence[str], limit: int, count: int | None = None) -> str:
    """Returns the first few names, followed by ``…`` if there are more.

    Args:
        names: names in the order of the text.
        limit: number of names to show.
        count: number of all names, if ``names`` holds only the first ones.

    Example:
        >>> format_names(["a", "b", "c"], 2), format_names(["a", "b"], 2), format_names(["a", "b"], 2, count=9)
        ('a, b, …', 'a, b', 'a, b, …')
    """
    total = len(names) if count is None else count
    return ", ".join(names[:limit]) + (", …" if total > limit else "")


def escape_unprintable(text: str) -> str:
    r"""Returns text as one line that a terminal shows and does not execute, with escapes for control characters.

    Args:
        text: text from outside, such as the name of a file or of a class.

    Example:
        >>> print(escape_unprintable("a\x1b[2Jb\nc\x9b\u202e\udcff, naïve"))
        a\x1b[2Jb\nc\u009b\u202e\udcff, naïve
    """
    return _UNPRINTABLE.sub(_escape, text)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Returns rows as lines of CSV. Text is inert: escaped, and with ``'`` before what a spreadsheet would compute.

    Args:
        rows: cells of each row; None is an empty cell.

    Example:
        >>> print(csv_text([["path", "p"], ["=1+1", -0.5], ['a "b", c', None]]), end="")
        path,p
        '=1+1,-0.5
        "a ""b"", c",
    """
    text = io.StringIO()
    write_csv(text, rows)
    return text.getvalue()


def write_csv(file: IO[str], rows: Iterable[Iterable[object]]) -> None:
    """Writes the lines of `csv_text` to an open file, one at a time."""
    csv.writer(file, lineterminator="\n").writerows(map(_inert_cell, row) for row in rows)


def csv_path(path: str) -> str:
    """Returns a relative path for a cell of CSV: with ``./`` before what a spreadsheet would compute, so that it opens.

    Example:
        >>> csv_path("test/a.png"), csv_path("=1+1/a.png")
        ('test/a.png', './=1+1/a.png')
    """
    return f"./{path}" if path.startswith(_FORMULA_STARTS) else path


def shorten_middle(text: str, width: int) -> str:
    """Returns text with ``…`` in place of its middle if it has more than ``width`` characters, at least 1.

    The end stays longer than the start, because the ends of paths differ.

    Example:
        >>> shorten_middle("test/cat/0001.png", 20), shorten_middle("test/cat/0001.png", 12)
        ('test/cat/0001.png', 'test/…01.png')
    """
    if len(text) <= width:
        return text
    start = (width - 1) // 2
    return f"{text[:start]}…{text[len(text) - (width - 1 - start) :]}"


def _escape(found: re.Match[str]) -> str:
    # Beyond ASCII in the form that Python, JSON and TOML share.
    character = found[0]
    return character.encode("unicode_escape").decode() if character.isascii() else f"\\u{ord(character):04x}"


def _inert_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = escape_unprintable(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
