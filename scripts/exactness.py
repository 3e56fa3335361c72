"""Prints the errors of values and gradients in float32, of fcnet and of torch, in units in the last place.

The truth is computed in float64: each function as one over, or the logarithm of, 1 + a sum of powers, a form without
cancellation; its gradient by autograd. A unit in the last place (ulp) of a number is the distance between its neighbors
in float32, subnormal numbers included. Every row has a label or a target; the softmax and its logarithm are compared at
the label's class.

    python scripts/exactness.py [--rows 1000000]
"""

from __future__ import annotations

import argparse
import platform
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

import fcnet.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    Draw = Callable[[int, torch.Generator], tuple[Tensor, ...]]

CLASSES = 10
CHUNK = 50_000


class Case(NamedTuple):
    """A function in a regime.

    Attributes:
        name: the function.
        regime: the range of its arguments, for the table.
        draw: number of rows and a generator -> float32 arguments; the gradient is taken in the first.
        function: a module (fcnet's or torch's) and the arguments -> one value per row.
        truth: float64 arguments -> the same values.
        cancels: True if the gradient is a difference, which may be arbitrarily small; its ulp is then that of the
            row's largest element.
    """

    name: str
    regime: str
    draw: Draw
    function: Callable[..., Tensor]
    truth: Callable[..., Tensor]
    cancels: bool = False


