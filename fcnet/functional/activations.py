"""Activations: functions of each element by itself.

Each activation stands in one place: its formula in code, its derivative, and the public function. The formulas use
three primitives that keep their digits and never overflow: x⁻ = min(x, 0), x⁺ = max(x, 0) and e^−|x|.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fcnet.functional.arguments import require_tensor, to_real
from fcnet.functional.autograd import Context, can_use_custom_backward, differentiable_grad
from fcnet.functional.cdfs import normal_cdf
from fcnet.functional.dtypes import require_floating, require_real, to_compute_dtype

if TYPE_CHECKING:
    from collections.abc import Callable


class Primitives(NamedTuple):
    """One implementation of x⁻ = min(x, 0), x⁺ = max(x, 0) and e^−|x|."""

    negative_part: Callable[[Tensor], Tensor]
    positive_part: Callable[[Tensor], Tensor]
    exp_neg_abs: Callable[[Tensor], Tensor]


_NO_GRAD = Primitives(
    negative_part=lambda x: x.clamp_max(0),
    positive_part=lambda x: x.clamp_min(0),
    exp_neg_abs=lambda x: x.abs().neg_().exp_(),
)
"""The fastest, without autograd."""

_DIFFERENTIABLE = Primitives(
    negative_part=lambda x: x.masked_fill(x >= 0, 0.0),
    positive_part=lambda x: x.masked_fill(x < 0, 0.0),
    exp_neg_abs=lambda x: torch.where(x < 0, x, -x).exp(),
)
"""The same values, differentiable to any order. Derivatives at 0 are those from the right, as ReLU's is 1 there."""

_LEFT_DERIVATIVE = Primitives(
    negative_part=lambda x: x.masked_fill(x > 0, 0.0),
    positive_part=lambda x: x.masked_fill(x <= 0, 0.0),
    exp_neg_abs=_DIFFERENTIABLE.exp_neg_abs,
)
"""Like `_DIFFERENTIABLE`, with the derivatives at 0 from the left: torch's choice for leaky ReLU and ELU."""


class Activation(NamedTuple):
    """An activation g.

    Attributes:
        value: g(x), from x and an implementation of the primitives.
        derivative: g′(x), without autograd.
        primitives: the implementation that autograd differentiates.
    """

    value: Callable[[Tensor, Primitives], Tensor]
    derivative: Callable[[Tensor], Tensor]
    primitives: Primitives = _DIFFERENTIABLE


# --- sigmoid ------------------------------------------------------------------------------------------------------


def _sigmoid_value(x: Tensor, primitives: Primitives) -> Tensor:
    # 1 / (1 + e^−x) for x ≥ 0 and e^x / (1 + e^x) for x < 0.
    return primitives.negative_part(x).exp() / (1.0 + primitives.exp_neg_abs(x))


def _sigmoid_derivative(x: Tensor) -> Tensor:
    # s(x) s(−x) = z / (1 + z)² with z = e^−|x|. In s(x) (1 − s(x)) the difference loses the digits of s(−x).
    z = _NO_GRAD.exp_neg_abs(x)
    return z / (1.0 + z).square_()


SIGMOID = Activation(_sigmoid_value, _sigmoid_derivative)


def sigmoid(input: Tensor) -> Tensor:
    """Computes s(x) = 1 / (1 + e^−x), the probability of the second of two classes with the logit x.

    With z = e^−|x|, it is 1 / (1 + z) for x ≥ 0 and z / (1 + z) for x < 0. The power never overflows, and both tails
    keep their digits.

    Args:
        input: any shape; integers and booleans give the default dtype.

    Returns:
        The same shape and, for floating dtypes, the same dtype.

    Raises:
        TypeError: ``input`` is no tensor.
        NotImplementedError: ``input`` is complex.

    Example:
        >>> sigmoid(torch.tensor([-100.0, 0.0, 100.0]))
        tensor([3.7835e-44, 5.0000e-01, 1.0000e+00])

    Source:
        The lecture's logistic function.
    """
    require_tensor("input", input)
    if not (input.is_floating_point() or input.is_complex()):
        input = input.to(torch.get_default_dtype())
    require_floating("input", input)
    return _apply(SIGMOID, input)


