"""What the machine can do at its best: what a training does at the least, the best copy, the best product.

The limit of a training is one read of the data (a batch's uint8 rows gathered in the epoch's random order and
turned into the products' dtype), the matrix products of the forward and backward pass into buffers made
beforehand, and the step of torch's SGD with momentum, all by torch's own calls. On a GPU many steps are replayed as
one CUDA graph. Normalisation, activations, loss, counts and everything between are what is to be kept small.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch

from benchmarks.cases import Contender
from benchmarks.report import LIMIT, seconds
from fcnet.models.speed import capture_graph, make_minimal_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Case, Data

STEPS_PER_GRAPH = 32


def speed_limit(case: Case, data: Data, threads: int) -> Contender:
    """What cannot be left out, with some number of threads."""
    device, size = data.device, case.batch_size
    flat = data.pixels.flatten(1).to(device)
    step, parameters = make_minimal_step(case.widths, flat, size, case.precision)
    steps = len(flat) // size
    chunk = 1 if device.type == "cpu" else min(STEPS_PER_GRAPH, steps)
    memory = torch.zeros(chunk, size, dtype=torch.int64, device=device)
    replay = partial(step, memory[0]) if device.type == "cpu" else capture_graph(step, memory)

    @torch.no_grad()
    def train() -> None:
        for rows in torch.randperm(len(flat), device=device).split(chunk * size)[: steps // chunk]:
            memory.copy_(rows.view(chunk, size))
            replay()

    return Contender(LIMIT, train, steps // chunk * chunk * size, lambda: parameters, threads)


def copy_bandwidth(device: torch.device, num_bytes: int = 2**30) -> float:
    """Bytes a second, read and written together, of the best of several copies within the device's memory."""
    source = torch.zeros(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest_seconds(lambda: target.copy_(source), device)


def matmul_speed(device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...] = (4096, 8192, 16384)) -> float:
    """Operations a second of the best square product (n, n) · (n, n) of several sizes."""
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)
        took = _fastest_seconds(lambda left=left, right=right, out=out: torch.mm(left, right, out=out), device)  # type: ignore[misc]
        best = max(best, 2 * size**3 / took)
    return best


def _fastest_seconds(run: Callable[[], object], device: torch.device) -> float:
    """Seconds a call in the fastest of several rounds."""
    run()
    return min((seconds(run, device, calls=10) for _ in range(5)), default=math.inf)
