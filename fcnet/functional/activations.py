"""Activations: functions of each element by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.functional.derivatives import Context, by_hand
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
    return _pointwise(_sigmoid, _sigmoid_slope, input)


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
    return _pointwise(_logsigmoid, _logsigmoid_slope, input)


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
    return input.masked_fill(input < 0, 0)


def _sigmoid(x: Tensor) -> Tensor:
    z = decay(x)
    return z.masked_fill(x >= 0, 1.0) / (1.0 + z)


def _sigmoid_slope(x: Tensor) -> Tensor:
    """s(x) s(−x): a difference 1 − s(x) would lose the digits of s(−x)."""
    z = decay(x)
    return z / (1.0 + z).square()


def _logsigmoid(x: Tensor) -> Tensor:
    return x.masked_fill(x >= 0, 0.0) - decay(x).log1p()


def _logsigmoid_slope(x: Tensor) -> Tensor:
    return _sigmoid(-x)


def decay(x: Tensor) -> Tensor:
    """e^−|x|, in (0, 1], with the slope −1 at 0 that the formulas for x ≥ 0 have there."""
    return torch.where(x < 0, x, -x).exp()


def _pointwise(value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    x = widened(input)
    result: Tensor = _Pointwise.apply(x, value, slope) if by_hand(x) else value(x)
    return result.to(input.dtype)


class _Pointwise(torch.autograd.Function):
    """value(x), with the derivative slope(x)."""

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return value(x)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grad * ctx.slope(x), None, None
