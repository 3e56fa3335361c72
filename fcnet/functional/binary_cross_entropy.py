"""Cross-entropy of two classes with one output node."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from fcnet.functional.autograd import Context, can_read_without_sync, can_use_custom_backward, differentiable_grad
from fcnet.functional.dtypes import cast_loss, require_floating, to_compute_dtype
from fcnet.functional.reductions import apply_weight, reduce_losses, require_reduction


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """−t log s(x) − (1 − t) log s(−x), with s the sigmoid and t the probability of the second class.

    With the decision h, 1 for x ≥ 0 and else 0, it is (h − t) x + log(1 + e^−|x|): two terms of which
    neither is negative, and the first is 0 where the decision is right.

    Args:
        input: logits x, any shape, floating.
        target: t in [0, 1], the same shape, floating.
        weight: a factor for each loss; broadcasts to ``input``.
        reduction: ``"none"`` gives every loss; ``"sum"``; ``"mean"`` divides the sum by their number.
        pos_weight: a factor for the losses of t; broadcasts to ``input``.

    Returns:
        A scalar, or with ``"none"`` the shape of ``input``; float32 under autocast, else the dtype
        of ``input`` and ``target`` together.

    Raises:
        ValueError: ``reduction`` is unknown, or the shapes of ``input`` and ``target`` differ.
        RuntimeError: a dtype is not floating, or a weight does not broadcast.

    Example:
        >>> binary_cross_entropy_with_logits(torch.tensor([20.0]), torch.tensor([1.0]))
        tensor(2.0612e-09)

    Source:
        The lecture's logistic regression, from maximum likelihood.
    """
    require_reduction(reduction)
    require_floating("input", input)
    require_floating("target", target)
    if input.shape != target.shape:
        raise ValueError(f"expected input and target of one shape, got {tuple(input.shape)} and {tuple(target.shape)}")
    for name, factor in (("weight", weight), ("pos_weight", pos_weight)):
        if factor is not None:
            _require_broadcast(name, factor, input)
    x, t = to_compute_dtype(input), to_compute_dtype(target)
    if (
        weight is None
        and pos_weight is None
        and can_use_custom_backward(x)
        and can_use_custom_backward(t)
        and not t.requires_grad
    ):
        loss: Tensor = _BinaryCrossEntropy.apply(x, t, reduction)
    else:
        losses = _plain_losses(x, t, None if pos_weight is None else to_compute_dtype(pos_weight))
        if weight is not None:
            losses = apply_weight(losses, to_compute_dtype(weight))
        loss = reduce_losses(losses, reduction, losses.numel())
    return cast_loss(loss, torch.promote_types(input.dtype, target.dtype))


def _plain_losses(x: Tensor, t: Tensor, pos_weight: Tensor | None) -> Tensor:
    """The losses by operations that can be differentiated to every order: −|x| is (1 − 2h) x with a constant h."""
    h = _decision(x)
    both = ((1.0 - 2.0 * h) * x).exp().log1p()
    if pos_weight is None:
        return both + apply_weight(x, h - t)
    positive, negative = t * pos_weight, 1.0 - t
    return apply_weight(both, positive + negative) + apply_weight(x, h * negative - (1.0 - h) * positive)


def _plain_loss(x: Tensor, t: Tensor, reduction: str) -> Tensor:
    return reduce_losses(_plain_losses(x, t, None), reduction, x.numel())


def _decision(x: Tensor) -> Tensor:
    """h = 1 for x ≥ 0, else 0."""
    return (x >= 0).to(x.dtype)


def loss_and_grad(x: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The sum of the losses, and its derivative s(x) − t in the logits, times their weights, a new tensor.

    Args:
        x: logits, any shape, float32 or float64.
        t: the same shape; labels of an integer dtype, or shares of the second class in the dtype of ``x``.
        weight: a factor for each finite loss, likewise; None is 1.

    Example:
        >>> loss_and_grad(torch.tensor([20.0]), torch.tensor([1]))
        (tensor(2.0612e-09), tensor([-2.0612e-09]))
    """
    if not t.is_floating_point() and weight is None and can_read_without_sync(x):
        loss, grad_logits = _loss_and_grad_from_odds(x, t)
        if math.isfinite(loss.item()):
            return loss, grad_logits
    against, decay, losses = _loss_terms(x, t.to(x.dtype))
    grad_logits = _grad_from_terms(x, against, decay)
    return (losses.sum(), grad_logits) if weight is None else (losses.mul_(weight).sum(), grad_logits.mul_(weight))


def _loss_and_grad_from_odds(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Σ log(1 + r) with the odds against the label, r = e^−x or e^x, and its derivative −r / (1 + r) or r / (1 + r).

    As exact as what is made of `_loss_terms` in half of the operations, but inf or NaN where the power overflows.
    """
    sign = 1.0 - 2.0 * labels
    odds = (x * sign).exp_()
    loss = odds.log1p().sum()
    return loss, odds.div_(odds + 1.0).mul_(sign)


def _loss_terms(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h − t, e^−|x| and the losses."""
    against = _decision(x).sub_(t)
    decay = x.abs().neg_().exp_()
    return against, decay, x.masked_fill(against == 0, 0.0).mul_(against).add_(decay.log1p())


def _grad_from_terms(x: Tensor, against: Tensor, decay: Tensor) -> Tensor:
    """s(x) − t as h − t ∓ s(−|x|), in the memory of h − t: of a right decision the tail is all there is.

    −0 + 0 is +0, for which h is 1.
    """
    return against.sub_((decay / (1.0 + decay)).copysign_(x + 0.0))


class _BinaryCrossEntropy(torch.autograd.Function):
    """The loss without weights, for a target that needs no gradient; the derivative is h − t ∓ s(−|x|)."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, t: Tensor, reduction: str) -> Tensor:
        against, decay, losses = _loss_terms(x, t)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(x, _grad_from_terms(x, against, decay))
            ctx.reduction = reduction
            ctx.plain = partial(_plain_loss, t=t, reduction=reduction)
        return reduce_losses(losses, reduction, losses.numel())

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None]:
        x, grad_logits = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_grad(ctx.plain, x, grad), None, None
        if ctx.reduction == "mean":
            grad = grad / x.numel()
        return grad_logits * grad, None, None


def _require_broadcast(name: str, weight: Tensor, input: Tensor) -> None:
    try:
        fits = torch.broadcast_shapes(weight.shape, input.shape) == input.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise RuntimeError(f"expected {name} to broadcast to input {tuple(input.shape)}, got {tuple(weight.shape)}")
