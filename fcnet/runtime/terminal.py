"""Text that fits a terminal: its width, names cut so that they stay distinct, and the format of progress bars."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

MIN_BAR_CELLS = 20
"""Cells of a progress bar at least, on a terminal of 50 columns or more."""
_CUT = "…"
_FULL_METER = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
_SHORT_METER = "{l_bar}{bar}| {remaining}"


def terminal_columns(stream: TextIO | None = None) -> int | None:
    """Returns the width of the terminal that a stream writes to, or None if it writes to none.

    Args:
        stream: the stream; None for standard output.
    """
    stream = stream or sys.stdout
    if not stream.isatty():
        return None
    if (named := os.environ.get("COLUMNS", "")).isdecimal() and int(named) > 0:
        return int(named)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def first_fitting(forms: Sequence[str], columns: int | None) -> str:
    """Returns the first of several forms of a text that fits a width, else the last; without a width the first.

    Example:
        >>> first_fitting(["12,345 images/s", "12,345/s"], 10)
        '12,345/s'
    """
    return next((form for form in forms if columns is None or len(form) <= columns), forms[-1])


def shorten_names(names: Sequence[str], limit: int) -> list[str]:
    """Cuts names to a width so that different names stay different.

    Args:
        names: different names.
        limit: characters of a name at most; at least one more than the number of names has digits.

    Example:
        >>> shorten_names(["n02119022", "n02119789"], 6), shorten_names(["airplane", "automobile"], 6)
        (['…19022', '…19789'], ['airpl…', 'autom…'])
    """
    if max(map(len, names), default=0) <= limit:
        return list(names)
    half = (limit - 1) // 2
    cuts: list[Callable[[str], str]] = [
        lambda name: name[: limit - 1] + _CUT,
        lambda name: _CUT + name[len(name) - limit + 1 :],
        lambda name: name[: limit - 1 - half] + _CUT + name[len(name) - half :],
    ]
    for cut in cuts:
        short = [name if len(name) <= limit else cut(name) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    # What stands before the number may repeat; the number does not.
    numbers = [f"{_CUT}{number}" for number in range(len(names))]
    return [name[: max(0, limit - len(number))] + number for name, number in zip(names, numbers, strict=True)]


def meter_format(columns: int | None, total: int, description: str = "", postfix: str = "") -> str:
    """Returns the ``bar_format`` of tqdm that leaves a bar of `MIN_BAR_CELLS` cells, where the width allows that.

    Args:
        columns: width of the terminal, or None.
        total: number of steps.
        description: text before the bar.
        postfix: text after it.
    """
    before = len(f"{description}: " if description else "") + len("100%|")
    after = len(f"| {total}/{total} [0:00:00<0:00:00, ]") + len(postfix)
    is_wide = columns is None or before + MIN_BAR_CELLS + after <= columns
    return _FULL_METER if is_wide else _SHORT_METER


def fitting_postfix(columns: int | None, total: int, forms: Sequence[str]) -> str:
    """Returns the first of several texts beside which a bar keeps `MIN_BAR_CELLS` cells, else an empty one.

    Args:
        columns: width of the terminal, or None.
        total: number of steps.
        forms: texts to show, the longest first.
    """
    return next((form for form in forms if meter_format(columns, total, postfix=form) == _FULL_METER), "")
