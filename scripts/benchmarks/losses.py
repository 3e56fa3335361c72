"""Times the cross-entropy, forward and backward: fcnet's, torch's, and the limit of memory or matrix products."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import fcnet.functional
from benchmarks.limits import copy_bandwidth
from benchmarks.report import (
    LIMIT,
    OURS,
    Measurement,
    by_case,
    find_contender,
    print_measurements,
    print_table,
    time_interleaved,
)
from fcnet.runtime.formatting import format_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Loss = Callable[..., Tensor]

SIZES = ((128, 10), (8192, 10), (65536, 10), (4096, 1000), (2048, 21841))
GPU_SIZES = ((16384, 1000), (4096, 21841), (8192, 128256))
GPU_PRECISIONS = (torch.bfloat16, torch.float32)
LINEAR = (4096, 512, 21841)
FILL_SECONDS = 0.2
TORCH = "torch"


def loss_step(cross_entropy: Loss, x: Tensor, target: Tensor, smoothing: float = 0.0) -> Callable[[], None]:
    """Returns a function that computes the loss and its gradient with respect to the logits."""
    x = x.detach().requires_grad_()

    def step() -> None:
        torch.autograd.grad(cross_entropy(x, target, label_smoothing=smoothing), x)

    return step


def peak_bytes(step: Callable[[], None]) -> int:
    """Returns the peak of the memory that torch allocates during a step."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        step()
    results = profile.profiler.kineto_results if profile.profiler else None
    events = results.events() if results else []
    changes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]
    return int(max(itertools.accumulate(changes, initial=0)))


def measure_logits(repeats: int, sizes: tuple[tuple[int, int], ...] = SIZES) -> Iterator[Measurement]:
    """Measures milliseconds and MiB on the CPU, over sizes and kinds of targets."""
    draws = torch.Generator().manual_seed(0)
    for size in sizes:
        x = torch.randn(size, generator=draws)
        labels = torch.randint(size[1], size[:1], generator=draws)
        soft = torch.rand(size, generator=draws)
        soft /= soft.sum(1, keepdim=True)
        for kind, target, smoothing in (("index", labels, 0.0), ("smoothed", labels, 0.1), ("soft", soft, 0.0)):
            steps = {
                OURS: loss_step(fcnet.functional.cross_entropy, x, target, smoothing),
                TORCH: loss_step(nn.functional.cross_entropy, x, target, smoothing),
            }
            memory = {name: {"MiB": peak_bytes(step) / 2**20} for name, step in steps.items()}
            times = time_interleaved(steps, repeats, fill_seconds=FILL_SECONDS, device=x.device)
            for name, values in times.items():
                yield Measurement(f"{size}, {kind}", name, tuple(1e3 * value for value in values), "ms", memory[name])


def measure_linear(repeats: int, size: tuple[int, int, int] = LINEAR) -> Iterator[Measurement]:
    """Measures a linear layer with its cross-entropy: fcnet's, torch's with all logits, and the products alone."""
    rows, features, classes = size
    draws = torch.Generator().manual_seed(0)
    x, w = torch.randn(rows, features, generator=draws), torch.randn(classes, features, generator=draws) / 20
    labels = torch.randint(classes, (rows,), generator=draws)
    inputs = x.requires_grad_(), w.requires_grad_()

    def ours() -> None:
        torch.autograd.grad(fcnet.functional.linear_cross_entropy(*inputs, labels), inputs)

    def torchs() -> None:
        torch.autograd.grad(nn.functional.cross_entropy(nn.functional.linear(*inputs), labels), inputs)

    @torch.no_grad()
    def products() -> None:
        logits = x @ w.T
        _ = logits @ w, logits.T @ x

    steps = {OURS: ours, TORCH: torchs, LIMIT: products}
    gradients, logits = 4 * features * (rows + classes), 4 * rows * classes
    memory = {name: (peak_bytes(step) - gradients) / logits for name, step in steps.items()}
    times = time_interleaved(steps, repeats, fill_seconds=FILL_SECONDS, device=x.device)
    case = f"a linear layer and its cross-entropy, {rows} rows, {features} features, {classes} classes"
    for name, values in times.items():
        yield Measurement(case, name, values, "s", {"memory beyond the gradients / logits": memory[name]})


def measure_bandwidth(
    repeats: int,
    device: torch.device,
    sizes: tuple[tuple[int, int], ...] = GPU_SIZES,
    precisions: tuple[torch.dtype, ...] = GPU_PRECISIONS,
) -> Iterator[Measurement]:
    """Measures microseconds and the fraction of the copy bandwidth on a GPU.

    The fraction is given for twice the bytes of the logits (one read, and one write of the gradient) and for three
    times (a read in the forward and one in the backward pass). The limit is a copy of the logits.
    """
    draws = torch.Generator(device).manual_seed(0)
    bandwidth = copy_bandwidth(device)
    for size, dtype in itertools.product(sizes, precisions):
        x = torch.randn(size, generator=draws, device=device).to(dtype)
        labels = torch.randint(size[1], size[:1], generator=draws, device=device)
        copy = torch.empty_like(x)
        torch.compiler.reset()  # otherwise it stops compiling after several sizes
        steps: dict[str, Callable[[], object]] = {
            OURS: loss_step(fcnet.functional.cross_entropy, x, labels),
            TORCH: loss_step(nn.functional.cross_entropy, x, labels),
            "torch.compile": loss_step(torch.compile(nn.functional.cross_entropy, dynamic=False), x, labels),
            LIMIT: lambda copy=copy, x=x: copy.copy_(x),  # type: ignore[misc]
        }
        for name, values in time_interleaved(steps, repeats, fill_seconds=FILL_SECONDS, device=device).items():
            measurement = Measurement(f"{size}, {dtype}", name, tuple(1e6 * value for value in values), "µs")
            for times in (2, 3) if name != LIMIT else (2,):
                share = times * x.nbytes / (1e-6 * measurement.median) / bandwidth
                measurement.extra[f"{times} × logits, of copies"] = format_percent(share, 1)
            yield measurement


def compare(repeats: int, device: torch.device) -> list[Measurement]:
    """Prints and returns the measurements for a device."""
    if device.type == "cuda":
        measurements = list(measure_bandwidth(repeats, device))
        print_measurements(measurements)
        return measurements
    measurements, linear = list(measure_logits(repeats)), list(measure_linear(repeats))
    rows = []
    for case, group in by_case(measurements).items():
        ours, theirs = find_contender(group, OURS), find_contender(group, TORCH)
        assert ours is not None
        assert theirs is not None
        times = [
            f"{ours.median:.3f}",
            f"{theirs.median:.3f}",
            f"{ours.ratio_to(theirs):.2f}",
            ours.spread,
            theirs.spread,
        ]
        rows.append([case, *times, *(f"{each.extra['MiB']:.2f}" for each in (ours, theirs))])
    spreads = ["ours, range", "torch's, range"]
    print_table(["logits, target", "ours, ms", "torch's, ms", "ratio", *spreads, "ours, MiB", "torch's, MiB"], rows)
    print_measurements(linear)
    return [*measurements, *linear]
