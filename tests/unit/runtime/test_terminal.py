"""Tests of fcnet.runtime.terminal."""

from __future__ import annotations

import io
import itertools

import pytest
from tqdm import tqdm

from fcnet.runtime.terminal import (
    MIN_BAR_CELLS,
    first_fitting,
    fitting_postfix,
    meter_format,
    shorten_names,
    terminal_columns,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_has_no_width_and_a_terminal_has_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert terminal_columns(io.StringIO()) is None
    assert terminal_columns(Terminal()) == 50
    monkeypatch.setenv("COLUMNS", "0")
    assert terminal_columns(Terminal()) == 80


def test_the_longest_form_that_fits_is_taken() -> None:
    forms = ["12,345 images/s", "12,345/s", "12k"]
    taken = [first_fitting(forms, columns) for columns in (None, 15, 14, 8, 7)]
    assert taken == [forms[0], forms[0], forms[1], forms[1], forms[2]]


@pytest.mark.parametrize("count", [2, 10, 100, 1000])
@pytest.mark.parametrize("limit", [6, 8, 12])
@pytest.mark.parametrize(
    "pattern",
    ["n0211902{:04}", "{:04}-a-long-name-of-a-class", "a class called {:04} of many", "{:04}", "same{:04}same"],
)
def test_names_that_are_cut_stay_distinct_and_fit(pattern: str, limit: int, count: int) -> None:
    short = shorten_names([pattern.format(number) for number in range(count)], limit)
    assert len(set(short)) == count
    assert max(map(len, short)) <= limit


def test_names_that_fit_are_kept() -> None:
    assert shorten_names(["cat", "dog"], 3) == ["cat", "dog"]
    assert shorten_names(["cat", "airplane"], 6) == ["cat", "airpl…"]


@pytest.mark.parametrize("columns", [50, 80, 120])
@pytest.mark.parametrize("total", [9, 12_345, 9_999_999])
@pytest.mark.parametrize("description", ["", "decoding"])
def test_a_bar_keeps_twenty_cells(columns: int, total: int, description: str) -> None:
    forms = ["loss 0.123, accuracy 91.2%, 12,345 images/s", "loss 0.123, 91.2%"]
    postfix = fitting_postfix(columns, total, forms) if not description else ""
    for done, elapsed in itertools.product((1, total // 2, total), (3.0, 1800.0)):
        meter = tqdm.format_meter(
            done,
            total,
            elapsed,
            ncols=columns,
            prefix=description,
            bar_format=meter_format(columns, total, description, postfix),
            postfix=postfix,
        )
        assert len(meter) <= columns
        assert len(meter.split("|")[1]) >= MIN_BAR_CELLS, meter


def test_a_wide_terminal_shows_all_figures() -> None:
    forms = ["loss 0.123, accuracy 91.2%, 12,345 images/s", "loss 0.123, 91.2%"]
    assert [fitting_postfix(columns, 100, forms) for columns in (120, 80, 50, None)] == [*forms, "", forms[0]]
