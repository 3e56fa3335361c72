"""How many images a second a machine could train on at the most: what no training can leave out, timed."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LARGEST_BATCH = 4096
_STORED_IMAGES = 2048
_STEPS_IN_GRAPH = 16
_FEWEST = 5


@torch.no_grad()
def fastest_images_per_second(
    widths: Sequence[int],
    batch_size: int,
    *,
    pixels: int,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    seconds: float = 0.15,
) -> float:
    """Times the matrix products of dense layers forward and backward, the optimizer's pass and one read of the data.

    The read is a batch's rows of uint8 pixels, gathered and turned into the products' dtype; where the network sees k
    components of the pixels, finding them is one product more. The optimizer is SGD with momentum. Normalisation,
    activations, loss, and what is between them, count as nothing.

    Args:
        widths: n[0], …, n[L].
        batch_size: images in a step; of more than 4,096 so many are timed.
        pixels: values of an image.
        device: what does it; a GPU repeats recorded steps.
        precision: of the products.
        seconds: how long to time, about.

    Returns:
        The images a second of the median step.

    Example:
        >>> fastest_images_per_second([64, 32, 10], 128, pixels=64, seconds=0.01) > 1000
        True
    """
    device, size = torch.device(device), min(batch_size, _LARGEST_BATCH)
    step = _step(widths, size, pixels, device, precision)
    steps = 1
    if device.type == "cuda":
        step, steps = _recorded(step, device), _STEPS_IN_GRAPH
    step()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < _FEWEST or time.perf_counter() < end:
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - began)
    return steps * size / statistics.median(took)


def _step(
    widths: Sequence[int], size: int, pixels: int, device: torch.device, precision: torch.dtype
) -> Callable[[], None]:
    """One step, in memory that is made beforehand."""
    numbers = torch.Generator(device).manual_seed(0)
    parameters = [
        torch.randn(after, before, device=device, generator=numbers) for before, after in itertools.pairwise(widths)
    ]
    parameters += [torch.zeros(width, device=device) for width in widths[1:]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, fused=True)
    weights = [parameter.to(precision) for parameter in parameters[: len(widths) - 1]]
    products = [torch.empty_like(weight) for weight in weights]
    stored = torch.zeros(_STORED_IMAGES, pixels, dtype=torch.uint8, device=device)
    rows = torch.randint(_STORED_IMAGES, (size,), device=device, generator=numbers)
    raw, values = stored.new_empty(size, pixels), torch.empty(size, pixels, dtype=precision, device=device)
    seen = [values.new_zeros(size, width) for width in widths]
    components = None if widths[0] == pixels else values.new_zeros(widths[0], pixels)

    def step() -> None:
        torch.index_select(stored, 0, rows, out=raw)
        values.copy_(raw)
        if components is None:
            seen[0].copy_(values)
        else:
            torch.mm(values, components.T, out=seen[0])
        for layer, weight in enumerate(weights):
            torch.mm(seen[layer], weight.T, out=seen[layer + 1])
        for layer in reversed(range(len(weights))):
            torch.mm(seen[layer + 1].T, seen[layer], out=products[layer])
            if layer:
                torch.mm(seen[layer + 1], weights[layer], out=seen[layer])
        optimizer.step()

    return step


def _recorded(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Several steps as one CUDA graph."""
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        step()  # makes the optimizer's momentum, and what the products' library keeps
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_STEPS_IN_GRAPH):
            step()
    return graph.replay
