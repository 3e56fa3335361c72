"""Softmax and its logarithm: from logits to class probabilities.

C classes along ``dim``; k is the class of the largest logit. Where an infinite logit is the largest, its difference to
itself counts as 0, so it takes all of the probability.

`plain_softmax` and `plain_log_softmax` are the definitions, to be read beside the slide. `_Softmax` and `_LogSoftmax`
compute the same values, with the gradient by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.functional.arguments import require_dtype, require_tensor, to_axis
from fcnet.functional.autograd import Context, can_use_custom_backward
from fcnet.functional.dtypes import require_floating, to_compute_dtype

if TYPE_CHECKING:
    from collections.abc import Callable


def plain_softmax(x: Tensor, dim: int) -> Tensor:
    """Computes p̂_j = e^(x_j − x_k) / Σ_i e^(x_i − x_k) by differentiable operations.

    Every class but k has p̂ ≤ ½, and autograd's derivative p̂ (1 − p̂) is exact. Class k is written as 1 / (1 + R) with
    R = Σ_{i≠k} e^(x_i − x_k), so that its derivative contains R / (1 + R) instead of the difference 1 − p̂_k.
    """
    if not x.numel():
        return _empty_result(x, dim)
    top, k = x.detach().max(dim, keepdim=True)
    powers = _plain_sub_max(x, top).exp()
    return (powers / powers.sum(dim, keepdim=True)).scatter(dim, k, 1.0 / (1.0 + _sum_exp_others(x, k, dim)))


def plain_log_softmax(x: Tensor, dim: int) -> Tensor:
    """Computes log p̂_j = (x_j − x_k) − log Σ_i e^(x_i − x_k) by differentiable operations; class k as −log(1 + R)."""
    if not x.numel():
        return _empty_result(x, dim)
    top, k = x.detach().max(dim, keepdim=True)
    differences = _plain_sub_max(x, top)
    others = differences - differences.exp().sum(dim, keepdim=True).log()
    return others.scatter(dim, k, -_sum_exp_others(x, k, dim).log1p())


def _sum_exp_others(x: Tensor, k: Tensor, dim: int) -> Tensor:
    """Returns R = Σ_{i≠k} e^(x_i − x_k), differentiable in x_k too."""
    return _plain_sub_max(x, x.gather(dim, k)).scatter(dim, k, -torch.inf).exp().sum(dim, keepdim=True)


def _plain_sub_max(x: Tensor, top: Tensor) -> Tensor:
    """Returns x − top, differentiable in both; 0 instead of ∞ − ∞; NaN stays NaN."""
    return (x - top).masked_fill(top.isinf() & (x == top), 0.0)


def _empty_result(x: Tensor, dim: int) -> Tensor:
    """Returns an empty tensor like ``x``, which depends on ``x`` in derivatives of any order, as a softmax does."""
    return x * x.exp().sum(dim, keepdim=True)


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Computes p̂_j = e^x_j / Σ_i e^x_i.

    A constant added to every logit changes nothing, so the largest is subtracted first. Then no power exceeds 1, and
    their sum is at least 1.

    Args:
        input: logits, any shape, floating.
        dim: the class axis.
        dtype: the dtype to which ``input`` is converted first.

    Returns:
        The shape of ``input``; values in [0, 1] with sum 1 along ``dim``.

    Raises:
        TypeError: ``input`` is no tensor, ``dim`` no int, or ``dtype`` no dtype.
        NotImplementedError: ``input`` is not floating.
        IndexError: ``dim`` is not an axis of ``input``.

    Example:
        >>> softmax(torch.tensor([1000.0, 1000.0, 0.0]), dim=0)
        tensor([0.5000, 0.5000, 0.0000])

    Source:
        The lecture's softmax function.
    """
    return _apply(input, dim, dtype, _Softmax, plain_softmax)


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Computes log p̂_j = (x_j − x_k) − log(1 + Σ_{i≠k} e^(x_i − x_k)).

    The largest logit's power is 1. Left out of the sum, it does not round the others away, and `log1p` keeps them.

    Args:
        input: logits, any shape, floating.
        dim: the class axis.
        dtype: the dtype to which ``input`` is converted first.

    Returns:
        The shape of ``input``; values at most 0.

    Raises:
        TypeError: ``input`` is no tensor, ``dim`` no int, or ``dtype`` no dtype.
        NotImplementedError: ``input`` is not floating.
        IndexError: ``dim`` is not an axis of ``input``.

    Example:
        >>> log_softmax(torch.tensor([20.0, 0.0]), dim=0)
        tensor([-2.0612e-09, -2.0000e+01])

    Source:
        The lecture's softmax function, in its cross-entropy.
    """
    return _apply(input, dim, dtype, _LogSoftmax, plain_log_softmax)


def _apply(
    input: Tensor,
    dim: int,
    dtype: torch.dtype | None,
    function: type[torch.autograd.Function],
    plain: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Checks the arguments, evaluates one of the two in at least float32 and returns ``dtype`` or that of ``input``."""
    require_tensor("input", input)
    dim = to_axis(dim, input.ndim)
    x = input
    if dtype is not None:
        require_dtype(dtype)
        x = input.to(dtype)
    require_floating("input", x)
    wide = to_compute_dtype(x)
    result: Tensor = function.apply(wide, dim) if x.numel() and can_use_custom_backward(wide) else plain(wide, dim)
    # As in torch, autocast leaves the result in float32 on CUDA but not on the CPU.
    return result if x.is_cuda and torch.is_autocast_enabled("cuda") else result.to(x.dtype)


