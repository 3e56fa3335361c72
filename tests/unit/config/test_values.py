"""Tests of fcnet.config.values."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.config.values import format_value, is_plain_text, shorten_value

TEXTS = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


@given(VALUES)
def test_toml_reads_a_formatted_value_back(value: Any) -> None:
    text = format_value(value)
    assert tomllib.loads(f"value = {text}")["value"] == value
    assert len(text.splitlines()) == 1
    assert shorten_value(value) == text or (shorten_value(value)[:-1] == text[:300] and len(text) > 300)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (1, "1"),
        (1e-05, "1e-05"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ("it's", '"it\'s"'),
        ('say "x"', r'"say \"x\""'),
        ("a\nb\u2028\0", r'"a\nb\u2028\u0000"'),
        ("\U000e0001", r'"\U000e0001"'),
        ((3, 32), "[3, 32]"),
        ({"flip": True, "a b": []}, '{flip = true, "a b" = []}'),
        ({}, "{}"),
    ],
)
def test_values_are_written_as_in_a_configuration(value: object, text: str) -> None:
    assert format_value(value) == text


def test_floats_can_be_rounded() -> None:
    assert format_value([0.000123456, {"x": 1 / 3}, 12345678, "0.123456"], digits=4) == (
        '[0.0001235, {x = 0.3333}, 12345678, "0.123456"]'
    )


def test_text_that_is_not_unicode_is_shown_with_escapes() -> None:
    assert shorten_value("a\udcff") == r'"a\udcff"'


def test_an_integer_with_too_many_digits_is_described() -> None:
    with pytest.raises(ValueError, match="digits"):
        format_value(10**5000)
    assert shorten_value([10**5000]) == "an integer with too many digits"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("café 猫", True),
        ("a\nb", False),
        ("a\n", False),
        ("a\0", False),
        ("\udcff", False),
        ("\u2028", False),
    ],
)
def test_plain_text_is_one_line_of_unicode_without_nul(text: str, expected: bool) -> None:
    assert is_plain_text(text) == expected


def test_a_value_that_is_nested_too_deeply_is_not_shown() -> None:
    value: Any = 0
    for _ in range(100_000):
        value = [value]
    assert shorten_value(value) == "a value that is nested too deeply"
