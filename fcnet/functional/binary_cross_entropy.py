"""Cross-entropy of two classes with one output node.

x is the logit, s the sigmoid, t the probability of the second class.

`_plain_losses` is the definition, to be read beside the slide. Below `binary_cross_entropy_with_logits` stand the fast
forms, which compute the same losses and their gradient together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fcnet.functional.arguments import require_tensor
from fcnet.functional.autograd import Context, can_read_without_sync, can_use_custom_backward, differentiable_grad
from fcnet.functional.dtypes import cast_loss, require_floating, to_compute_dtype
from fcnet.functional.reductions import apply_weight, reduce_losses, require_reduction


def _plain_losses(x: Tensor, t: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Computes −p t log s(x) − (1 − t) log s(−x), with p = ``pos_weight``.

    With h = 1 for x ≥ 0 and 0 otherwise, −log s(x) = (h − 1) x + log(1 + e^−|x|) and
    −log s(−x) = h x + log(1 + e^−|x|). Neither term is negative, so none cancels, and no power exceeds 1.
    All operations are differentiable to any order.
    """
    h = _decision(x)
    tail = ((1.0 - 2.0 * h) * x).exp().log1p()  # −|x| as (1 − 2h) x, since abs has no derivative at 0
    if pos_weight is None:
        return tail + apply_weight(x, h - t)
    positive, negative = t * pos_weight, 1.0 - t
    return apply_weight(tail, positive + negative) + apply_weight(x, h * negative - (1.0 - h) * positive)


def _decision(x: Tensor) -> Tensor:
    return (x >= 0).to(x.dtype)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Computes −t log s(x) − (1 − t) log s(−x), with s the sigmoid and t the probability of the second class.

    It is evaluated as (h − t) x + log(1 + e^−|x|), with h = 1 for x ≥ 0 and 0 otherwise. If h is the correct class, the
    first term is 0, and `log1p` keeps the digits of the second.

    Args:
        input: logits x, any shape, floating.
        target: t in [0, 1], the same shape, floating.
        weight: a factor for each loss; broadcasts to ``input``.
        reduction: ``"none"`` returns the losses; ``"sum"`` adds them; ``"mean"`` divides the sum by their number.
        pos_weight: a factor for the first term, t log s(x); broadcasts to ``input``.

    Returns:
        A scalar, or with ``"none"`` the shape of ``input``; float32 under autocast, else the dtype to which those of
        ``input`` and ``target`` promote.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: ``reduction`` is unknown, or the shapes of ``input`` and ``target`` differ.
        NotImplementedError: ``input`` or ``target`` is not floating.
        RuntimeError: a weight is complex or does not broadcast.

    Example:
        >>> binary_cross_entropy_with_logits(torch.tensor([20.0]), torch.tensor([1.0]))
        tensor(2.0612e-09)

    Source:
        The lecture's logistic regression, from maximum likelihood.
    """
    require_reduction(reduction)
    require_tensor("input", input)
    require_tensor("target", target)
    if input.shape != target.shape:
        raise ValueError(f"expected input and target of one shape, got {tuple(input.shape)} and {tuple(target.shape)}")
    require_floating("input", input)
    require_floating("target", target)
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


class _BinaryCrossEntropy(torch.autograd.Function):
    """The loss without weights, for a target without gradient. The gradient is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, t: Tensor, reduction: str) -> Tensor:
        against, decay, losses = _loss_terms(x, t)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(x, _grad_from_terms(x, against, decay))
            ctx.reduction = reduction
            ctx.plain = lambda x: reduce_losses(_plain_losses(x, t), reduction, x.numel())
        return reduce_losses(losses, reduction, losses.numel())

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None]:
        x, grad_logits = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_grad(ctx.plain, x, grad), None, None
        if ctx.reduction == "mean":  # divides the scalar, not every element
            grad = grad / x.numel()
        return grad_logits * grad, None, None


def loss_and_grad(x: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Computes the weighted sum of the losses and its gradient in the logits.

    A training step calls this instead of `binary_cross_entropy_with_logits` and `backward`.

    Args:
        x: logits, any shape, float32 or float64.
        t: the same shape; labels of an integer dtype, or probabilities of the second class in the dtype of ``x``.
        weight: a factor for each loss, the same shape; None means 1.

    Returns:
        The sum, a scalar, and its gradient w · (s(x) − t), a new tensor.

    Example:
        >>> loss_and_grad(torch.tensor([20.0]), torch.tensor([1]))
        (tensor(2.0612e-09), tensor([-2.0612e-09]))
    """
    if not t.is_floating_point() and weight is None and can_read_without_sync(x):
        # With the odds against the label, r = e^∓x, the loss is log(1 + r) and the gradient ∓r / (1 + r): half the
        # operations of the general form and as exact, unless the power overflows. That shows in the sum.
        sign = 1.0 - 2.0 * t
        odds = (x * sign).exp_()
        loss = odds.log1p().sum()
        if math.isfinite(loss.item()):
            return loss, odds.div_(odds + 1.0).mul_(sign)
    losses, grad_logits = losses_and_grad(x, t.to(x.dtype))
    return (losses.sum(), grad_logits) if weight is None else (losses.mul_(weight).sum(), grad_logits.mul_(weight))


def losses_and_grad(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Computes each loss and its gradient in the logit, s(x) − t.

    Args:
        x: logits, any shape, float32 or float64.
        t: probabilities of the second class, the same shape and dtype.

    Example:
        >>> losses_and_grad(torch.tensor([20.0]), torch.tensor([1.0]))
        (tensor([2.0612e-09]), tensor([-2.0612e-09]))
    """
    against, decay, losses = _loss_terms(x, t)
    return losses, _grad_from_terms(x, against, decay)


def _loss_terms(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns h − t, e^−|x| and the losses (h − t) x + log(1 + e^−|x|), as `_plain_losses` has them."""
    against = _decision(x).sub_(t)
    decay = x.abs().neg_().exp_()
    return against, decay, x.masked_fill(against == 0, 0.0).mul_(against).add_(decay.log1p())  # 0 · ∞ = 0


def _grad_from_terms(x: Tensor, against: Tensor, decay: Tensor) -> Tensor:
    """Returns s(x) − t in the memory of ``against``.

    s(x) = h − s(−|x|) for x ≥ 0 and h + s(−|x|) otherwise, with s(−|x|) = e^−|x| / (1 + e^−|x|). If h = t, only this
    tail remains, with all its digits.
    """
    return against.sub_((decay / (1.0 + decay)).copysign_(x + 0.0))  # −0 + 0 = +0, where h = 1


def _require_broadcast(name: str, weight: Tensor, input: Tensor) -> None:
    require_tensor(name, weight)
    if weight.is_complex():
        raise RuntimeError(f"{name} must be of a real dtype, got {weight.dtype}")
    try:
        fits = torch.broadcast_shapes(weight.shape, input.shape) == input.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise RuntimeError(f"expected {name} to broadcast to input {tuple(input.shape)}, got {tuple(weight.shape)}")
