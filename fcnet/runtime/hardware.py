"""What this machine is: its processors, by name and number, and how many of them to compute with."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def num_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads() -> int:
    """How many threads a computation may take: one a processor, or fewer where ``OMP_NUM_THREADS`` says so."""
    wished = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(num_processors(), int(wished)) if wished.isdecimal() and int(wished) else num_processors()


def processor_name() -> str:
    """What the processor is called, as far as the system says; at least what instructions it takes.

    Example:
        >>> processor_name() != ""
        True
    """
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()
