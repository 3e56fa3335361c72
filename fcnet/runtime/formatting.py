"""Percentages and counted nouns as text, in one spelling everywhere."""

from __future__ import annotations


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