_LOGSIGMOID = Activation(
    value=lambda x, primitives: primitives.negative_part(x) - primitives.exp_neg_abs(x).log1p(),
    derivative=lambda x: _sigmoid_value(-x, _NO_GRAD),
)


def logsigmoid(input: Tensor) -> Tensor:
    """Computes log s(x) = min(x, 0) − log(1 + e^−|x|), the log-likelihood of the second of two classes.

    Its derivative is s(−x).

    Args:
        input: any shape, floating.

    Returns:
        The same shape and dtype.

    Raises:
        TypeError: ``input`` is no tensor.
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> logsigmoid(torch.tensor([-200.0, 0.0, 20.0]))
        tensor([-2.0000e+02, -6.9315e-01, -2.0612e-09])

    Source:
        The lecture's log-likelihood of logistic regression.
    """
    require_floating("input", input)
    return _apply(_LOGSIGMOID, input)


# --- ReLU and its kin ---------------------------------------------------------------------------------------------

_RELU = Activation(
    value=lambda x, primitives: primitives.positive_part(x),
    derivative=lambda x: _NO_GRAD.negative_part(x).sign_().add_(1.0),  # 1 for x ≥ 0, 0 below, NaN for NaN
)


def relu(input: Tensor) -> Tensor:
    """Computes max(0, x); its derivative is 1 for x ≥ 0 and 0 for x < 0.

    At 0 every number from 0 to 1 is a subgradient. The lecture takes 1, torch takes 0.

    Args:
        input: any shape, any real dtype but bool.

    Returns:
        The same shape and dtype.

    Raises:
        TypeError: ``input`` is no tensor.
        NotImplementedError: ``input`` is boolean or complex.

    Example:
        >>> relu(torch.tensor([-2.0, 0.0, 3.0]))
        tensor([0., 0., 3.])

    Source:
        The lecture's rectified linear unit.
    """
    require_real("input", input)
    return _apply(_RELU, input)


def make_leaky_relu(negative_slope: float = 0.01) -> Activation:
    """Returns the leaky ReLU with the given slope below 0."""
    return Activation(
        value=lambda x, primitives: primitives.positive_part(x) + negative_slope * primitives.negative_part(x),
        derivative=lambda x: torch.where(x > 0, 1.0, x.new_full((), negative_slope)),
        primitives=_LEFT_DERIVATIVE,
    )


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Computes max(0, x) + a · min(0, x); its derivative is 1 for x > 0 and a for x ≤ 0.

    Args:
        input: any shape, floating.
        negative_slope: a, the slope below 0.

    Returns:
        The same shape and dtype.

    Raises:
        TypeError: ``input`` is no tensor, or ``negative_slope`` no real number.
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> leaky_relu(torch.tensor([-2.0, 0.0, 3.0]))
        tensor([-0.0200,  0.0000,  3.0000])

    Source:
        The lecture's leaky rectified linear unit.
    """
    require_floating("input", input)
    return _apply(make_leaky_relu(to_real("negative_slope", negative_slope)), input)


def make_elu(alpha: float = 1.0) -> Activation:
    """Returns the ELU with the given α."""
    return Activation(
        value=lambda x, primitives: primitives.positive_part(x) + alpha * primitives.negative_part(x).expm1(),
        derivative=lambda x: torch.where(x > 0, 1.0, alpha * _NO_GRAD.negative_part(x).exp_()),
        primitives=_LEFT_DERIVATIVE,
    )


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Computes max(0, x) + α (e^min(0, x) − 1); its derivative is 1 for x > 0 and α e^x for x ≤ 0.

    `expm1` keeps the digits of e^x − 1 near 0.

    Args:
        input: any shape, floating.
        alpha: α; the value tends to −α far below 0.

    Returns:
        The same shape and dtype.

    Raises:
        TypeError: ``input`` is no tensor, or ``alpha`` no real number.
        NotImplementedError: ``input`` is not floating.

    Example:
        >>> elu(torch.tensor([-100.0, -1e-8, 3.0]))
        tensor([-1.0000e+00, -1.0000e-08,  3.0000e+00])

    Source:
        The lecture's exponential linear unit.
    """
    require_floating("input", input)
    return _apply(make_elu(to_real("alpha", alpha)), input)


# --- GELU ---------------------------------------------------------------------------------------------------------

_TAIL_CUTOFF = 64.0
"""Beyond ±64 the tails of Φ and of its approximation are 0 in every dtype. Clamping there avoids 0 · ∞ at x = ±∞."""


