"""A linear layer and the cross-entropy of its logits together, without all logits in memory.

N examples, F features, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.functional.autograd import Context, can_use_custom_backward
from fcnet.functional.cross_entropy import cross_entropy, plain_losses, prepare_targets
from fcnet.functional.dtypes import HALF_DTYPES, cast_loss, to_compute_dtype, without_autocast
from fcnet.functional.reductions import require_reduction
from fcnet.functional.softmax_loss import losses_and_grad

if TYPE_CHECKING:
    from fcnet.functional.softmax_loss import Targets

_LOGITS_PER_CHUNK = 1 << 22
"""Logits in memory at a time, 16 MiB of float32: enough rows for matrix products at full speed."""
_MIN_CHUNKED_LOGITS = 4 * _LOGITS_PER_CHUNK
_MIN_HALF_CHUNKS = 16
"""Chunks of a batch in float16 or bfloat16, whose chunks are float32: an eighth of the bytes of all its logits."""


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
    dtype = _chunk_dtype(input, linear_weight, linear_bias) if reduction != "none" else None
    if dtype is not None:
        # Stands in for the logits where only their shape and dtype matter; it takes no memory.
        shape_only = input.new_empty((), dtype=dtype).expand(shape)
        targets, compute_dtype, loss_dtype = prepare_targets(shape_only, target, weight, index, label_smoothing)
        if compute_dtype == to_compute_dtype(shape_only).dtype and targets.is_constant():
            total = targets.total_weight() if reduction == "mean" else 1
            result: Tensor = _LinearCrossEntropy.apply(input, linear_weight, linear_bias, targets, total, dtype)
            return cast_loss(result, loss_dtype)
    bias = None if linear_bias is None else linear_bias.flatten()
    logits = nn.functional.linear(input, linear_weight.flatten(0, -2), bias).view(shape)
    return cross_entropy(logits, target, weight, index, reduction, label_smoothing)


def takes_chunks(num_rows: int, num_classes: int) -> bool:
    """True if the logits are many enough for chunks to pay.

    Example:
        >>> takes_chunks(1024, 1000), takes_chunks(1024, 21_841)
        (False, True)
    """
    return num_rows * num_classes >= _MIN_CHUNKED_LOGITS


def _chunk_dtype(x: Tensor, w: Tensor, b: Tensor | None) -> torch.dtype | None:
    """Returns the dtype of matrix products if chunks pay and a gradient by hand is possible, else None."""
    if not (x.ndim == w.ndim == 2 and takes_chunks(len(x), len(w))):
        return None
    parts = [part for part in (x, w, b) if part is not None]
    if not all(part.is_floating_point() and can_use_custom_backward(part) for part in parts):
        return None
    dtypes, autocasts = {part.dtype for part in parts}, torch.is_autocast_enabled(x.device.type)
    if autocasts and torch.float64 not in dtypes:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if len(dtypes) == 1 and not autocasts else None


class _Context(Context):
    targets: Targets
    total: Tensor | int
    dtype: torch.dtype
    gradients: tuple[Tensor | None, ...] | None


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while a chunk's logits are in memory."""

    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        w: Tensor,
        b: Tensor | None,
        targets: Targets,
        total: Tensor | int,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(x, w, *([] if b is None else [b]))
        ctx.targets, ctx.total, ctx.dtype = targets, total, dtype
        loss, ctx.gradients = linear_loss_and_grads(x, w, b, targets, ctx.needs_input_grad[:3], total, dtype=dtype)
        return loss / total

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w, *bias = ctx.saved_tensors
        b = bias[0] if bias else None
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return (*_differentiable_grads(ctx, x, w, b, grad), None, None, None)
        # The gradients are scaled in place and handed over, to need no second copy. A second backward pass recomputes.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            _, gradients = linear_loss_and_grads(x, w, b, ctx.targets, wanted, ctx.total, dtype=ctx.dtype)
        return (*(None if part is None else part.mul_(grad) for part in gradients), None, None, None)


