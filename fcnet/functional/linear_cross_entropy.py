"""A linear layer and the cross-entropy of its logits together, without all logits in memory.

N examples, F features, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.functional.autograd import Context, can_use_custom_backward
from fcnet.functional.cross_entropy import cross_entropy, plain_losses, prepare_targets
from fcnet.functional.reductions import require_reduction
from fcnet.functional.softmax_loss import losses_and_grad

if TYPE_CHECKING:
    from fcnet.functional.softmax_loss import Targets

_LOGITS_PER_CHUNK = 1 << 22
"""Logits in memory at a time, 16 MiB of float32: enough rows for matrix products at full speed."""
_MIN_CHUNKED_LOGITS = 4 * _LOGITS_PER_CHUNK


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Computes `cross_entropy` of the logits ``input @ linear_weight.T + linear_bias``.

    For many logits, the sum or mean is computed over chunks of rows, and each chunk's gradients are computed while its
    logits are in memory. That takes three matrix products in all, as many as with all logits in memory.

    Args:
        input: (N, F) or (F), floating.
        linear_weight: (C, F), or (C, d1, …, F) for logits (N, C, d1, …).
        target: class indices or probabilities for the logits, as in `cross_entropy`.
        linear_bias: (C) or (C, d1, …).
        weight: a factor for each class (C).
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        ignore_index: examples with this index are left out; None means −100.
        label_smoothing: ε in [0, 1].

    Returns:
        The value of `cross_entropy`.

    Raises:
        ValueError: ``reduction`` is unknown, or the numbers of examples differ.
        RuntimeError: other shapes or dtypes do not fit, or ``ignore_index`` is given with probabilities.
        IndexError: an index is outside [0, C), on CPU.

    Example:
        >>> linear_cross_entropy(torch.tensor([[1.0]]), torch.tensor([[20.0], [0.0]]), torch.tensor([0]))
        tensor(2.0612e-09)
    """
    require_reduction(reduction)
    if not 1 <= input.ndim <= 2 or linear_weight.ndim < 2 or (input.ndim == 1 and linear_weight.ndim > 2):
        shapes = f"{tuple(input.shape)} and {tuple(linear_weight.shape)}"
        raise RuntimeError(f"expected input (N, F) and linear_weight (C, F) or (C, d1, …, F), got {shapes}")
    if input.shape[-1] != linear_weight.shape[-1]:
        shapes = f"{tuple(input.shape)} and {tuple(linear_weight.shape)}"
        raise RuntimeError(f"expected input and linear_weight with the same number of features, got {shapes}")
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        shapes = f"{tuple(linear_bias.shape)} and {tuple(linear_weight.shape)}"
        raise RuntimeError(f"expected linear_bias in the shape of linear_weight without F, got {shapes}")
    shape = (*input.shape[:-1], *linear_weight.shape[:-1])
    if target.shape == shape and ignore_index is not None:
        raise RuntimeError(f"ignore_index must be left out for class probabilities, got {ignore_index}")
    index = -100 if ignore_index is None else ignore_index
    if reduction != "none" and _use_chunks(input, linear_weight, linear_bias):
        # Stands in for the logits where only their shape and dtype matter; it takes no memory.
        shape_only = input.new_empty(()).expand(shape)
        targets, compute_dtype = prepare_targets(shape_only, target, weight, index, label_smoothing)
        if compute_dtype == input.dtype and targets.is_constant():
            total = targets.total_weight() if reduction == "mean" else 1
            result: Tensor = _LinearCrossEntropy.apply(input, linear_weight, linear_bias, targets, total)
            return result
    bias = None if linear_bias is None else linear_bias.flatten()
    logits = nn.functional.linear(input, linear_weight.flatten(0, -2), bias).view(shape)
    return cross_entropy(logits, target, weight, index, reduction, label_smoothing)


def _use_chunks(x: Tensor, w: Tensor, b: Tensor | None) -> bool:
    """True if the logits are many enough for chunks to pay, and a gradient by hand is possible."""
    return (
        x.ndim == w.ndim == 2
        and len(x) * len(w) >= _MIN_CHUNKED_LOGITS
        and x.dtype == w.dtype
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled(x.device.type)
        and all(can_use_custom_backward(part) for part in (x, w, b) if part is not None)
    )


class _Context(Context):
    targets: Targets
    total: Tensor | int
    gradients: tuple[Tensor | None, ...] | None


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while a chunk's logits are in memory."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, w: Tensor, b: Tensor | None, targets: Targets, total: Tensor | int) -> Tensor:
        ctx.save_for_backward(x, w, *([] if b is None else [b]))
        ctx.targets, ctx.total = targets, total
        loss, ctx.gradients = _loss_and_grads(x, w, b, targets, total, ctx.needs_input_grad[:3])
        return loss

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w, *bias = ctx.saved_tensors
        b = bias[0] if bias else None
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return (*_differentiable_grads(ctx, x, w, b, grad), None, None)
        # The gradients are scaled in place and handed over, to need no second copy. A second backward pass recomputes.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            _, gradients = _loss_and_grads(x, w, b, ctx.targets, ctx.total, wanted)
        return (*(None if part is None else part.mul_(grad) for part in gradients), None, None)


def _loss_and_grads(
    x: Tensor, w: Tensor, b: Tensor | None, targets: Targets, total: Tensor | int, wanted: tuple[bool, ...]
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Returns the sum of the losses over ``total``, and its gradients in x, w and b, None where not wanted."""
    rows = max(1, _LOGITS_PER_CHUNK // len(w))
    buffer = x.new_empty(min(rows, len(x)), len(w))
    grad_x, grad_w, grad_b = (
        part.new_zeros(part.shape) if part is not None and is_wanted else None
        for part, is_wanted in zip((x, w, b), wanted, strict=True)
    )
    losses = []
    for start in range(0, len(x), rows):
        chunk = slice(start, start + rows)
        x_chunk, targets_chunk = x[chunk], targets.select(chunk)
        logits = torch.mm(x_chunk, w.T, out=buffer[: len(x_chunk)])
        if b is not None:
            logits.add_(b)
        # The gradient overwrites the logits.
        chunk_losses, scale = losses_and_grad(logits, targets_chunk, logits if any(wanted) else None)
        losses.append(chunk_losses.sum())
        if not any(wanted):
            continue
        scale = scale.div_(total)
        grad_logits = logits.mul_(
            scale if targets_chunk.ignored is None else scale.masked_fill_(targets_chunk.ignored, 0.0)
        )
        if grad_x is not None:
            torch.mm(grad_logits, w, out=grad_x[chunk])
        if grad_w is not None:
            grad_w.addmm_(grad_logits.T, x_chunk)
        if grad_b is not None:
            grad_b.add_(grad_logits.sum(0))
    return torch.stack(losses).sum() / total, (grad_x, grad_w, grad_b)


def _differentiable_grads(ctx: _Context, x: Tensor, w: Tensor, b: Tensor | None, grad: Tensor) -> list[Tensor | None]:
    """Returns the gradients as functions for a second derivative; holds all logits in memory."""
    wanted = ctx.needs_input_grad[:3]
    inputs = [part for part, is_wanted in zip((x, w, b), wanted, strict=True) if is_wanted and part is not None]
    with torch.enable_grad():
        loss = plain_losses(nn.functional.linear(x, w, b), ctx.targets).sum() / ctx.total
        grads = iter(torch.autograd.grad(loss, inputs, grad, create_graph=True))
    return [next(grads) if is_wanted else None for is_wanted in wanted]
