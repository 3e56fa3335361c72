"""Facts of the machine, and the tests that need a GPU."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.report import machine_info
from gpu_parts.settings import Result

if TYPE_CHECKING:
    from gpu_parts.settings import Settings

ROOT = Path(__file__).parents[2]
_PACKAGES = ("fcnet", "triton", "liger-kernel", "quack-kernels")
_TAIL = 40


def facts(settings: Settings) -> Result:
    """Returns the device, its memory, the driver and the versions of what computes."""
    has_gpu = settings.device.type == "cuda" and torch.cuda.is_available()
    figures: dict[str, Any] = machine_info(settings.device if has_gpu else torch.device("cpu"))
    figures |= {"cuda": torch.version.cuda, "hip": torch.version.hip, "devices": torch.cuda.device_count()}
    for package in _PACKAGES:
        try:
            figures[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            figures[package] = None
    if not has_gpu:
        return Result(figures)
    free, total = torch.cuda.mem_get_info(settings.device)
    properties = torch.cuda.get_device_properties(settings.device)
    figures |= {
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": total,
        "free_bytes": free,
        "cudnn": torch.backends.cudnn.version(),
    }
    return Result(figures | {"driver": None}, "") if not shutil.which("nvidia-smi") else _ask_driver(figures)


def _ask_driver(figures: dict[str, Any]) -> Result:
    """Adds the driver's version, and what the driver says of each device."""
    fields = "driver_version,name,memory.total,power.limit,clocks.max.sm,clocks.max.mem,mig.mode.current"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Result(figures | {"driver": text.splitlines()[1].partition(",")[0]}, text)


def gpu_tests(settings: Settings) -> Result:
    """Runs the tests that are marked ``gpu``.

    Raises:
        RuntimeError: a test failed, or none ran; the message counts them.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rfE", "tests/acceptance"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    lines = done.stdout.splitlines()
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout)}
    tail = "\n".join(lines[-_TAIL:])
    if done.returncode or not counts.get("passed"):
        raise RuntimeError(f"{lines[-1] if lines else 'pytest printed nothing'}\n{tail}\n{done.stderr[-2000:]}")
    return Result(counts, tail)