class _Softmax(torch.autograd.Function):
    """Saves the probabilities alone; the backward pass can itself be differentiated."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, dim: int) -> Tensor:
        top, k = x.max(dim, keepdim=True)
        powers = sub_max(x, top).exp_().scatter_(dim, k, torch.zeros_like(top))
        total = propagate_nan_(powers.sum(dim, keepdim=True), top).add_(1.0)
        probabilities = powers.div_(total).scatter_(dim, k, total.reciprocal())
        ctx.save_for_backward(probabilities, k)
        ctx.dim = dim
        return probabilities

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        # p̂_j (g_j − Σ_i g_i p̂_i) depends only on differences of g. Differences to g_k keep the digits for class k.
        probabilities, k = ctx.saved_tensors
        centered = grad - grad.gather(ctx.dim, k)
        return probabilities * (centered - (centered * probabilities).sum(ctx.dim, keepdim=True)), None


class _LogSoftmax(torch.autograd.Function):
    """Saves its value alone; the backward pass can itself be differentiated."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, dim: int) -> Tensor:
        top, k = x.max(dim, keepdim=True)
        differences = sub_max(x, top)
        others = propagate_nan_(differences.exp().scatter_(dim, k, torch.zeros_like(top)).sum(dim, keepdim=True), top)
        value = differences.sub_(others.log1p_())
        ctx.save_for_backward(value, k)
        ctx.dim = dim
        return value

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        # g_j − p̂_j Σ_i g_i; for class k as g_k (1 − p̂_k) − p̂_k Σ_{i≠k} g_i, with 1 − p̂_k = −expm1(log p̂_k).
        value, k = ctx.saved_tensors
        dim = ctx.dim
        own, log_own = grad.gather(dim, k), value.gather(dim, k)
        others = grad.scatter(dim, k, 0.0)
        sum_of_others = others.sum(dim, keepdim=True)
        result = others - value.exp() * (sum_of_others + own)
        return result.scatter(dim, k, -own * log_own.expm1() - log_own.exp() * sum_of_others), None


def sub_max(x: Tensor, top: Tensor, out: Tensor | None = None) -> Tensor:
    """Returns x − top, with 0 instead of ∞ − ∞; not differentiable.

    NaN becomes 0 as well. `propagate_nan_` restores it with one operation per row instead of one per element.
    """
    return torch.sub(x, top, out=out).nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def propagate_nan_(rows: Tensor, top: Tensor) -> Tensor:
    """Sets rows to NaN, in place, where ``top``, the row's largest logit, is NaN."""
    return rows.masked_fill_(top.isnan(), torch.nan)
