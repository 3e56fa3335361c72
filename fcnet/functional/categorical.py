"""Cross-entropy of C classes.

N examples, C classes, d1, … further axes. y is the true class, k the class of the largest logit.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.functional.derivatives import Context, by_hand, derivative_of_plain
from fcnet.functional.precision import narrowed_loss, require_floating, widened
from fcnet.functional.probabilities import below, log_softmax, plain_log_softmax, spoiled
from fcnet.functional.reductions import reduced, require_reduction, weighted

if TYPE_CHECKING:
    from collections.abc import Callable


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """−w_y log p̂_y of a class index y, −Σ_j w_j t_j log p̂_j of class probabilities t; p̂ is the softmax.

    −log p̂_y = log(1 + Σ_{j≠y} e^(x_j − x_y)): a sure and right example's cost is small, and `log1p`
    keeps it; its derivative −Σ_{j≠y} p̂_j is summed, not taken as p̂_y − 1.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        target: class indices in [0, C), int64 or uint8, in the shape of ``input`` without C; or
            class probabilities in the shape of ``input``, floating.
        weight: w (C), a factor for each class; None is 1 for all.
        ignore_index: an index that marks examples to leave out: their cost and gradient are 0
            whatever their logits.
        reduction: ``"none"`` gives every cost; ``"sum"``; ``"mean"`` divides the sum by the weights
            w_y of the indices that count, or by the number of rows of probabilities.
        label_smoothing: ε in [0, 1]; targets become (1 − ε) t + ε / C.

    Returns:
        A scalar, or with ``"none"`` the shape of ``input`` without C; float32 under autocast, else
        the dtype of ``input``.

    Raises:
        ValueError: ``reduction`` is unknown, or the numbers of examples differ.
        RuntimeError: other shapes, dtypes or ``label_smoothing`` do not fit.
        IndexError: an index is outside [0, C), on CPU.

    Example:
        >>> cross_entropy(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
        tensor(2.0612e-09)
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([3, -100]), reduction="none")
        tensor([1.3863, 0.0000])

    Source:
        The lecture's cross-entropy loss, from maximum likelihood.
    """
    require_reduction(reduction)
    require_floating("input", input)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0, got {label_smoothing}")
    dim = 1 if input.ndim > 1 else 0
    if weight is not None:
        _require_weight(input, weight, dim)
    x, w = widened(input), None if weight is None else widened(weight)
    if target.shape == input.shape:
        dtype = _require_probabilities(input, target, weight, ignore_index)
        costs = _expected_surprisal(x, widened(target), w, label_smoothing, dim)
        return narrowed_loss(reduced(costs, reduction, costs.numel()), dtype)
    target = _indices(input, target, weight, dim)
    ignored = target == ignore_index
    labels = target.masked_fill(ignored, 0)
    if w is None and not label_smoothing:
        total = (~ignored).sum() if reduction == "mean" else 1
        return narrowed_loss(_surprisal(x, labels, ignored, dim, reduction, total), input.dtype)
    if label_smoothing:
        x = x.masked_fill(ignored.unsqueeze(dim), 0.0)
        costs = _expected_surprisal(x, _one_hot(x, labels, dim), w, label_smoothing, dim).masked_fill(ignored, 0.0)
    else:
        costs = _surprisal(x, labels, ignored, dim)
    if w is None:
        return narrowed_loss(reduced(costs, reduction, (~ignored).sum()), input.dtype)
    own = w[labels]
    if not label_smoothing:
        costs = weighted(costs, own)
    counted = own.masked_fill(ignored, 0.0)
    return narrowed_loss(reduced(costs, reduction, counted.sum()), input.dtype)


def _surprisal(
    x: Tensor, labels: Tensor, ignored: Tensor, dim: int, reduction: str = "none", total: Tensor | int = 1
) -> Tensor:
    """−log p̂_y of labels in [0, C), 0 where ignored, reduced."""
    plain = partial(_plain_surprisal, labels=labels, ignored=ignored, dim=dim, reduction=reduction, total=total)
    if by_hand(x):
        loss: Tensor = _Surprisal.apply(x, labels, ignored, dim, reduction, total, plain)
        return loss
    return plain(x)


def _plain_surprisal(
    x: Tensor, labels: Tensor, ignored: Tensor, dim: int, reduction: str, total: Tensor | int
) -> Tensor:
    log_probabilities = plain_log_softmax(x.masked_fill(ignored.unsqueeze(dim), 0.0), dim)
    own = _of_labels(log_probabilities, labels.unsqueeze(dim), dim).squeeze(dim)
    return reduced(-own.masked_fill(ignored, 0.0), reduction, total)


class _Surprisal(torch.autograd.Function):
    """−log p̂_y = log(1 + t) − (x_y − x_k) with t = R + expm1(x_y − x_k), R = Σ_{j≠y} e^(x_j − x_k).

    Where y = k, t is R, the others' sum, with all its digits. Elsewhere R ≥ 1, so that t ≥ 0, the
    cost is at least log 2, and what rounding takes from t cannot be seen. It needs no search for k.
    The derivative is p̂_j for the others; for y it is −R / (1 + t), minus their sum.
    """

    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        labels: Tensor,
        ignored: Tensor,
        dim: int,
        reduction: str,
        total: Tensor | int,
        plain: Callable[[Tensor], Tensor],
    ) -> Tensor:
        index, left_out = labels.unsqueeze(dim), ignored.unsqueeze(dim)
        top = x.amax(dim, keepdim=True)
        own, powers, others = _apart(below(x, top), top, index, dim, left_out)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(x, powers.scatter_(dim, index, -others), own.exp().add_(others))
            ctx.dim, ctx.reduction, ctx.total, ctx.plain = dim, reduction, total, plain
        costs = _log_of_sum(own, others).sub_(own)
        return costs.squeeze(dim) if reduction == "none" else reduced(costs, reduction, total)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, numerators, denominators = ctx.saved_tensors
        if torch.is_grad_enabled():
            return derivative_of_plain(ctx.plain, x, grad), *[None] * 6
        if ctx.reduction == "none":
            grad = grad.unsqueeze(ctx.dim)
        elif ctx.reduction == "mean":
            grad = grad / ctx.total
        return numerators * (grad / denominators), *[None] * 6


def cost_and_slope(x: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The sum of the rows' cross-entropies, and its derivative p̂ − t in the logits; t is the smoothed one-hot y.

    With L = log Σ_j e^(x_j − x_k) a row costs L − Σ_j t_j (x_j − x_k). In the slope only the share ε of
    the true class is a difference, ε (1 − 1/C): the rest is minus the others' sum, as without smoothing.

    Args:
        x: logits (N, C), float32 or float64.
        labels: int64 (N,), in [0, C).
        label_smoothing: ε in [0, 1].

    Returns:
        A scalar, and a new tensor (N, C).
    """
    index, top = labels.unsqueeze(1), x.amax(1, keepdim=True)
    differences = below(x, top)
    mean = differences.mean(1, keepdim=True) if label_smoothing else None
    own, powers, others = _apart(differences, top, index, 1)
    costs = _log_of_sum(own, others)
    slope = powers.scatter_(1, index, -others).div_(own.exp().add_(others))
    if mean is None:
        return costs.sub_(own).sum(), slope
    slope.sub_(label_smoothing / x.shape[1]).scatter_add_(1, index, torch.full_like(own, label_smoothing))
    return costs.sub_(own, alpha=1.0 - label_smoothing).sub_(mean, alpha=label_smoothing).sum(), slope