def linear_loss_and_grads(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    targets: Targets,
    wanted: tuple[bool, ...],
    total: Tensor | float,
    *,
    dtype: torch.dtype,
    classes: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Computes the sum of the losses of the logits x wᵀ + b and its gradients, over chunks of rows.

    Products of float16 and bfloat16 are rounded as those of all logits. The loss of their logits is computed in
    float32, where the gradient in w adds up, too.

    Args:
        x: (N, F).
        w: (C, F).
        b: (C,), or None.
        targets: the targets of the N rows.
        wanted: whether to compute the gradients in x, w and b.
        total: divides the gradients.
        dtype: the dtype of the matrix products.
        classes: receives the most probable class of each row, int64 (N,); None if nobody needs it.

    Returns:
        The sum, and the gradients in the dtypes of x, w and b, None where not wanted.
    """
    given = x, w, b
    with without_autocast(x.device.type):
        x, w, b = x.to(dtype), w.to(dtype), None if b is None else b.to(dtype)
        rows = _rows_per_chunk(x, w)
        buffer = x.new_empty(min(rows, len(x)), len(w), dtype=_sum_dtype(dtype))
        grads = _GradientSums(x, w, b, wanted)
        losses = []
        for start in range(0, len(x), rows):
            chunk = slice(start, start + rows)
            logits, targets_chunk = _fill_logits(buffer, x[chunk], w, b), targets.select(chunk)
            if classes is not None:
                torch.argmax(logits, 1, out=classes[chunk])
            # The gradient overwrites the logits.
            chunk_losses, scale = losses_and_grad(logits, targets_chunk, logits if any(wanted) else None)
            losses.append(chunk_losses.sum())
            if any(wanted):
                scale = scale.div_(total)
                if targets_chunk.ignored is not None:
                    scale.masked_fill_(targets_chunk.ignored, 0.0)
                grads.add(chunk, logits.mul_(scale))
        return torch.stack(losses).sum(), grads.to_dtypes_of(given)


def _rows_per_chunk(x: Tensor, w: Tensor) -> int:
    rows = _LOGITS_PER_CHUNK // len(w)
    if x.dtype in HALF_DTYPES:
        rows = min(rows, len(x) // _MIN_HALF_CHUNKS)
    return max(1, rows)


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype of losses and sums for matrix products in a dtype."""
    return torch.float32 if dtype in HALF_DTYPES else dtype


def _fill_logits(buffer: Tensor, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """Writes the logits of some rows to the buffer and returns these rows of it."""
    logits = buffer[: len(x)]
    if x.dtype in HALF_DTYPES:
        return logits.copy_(nn.functional.linear(x, w, b))
    torch.mm(x, w.T, out=logits)
    return logits if b is None else logits.add_(b)


class _GradientSums:
    """The gradients of a linear layer, summed over chunks of rows."""

    def __init__(self, x: Tensor, w: Tensor, b: Tensor | None, wanted: tuple[bool, ...]) -> None:
        self._x, self._w = x, w
        sum_dtype = _sum_dtype(x.dtype)
        self._grad_x = x.new_empty(x.shape) if wanted[0] else None
        self._grad_w = w.new_zeros(w.shape, dtype=sum_dtype) if wanted[1] else None
        self._grad_b = b.new_zeros(b.shape, dtype=sum_dtype) if b is not None and wanted[2] else None

    def add(self, chunk: slice, grad_logits: Tensor) -> None:
        """Adds the part of some rows, from the gradient in their logits."""
        if self._grad_b is not None:
            self._grad_b.add_(grad_logits.sum(0))
        factor = grad_logits.to(self._w.dtype)
        if self._grad_x is not None:
            torch.mm(factor, self._w, out=self._grad_x[chunk])
        if self._grad_w is not None and factor.dtype in HALF_DTYPES:
            self._grad_w.add_(factor.T @ self._x[chunk])
        elif self._grad_w is not None:
            self._grad_w.addmm_(factor.T, self._x[chunk])

    def to_dtypes_of(self, parts: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Returns the gradients in x, w and b, None where not wanted."""
        grads = self._grad_x, self._grad_w, self._grad_b
        return tuple(
            None if grad is None or part is None else grad.to(part.dtype)
            for grad, part in zip(grads, parts, strict=True)
        )


def _differentiable_grads(ctx: _Context, x: Tensor, w: Tensor, b: Tensor | None, grad: Tensor) -> list[Tensor | None]:
    """Returns the gradients as functions for a second derivative; holds all logits in memory."""
    wanted = ctx.needs_input_grad[:3]
    inputs = [part for part, is_wanted in zip((x, w, b), wanted, strict=True) if is_wanted and part is not None]
    with torch.enable_grad():
        logits = nn.functional.linear(x.to(ctx.dtype), w.to(ctx.dtype), None if b is None else b.to(ctx.dtype))
        loss = plain_losses(to_compute_dtype(logits), ctx.targets).sum() / ctx.total
        grads = iter(torch.autograd.grad(loss, inputs, grad, create_graph=True))
    return [next(grads) if is_wanted else None for is_wanted in wanted]
