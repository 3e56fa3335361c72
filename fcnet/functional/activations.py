"""Activations: functions of each element by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fcnet.functional.derivatives import Context, by_hand, derivative_of_plain
from fcnet.functional.precision import require_floating, widened

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
    return _along(_SIGMOID, input)


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
    if input.dtype == torch.bool or input.is_complex():
        raise NotImplementedError(f"input must be of a real dtype, got {input.dtype}")
    return _along(_RELU, input)


class Parts(NamedTuple):
    """The pieces that activations are made of: x⁻ = min(x, 0), x⁺ = max(x, 0) and e^−|x|."""

    low: Callable[[Tensor], Tensor]
    high: Callable[[Tensor], Tensor]
    decay: Callable[[Tensor], Tensor]


class Curve(NamedTuple):
    """An activation, by its parts, and its derivative, at 0 the one from the right."""

    value: Callable[[Tensor, Parts], Tensor]
    slope: Callable[[Tensor], Tensor]


_SMOOTH = Parts(
    low=lambda x: x.masked_fill(x >= 0, 0.0),
    high=lambda x: x.masked_fill(x < 0, 0.0),
    decay=lambda x: torch.where(x < 0, x, -x).exp(),
)
"""Can be differentiated to every order; the derivatives at 0 are those from the right."""

_FAST = Parts(
    low=lambda x: torch.minimum(x, x.new_zeros(())),
    high=lambda x: torch.maximum(x, x.new_zeros(())),
    decay=lambda x: x.abs().neg_().exp_(),
)
"""The same values without a choice for each element; not to be differentiated."""


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


_SIGMOID = Curve(_sigmoid_value, _sigmoid_slope)
_LOGSIGMOID = Curve(_logsigmoid_value, _logsigmoid_slope)
_RELU = Curve(_relu_value, _relu_slope)


def _along(curve: Curve, input: Tensor) -> Tensor:
    x = widened(input)
    result: Tensor = _Along.apply(x, curve) if by_hand(x) else curve.value(x, _SMOOTH)
    return result.to(input.dtype)


class _Along(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, curve: Curve) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = curve.slope
        ctx.plain = lambda x: curve.value(x, _SMOOTH)
        return curve.value(x, _FAST)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return derivative_of_plain(ctx.plain, x, grad), None
        return grad * ctx.slope(x), None
