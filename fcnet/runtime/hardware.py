"""Processors of this machine: their number and name, and the number of threads to use; devices and their queues."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fcnet.runtime.errors import first_line

if TYPE_CHECKING:
    import torch

MAX_THREADS = 1024
"""The most threads that fcnet uses, on any machine and for any file."""
GPU_TYPES = ("cuda", "xpu")
"""Device types of which a machine may have several, with streams of their own and a known amount of memory."""
_CPUINFO = Path("/proc/cpuinfo")


def num_processors() -> int:
    """Returns the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads() -> int:
    """Returns the number of threads to use: one for each processor, or ``OMP_NUM_THREADS`` if that is fewer."""
    # OpenMP takes a list, one number for each level of nesting; the first one counts.
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    threads = min(num_processors(), MAX_THREADS)
    return min(threads, int(limit)) if limit.isdecimal() and int(limit) else threads


def processor_name() -> str:
    """Returns the name of the processor, or its architecture where the system gives no name.

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


def device_name(device: torch.device) -> str:
    """Returns the name of a GPU, or torch's name of any other device.

    Example:
        >>> import torch
        >>> device_name(torch.device("cpu"))
        'cpu'
    """
    import torch  # this module serves processes that do without

    return str(torch.get_device_module(device).get_device_name(device) if device.type in GPU_TYPES else device)


def unavailable_reason(device: torch.device) -> str | None:
    """Returns why torch cannot use a device on this machine, or None if it can.

    Example:
        >>> import torch
        >>> unavailable_reason(torch.device("cpu")) is None
        True
    """
    import torch  # this module serves processes that do without

    if device.type == "mps":
        return None if torch.backends.mps.is_available() else "torch finds no GPU of Apple's"
    try:
        if device.type in GPU_TYPES:
            # Opens the device as its first tensor would, and computes nothing there.
            torch.get_device_module(device).mem_get_info(device)
            return _lacking_kernels(device) if device.type == "cuda" else None
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        return first_line(error).rstrip(".")
    return None


def _lacking_kernels(device: torch.device) -> str | None:
    """Returns that torch's build has no kernels for a GPU of NVIDIA's, or None if it has or does not say.

    Machine code runs on GPUs of its own major version from its minor version on, and PTX on all later GPUs.
    """
    import torch  # this module serves processes that do without

    names = torch.cuda.get_arch_list()
    built = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name) for name in names]
    own = torch.cuda.get_device_capability(device)
    for match in built:
        if match is None:  # an AMD GPU's, or a newer form
            return None
        major, minor = int(match[2]), int(match[3])
        if (major, minor) <= own and (match[1] == "compute" or major == own[0]):
            return None
    if not built:
        return None
    return f"torch's build has no kernels for {device_name(device)}, sm_{own[0]}{own[1]}, but for {', '.join(names)}"


def has_float64(device: torch.device) -> bool:
    """Returns whether a device computes in float64: not Apple's GPUs, and not all of Intel's.

    Example:
        >>> import torch
        >>> has_float64(torch.device("cpu")), has_float64(torch.device("mps"))
        (True, False)
    """
    if device.type == "xpu":
        import torch  # this module serves processes that do without

        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def float64_device(device: torch.device) -> torch.device:
    """Returns where to keep the float64 sums of a device: there, or on the CPU if the device has no float64.

    Example:
        >>> import torch
        >>> float64_device(torch.device("cuda:1")), float64_device(torch.device("mps"))
        (device(type='cuda', index=1), device(type='cpu'))
    """
    import torch  # this module serves processes that do without

    return device if has_float64(device) else torch.device("cpu")


def to_float64(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor in float64, on its device or, if the device has no float64, on the CPU."""
    return tensor.to(float64_device(tensor.device)).double()


def synchronize(device: torch.device) -> None:
    """Waits until a device has finished all work that is queued on it; on a CPU there is none.

    Example:
        >>> import torch
        >>> synchronize(torch.device("cpu"))
    """
    if device.type in {"cpu", "meta"}:
        return
    import torch  # this module serves processes that do without

    torch.accelerator.synchronize(device)
