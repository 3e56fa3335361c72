"""Tests of fcnet.runtime.output; those of streams that fail are in tests/unit/test_cli.py, beside the commands."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest

from fcnet.runtime import output


class FullStream(io.StringIO):
    """A stream to a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_progress_that_cannot_be_printed_is_told_once_and_a_result_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", FullStream())
    for _ in range(2):
        output.print_line("progress")
    with pytest.raises(SystemExit, match=r"^2$"):
        output.print_result("a result")
    assert capsys.readouterr().err == "standard output: No space left on device; the command continues without it\n"


def test_lines_are_printed_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    with output.protect_streams():
        output.print_line("one")
        output.print_result("two\x1b")
        output.write_error("three", "four")
    assert capsys.readouterr() == ("one\ntwo\\x1b\n", "three\nfour\n")
