"""Cross-entropy of two classes with one output node."""

from __future__ import annotations

import torch
from torch import Tensor

from fcnet.functional.activations import decay
from fcnet.functional.derivatives import Context, by_hand, derivative_of_plain
from fcnet.functional.precision import narrowed_loss, require_floating, widened
from fcnet.functional.reductions import reduced, require_reduction, weighted


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """−t log s(x) − (1 − t) log s(−x), with s the sigmoid and t the probability of the second class.

    −log s(x) = max(−x, 0) + log(1 + e^−|x|), so the cost is u |x| + log(1 + e^−|x|), where u is the
    target's share against the sign of x: 1 − t for x ≥ 0, t for x < 0. Nothing is subtracted.

    Args:
        input: logits x, any shape, floating.
        target: t in [0, 1], the same shape, floating.
        weight: a factor for each cost; broadcasts to ``input``.
        reduction: ``"none"`` gives every cost; ``"sum"``; ``"mean"`` divides the sum by their number.
        pos_weight: a factor for the costs of t; broadcasts to ``input``.

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
        raise ValueError(
            f"expected input and target of one shape, got {tuple(input.shape)} and {tuple(target.shape)}"
        )
    x, t = widened(input), widened(target)
    if pos_weight is not None:
        _require_broadcast("pos_weight", pos_weight, input)
        costs = _plain_cost(x, t, widened(pos_weight))
    elif by_hand(x) and not t.requires_grad and by_hand(t):
        costs = _Cost.apply(x, t)
    else:
        costs = _plain_cost(x, t)
    if weight is not None:
        _require_broadcast("weight", weight, input)
        costs = weighted(costs, widened(weight))
    return narrowed_loss(reduced(costs, reduction, costs.numel()), torch.result_type(input, target))


def _plain_cost(x: Tensor, t: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    positive = t if pos_weight is None else t * pos_weight
    negative = 1.0 - t
    against = torch.where(x < 0, positive, negative)
    both = decay(x).log1p()
    if pos_weight is not None:
        both = weighted(both, positive + negative)
    return both + weighted(torch.where(x < 0, -x, x), against)


class _Cost(torch.autograd.Function):
    """The cost without ``pos_weight``, for a target that needs no gradient."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, t: Tensor) -> Tensor:
        against = torch.where(x < 0, t, 1.0 - t)
        size = x.abs()
        z = size.neg().exp_()
        ctx.save_for_backward(x, t, against, z)
        # 0 · ∞ = 0: an infinite logit on the right side costs nothing
        return size.masked_fill_(against == 0, 0.0).mul_(against).add_(z.log1p())

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        """s(x) − t as ±(u − s(−|x|)): for a target of 0 or 1 no digit of a tail is lost."""
        x, t, against, z = ctx.saved_tensors
        if torch.is_grad_enabled():
            return derivative_of_plain(lambda x: _plain_cost(x, t), x, grad), None
        slope = against.sub(z / (1.0 + z))
        return grad * torch.where(x < 0, -slope, slope), None


def _require_broadcast(name: str, weight: Tensor, input: Tensor) -> None:
    try:
        fits = torch.broadcast_shapes(weight.shape, input.shape) == input.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise RuntimeError(f"expected {name} to broadcast to input {tuple(input.shape)}, got {tuple(weight.shape)}")