def easy(rows: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws logits of an uncertain model, and any label."""
    return 2.0 * torch.randn(rows, CLASSES, generator=draws), torch.randint(CLASSES, (rows,), generator=draws)


def confident(rows: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws logits with the label's 10 to 80 above all others."""
    x, y = easy(rows, draws)
    margin = x.amax(1) + 10.0 + 70.0 * torch.rand(rows, generator=draws)
    return x.scatter(1, y[:, None], margin[:, None]), y


def offset(rows: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws confident logits with a common offset of 4096."""
    x, y = confident(rows, draws)
    return x + 4096.0, y


def wide(rows: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws logits of magnitudes from 2⁻²⁰ to 2⁶."""
    x, y = easy(rows, draws)
    return x * torch.exp2(-21.0 + 26.0 * torch.rand(rows, 1, generator=draws)), y


def soft(rows: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws class probabilities as targets, from uniform to nearly one-hot, some of them 0."""
    x, y = easy(rows, draws)
    sharpness = torch.exp2(4.0 * torch.rand(rows, 1, generator=draws))
    t = torch.softmax(sharpness * torch.randn(rows, CLASSES, generator=draws), 1)
    t = t * (torch.rand(rows, CLASSES, generator=draws) < 0.8)
    return x, t.scatter_add(1, y[:, None], (1.0 - t.sum(1, keepdim=True)).clamp(min=0.0))


def uniform_scores(low: float, high: float, *, label: bool = False) -> Draw:
    """Returns a drawing function for uniform scores and, with ``label``, labels 0 and 1."""

    def draw(rows: int, draws: torch.Generator) -> tuple[Tensor, ...]:
        x = low + (high - low) * torch.rand(rows, generator=draws)
        return (x, torch.randint(2, (rows,), generator=draws).float()) if label else (x,)

    return draw


def inverse_odds(x: Tensor) -> Tensor:
    """Computes Σ_{i≠j} e^(x_i − x_j) = 1 / p̂_j − 1 for every class j."""
    powers = (x[:, None, :] - x[:, :, None]).exp()
    return powers.masked_fill(torch.eye(x.shape[1], dtype=torch.bool), 0.0).sum(2)


def select_label(values: Tensor, y: Tensor) -> Tensor:
    """Returns each row's value at its label."""
    return values.gather(1, y[:, None]).squeeze(1)


def true_log_softmax(x: Tensor) -> Tensor:
    """Computes log p̂_j = −log(1 + Σ_{i≠j} e^(x_i − x_j))."""
    return -inverse_odds(x).log1p()


def cross_entropy(module: Any, x: Tensor, target: Tensor) -> Tensor:  # noqa: ANN401 - a module
    """Computes the loss of every row."""
    losses: Tensor = module.cross_entropy(x, target, reduction="none")
    return losses


def elementwise(name: str, **options: str) -> Callable[..., Tensor]:
    """Returns the activation of a name, as a function of a module and its argument."""
    return lambda module, x: getattr(module, name)(x, **options)


LABEL_REGIMES = (("easy", easy), ("confident", confident), ("confident, offset 4096", offset), ("wide range", wide))
CLASS_FUNCTIONS: tuple[tuple[str, Callable[..., Tensor], Callable[..., Tensor]], ...] = (
    ("cross_entropy", cross_entropy, lambda x, y: -select_label(true_log_softmax(x), y)),
    (
        "log_softmax",
        lambda module, x, y: select_label(module.log_softmax(x, 1), y),
        lambda x, y: select_label(true_log_softmax(x), y),
    ),
    (
        "softmax",
        lambda module, x, y: select_label(module.softmax(x, 1), y),
        lambda x, y: select_label(1.0 / (1.0 + inverse_odds(x)), y),
    ),
)
CASES = (
    *(
        Case(name, regime, draw, function, truth)
        for name, function, truth in CLASS_FUNCTIONS
        for regime, draw in LABEL_REGIMES
    ),
    Case(
        "cross_entropy",
        "soft targets",
        soft,
        cross_entropy,
        lambda x, t: -(t * true_log_softmax(x)).sum(1),
        cancels=True,
    ),
    Case(
        "binary_cross_entropy_with_logits",
        "−80 to 80",
        uniform_scores(-80, 80, label=True),
        lambda module, x, t: module.binary_cross_entropy_with_logits(x, t, reduction="none"),
        lambda x, t: (x * (1.0 - 2.0 * t)).exp().log1p(),
    ),
    Case(
        "sigmoid", "−100 to 100", uniform_scores(-100, 100), elementwise("sigmoid"), lambda x: 1.0 / (1.0 + (-x).exp())
    ),
    Case(
        "logsigmoid", "−100 to 100", uniform_scores(-100, 100), elementwise("logsigmoid"), lambda x: -(-x).exp().log1p()
    ),
    Case(
        "elu",
        "−20 to 1",
        uniform_scores(-20, 1),
        elementwise("elu"),
        lambda x: torch.where(x > 0, x, x.clamp(max=0).expm1()),
    ),
    Case("gelu", "−10 to −1", uniform_scores(-10, -1), elementwise("gelu"), lambda x: 0.5 * x * (-x * 0.5**0.5).erfc()),
    Case("gelu", "−½ to 10", uniform_scores(-0.5, 10), elementwise("gelu"), lambda x: 0.5 * x * (-x * 0.5**0.5).erfc()),
)


def ulps(result: Tensor, truth: Tensor, scale: Tensor) -> float:
    """Returns the largest distance of float32 values from float64 truth, in ulp of ``scale``."""
    _, exponent = torch.frexp(scale)
    ulp = torch.ldexp(torch.ones_like(truth), (exponent - 24).clamp(min=-149))
    return float(((result.double() - truth).abs() / ulp).max())


def value_and_grad(function: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the values, and the gradient of their sum in the first argument."""
    x = x.clone().requires_grad_()
    value = function(x, *rest)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def errors(case: Case, rows: int) -> tuple[float, float, float, float]:
    """Returns the largest errors in ulp: of the value, fcnet's and torch's; of the gradient, fcnet's and torch's."""
    draws = torch.Generator().manual_seed(0)
    worst = [0.0] * 4
    for start in range(0, rows, CHUNK):
        arguments = case.draw(min(CHUNK, rows - start), draws)
        exact = [a.double() if a.is_floating_point() else a for a in arguments]
        truth = value_and_grad(case.truth, *exact)
        for place, module in enumerate((F, torch.nn.functional)):
            result = value_and_grad(lambda *a: case.function(module, *a), *arguments)  # noqa: B023
            for part in (0, 1):
                at = 2 * part + place
                scale = truth[part].abs().amax(1, keepdim=True) if case.cancels and part else truth[part]
                worst[at] = max(worst[at], ulps(result[part], truth[part], scale))
    return worst[0], worst[1], worst[2], worst[3]


def format_ulp(ulp: float) -> str:
    """Formats an error: with one decimal, or as a power of ten if hardly a digit is right."""
    return f"{ulp:.1f}" if ulp < 1e4 else f"{ulp:.0e}"


def main() -> int:
    """Measures every case and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="random rows per regime")
    rows = parser.parse_args().rows
    print(
        f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}; {rows:,} rows\n"
    )
    print("| function | regime | value: fcnet | torch | gradient: fcnet | torch |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in CASES:
        print(f"| `{case.name}` | {case.regime} | {' | '.join(map(format_ulp, errors(case, rows)))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