def _gelu_value(x: Tensor, primitives: Primitives) -> Tensor:
    return x.clamp(min=-_TAIL_CUTOFF) * normal_cdf(x.clamp(-_TAIL_CUTOFF, _TAIL_CUTOFF))


def _gelu_derivative(x: Tensor) -> Tensor:
    # Φ(x) + x φ(x), with the density φ(x) = e^(−x²/2) / √2π.
    x = x.clamp(-_TAIL_CUTOFF, _TAIL_CUTOFF)
    return normal_cdf(x) + x * (-0.5 * x.square()).exp_().mul_(1.0 / math.sqrt(2.0 * math.pi))


_GELU_TANH_SCALE, _GELU_TANH_CUBIC = 2.0 * math.sqrt(2.0 / math.pi), 0.044715


def _gelu_tanh_value(x: Tensor, primitives: Primitives) -> Tensor:
    # ½ (1 + tanh v) = s(2v), which keeps the digits of the left tail.
    inside = x.clamp(-_TAIL_CUTOFF, _TAIL_CUTOFF)
    u = _GELU_TANH_SCALE * (inside + _GELU_TANH_CUBIC * inside**3)
    return x.clamp(min=-_TAIL_CUTOFF) * _sigmoid_value(u, primitives)


def _gelu_tanh_derivative(x: Tensor) -> Tensor:
    # s(u) + x s′(u) u′ with u = 2 √(2/π) (x + 0.044715 x³).
    x = x.clamp(-_TAIL_CUTOFF, _TAIL_CUTOFF)
    u = _GELU_TANH_SCALE * (x + _GELU_TANH_CUBIC * x**3)
    return _sigmoid_value(u, _NO_GRAD) + x * _sigmoid_derivative(u) * _GELU_TANH_SCALE * (
        1.0 + 3.0 * _GELU_TANH_CUBIC * x.square()
    )


GELU_VARIANTS = {
    "none": Activation(_gelu_value, _gelu_derivative),
    "tanh": Activation(_gelu_tanh_value, _gelu_tanh_derivative),
}


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Computes x Φ(x), with Φ the normal distribution function, or for ``"tanh"`` x s(2 √(2/π) (x + 0.044715 x³)).

    Args:
        input: any shape, floating.
        approximate: ``"none"``, or ``"tanh"`` for the approximation.

    Returns:
        The same shape and dtype.

    Raises:
        TypeError: ``input`` is no tensor, or ``approximate`` no string.
        NotImplementedError: ``input`` is not floating.
        RuntimeError: ``approximate`` is unknown.

    Example:
        >>> gelu(torch.tensor([-5.0, 0.0, 3.0]))
        tensor([-1.4333e-06,  0.0000e+00,  2.9960e+00])

    Source:
        The lecture's Gaussian error linear unit; Hendrycks and Gimpel, "Gaussian error linear units", 2016.
    """
    require_floating("input", input)
    if not isinstance(approximate, str):
        raise TypeError(f"approximate must be a str, got {approximate!r}")
    if approximate not in GELU_VARIANTS:
        raise RuntimeError(f"approximate must be one of {', '.join(GELU_VARIANTS)}, got {approximate!r}")
    return _apply(GELU_VARIANTS[approximate], input)


# --- how they run -------------------------------------------------------------------------------------------------


def _apply(activation: Activation, input: Tensor) -> Tensor:
    """Evaluates an activation in at least float32 and returns the dtype of ``input``."""
    x = to_compute_dtype(input)
    if not can_use_custom_backward(x):
        result = activation.value(x, activation.primitives)
    elif torch.is_grad_enabled():
        result = _ActivationFunction.apply(x, activation)
    else:
        result = activation.value(x, _NO_GRAD)
    return result if x is input else result.to(input.dtype)


class _ActivationFunction(torch.autograd.Function):
    """Saves x alone; the backward pass evaluates the derivative by hand."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, activation: Activation) -> Tensor:
        ctx.save_for_backward(x)
        ctx.derivative = activation.derivative
        ctx.plain = lambda x: activation.value(x, activation.primitives)
        return activation.value(x, _NO_GRAD)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_grad(ctx.plain, x, grad), None
        return grad * ctx.derivative(x), None
