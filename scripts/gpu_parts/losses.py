"""The cross-entropy of fcnet beside that of others: bandwidth, and the digits that are right."""

from __future__ import annotations

import importlib
import statistics
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import fcnet.functional as F
from benchmarks.report import time_interleaved
from gpu_parts.settings import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_parts.settings import Settings

    Loss = Callable[[Tensor, Tensor], Tensor]

_SIZES = ((65_536, 10), (16_384, 1_000), (4_096, 32_000), (2_048, 128_256), (8, 128_256))
_QUICK_SIZES = ((64, 10), (16, 1_000))
_DTYPES = (torch.bfloat16, torch.float32)
_REPEATS = 5


def contenders() -> tuple[dict[str, Loss], dict[str, str]]:
    """Returns the mean cross-entropy of each package that is installed, and why the others are left out."""
    losses: dict[str, Loss] = {"fcnet": F.cross_entropy, "torch": torch.nn.functional.cross_entropy}
    missing = {}
    for name, module, function in (
        ("liger", "liger_kernel.transformers.functional", "liger_cross_entropy"),
        ("quack", "quack.cross_entropy", "cross_entropy"),
    ):
        try:
            losses[name] = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, RuntimeError) as error:
            missing[name] = str(error).partition("\n")[0]
    return losses, missing


def losses(settings: Settings) -> Result:
    """Measures the bandwidth of each loss, forward and backward, and its error on logits that are hard.

    The bandwidth counts one read of the logits and one write of their gradient. A loss that fails is a line of its own.
    """
    known, failures = contenders()
    rows: list[dict[str, Any]] = []
    for count, classes in _QUICK_SIZES if settings.quick else _SIZES:
        for dtype in _DTYPES:
            rows += _measure(known, count, classes, dtype, settings, failures)
    errors = {name: _errors(loss, settings.device, name, failures) for name, loss in known.items()}
    text = [
        f"{row['rows']:>6,} × {row['classes']:<7,} {row['dtype']:<9} {row['loss']:<6} "
        f"{row['milliseconds']:8.3f} ms {row['gigabytes_per_second']:8.1f} GB/s"
        for row in rows
    ]
    for name, found in errors.items():
        text += [f"{name:<6} relative error of the {what}: {error:.1e}" for what, error in found.items()]
    text += [f"{name}: {reason}" for name, reason in failures.items()]
    return Result({"bandwidth": rows, "relative_errors": errors, "left_out": failures}, "\n".join(text))


def _measure(
    known: dict[str, Loss],
    count: int,
    classes: int,
    dtype: torch.dtype,
    settings: Settings,
    failures: dict[str, str],
) -> list[dict[str, Any]]:
    """Times the losses of one size in turn."""
    x = torch.randn(count, classes, device=settings.device).to(dtype)
    y = torch.randint(classes, (count,), device=settings.device)
    steps = {}
    for name, loss in known.items():
        step = _step(loss, x, y)
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a package of others may fail in any way, and the rest goes on
            failures[f"{name} at {count} × {classes} {dtype}"] = str(error).partition("\n")[0]
        else:
            steps[name] = step
    fill = 0.01 if settings.quick else 0.1
    times = time_interleaved(steps, _REPEATS, fill_seconds=fill, device=settings.device)
    moved = 2 * x.nbytes
    return [
        {
            "rows": count,
            "classes": classes,
            "dtype": str(dtype).removeprefix("torch."),
            "loss": name,
            "milliseconds": 1e3 * statistics.median(values),
            "gigabytes_per_second": moved / statistics.median(values) / 1e9,
        }
        for name, values in times.items()
    ]


def _step(loss: Loss, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """Returns a function that computes the gradient of a loss in logits of its own: some write the gradient there."""
    logits = x.clone().requires_grad_()
    return lambda: torch.autograd.grad(loss(logits, y), logits)[0]


def _errors(loss: Loss, device: torch.device, name: str, failures: dict[str, str]) -> dict[str, float]:
    """Returns the relative error of the loss and of its gradient for a sure row, without and with a large offset."""
    found = {}
    for offset in (0.0, 4096.0):
        values = torch.tensor([[20.0, 0.0, -1.0]], device=device) + offset
        exact = values.double().requires_grad_()
        truth = torch.log1p((exact[:, 1:] - exact[:, :1]).exp().sum(1)).mean()
        (slope,) = torch.autograd.grad(truth, exact)
        x, y = values.clone().requires_grad_(), torch.zeros(1, dtype=torch.int64, device=device)
        try:
            result = loss(x, y)
            (gradient,) = torch.autograd.grad(result, x)
        except Exception as error:  # noqa: BLE001 - as above
            failures[f"{name}, sure row + {offset:g}"] = str(error).partition("\n")[0]
            continue
        found[f"loss, sure row + {offset:g}"] = float(
            (result.detach().double() - truth.detach()).abs() / truth.detach()
        )
        found[f"gradient, sure row + {offset:g}"] = float(((gradient.double() - slope) / slope).abs().max())
    return found
