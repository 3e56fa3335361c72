"""The speed limits of the machine: the shortest possible training step, the fastest copy, the fastest matrix product.

A training cannot leave out one read of the data (the uint8 rows of a batch, gathered in random order and converted to
the dtype of the products), the matrix products of the forward and backward pass, and the pass of the optimizer. Here
these are torch's own calls, with SGD and momentum, into preallocated buffers; on a GPU, many steps are replayed as one
CUDA graph. Normalization, activations, loss and metrics count as overhead.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.cases import Contender
from benchmarks.report import LIMIT, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.cases import Case, Data

STEPS_PER_GRAPH = 32


def speed_limit(case: Case, data: Data, threads: int) -> Contender:
    """Returns the contender that runs only minimal steps."""
    device, size = data.device, case.batch_size
    pixels = data.pixels.flatten(1).to(device)
    step, parameters = make_minimal_step(case.widths, pixels, size, case.precision)
    steps = len(pixels) // size
    steps_per_run = 1 if device.type == "cpu" else min(STEPS_PER_GRAPH, steps)
    rows = torch.zeros(steps_per_run, size, dtype=torch.int64, device=device)
    run = partial(step, rows[0]) if device.type == "cpu" else capture_graph(step, rows)

    @torch.no_grad()
    def train() -> None:
        for part in torch.randperm(len(pixels), device=device).split(steps_per_run * size)[: steps // steps_per_run]:
            rows.copy_(part.view(steps_per_run, size))
            run()

    return Contender(LIMIT, train, steps // steps_per_run * steps_per_run * size, lambda: parameters, threads)


def make_minimal_step(
    widths: Sequence[int], pixels: Tensor, size: int, precision: torch.dtype
) -> tuple[Callable[[Tensor], None], list[Tensor]]:
    """Allocates the buffers of a minimal training step.

    Args:
        widths: n[0], …, n[L], where n[0] = D.
        pixels: uint8 (N, D), on the device of the step.
        size: B, the images per step.
        precision: the dtype of the products.

    Returns:
        A function that runs the step of the rows int64 (B,), inside `torch.no_grad`; and the parameters of its
        optimizer.
    """
    device = pixels.device
    draws = torch.Generator(device).manual_seed(0)
    parameters = [
        torch.randn(after, before, device=device, generator=draws) for before, after in itertools.pairwise(widths)
    ]
    weights = [parameter.to(precision) for parameter in parameters]
    parameters += [torch.zeros(width, device=device) for width in widths[1:]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    # In float32 the products are the gradients; in another precision they need buffers of their own.
    products = [p.grad if w is p else torch.empty_like(w) for w, p in zip(weights, parameters, strict=False)]
    # lr = 0: the optimizer does all its work, and the parameters never grow to inf.
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, fused=True)
    raw, values = pixels.new_empty(size, widths[0]), torch.empty(size, widths[0], dtype=precision, device=device)
    outputs = [torch.randn(size, width, device=device, generator=draws).to(precision) for width in widths[1:]]
    a = [values, *outputs]

    def step(rows: Tensor) -> None:
        torch.index_select(pixels, 0, rows, out=raw)
        values.copy_(raw)
        for layer, weight in enumerate(weights):
            torch.mm(a[layer], weight.T, out=a[layer + 1])
        # The backward pass has products of the same shapes, so it reuses the activations as gradients.
        for layer in reversed(range(len(weights))):
            torch.mm(a[layer + 1].T, a[layer], out=products[layer])
            if layer:
                torch.mm(a[layer + 1], weights[layer], out=a[layer])
        optimizer.step()

    return step, parameters


@torch.no_grad()
def capture_graph(step: Callable[[Tensor], None], rows: Tensor) -> Callable[[], None]:
    """Captures several steps as one CUDA graph; each replay reads its batches from ``rows`` (steps, B)."""
    device = rows.device
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        step(rows[0])  # allocates the momentum and the workspace of the matrix products
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for batch in rows:
            step(batch)
    return graph.replay


def copy_bandwidth(device: torch.device, num_bytes: int = 2**30) -> float:
    """Returns the bytes per second, read and written, of the fastest of several copies on a device."""
    source = torch.zeros(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest_seconds(lambda: target.copy_(source), device)


def matmul_speed(device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...] = (4096, 8192, 16384)) -> float:
    """Returns the operations per second of the fastest product (n, n) · (n, n) over several n."""
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)
        took = _fastest_seconds(lambda left=left, right=right, out=out: torch.mm(left, right, out=out), device)  # type: ignore[misc]
        best = max(best, 2 * size**3 / took)
    return best


def _fastest_seconds(run: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds per call of the fastest of several rounds."""
    run()
    return min((seconds(run, device, calls=10) for _ in range(5)), default=math.inf)
