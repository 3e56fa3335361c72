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
    format_duration,
    format_interval,
    format_loss,
    format_number,
    format_p_value,
    format_percent,
    format_points,
    format_time,
    shorten_middle,
)


@pytest.mark.parametrize(
    ("fraction", "digits", "text"), [(1.0, 2, "100.00%"), (0.12345, 1, "12.3%"), (0.0, 0, "0%"), (-0.5, 1, "−50.0%")]
)
def test_a_fraction_is_written_as_a_percentage_without_a_space(fraction: float, digits: int, text: str) -> None:
    assert format_percent(fraction, digits) == text


def test_numbers_have_a_true_minus_sign_and_at_most_four_digits() -> None:
    assert [format_number(value) for value in (-0.000012345, -3.14159, 12345.6)] == ["−1.23e−5", "−3.142", "12,346"]


@given(st.floats(-1e9, 1e9), st.integers(1, 6))
def test_a_number_is_within_its_digits_of_the_value(value: float, digits: int) -> None:
    text = format_number(value, digits)
    read = float(text.replace("−", "-").replace(",", ""))
    assert abs(read - value) <= 0.5001 * 10 ** -min(digits - 1, 2) * abs(value)
    assert "e+" not in text
    assert "-" not in text


def test_losses_points_and_intervals_have_one_form() -> None:
    assert [format_loss(loss) for loss in (0.13348, -1.5, 1234.5, None, float("inf"))] == [
        *("0.1335", "−1.5000", "1,234.5000", "–", "–")
    ]
    assert [format_points(difference) for difference in (0.0, 0.0125, -0.2)] == [
        *("+0.00 points", "+1.25 points", "−20.00 points")
    ]
    assert format_interval(0.1, 0.25, 0) == "10% to 25%"


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("2026-11-30T02:14:09+01:00", "2026-11-30 02:14 UTC+01:00"),
        ("2026-11-30T02:14:09", "2026-11-30 02:14"),
        ("<b>", "<b>"),
    ],
)
def test_a_moment_has_its_time_zone(moment: str, text: str) -> None:
    assert format_time(moment) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (59.94, "59.9 s"), (60.0, "1 min 0 s"), (3599.6, "1 h 0 min"), (36_000.0, "10 h 0 min")],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.5, "0.500"), (0.0123, "0.012"), (0.00123, "0.0012"), (0.0001, "0.0001"), (1e-9, "< 0.0001")]
)
def test_small_p_values_have_four_decimals(p: float, text: str) -> None:
    assert format_p_value(p) == text


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
