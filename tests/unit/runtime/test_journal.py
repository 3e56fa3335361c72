"""Journals: lines are believed up to the first one that is not whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fcnet.runtime.journal import encode_line, read_lines

if TYPE_CHECKING:
    from pathlib import Path

LINES: list[dict[str, Any]] = [{"count": 3}, {"name": "a\nb", "sizes": [1, 2]}, {}]


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_bytes(b"".join(map(encode_line, LINES)))
    assert read_lines(file) == LINES


def test_a_missing_journal_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "journal") == []


@pytest.mark.parametrize("place", [0, 10, 66, -2])
def test_a_line_with_one_changed_bit_ends_the_journal(tmp_path: Path, place: int) -> None:
    changed = bytearray(encode_line(LINES[1]))
    changed[place] ^= 1
    file = tmp_path / "journal"
    file.write_bytes(encode_line(LINES[0]) + changed + encode_line(LINES[2]))
    assert read_lines(file) == LINES[:1]


def test_a_line_that_is_cut_off_ends_the_journal(tmp_path: Path) -> None:
    whole = b"".join(map(encode_line, LINES))
    for length in range(len(whole) - len(encode_line({})), len(whole) - 1):
        file = tmp_path / "journal"
        file.write_bytes(whole[:length])
        assert read_lines(file) == LINES[:2]
