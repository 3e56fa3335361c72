"""fcnet.functional.triton_tiles: its rules hold in Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.unit.functional.helpers import run_in_interpreter

pytest.importorskip("triton")


def test_the_rules_hold_in_the_interpreter() -> None:
    run_in_interpreter("interpreted_tiles.py")
