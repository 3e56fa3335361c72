"""Tests of fcnet.runtime.formatting."""

from __future__ import annotations

import pytest

from fcnet.runtime.formatting import format_count, format_percent


@pytest.mark.parametrize(
    ("fraction", "digits", "text"), [(1.0, 2, "100.00%"), (0.12345, 1, "12.3%"), (0.0, 0, "0%"), (-0.5, 1, "-50.0%")]
)
def test_a_fraction_is_written_as_a_percentage_without_a_space(fraction: float, digits: int, text: str) -> None:
    assert format_percent(fraction, digits) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 epochs"), (1, "1 epoch"), (12_345, "12,345 epochs")])
def test_only_one_is_singular(number: int, text: str) -> None:
    assert format_count(number, "epoch") == text
