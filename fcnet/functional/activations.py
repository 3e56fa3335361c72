"""Activations: functions of each element by itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fcnet.functional.autograd import Context, by_hand, derivative_of_plain
from fcnet.functional.dtypes import require_floating, require_real, widened

if TYPE_CHECKING:
    from collections.abc import Callable


def sigmoid(input: Tensor) -> Tensor:
    """s(x) = 1 / (1 + e^−x), the probability of the second of two classes with the logit x.

    With z = e^−|x|, which never overflows, it is 1 / (1 + z) for x ≥ 0 and z / (1 + z) for x < 0:
    both tails keep their digits.

    Args:
        input: any shape; integers and booleans give the default dtype.

    Returns:
        The same shape and, for floating dtypes, the same dtype.

    Raises:
        NotImplementedError: ``input`` is complex.

    Example:
        >>> sigmoid(torch.tensor([-100.0, 0.0, 100.0]))
        tensor([3.7835e-44, 5.0000e-01, 1.0000e+00])

    Source:
        The lecture's logistic function.
    """
    if not (input.is_floating_point() or input.is_complex()):
        input = input.to(torch.get_default_dtype())
    require_floating("input", input)
    return _along(SIGMOID, input)


def logsigmoid(input: Tensor) -> Tensor:
    """log s(x) = min(x, 0) − log(1 + e^−|x|), the log-likelihood of the second of two classes.

    Args:
        input: any shape, floating.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> logsigmoid(torch.tensor([-200.0, 0.0, 20.0]))
        tensor([-2.0000e+02, -6.9315e-01, -2.0612e-09])

    Source:
        The lecture's log-likelihood of logistic regression.
    """
    require_floating("input", input)
    return _along(_LOGSIGMOID, input)


def relu(input: Tensor) -> Tensor:
    """max(0, x), whose derivative is 1 for x ≥ 0 and 0 below.

    At 0 any slope from 0 to 1 is a subgradient; the lecture takes 1, torch takes 0.

    Args:
        input: any shape, any real dtype but bool.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``input`` is boolean or complex.

    Example:
        >>> relu(torch.tensor([-2.0, 0.0, 3.0]))
        tensor([0., 0., 3.])

    Source:
        The lecture's rectified linear unit.
    """
    require_real("input", input)
    return _along(_RELU, input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """max(0, x) + a · min(0, x), whose derivative is 1 for x > 0 and else a.

    Args:
        input: any shape, floating.
        negative_slope: a, the slope below 0.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> leaky_relu(torch.tensor([-2.0, 0.0, 3.0]))
        tensor([-0.0200,  0.0000,  3.0000])

    Source:
        The lecture's leaky rectified linear unit.
    """
    require_floating("input", input)
    return _along(leaky_relu_curve(negative_slope), input)


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """max(0, x) + α (e^min(0, x) − 1), whose derivative is 1 for x > 0 and else α e^x.

    `expm1` keeps the digits of e^x − 1 near 0.

    Args:
        input: any shape, floating.
        alpha: α; far below 0 the value is −α.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> elu(torch.tensor([-100.0, -1e-8, 3.0]))
        tensor([-1.0000e+00, -1.0000e-08,  3.0000e+00])

    Source:
        The lecture's exponential linear unit.
    """
    require_floating("input", input)
    return _along(elu_curve(alpha), input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x), with Φ the normal distribution function; or x s(2 √(2/π) (x + 0.044715 x³)) for ``"tanh"``.

    Φ(x) = ½ erfc(−x / √2): unlike ½ (1 + erf(x / √2)) it keeps its digits where it is small. In the
    same way ½ (1 + tanh v) is written as the sigmoid s(2v).

    Args:
        input: any shape, floating.
        approximate: ``"none"``, or ``"tanh"`` for the approximation.

    Returns:
        The same shape and dtype.

    Raises:
        NotImplementedError: ``input`` is not floating.
        RuntimeError: ``approximate`` is unknown.

    Example:
        >>> gelu(torch.tensor([-5.0, 0.0, 3.0]))
        tensor([-1.4333e-06,  0.0000e+00,  2.9960e+00])

    Source:
        The lecture's Gaussian error linear unit; Hendrycks and Gimpel, "Gaussian error linear units", 2016.
    """
    require_floating("input", input)
    if approximate not in GELUS:
        raise RuntimeError(f"approximate must be one of {', '.join(GELUS)}, got {approximate!r}")
    return _along(GELUS[approximate], input)


class Parts(NamedTuple):
    """The pieces that activations are made of: x⁻ = min(x, 0), x⁺ = max(x, 0) and e^−|x|."""

    low: Callable[[Tensor], Tensor]
    high: Callable[[Tensor], Tensor]
    decay: Callable[[Tensor], Tensor]


_SMOOTH = Parts(
    low=lambda x: x.masked_fill(x >= 0, 0.0),
    high=lambda x: x.masked_fill(x < 0, 0.0),
    decay=lambda x: torch.where(x < 0, x, -x).exp(),
)
"""Can be differentiated to every order; the derivatives at 0 are those from the right."""

