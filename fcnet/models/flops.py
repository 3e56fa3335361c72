"""What training a dense network costs, counted from its widths: parameters, operations, bytes and hours.

Nothing runs here. L layers of n[1], …, n[L] units over n[0] inputs, P parameters, B examples a step over all devices.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.models.mlp import num_parameters
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PRODUCT_BYTES = 2  # bfloat16
_OPTIMIZER_BYTES = 4  # float32


@dataclass(frozen=True)
class DeviceSpec:
    """What a device can do at its best.

    Attributes:
        flops: floating-point operations a second in matrix products of bfloat16.
        memory_bandwidth: bytes a second between its memory and its cores, read and written together.
        link_bandwidth: bytes a second that it can send to others, and receive, while they do the same.
    """

    flops: float
    memory_bandwidth: float
    link_bandwidth: float


H100 = DeviceSpec(flops=703e12, memory_bandwidth=3.0e12, link_bandwidth=50e9)
"""NVIDIA's H100 SXM: the fastest product and the fastest copy measured on one, and a network of 400 Gbit/s."""


@dataclass(frozen=True)
class StepCost:
    """What one step of training costs, each device's share of it where there are several.

    Attributes:
        parameters: P, the same on each device.
        flops: operations of the matrix products, a multiplication and an addition each.
        bytes_moved: what goes through the device's memory: the factors and results of each product once, and
            the optimizer's pass; all else is taken to be done on the way.
        bytes_sent: bytes of gradients that the device sends to the others, in a ring.
        seconds: the least that this takes, if nothing is done at the same time as anything else.
    """

    parameters: int
    flops: int
    bytes_moved: int
    bytes_sent: float
    seconds: float


def step_cost(
    widths: Sequence[int],
    batch_size: int,
    *,
    device: DeviceSpec = H100,
    num_devices: int = 1,
    num_moments: int = 2,
    bias: bool = True,
) -> StepCost:
    """Counts one step: forward, backward, and the optimizer.

    Layer l with m = n[l−1] and n = n[l] is one product Z = A Wᵀ of 2·B·m·n operations forward, one for ∂R/∂W
    and, but for the first layer, one for ∂R/∂A backward. Products are of bfloat16; the optimizer keeps
    the weights and its moments in float32. A piece of work takes as long as its operations or its
    bytes, whichever takes longer. Devices hold all parameters each and share the examples.

    Args:
        widths: n[0], …, n[L].
        batch_size: B, a multiple of ``num_devices``.
        device: what does it.
        num_devices: how many of them.
        num_moments: how many numbers the optimizer keeps of each parameter: AdamW 2, SGD with momentum 1.
        bias: whether the layers have a b.

    Returns:
        The cost.

    Raises:
        UserError: a ValueError; a number is out of its range.

    Example:
        >>> step_cost([3072, 512, 256, 10], 128).flops  # 6·B·(the weights) but for the first layer's ∂R/∂A
        907935744
    """
    if len(widths) < 2 or min(widths) < 1:
        raise UserError(f"widths must be two positive numbers or more, n[0] to n[L], got {list(widths)}")
    if num_devices < 1 or batch_size < 1 or batch_size % num_devices:
        raise UserError(f"batch_size must be a multiple of num_devices ({num_devices}), got {batch_size}")
    mine = batch_size // num_devices
    flops = moved = 0
    seconds = 0.0
    for number, (m, n) in enumerate(itertools.pairwise(widths)):
        operations = 2 * mine * m * n
        through_memory = _PRODUCT_BYTES * (mine * m + m * n + mine * n)
        products = 2 if number == 0 else 3
        flops += products * operations
        moved += products * through_memory
        seconds += products * max(operations / device.flops, through_memory / device.memory_bandwidth)
    parameters = num_parameters(widths, bias=bias)
    # reads the gradient, and the weights and moments, which it writes too, and writes the weights for the next products
    optimizer = parameters * (2 * _PRODUCT_BYTES + 2 * _OPTIMIZER_BYTES * (1 + num_moments))
    bytes_sent = 2 * (num_devices - 1) / num_devices * parameters * _PRODUCT_BYTES
    seconds += optimizer / device.memory_bandwidth + bytes_sent / device.link_bandwidth
    return StepCost(parameters, flops, moved + optimizer, bytes_sent, seconds)


def training_hours(cost: StepCost, *, num_images: int, batch_size: int, epochs: int) -> float:
    """The hours that so many passes over the images take at the least.

    Args:
        cost: a step's.
        num_images: how many there are to train on.
        batch_size: B; the last batch of a pass counts as a whole one.
        epochs: how many passes.

    Example:
        >>> cost = step_cost([3072, 10], 128)
        >>> training_hours(cost, num_images=50_000, batch_size=128, epochs=30) * 3600 < 1  # seconds
        True
    """
    return cost.seconds * math.ceil(num_images / batch_size) * epochs / 3600
