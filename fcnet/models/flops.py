"""The cost of training a dense network, counted from its widths: parameters, operations, bytes and hours.

Nothing runs here. L layers of n[1], …, n[L] units over n[0] inputs, P parameters, B examples per step over all devices.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fcnet.models.mlp import num_parameters
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PRODUCT_BYTES = 2  # bfloat16
_OPTIMIZER_BYTES = 4  # float32


@dataclass(frozen=True)
class DeviceSpec:
    """The peak rates of a device.

    Attributes:
        flops: floating-point operations per second in bfloat16 matrix products.
        memory_bandwidth: bytes per second between the memory and the cores, reads and writes together.
        link_bandwidth: bytes per second that the device sends to other devices while it receives as many.
    """

    flops: float
    memory_bandwidth: float
    link_bandwidth: float


class LayerProducts(NamedTuple):
    """The matrix products of one layer in one step: their number, and the operations and bytes of each."""

    num_products: int
    flops: int
    bytes_moved: int


@dataclass(frozen=True)
class StepCost:
    """The cost of one training step on one of the devices.

    Attributes:
        parameters: P, the same on each device.
        products: the matrix products of each layer.
        optimizer_bytes: bytes that the optimizer moves through the device's memory.
        bytes_sent: bytes of gradients that the device sends to the others in a ring all-reduce.
    """

    parameters: int
    products: tuple[LayerProducts, ...]
    optimizer_bytes: int
    bytes_sent: float

    @property
    def flops(self) -> int:
        """Operations of all matrix products, counting a multiplication and an addition as two."""
        return sum(layer.num_products * layer.flops for layer in self.products)

    @property
    def bytes_moved(self) -> int:
        """Bytes through the device's memory: the factors and the result of each product, and the optimizer's pass.

        All other work counts as fused into these.
        """
        return sum(layer.num_products * layer.bytes_moved for layer in self.products) + self.optimizer_bytes

    def seconds(self, device: DeviceSpec) -> float:
        """Returns the least time that the step takes on a device that does one thing at a time.

        Each product takes as long as its operations or its bytes, whichever takes longer.
        """
        seconds = 0.0
        for num_products, flops, bytes_moved in self.products:
            seconds += num_products * max(flops / device.flops, bytes_moved / device.memory_bandwidth)
        return seconds + (self.optimizer_bytes / device.memory_bandwidth + self.bytes_sent / device.link_bandwidth)


def step_cost(
    widths: Sequence[int],
    batch_size: int,
    *,
    num_devices: int = 1,
    num_moments: int = 2,
    bias: bool = True,
) -> StepCost:
    """Counts one training step: forward, backward and optimizer.

    A layer with m = n[l−1] inputs and n = n[l] outputs computes one product Z = A Wᵀ of 2·B·m·n operations forward,
    one product for ∂R/∂W backward, and, except in the first layer, one for ∂R/∂A. Products are in bfloat16. The
    optimizer keeps the weights and its moments in float32. Each device holds all parameters and an equal number of the
    examples.

    Args:
        widths: n[0], …, n[L].
        batch_size: B, a multiple of ``num_devices``.
        num_devices: the number of devices.
        num_moments: values that the optimizer keeps per parameter: 2 for AdamW, 1 for SGD with momentum.
        bias: whether the layers have a bias b.

    Raises:
        UserError: a ValueError; an argument is out of its range.

    Example:
        >>> cost = step_cost([3072, 512, 256, 10], 128)
        >>> cost.flops  # 6·B·(the weights), less ∂R/∂A of the first layer
        907935744
        >>> cost.seconds(DeviceSpec(flops=1e12, memory_bandwidth=1e11, link_bandwidth=1e9)) < 0.01
        True
    """
    if len(widths) < 2 or min(widths) < 1:
        raise UserError(f"widths must be at least two positive numbers, n[0] to n[L], got {list(widths)}")
    if num_devices < 1 or batch_size < 1 or batch_size % num_devices:
        raise UserError(f"batch_size must be a multiple of num_devices ({num_devices}), got {batch_size}")
    examples = batch_size // num_devices
    products = tuple(
        LayerProducts(2 if layer == 0 else 3, 2 * examples * m * n, _PRODUCT_BYTES * (examples * (m + n) + m * n))
        for layer, (m, n) in enumerate(itertools.pairwise(widths))
    )
    parameters = num_parameters(widths, bias=bias)
    # It reads the gradient, reads and writes the float32 weights and moments, and writes bfloat16 weights for products.
    optimizer_bytes = parameters * (2 * _PRODUCT_BYTES + 2 * _OPTIMIZER_BYTES * (1 + num_moments))
    # A ring all-reduce sends each device's gradients twice, once to sum them and once to distribute the sums.
    bytes_sent = 2 * (num_devices - 1) / num_devices * parameters * _PRODUCT_BYTES
    return StepCost(parameters, products, optimizer_bytes, bytes_sent)


def training_hours(cost: StepCost, device: DeviceSpec, *, num_images: int, batch_size: int, epochs: int) -> float:
    """Returns the least number of hours that a training takes.

    Args:
        cost: the cost of one step.
        device: each of the devices.
        num_images: images in the training set.
        batch_size: B. The last batch of an epoch counts as a full one.
        epochs: passes over the training set.

    Example:
        >>> device = DeviceSpec(flops=1e12, memory_bandwidth=1e11, link_bandwidth=1e9)
        >>> hours = training_hours(step_cost([3072, 10], 128), device, num_images=50_000, batch_size=128, epochs=30)
        >>> hours * 3600 < 1.0  # seconds
        True
    """
    return cost.seconds(device) * math.ceil(num_images / batch_size) * epochs / 3600
