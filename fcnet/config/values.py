"""Configuration values as text: the way TOML writes them, in one line."""

from __future__ import annotations

import json
import re

PLAIN_TEXT_RULE = "one line of UTF-8 text without NUL characters"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_LENGTH = 300


def is_utf8(text: str) -> bool:
    """Returns whether UTF-8 can encode a text, which may hold half of a surrogate pair."""
    return text.encode(errors="ignore").decode() == text


def is_plain_text(text: str) -> bool:
    """Returns whether a text is one line of UTF-8 without NUL characters, as `PLAIN_TEXT_RULE` states."""
    return is_utf8(text) and text.splitlines() in ([], [text]) and "\0" not in text


def format_value(value: object, *, digits: int | None = None) -> str:
    """Returns a value as TOML, in one line.

    Args:
        value: any value that TOML can hold, as Python reads it; a tuple counts as a list.
        digits: significant digits of a float; None writes all that are needed to read it back exactly.

    Raises:
        ValueError: an integer has more digits than Python writes.

    Example:
        >>> format_value([0.5, "a", True, {"flip": False}])
        '[0.5, "a", true, {flip = false}]'
        >>> format_value(0.000123456, digits=4)
        '0.0001235'
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, float) and digits is not None:
        return f"{value:.{digits}g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(format_value(item, digits=digits) for item in value)}]"
    if isinstance(value, dict):
        items = ((key if _BARE_KEY.fullmatch(key) else _quote(key), item) for key, item in value.items())
        return f"{{{', '.join(f'{key} = {format_value(item, digits=digits)}' for key, item in items)}}}"
    return str(value)


def shorten_value(value: object) -> str:
    """Returns a value as TOML for an error message: at most 300 characters, whatever the value.

    Example:
        >>> shorten_value("a" * 1000)[-4:], shorten_value(10**5000)
        ('aaa…', 'an integer with too many digits')
    """
    try:
        text = format_value(value)
    except ValueError:
        return "an integer with too many digits"
    except RecursionError:
        return "a value that is nested too deeply"
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"


def _quote(text: str) -> str:
    """Returns a TOML string. Escapes all that JSON escapes, and every other character that may break the line."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(
        char if char.isprintable() else f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
        for char in quoted
    )
