"""How many images a second a machine could train on at the most: what no training can leave out, timed."""

from __future__ import annotations

import itertools
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MAX_BATCH = 4096
_STORED_IMAGES = 2048
_STEPS_PER_GRAPH = 16
_MIN_REPEATS = 5


@torch.no_grad()
def max_images_per_second(
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
    components of the pixels, finding them is one product more. The optimizer is torch's SGD with momentum.
    Normalisation, activations, loss, and what is between them, count as nothing.

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
        >>> max_images_per_second([64, 32, 10], 128, pixels=64, seconds=0.01) > 1000
        True
    """
    device, size = torch.device(device), min(batch_size, _MAX_BATCH)
    stored = torch.zeros(_STORED_IMAGES, pixels, dtype=torch.uint8, device=device)
    steps = _STEPS_PER_GRAPH if device.type == "cuda" else 1
    rows = torch.randint(_STORED_IMAGES, (steps, size), generator=torch.Generator().manual_seed(0)).to(device)
    least, _ = make_minimal_step(widths, stored, size, precision)
    step = capture_graph(least, rows) if device.type == "cuda" else partial(least, rows[0])
    step()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < _MIN_REPEATS or time.perf_counter() < end:
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - began)
    return steps * size / statistics.median(took)


def make_minimal_step(
    widths: Sequence[int], stored: Tensor, size: int, precision: torch.dtype
) -> tuple[Callable[[Tensor], None], list[Tensor]]:
    """What no step can leave out, in memory that is made beforehand.

    Args:
        widths: n[0], …, n[L].
        stored: the images' values, uint8 (N, D), on the device that does it.
        size: images in a step.
        precision: of the products.

    Returns:
        A function that makes the step of some rows, int64 (B,), within `torch.no_grad`; and the parameters that its
        optimizer goes through.
    """
    device, pixels = stored.device, stored.shape[1]
    numbers = torch.Generator(device).manual_seed(0)
    parameters = [
        torch.randn(after, before, device=device, generator=numbers) for before, after in itertools.pairwise(widths)
    ]
    weights = [parameter.to(precision) for parameter in parameters]
    parameters += [torch.zeros(width, device=device) for width in widths[1:]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    products = [p.grad if w is p else torch.empty_like(w) for w, p in zip(weights, parameters, strict=False)]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, fused=True)  # the pass, without growing to inf
    raw, values = stored.new_empty(size, pixels), torch.empty(size, pixels, dtype=precision, device=device)
    whole = widths[0] == pixels
    seen = [values, *(torch.randn(size, width, device=device, generator=numbers).to(precision) for width in widths[1:])]
    components = None if whole else values.new_zeros(widths[0], pixels)
    if components is not None:
        seen[0] = values.new_zeros(size, widths[0])

    def step(rows: Tensor) -> None:
        torch.index_select(stored, 0, rows, out=raw)
        values.copy_(raw)
        if components is not None:
            torch.mm(values, components.T, out=seen[0])
        for layer, weight in enumerate(weights):
            torch.mm(seen[layer], weight.T, out=seen[layer + 1])
        for layer in reversed(range(len(weights))):
            torch.mm(seen[layer + 1].T, seen[layer], out=products[layer])
            if layer:
                torch.mm(seen[layer + 1], weights[layer], out=seen[layer])
        optimizer.step()

    return step, parameters


@torch.no_grad()
def capture_graph(step: Callable[[Tensor], None], memory: Tensor) -> Callable[[], None]:
    """Several steps as one CUDA graph, of the rows that are in a memory (steps, B) when it is replayed."""
    device = memory.device
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        step(memory[0])  # makes the optimizer's momentum, and what the products' library keeps
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for rows in memory:
            step(rows)
    return graph.replay
