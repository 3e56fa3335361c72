"""Cross-entropy of C classes.

N examples, C classes, d1, … further axes. y is the true class, k the class of the largest logit.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fcnet.functional.derivatives import Context, by_hand, derivative_of_plain
from fcnet.functional.precision import narrowed_loss, require_floating, widened
from fcnet.functional.probabilities import below, log_softmax, plain_log_softmax
from fcnet.functional.reductions import reduced, require_reduction, weighted


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
    if label_smoothing:
        x = x.masked_fill(ignored.unsqueeze(dim), 0.0)
        costs = _expected_surprisal(x, _one_hot(x, labels, dim), w, label_smoothing, dim).masked_fill(ignored, 0.0)
    else:
        costs = _surprisal(x, labels, ignored, dim)
        if w is not None:
            costs = weighted(costs, w[labels])
    total = 1 if reduction != "mean" else (~ignored if w is None else w[labels].masked_fill(ignored, 0.0)).sum()
    return narrowed_loss(reduced(costs, reduction, total), input.dtype)


def _surprisal(x: Tensor, labels: Tensor, ignored: Tensor, dim: int) -> Tensor:
    """−log p̂_y of labels in [0, C), 0 where ignored."""
    if by_hand(x):
        costs: Tensor = _Surprisal.apply(x, labels, ignored, dim)
        return costs
    return _plain_surprisal(x, labels, ignored, dim)


def _plain_surprisal(x: Tensor, labels: Tensor, ignored: Tensor, dim: int) -> Tensor:
    log_probabilities = plain_log_softmax(x.masked_fill(ignored.unsqueeze(dim), 0.0), dim)
    own = _of_labels(log_probabilities, labels.unsqueeze(dim), dim).squeeze(dim)
    return -own.masked_fill(ignored, 0.0)


class _Surprisal(torch.autograd.Function):
    """−log p̂_y = log(1 + t) − (x_y − x_k) with t = R + expm1(x_y − x_k), R = Σ_{j≠y} e^(x_j − x_k).

    Where y = k, t is R, the others' sum, with all its digits. Elsewhere R ≥ 1, so that t ≥ 0, the
    cost is at least log 2, and what rounding takes from t cannot be seen. It needs no search for k.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, labels: Tensor, ignored: Tensor, dim: int) -> Tensor:
        index, left_out = labels.unsqueeze(dim), ignored.unsqueeze(dim)
        differences = below(x, x.amax(dim, keepdim=True))
        own = _of_labels(differences, index, dim).masked_fill_(left_out, 0.0)
        powers = differences.exp_().masked_fill_(left_out, 0.0).scatter_(dim, index, 0.0)
        others = powers.sum(dim, keepdim=True)
        excess = own.expm1().add_(others)
        ctx.save_for_backward(x, labels, ignored, powers, others, excess)
        ctx.dim = dim
        return excess.log1p().sub_(own).squeeze(dim)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """p̂_j for the others; for y minus their sum, −R / (1 + t), which is p̂_y − 1 without the difference."""
        x, labels, ignored, powers, others, excess = ctx.saved_tensors
        dim = ctx.dim
        if torch.is_grad_enabled():
            plain = partial(_plain_surprisal, labels=labels, ignored=ignored, dim=dim)
            return derivative_of_plain(plain, x, grad), None, None, None
        scale = grad.unsqueeze(dim) / (1.0 + excess)
        return (powers * scale).scatter_(dim, labels.unsqueeze(dim), -others * scale), None, None, None


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
    return target.long()


def _shape_error(input: Tensor, target: Tensor, dim: int) -> Exception:
    axes = ["N"] * dim + ["C"] + [f"d{axis}" for axis in range(1, input.ndim - dim)]
    expected = f"logits {_tuple(axes)} and target {_tuple(axes[:dim] + axes[dim + 1 :])}"
    text = f"expected {expected}, got {tuple(input.shape)} and {tuple(target.shape)}"
    same_number = target.shape[:1] == input.shape[:1] if dim else target.ndim != 1
    return RuntimeError(text) if same_number else ValueError(text)


def _tuple(names: list[str]) -> str:
    return str(tuple(names)).replace("'", "")


def _require_weight(input: Tensor, weight: Tensor, dim: int) -> None:
    if weight.shape != input.shape[dim : dim + 1]:
        raise RuntimeError(
            f"expected weight (C,) for the C of logits, got {tuple(weight.shape)} and {tuple(input.shape)}"
        )


def _require_probabilities(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> torch.dtype:
    """Refuses what class probabilities cannot be; returns the dtype of the loss."""
    if not target.is_floating_point():
        raise RuntimeError(f"target in the shape of input must be of a floating dtype, got {target.dtype}")
    if ignore_index >= 0:
        raise RuntimeError(f"ignore_index must be left out for class probabilities, got {ignore_index}")
    dtype = torch.promote_types(input.dtype, target.dtype)
    return dtype if weight is None else torch.promote_types(dtype, weight.dtype)
