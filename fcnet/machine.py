"""What this machine is: its processors, by name and number."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_LINUX = Path("/proc/cpuinfo")


def num_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """What the processor is called, as far as the system says; at least what instructions it takes.

    Example:
        >>> processor_name() != ""
        True
    """
    if _LINUX.is_file():
        for line in _LINUX.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()
