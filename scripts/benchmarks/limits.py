"""What the machine can do at its best: what no training can leave out, the best copy, the best product.

The limit of a training is one read of the data (a batch's uint8 rows gathered in the epoch's random order and
turned into the products' dtype), the matrix products of the forward and backward pass into buffers made
beforehand, and the pass of SGD with momentum. On a GPU many steps are replayed as one CUDA graph.
Normalisation, activations, loss, counts and everything between are what is to be kept small.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch

from benchmarks.cases import MOMENTUM, Contender
from benchmarks.report import LIMIT, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from benchmarks.cases import Case, Data

STEPS_IN_GRAPH = 32


def limit(case: Case, data: Data, threads: int) -> Contender:
    """What cannot be left out, with some number of threads."""
    device, dtype = data.device, case.precision
    flat = data.pixels.flatten(1).to(device)
    parameters = [torch.randn(after, before, device=device) for before, after in itertools.pairwise(case.widths)]
    weights = [parameter.to(dtype) for parameter in parameters]
    parameters += [torch.zeros(width, device=device) for width in case.widths[1:]]
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    products = gradients[: len(weights)] if dtype == torch.float32 else [torch.empty_like(w) for w in weights]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=MOMENTUM, fused=True)  # the pass, without growing to inf
    raw = torch.empty(case.batch_size, flat.shape[1], dtype=torch.uint8, device=device)
    outputs = [torch.randn(case.batch_size, width, device=device).to(dtype) for width in case.widths]

    def step(rows: Tensor) -> None:
        torch.index_select(flat, 0, rows, out=raw)
        outputs[0].copy_(raw)
        for layer, weight in enumerate(weights):
            torch.mm(outputs[layer], weight.T, out=outputs[layer + 1])
        for layer in reversed(range(len(weights))):
            torch.mm(outputs[layer + 1].T, outputs[layer], out=products[layer])
            if layer:
                torch.mm(outputs[layer + 1], weights[layer], out=outputs[layer])
        optimizer.step()

    steps = len(flat) // case.batch_size
    chunk = 1 if device.type == "cpu" else min(STEPS_IN_GRAPH, steps)
    replay = step if chunk == 1 else _captured(step, chunk, case.batch_size, device)
    per_call = chunk * case.batch_size

    @torch.no_grad()
    def train() -> None:
        for rows in torch.randperm(len(flat), device=device).split(per_call)[: steps // chunk]:
            replay(rows)

    return Contender(LIMIT, train, steps // chunk * per_call, lambda: parameters, threads)


def _captured(
    step: Callable[[Tensor], None], steps: int, batch_size: int, device: torch.device
) -> Callable[[Tensor], None]:
    """So many steps as one CUDA graph, of rows that are copied to where it reads them."""
    memory = torch.zeros(steps, batch_size, dtype=torch.int64, device=device)
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.no_grad(), torch.cuda.stream(aside):
        step(memory[0])  # makes the optimizer's momentum, and what the products' library keeps
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        for rows in memory:
            step(rows)

    def replay(rows: Tensor) -> None:
        memory.copy_(rows.view(steps, batch_size))
        graph.replay()

    return replay


def copy_bandwidth(device: torch.device, num_bytes: int = 2**30) -> float:
    """Bytes a second, read and written together, of the best of several copies within the device's memory."""
    source = torch.zeros(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _least(lambda: target.copy_(source), device)


def product_speed(device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...] = (4096, 8192, 16384)) -> float:
    """Operations a second of the best square product (n, n) · (n, n) of several sizes."""
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)
        took = _least(lambda left=left, right=right, out=out: torch.mm(left, right, out=out), device)  # type: ignore[misc]
        best = max(best, 2 * size**3 / took)
    return best


def _least(run: Callable[[], object], device: torch.device) -> float:
    """Seconds a call in the fastest of several rounds."""
    run()
    return min((seconds(run, device, calls=10) for _ in range(5)), default=math.inf)