_FAST = Parts(
    low=lambda x: x.clamp_max(0),
    high=lambda x: x.clamp_min(0),
    decay=lambda x: x.abs().neg_().exp_(),
)
"""The same values without a choice for each element; not to be differentiated."""

_FROM_THE_LEFT = Parts(
    low=lambda x: x.masked_fill(x > 0, 0.0),
    high=lambda x: x.masked_fill(x <= 0, 0.0),
    decay=_SMOOTH.decay,
)
"""Like `_SMOOTH`, but with the derivatives at 0 from the left, which torch takes where ReLU's rule is not asked for."""


class Curve(NamedTuple):
    """An activation by its parts, its derivative, and the parts through which it is differentiated again."""

    value: Callable[[Tensor, Parts], Tensor]
    slope: Callable[[Tensor], Tensor]
    parts: Parts = _SMOOTH


def leaky_relu_curve(negative_slope: float = 0.01) -> Curve:
    """The leaky ReLU of one slope below 0."""
    return Curve(
        value=lambda x, parts: parts.high(x) + negative_slope * parts.low(x),
        slope=lambda x: torch.where(x > 0, 1.0, x.new_full((), negative_slope)),
        parts=_FROM_THE_LEFT,
    )


def elu_curve(alpha: float = 1.0) -> Curve:
    """The ELU of one α."""
    return Curve(
        value=lambda x, parts: parts.high(x) + alpha * parts.low(x).expm1(),
        slope=lambda x: torch.where(x > 0, 1.0, alpha * _FAST.low(x).exp_()),
        parts=_FROM_THE_LEFT,
    )


def _sigmoid_value(x: Tensor, parts: Parts) -> Tensor:
    return parts.low(x).exp() / (1.0 + parts.decay(x))


def _sigmoid_slope(x: Tensor) -> Tensor:
    """s(x) s(−x); a difference 1 − s(x) would lose the digits of s(−x)."""
    z = _FAST.decay(x)
    return z / (1.0 + z).square_()


def _logsigmoid_value(x: Tensor, parts: Parts) -> Tensor:
    return parts.low(x) - parts.decay(x).log1p()


def _logsigmoid_slope(x: Tensor) -> Tensor:
    return _sigmoid_value(-x, _FAST)


def _relu_value(x: Tensor, parts: Parts) -> Tensor:
    return parts.high(x)


def _relu_slope(x: Tensor) -> Tensor:
    return _FAST.low(x).sign_().add_(1.0)


_FAR = 64.0
"""Beyond ±64 the tails of Φ and its approximation are 0 in every dtype, so that nothing changes any more."""


def _normal(x: Tensor) -> Tensor:
    """Φ(x) of x in [−64, 64]."""
    return 0.5 * (x * -math.sqrt(0.5)).erfc()


def _gelu_value(x: Tensor, parts: Parts) -> Tensor:
    return x.clamp(min=-_FAR) * _normal(x.clamp(-_FAR, _FAR))


def _gelu_slope(x: Tensor) -> Tensor:
    """Φ(x) + x φ(x), with the density φ(x) = e^(−x²/2) / √2π."""
    x = x.clamp(-_FAR, _FAR)
    return _normal(x) + x * (-0.5 * x.square()).exp_().mul_(1.0 / math.sqrt(2.0 * math.pi))


_INNER, _CUBIC = 2.0 * math.sqrt(2.0 / math.pi), 0.044715


def _gelu_tanh_value(x: Tensor, parts: Parts) -> Tensor:
    inside = x.clamp(-_FAR, _FAR)
    return x.clamp(min=-_FAR) * _sigmoid_value(_INNER * (inside + _CUBIC * inside**3), parts)


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    """s(u) + x s′(u) u′ with u = 2 √(2/π) (x + 0.044715 x³)."""
    x = x.clamp(-_FAR, _FAR)
    u = _INNER * (x + _CUBIC * x**3)
    return _sigmoid_value(u, _FAST) + x * _sigmoid_slope(u) * _INNER * (1.0 + 3.0 * _CUBIC * x.square())


SIGMOID = Curve(_sigmoid_value, _sigmoid_slope)
_LOGSIGMOID = Curve(_logsigmoid_value, _logsigmoid_slope)
_RELU = Curve(_relu_value, _relu_slope)
GELUS = {"none": Curve(_gelu_value, _gelu_slope), "tanh": Curve(_gelu_tanh_value, _gelu_tanh_slope)}


def _along(curve: Curve, input: Tensor) -> Tensor:
    x = widened(input)
    if not by_hand(x):
        result = curve.value(x, curve.parts)
    elif torch.is_grad_enabled():
        result = _Along.apply(x, curve)
    else:  # nobody asks for a derivative
        result = curve.value(x, _FAST)
    return result if x is input else result.to(input.dtype)


class _Along(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, curve: Curve) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = curve.slope
        ctx.plain = lambda x: curve.value(x, curve.parts)
        return curve.value(x, _FAST)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return derivative_of_plain(ctx.plain, x, grad), None
        return grad * ctx.slope(x), None
