"""The kernels of fcnet.functional.fused: their rules hold in Triton's interpreter, and they compile for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

def test_the_rules_hold_in_the_interpreter() -> None:
    """In a process of its own: what is interpreted is settled when triton is imported."""
    rules = Path(__file__).with_name("fused_interpreted.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(rules)]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
