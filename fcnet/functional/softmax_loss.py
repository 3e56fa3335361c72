"""What C classes' targets cost, and the derivative in the logits, written in one pass over the rows.

N examples, C classes, d1, … further axes. y is the true class, k the class of the largest logit. Losses
have the shape of the logits but for one class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from fcnet.functional import fused
from fcnet.functional.autograd import Context, can_read_without_sync, can_use_custom_backward, differentiable_grad
from fcnet.functional.chunking import map_chunks
from fcnet.functional.reductions import apply_weight, reduce_losses
from fcnet.functional.softmax import plain_log_softmax, propagate_nan_, sub_max

if TYPE_CHECKING:
    from collections.abc import Callable


def loss_and_grad(x: Tensor, target: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The sum of the rows' cross-entropies, and its derivative in the logits.

    Args:
        x: logits (N, C), float32 or float64.
        target: class indices int64 (N,), in [0, C); or class probabilities in the shape and dtype of ``x``.
        label_smoothing: ε in [0, 1].

    Returns:
        A scalar, and a new tensor (N, C).

    Example:
        >>> loss, grad_logits = loss_and_grad(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
        >>> loss, grad_logits
        (tensor(2.0612e-09), tensor([[-2.0612e-09,  2.0612e-09]]))
    """
    grad_logits = torch.empty_like(x)
    if fused.is_supported(x, target, None):
        return fused.losses(x, fused.TargetSpec(target, smoothing=label_smoothing), grad_logits)[0].sum(), grad_logits
    targets: Targets
    if target.is_floating_point():
        targets = Probabilities(target, None, label_smoothing, 1)
    else:
        targets = Labels(target.unsqueeze(1), None, None, label_smoothing, 1)
    if isinstance(targets, Labels) and not label_smoothing and can_read_without_sync(x):
        (losses,) = map_chunks(_odds_chunk, 1, x, grad_logits, targets.index)
        loss = losses.sum()
        if math.isfinite(loss.item()):
            return loss, grad_logits
    losses, scale = targets.losses(x, grad_logits)
    return losses.sum(), grad_logits.mul_(scale)


