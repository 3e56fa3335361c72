"""Tests of fcnet.runtime.output; those of streams that fail are in tests/unit/test_cli.py, beside the commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fcnet.runtime import output

if TYPE_CHECKING:
    import pytest


def test_a_command_may_print_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with output.protect_streams():
        output.print_line("progress")
        assert output.write_error("an error") == 2


def test_lines_are_printed_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    with output.protect_streams():
        output.print_line("one")
        output.print_result("two\x1b")
        output.write_error("three", "four")
    assert capsys.readouterr() == ("one\ntwo\\x1b\n", "three\nfour\n")
