"""Times new processes from the start of the command to the first training step."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks import first_step
from benchmarks.report import LIMIT, OURS, Measurement, print_measurements, time_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable

BASELINE = f"""
import os
import torch
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
os._exit({first_step.EXIT_CODE})
"""


def process(arguments: list[str], cache: Path) -> None:
    """Runs a Python process that must end with `first_step.EXIT_CODE`.

    Raises:
        RuntimeError: it ends with another code; the message holds its standard error.
    """
    environment = os.environ | {"FCNET_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-P", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != first_step.EXIT_CODE:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr}")


def command(folder: Path) -> Callable[[], None]:
    """Returns a function that runs ``fcnet.train --config digits`` to its first step, in a new run folder."""
    program = str(Path(first_step.__file__))

    def run() -> None:
        out = tempfile.mkdtemp(dir=folder)
        flags = ["--config", "digits", "--device", "cpu", "--out", f"{out}/run"]
        process([program, *flags], folder / "cache")

    return run


def compare(repeats: int) -> list[Measurement]:
    """Prints and returns the seconds to the first step, with a warm store."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = {OURS: command(folder), LIMIT: lambda: process(["-c", BASELINE], folder / "cache")}
        times = time_interleaved(runs, repeats, fill_seconds=0.0, device=torch.device("cpu"))
    case = "python -m fcnet.train --config digits --device cpu, to the first step"
    measurements = [
        Measurement(case, OURS, times[OURS], "s"),
        Measurement(case, LIMIT, times[LIMIT], "s", note="import torch and one torch.optim.SGD"),
        Measurement(
            "beyond import torch and one torch.optim.SGD",
            OURS,
            tuple(ours - limit for ours, limit in zip(times[OURS], times[LIMIT], strict=True)),
            "s",
        ),
    ]
    print_measurements(measurements)
    return measurements