def _apart(
    differences: Tensor, top: Tensor, index: Tensor, dim: int, left_out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the differences to class k, which are used up: x_y − x_k, e^(x_j − x_k) but 0 for y, and their sum."""
    own = spoiled(_of_labels(differences, index, dim), top)
    powers = differences.exp_()
    if left_out is not None:
        own, powers = own.masked_fill_(left_out, 0.0), powers.masked_fill_(left_out, 0.0)
    powers.scatter_(dim, index, 0.0)
    return own, powers, powers.sum(dim, keepdim=True)


def _log_of_sum(own: Tensor, others: Tensor) -> Tensor:
    """log Σ_j e^(x_j − x_k), as log(1 + t)."""
    return own.expm1().add_(others).log1p_()


def _expected_surprisal(x: Tensor, target: Tensor, weight: Tensor | None, smoothing: float, dim: int) -> Tensor:
    """−Σ_j w_j t_j log p̂_j of smoothed class probabilities t, with 0 log 0 = 0."""
    if smoothing:
        target = target * (1.0 - smoothing) + smoothing / x.shape[dim]
    if weight is not None:
        target = target * weight.view(-1, *[1] * (x.ndim - 1 - dim))
    return -weighted(log_softmax(x, dim), target).sum(dim)


def _of_labels(values: Tensor, index: Tensor, dim: int) -> Tensor:
    try:
        return values.gather(dim, index)
    except RuntimeError as error:
        raise _label_error(error, values.shape[dim]) from error


def _one_hot(like: Tensor, labels: Tensor, dim: int) -> Tensor:
    try:
        return torch.zeros_like(like).scatter(dim, labels.unsqueeze(dim), 1.0)
    except RuntimeError as error:
        raise _label_error(error, like.shape[dim]) from error


def _label_error(error: RuntimeError, num_classes: int) -> Exception:
    """On CPU the operations that use an index check it, so that nothing needs to read the labels before."""
    if "out of bounds" not in str(error):
        return error
    return IndexError(f"target must be in [0, {num_classes}) or ignore_index: {error}")


def _indices(input: Tensor, target: Tensor, weight: Tensor | None, dim: int) -> Tensor:
    """Class indices as int64 in the shape of ``input`` without C."""
    if input.ndim == 1 and target.shape == (1,):
        target = target.squeeze(0)
    if target.shape != input.shape[:dim] + input.shape[dim + 1 :]:
        raise _shape_error(input, target, dim)
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"target must be class indices of dtype int64 or uint8, got {target.dtype}")
    if weight is not None and weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
        raise RuntimeError(f"expected input and weight of one dtype, got {input.dtype} and {weight.dtype}")
    return target.long() if target.dtype == torch.uint8 else target


def _shape_error(input: Tensor, target: Tensor, dim: int) -> Exception:
    axes = _axes(input, dim)
    expected = f"logits {_tuple(axes)} and target {_tuple(axes[:dim] + axes[dim + 1 :])}"
    text = f"expected {expected}, got {tuple(input.shape)} and {tuple(target.shape)}"
    same_number = target.shape[:1] == input.shape[:1] if dim else target.ndim != 1
    return RuntimeError(text) if same_number else ValueError(text)


def _axes(input: Tensor, dim: int) -> list[str]:
    return ["N"] * dim + ["C"] + [f"d{axis}" for axis in range(1, input.ndim - dim)]


def _tuple(names: list[str]) -> str:
    return str(tuple(names)).replace("'", "")


def _require_weight(input: Tensor, weight: Tensor, dim: int) -> None:
    if weight.shape != input.shape[dim : dim + 1]:
        shapes = f"{tuple(input.shape)} and {tuple(weight.shape)}"
        raise RuntimeError(f"expected logits {_tuple(_axes(input, dim))} and weight (C,), got {shapes}")


def _require_probabilities(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> torch.dtype:
    """Refuses what class probabilities cannot be; returns the dtype of the loss."""
    if not target.is_floating_point():
        raise RuntimeError(f"target in the shape of input must be of a floating dtype, got {target.dtype}")
    if ignore_index >= 0:
        raise RuntimeError(f"ignore_index must be left out for class probabilities, got {ignore_index}")
    dtype = torch.promote_types(input.dtype, target.dtype)
    return dtype if weight is None else torch.promote_types(dtype, weight.dtype)