@dataclass(frozen=True, eq=False, slots=True)
class Labels:
    """Class indices as targets, t = (1 − ε) · one-hot of y + ε / C.

    Attributes:
        index: y, int64, in [0, C), in the shape of the logits but for one class.
        ignored: bool, likewise: which examples are left out; None: none is.
        weight: w (C), or None for 1.
        smoothing: ε.
        dim: the axis of the classes.
    """

    index: Tensor
    ignored: Tensor | None
    weight: Tensor | None
    smoothing: float
    dim: int

    def is_constant(self) -> bool:
        """Whether there is nothing but the logits to differentiate in."""
        return self.weight is None or _is_constant(self.weight)

    def select(self, rows: slice) -> Labels:
        """Those of some examples."""
        return replace(self, index=self.index[rows], ignored=None if self.ignored is None else self.ignored[rows])

    def total_weight(self) -> Tensor | int:
        """What the mean divides by: the weights w_y of the examples that count."""
        weights = self._example_weights()
        if weights is not None:
            return _zero_ignored(weights, self.ignored).sum()
        return self.index.numel() - (0 if self.ignored is None else self.ignored.sum())

    def losses(self, x: Tensor, grad_logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """The losses, and what their derivative, written to ``grad_logits``, is still to be multiplied by.

        That is finite in what is written of the ignored examples, but they are not 0 yet.
        """
        if self.dim == 1 and fused.is_supported(x, self.index, self.weight):
            labels = self.index if self.ignored is None else self.index.masked_fill(self.ignored, -1)
            return _fused_losses(
                x, fused.TargetSpec(labels.squeeze(1), self.weight, self.smoothing, ignore_index=-1), grad_logits
            )
        if not self.smoothing:
            return self._hard_label_losses(x, grad_logits)
        (losses,) = map_chunks(partial(_targets_chunk, self), self.dim, x, grad_logits, self.index, self.ignored)
        return losses, torch.ones_like(losses)

    def plain_losses(self, x: Tensor) -> Tensor:
        """The same losses by differentiable operations."""
        if not x.shape[self.dim] and self.ignored is not None and self.ignored.all():
            return x.sum(self.dim, keepdim=True)  # no class, and nobody who asks for one
        log_probabilities = plain_log_softmax(_zero_ignored(x, self.ignored), self.dim)
        losses, weights = -_gather(log_probabilities, self.index, self.dim), self._example_weights()
        if weights is not None:
            losses = apply_weight(losses, weights)
        if self.smoothing:
            share = x.new_full((), self.smoothing / x.shape[self.dim])
            spread = share if self.weight is None else share * _broadcast_weight(self.weight, self.dim, x.ndim)
            even = apply_weight(log_probabilities, spread).sum(self.dim, keepdim=True)
            losses = apply_weight(losses, losses.new_full((), 1.0 - self.smoothing)) - even
        return _zero_ignored(losses, self.ignored)

    def _hard_label_losses(self, x: Tensor, grad_logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """−w_y log p̂_y = w_y (log(1 + r) − (x_y − x_k)) with r = R + expm1(x_y − x_k), R = Σ_{j≠y} e^(x_j − x_k).

        Where y = k, r is R, the others' sum, with all its digits. Elsewhere R ≥ 1, so that r ≥ 0, the loss
        is at least log 2, and what rounding takes from r cannot be seen. It needs no search for k. The
        derivative is p̂_j for the others; for y it is −R / (1 + r), minus their sum.
        """
        own, others = map_chunks(partial(_labels_chunk, dim=self.dim), self.dim, x, grad_logits, self.index)
        rest = own.expm1().add_(others)
        losses, scale, weights = rest.log1p().sub_(own), rest.add_(1.0).reciprocal_(), self._example_weights()
        if weights is not None:
            losses, scale = apply_weight(losses, weights), scale.mul_(weights)
        return losses if self.ignored is None else losses.masked_fill_(self.ignored, 0.0), scale

    def weighted_sum(self, values: Tensor, index: Tensor) -> Tensor:
        """Σ_j w_j t_j v_j of some labels and values."""
        share = self.smoothing / values.shape[self.dim]
        own = _gather(values, index, self.dim)
        factor: Tensor = own.new_full((), 1.0 - self.smoothing)
        if self.weight is None:
            return values.sum(self.dim, keepdim=True).mul_(share).add_(apply_weight(own, factor))
        factor = factor * _gather(self.weight, index.flatten(), 0).view(index.shape)
        even = apply_weight(values, share * _broadcast_weight(self.weight, self.dim, values.ndim))
        return even.sum(self.dim, keepdim=True).add_(apply_weight(own, factor))

    def fill_targets(self, out: Tensor, index: Tensor) -> Tensor:
        """Writes w · t of some labels."""
        addend = out.new_full((), 1.0 - self.smoothing).expand(index.shape)
        out.fill_(self.smoothing / out.shape[self.dim]).scatter_add_(self.dim, index, addend)
        return out if self.weight is None else out.mul_(_broadcast_weight(self.weight, self.dim, out.ndim))

    def _example_weights(self) -> Tensor | None:
        """w_y, in the shape of ``index``."""
        if self.weight is None:
            return None
        return _gather(self.weight, self.index.flatten(), 0).view(self.index.shape)


@dataclass(frozen=True, eq=False, slots=True)
class Probabilities:
    """Class probabilities as targets, (1 − ε) t + ε / C.

    Attributes:
        target: t, in the shape of the logits.
        weight: w (C), or None for 1.
        smoothing: ε.
        dim: the axis of the classes.
        ignored: no example is left out.
    """

    target: Tensor
    weight: Tensor | None
    smoothing: float
    dim: int
    ignored: None = None

    def is_constant(self) -> bool:
        """Whether there is nothing but the logits to differentiate in."""
        return _is_constant(self.target) and (self.weight is None or _is_constant(self.weight))

    def select(self, rows: slice) -> Probabilities:
        """Those of some examples."""
        return replace(self, target=self.target[rows])

    def total_weight(self) -> int:
        """What the mean divides by: the number of examples, whatever their weights."""
        return self.target.numel() // max(self.target.shape[self.dim], 1)

    def losses(self, x: Tensor, grad_logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """The losses, and what their derivative, written to ``grad_logits``, is still to be multiplied by: 1."""
        if self.dim == 1 and fused.is_supported(x, self.target, self.weight):
            return _fused_losses(x, fused.TargetSpec(self.target, self.weight, self.smoothing), grad_logits)
        (losses,) = map_chunks(partial(_targets_chunk, self), self.dim, x, grad_logits, self.target, None)
        return losses, torch.ones_like(losses)

    def plain_losses(self, x: Tensor) -> Tensor:
        """The same losses by differentiable operations."""
        return -apply_weight(plain_log_softmax(x, self.dim), self._smooth_targets(self.target)).sum(
            self.dim, keepdim=True
        )

    def weighted_sum(self, values: Tensor, target: Tensor) -> Tensor:
        """Σ_j w_j t_j v_j of some targets and values, which are used up."""
        t = self._smooth_targets(target)
        return values.masked_fill_(t == 0, 0.0).mul_(t).sum(self.dim, keepdim=True)

    def fill_targets(self, out: Tensor, target: Tensor) -> Tensor:
        """Writes w · ((1 − ε) t + ε / C) of some targets."""
        return out.copy_(self._smooth_targets(target))

    def _smooth_targets(self, target: Tensor) -> Tensor:
        """w · ((1 − ε) t + ε / C)."""
        if self.smoothing:
            target = target * (1.0 - self.smoothing) + self.smoothing / target.shape[self.dim]
        return target if self.weight is None else target * _broadcast_weight(self.weight, self.dim, target.ndim)


Targets: TypeAlias = Labels | Probabilities


def loss(x: Tensor, targets: Targets, reduction: str) -> Tensor:
    """The reduced losses."""
    total = targets.total_weight() if reduction == "mean" else 1
    if x.numel() and can_use_custom_backward(x) and targets.is_constant():
        result: Tensor = _CrossEntropy.apply(x, targets, reduction, total)
        return result
    return plain_loss(x, targets, reduction, total)


def plain_loss(x: Tensor, targets: Targets, reduction: str, total: Tensor | int | None = None) -> Tensor:
    """The reduced losses by differentiable operations; ``total`` is what the mean divides by, if it is known."""
    if total is None:
        total = targets.total_weight() if reduction == "mean" else 1
    return reduce_losses(targets.plain_losses(x).squeeze(targets.dim), reduction, total)


class _CrossEntropy(torch.autograd.Function):
    """Finds the derivative in the forward pass, where the powers are at hand."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, targets: Targets, reduction: str, total: Tensor | int) -> Tensor:
        grad_logits = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        losses, scale = targets.losses(x, grad_logits)
        if grad_logits is not None:
            scale = scale.div_(total) if reduction == "mean" else scale
            # Last, since 0 / 0 would come of it where nobody counts.
            ctx.save_for_backward(
                x, grad_logits, scale if targets.ignored is None else scale.masked_fill_(targets.ignored, 0.0)
            )
            ctx.dim, ctx.reduction = targets.dim, reduction
            ctx.plain = partial(plain_loss, targets=targets, reduction=reduction, total=total)
        return losses.squeeze(targets.dim) if reduction == "none" else reduce_losses(losses, reduction, total)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, grad_logits, scale = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_grad(ctx.plain, x, grad), None, None, None
        if ctx.reduction == "none":
            grad = grad.unsqueeze(ctx.dim)
        return grad_logits * (scale * grad), None, None, None


def _fused_losses(x: Tensor, spec: fused.TargetSpec, grad_logits: Tensor | None) -> tuple[Tensor, Tensor]:
    losses = fused.losses(x, spec, grad_logits)[0].unsqueeze(1)
    return losses, torch.ones_like(losses)


def _odds_chunk(x: Tensor, grad_logits: Tensor, index: Tensor) -> tuple[Tensor]:
    """log(1 + r) with the odds against y, r = Σ_{j≠y} e^(x_j − x_y); writes the derivative to ``grad_logits``.

    That is p̂_j = e^(x_j − x_y) / (1 + r) for the others and −r / (1 + r) for y. As exact as `_labels_chunk` in half of
    the operations, but inf or NaN where a power overflows or a logit is infinite or no number.
    """
    powers = torch.sub(x, _gather(x, index, 1), out=grad_logits).exp_().scatter_(1, index, 0.0)
    odds = powers.sum(1, keepdim=True)
    losses = odds.log1p()
    powers.scatter_(1, index, -odds).div_(odds.add_(1.0))
    return (losses,)


def _labels_chunk(x: Tensor, grad_logits: Tensor | None, index: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """x_y − x_k and R; writes (1 + r) times the derivative to ``grad_logits``: e^(x_j − x_k) for the others, for y −R."""
    top = x.amax(dim, keepdim=True)
    powers = sub_max(x, top, out=grad_logits)
    own = propagate_nan_(_gather(powers, index, dim), top)
    powers.exp_().scatter_(dim, index, torch.zeros_like(own))
    others = powers.sum(dim, keepdim=True)
    powers.scatter_(dim, index, -others)
    return own, others


def _targets_chunk(
    targets: Targets, x: Tensor, grad_logits: Tensor | None, source: Tensor, ignored: Tensor | None
) -> tuple[Tensor]:
    """−Σ_j t_j log p̂_j = S log(1 + R) − Σ_j t_j (x_j − x_k) with S = Σ_j t_j, R = Σ_{j≠k} e^(x_j − x_k), 0 · ∞ = 0.

    No term is negative. The derivative is S p̂_j − t_j; for class k it is minus the sum of the others',
    Σ_{j≠k} t_j − S R / (1 + R). ``source`` is what some of the targets are made from.
    """
    dim = targets.dim
    top, k = x.max(dim, keepdim=True)
    zero = top.new_zeros(()).expand(top.shape)
    differences = sub_max(x, top)
    powers = torch.exp(differences, out=grad_logits).scatter_(dim, k, zero)
    others = propagate_nan_(powers.sum(dim, keepdim=True), top)
    del top
    target_dot = targets.weighted_sum(differences, source)
    t = targets.fill_targets(differences, source)  # in the same memory
    share = t.gather(dim, k)
    rest = t.scatter_(dim, k, zero).sum(dim, keepdim=True)
    share.add_(rest)
    losses = others.log1p().mul_(share).sub_(target_dot)
    scale = others.add(1.0).reciprocal_().mul_(share)
    grad_k = rest.addcmul_(scale, others, value=-1.0)
    if ignored is not None:
        t, losses, scale, grad_k = (part.masked_fill_(ignored, 0.0) for part in (t, losses, scale, grad_k))
    powers.mul_(scale).sub_(t).scatter_(dim, k, grad_k)
    return (losses,)


def _zero_ignored(values: Tensor, ignored: Tensor | None) -> Tensor:
    """The values, 0 for the examples that are left out."""
    return values if ignored is None else values.masked_fill(ignored, 0.0)


def _broadcast_weight(weight: Tensor, dim: int, num_axes: int) -> Tensor:
    """Class weights (C) in a shape that broadcasts to that of the logits."""
    return weight.view(-1, *[1] * (num_axes - 1 - dim))


def _is_constant(tensor: Tensor) -> bool:
    return not tensor.requires_grad and can_use_custom_backward(tensor)


def _gather(values: Tensor, index: Tensor, dim: int) -> Tensor:
    return _apply_at_labels(values.gather, index, dim)


def _apply_at_labels(operation: Callable[..., Tensor], index: Tensor, dim: int, *source: Tensor) -> Tensor:
    """Gathers or scatters at labels; on CPU these operations check them, so that nothing reads them before."""
    try:
        return operation(dim, index, *source)
    except RuntimeError as error:
        if "out of bounds" not in str(error):
            raise
        num_classes = operation.__self__.shape[dim]  # type: ignore[attr-defined]
        raise IndexError(f"target must be in [0, {num_classes}) or ignore_index: {error}") from error
