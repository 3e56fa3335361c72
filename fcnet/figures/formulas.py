"""The data of the lecture's line plots of formulas, computed by `fcnet.functional`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

import fcnet.functional as F
from fcnet.figures.curves import Dot, Line

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_TINY = torch.finfo(torch.float64).tiny
_POINTS_PER_UNIT = 100
_JUMP_TOLERANCE = 1e-6

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": F.sigmoid,
    "ReLU": F.relu,
    "leaky ReLU, $a = 0.1$": partial(F.leaky_relu, negative_slope=0.1),
    "ELU": F.elu,
    "GELU": F.gelu,
    "GELU, tanh form": partial(F.gelu, approximate="tanh"),
}


def curve(label: str, function: Callable[[Tensor], Tensor], reach: float) -> Line:
    """Samples a function on [−reach, reach]. A jump at 0 becomes a gap, with dots at both limits and at the value.

    Args:
        label: the legend entry.
        function: float64 (N,) -> (N,), elementwise, continuous except possibly at 0.
        reach: the end of the interval.

    Example:
        >>> curve("sgn", torch.sign, 1.0).dots
        (Dot(x=0.0, y=-1.0, filled=False), Dot(x=0.0, y=1.0, filled=False), Dot(x=0.0, y=0.0, filled=True))
    """
    steps = round(_POINTS_PER_UNIT * reach) + 1
    # The smallest positive float64 on either side of 0 samples the one-sided limits.
    left = torch.linspace(-reach, -_TINY, steps, dtype=torch.float64)
    right = torch.linspace(_TINY, reach, steps, dtype=torch.float64)
    middle = torch.zeros(1, dtype=torch.float64)
    values = [function(x).detach() for x in (left, middle, right)]
    before, here, after = float(values[0][-1]), float(values[1]), float(values[2][0])
    dots: tuple[Dot, ...] = ()
    if abs(after - before) > _JUMP_TOLERANCE:
        dots = tuple(Dot(0.0, limit, filled=False) for limit in (before, after) if limit != here)
        dots += (Dot(0.0, here, filled=True),)
        values[1] = torch.full_like(middle, torch.nan)
    return Line(label, torch.cat([left, middle, right]), torch.cat(values), dots)


def elementwise_grad(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns the derivative of an elementwise function, computed by autograd as in training.

    Example:
        >>> elementwise_grad(F.relu)(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0., 1., 1.])
    """

    def derivative(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x).sum(), x)[0]

    return derivative


def scaled_sigmoids() -> list[Line]:
    """Samples s(cu) for several c."""
    scales = {"5": 5.0, "2": 2.0, "1": 1.0, "½": 0.5}
    return [curve(f"$c = {name}$", partial(F.scaled_sigmoid, scale=c), 6.0) for name, c in scales.items()]


def saturation() -> tuple[Line, Line]:
    """Samples s′ and its upper bound, e^−x for x ≥ 0 and s(x) for x < 0."""
    bound = curve("bound: $e^{-x}$ for $x \\geq 0$,\n$s(x)$ for $x < 0$", F.saturation_bound, 10.0)
    return curve("$s'(x)$", F.sigmoid_derivative, 10.0), bound


def activations() -> list[tuple[str, Line, Line]]:
    """Samples each activation and its derivative, with its name."""
    return [
        (name, curve("$g(x)$", g, 4.0), curve("$g'(x)$", elementwise_grad(g), 4.0)) for name, g in _ACTIVATIONS.items()
    ]


def losses() -> list[Line]:
    """Samples the losses as functions of the margin y h, with y = 1 so that the margin is h."""
    return [
        curve("log loss $\\log(1 + e^{-yh})$", partial(_loss, F.logistic_loss), 3.0),
        curve("hinge loss $\\max(0, 1 - yh)$", partial(_loss, F.hinge_loss), 3.0),
        curve("quadratic loss $(y - h)^2$", lambda h: _loss(F.quadratic_loss, h[:, None]), 3.0),
        curve("0–1 loss", lambda h: (F.sgn(h) != 1.0).to(h.dtype), 3.0),
    ]


def _loss(loss: Callable[..., Tensor], score: Tensor) -> Tensor:
    return loss(score, torch.ones_like(score), reduction="none")


def links() -> list[Line]:
    """Samples ½ (1 + sgn u), the step of a hard decision, and the distribution functions that give a probability."""
    return [
        curve("$½\\,(1 + \\mathrm{sgn}\\,u)$", lambda u: (1.0 + F.sgn(u)) / 2, 6.0),
        curve("logistic $s(u)$", F.sigmoid, 6.0),
        curve("probit $\\Phi(u)$", F.normal_cdf, 6.0),
        curve("arctan $½ + \\arctan(u)/\\pi$", F.cauchy_cdf, 6.0),
    ]
