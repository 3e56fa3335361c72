"""Values as text, in one spelling everywhere: percentages, counted nouns, names of files and classes, CSV."""

from __future__ import annotations

import csv
import io
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
    return f"{fraction:.{digits}%}"


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
