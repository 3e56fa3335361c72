"""What two runs must have in common to be bit-identical, besides their settings."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from fcnet.runtime import distributed
from fcnet.runtime.hardware import device_name, processor_name


def describe_environment(device: torch.device, *, seed: int, data: str) -> dict[str, Any]:
    """Returns the environment of a run, in JSON types, as ``summary.json`` and ``model.json`` keep it.

    Args:
        device: the device of the run.
        seed: its seed.
        data: the fingerprint of its data.

    Example:
        >>> describe_environment(torch.device("cpu"), seed=3, data="made")["device"]
        'cpu'
    """
    return {
        "device": device_name(device),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "ranks": distributed.world_size(),
        "fcnet": version("fcnet"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "seed": seed,
        "data": data,
    }
