"""Tests of fcnet.runtime.formatting."""

from __future__ import annotations

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.runtime.formatting import (
    csv_path,
    csv_text,
    escape_unprintable,
    format_count,
    format_percent,
    shorten_middle,
)


@pytest.mark.parametrize(
    ("fraction", "digits", "text"), [(1.0, 2, "100.00%"), (0.12345, 1, "12.3%"), (0.0, 0, "0%"), (-0.5, 1, "-50.0%")]
)
def test_a_fraction_is_written_as_a_percentage_without_a_space(fraction: float, digits: int, text: str) -> None:
    assert format_percent(fraction, digits) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 epochs"), (1, "1 epoch"), (12_345, "12,345 epochs")])
def test_only_one_is_singular(number: int, text: str) -> None:
    assert format_count(number, "epoch") == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a naïve 猫 👩‍🔬 'name' \\", "a naïve 猫 👩‍🔬 'name' \\"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("a\nb\rc\td\0\x7f", r"a\nb\rc\td\x00\x7f"),
        ("\x85\x9b2J", r"\u0085\u009b2J"),
        ("\u202egnp.\u2066\u2069\u200f\u061c\u2028", r"\u202egnp.\u2066\u2069\u200f\u061c\u2028"),
        ("\udcff\ud800", r"\udcff\ud800"),
    ],
)
def test_only_characters_that_a_terminal_would_execute_are_escaped(text: str, escaped: str) -> None:
    assert escape_unprintable(text) == escaped
    assert escape_unprintable(escaped) == escaped


@given(st.text())
def test_escaped_text_is_one_line_that_utf8_encodes(text: str) -> None:
    escaped = escape_unprintable(text)
    escaped.encode()
    assert len(escaped.splitlines()) <= 1
    assert not any(unicodedata.category(character) == "Cc" for character in escaped)


def test_csv_cells_are_inert_and_numbers_stay_numbers() -> None:
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", "＝1", "\t=1", "\r=1", "a=1", 'a "b", c', -0.5, 3, None]
    text = csv_text([cells, ["next", *[0] * 11]])
    assert text.count("\n") == 2
    first, _ = csv.reader(io.StringIO(text))
    assert first == [
        "'=1+1", "'+1", "'-1", "'@SUM(A1)", "'＝1", r"\t=1", r"\r=1", "a=1", 'a "b", c', "-0.5", "3", ""]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "cell"),
    [
        ("a/=1.png", "a/=1.png"),
        ("=1/a.png", "./=1/a.png"),
        ("-a", "./-a"),
        ("＝1", "./＝1"),
        ("../a", "../a"),
        ("", ""),
    ],
)
def test_a_path_in_csv_begins_no_formula_and_stays_a_path(path: str, cell: str) -> None:
    assert csv_path(path) == cell
    assert csv_text([[cell]]).rstrip("\n") in (cell, '""')


@given(st.text(max_size=30), st.integers(1, 20))
def test_shortened_text_has_the_start_and_the_end_of_the_text(text: str, width: int) -> None:
    short = shorten_middle(text, width)
    if len(text) <= width:
        assert short == text
        return
    assert len(short) == width
    start, _, end = (
        short.partition("…") if "…" not in text else (short[: (width - 1) // 2], "", short[(width + 1) // 2 :])
    )
    assert text.startswith(start)
    assert text.endswith(end)
    assert 0 <= len(end) - len(start) <= 1
