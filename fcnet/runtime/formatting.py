"""How a number is written wherever a person reads it: percentages and counted nouns."""

from __future__ import annotations


def format_percent(fraction: float, digits: int = 2) -> str:
    """A fraction as a percentage.

    Args:
        fraction: usually from 0 to 1.
        digits: digits after the point.

    Example:
        >>> format_percent(0.9917), format_percent(0.3, digits=0)
        ('99.17%', '30%')
    """
    return f"{fraction:.{digits}%}"


def format_count(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless the number is 1.

    Args:
        number: how many.
        noun: in the singular; its plural takes an s.

    Example:
        >>> format_count(1, "epoch"), format_count(1500, "image")
        ('1 epoch', '1,500 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
