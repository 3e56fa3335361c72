"""What C classes' targets cost, and the derivative in the logits, written in one pass over the rows.

N examples, C classes, d1, … further axes. y is the true class, k the class of the largest logit. Costs
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
from fcnet.functional.autograd import Context, by_hand, derivative_of_plain, may_be_read
from fcnet.functional.chunking import in_blocks
from fcnet.functional.reductions import reduced, weighted
from fcnet.functional.softmax import below, plain_log_softmax, spoiled

if TYPE_CHECKING:
    from collections.abc import Callable


def cost_and_slope(x: Tensor, target: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The sum of the rows' cross-entropies, and its derivative in the logits.

    Args:
        x: logits (N, C), float32 or float64.
        target: class indices int64 (N,), in [0, C); or class probabilities in the shape and dtype of ``x``.
        label_smoothing: ε in [0, 1].

    Returns:
        A scalar, and a new tensor (N, C).

    Example:
        >>> cost, slope = cost_and_slope(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
        >>> cost, slope
        (tensor(2.0612e-09), tensor([[-2.0612e-09,  2.0612e-09]]))
    """
    slope = torch.empty_like(x)
    if fused.fits(x, target, None):
        return fused.costs(x, fused.Comparison(target, smoothing=label_smoothing), slope)[0].sum(), slope
    targets: Targets
    if target.is_floating_point():
        targets = Probabilities(target, None, label_smoothing, 1)
    else:
        targets = Labels(target.unsqueeze(1), None, None, label_smoothing, 1)
    if isinstance(targets, Labels) and not label_smoothing and may_be_read(x):
        (costs,) = in_blocks(_odds_step, 1, x, slope, targets.index)
        cost = costs.sum()
        if math.isfinite(cost.item()):
            return cost, slope
    costs, rate = targets.costs(x, slope)
    return costs.sum(), slope.mul_(rate)


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

    def of(self, rows: slice) -> Labels:
        """Those of some examples."""
        return replace(self, index=self.index[rows], ignored=None if self.ignored is None else self.ignored[rows])

    def total(self) -> Tensor | int:
        """What the mean divides by: the weights w_y of the examples that count."""
        weights = self._weights()
        if weights is not None:
            return _without(weights, self.ignored).sum()
        return self.index.numel() - (0 if self.ignored is None else self.ignored.sum())

    def costs(self, x: Tensor, slope: Tensor | None) -> tuple[Tensor, Tensor]:
        """The costs, and what their derivative, written to ``slope``, is still to be multiplied by.

        That is finite in what is written of the ignored examples, but they are not 0 yet.
        """
        if self.dim == 1 and fused.fits(x, self.index, self.weight):
            labels = self.index if self.ignored is None else self.index.masked_fill(self.ignored, -1)
            return _fused_costs(
                x, fused.Comparison(labels.squeeze(1), self.weight, self.smoothing, ignore_index=-1), slope
            )
        if not self.smoothing:
            return self._unsmoothed(x, slope)
        (costs,) = in_blocks(partial(_targets_step, self), self.dim, x, slope, self.index, self.ignored)
        return costs, torch.ones_like(costs)

    def plain_costs(self, x: Tensor) -> Tensor:
        """The same costs by differentiable operations."""
        if not x.shape[self.dim] and self.ignored is not None and self.ignored.all():
            return x.sum(self.dim, keepdim=True)  # no class, and nobody who asks for one
        log_probabilities = plain_log_softmax(_without(x, self.ignored), self.dim)
        costs, weights = -_gathered(log_probabilities, self.index, self.dim), self._weights()
        if weights is not None:
            costs = weighted(costs, weights)
        if self.smoothing:
            share = x.new_full((), self.smoothing / x.shape[self.dim])
            spread = share if self.weight is None else share * _along(self.weight, self.dim, x.ndim)
            even = weighted(log_probabilities, spread).sum(self.dim, keepdim=True)
            costs = weighted(costs, costs.new_full((), 1.0 - self.smoothing)) - even
        return _without(costs, self.ignored)

    def _unsmoothed(self, x: Tensor, slope: Tensor | None) -> tuple[Tensor, Tensor]:
        """−w_y log p̂_y = w_y (log(1 + r) − (x_y − x_k)) with r = R + expm1(x_y − x_k), R = Σ_{j≠y} e^(x_j − x_k).

        Where y = k, r is R, the others' sum, with all its digits. Elsewhere R ≥ 1, so that r ≥ 0, the cost
        is at least log 2, and what rounding takes from r cannot be seen. It needs no search for k. The
        derivative is p̂_j for the others; for y it is −R / (1 + r), minus their sum.
        """
        own, others = in_blocks(partial(_labels_step, dim=self.dim), self.dim, x, slope, self.index)
        rest = own.expm1().add_(others)
        costs, rate, weights = rest.log1p().sub_(own), rest.add_(1.0).reciprocal_(), self._weights()
        if weights is not None:
            costs, rate = weighted(costs, weights), rate.mul_(weights)
        return costs if self.ignored is None else costs.masked_fill_(self.ignored, 0.0), rate

    def times(self, values: Tensor, index: Tensor) -> Tensor:
        """Σ_j w_j t_j v_j of some labels and values."""
        share = self.smoothing / values.shape[self.dim]
        own = _gathered(values, index, self.dim)
        factor: Tensor = own.new_full((), 1.0 - self.smoothing)
        if self.weight is None:
            return values.sum(self.dim, keepdim=True).mul_(share).add_(weighted(own, factor))
        factor = factor * _gathered(self.weight, index.flatten(), 0).view(index.shape)
        even = weighted(values, share * _along(self.weight, self.dim, values.ndim))
        return even.sum(self.dim, keepdim=True).add_(weighted(own, factor))

    def fill(self, out: Tensor, index: Tensor) -> Tensor:
        """Writes w · t of some labels."""
        addend = out.new_full((), 1.0 - self.smoothing).expand(index.shape)
        out.fill_(self.smoothing / out.shape[self.dim]).scatter_add_(self.dim, index, addend)
        return out if self.weight is None else out.mul_(_along(self.weight, self.dim, out.ndim))

    def _weights(self) -> Tensor | None:
        """w_y, in the shape of ``index``."""
        if self.weight is None:
            return None
        return _gathered(self.weight, self.index.flatten(), 0).view(self.index.shape)


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

    def of(self, rows: slice) -> Probabilities:
        """Those of some examples."""
        return replace(self, target=self.target[rows])

    def total(self) -> int:
        """What the mean divides by: the number of examples, whatever their weights."""
        return self.target.numel() // max(self.target.shape[self.dim], 1)

    def costs(self, x: Tensor, slope: Tensor | None) -> tuple[Tensor, Tensor]:
        """The costs, and what their derivative, written to ``slope``, is still to be multiplied by: 1."""
        if self.dim == 1 and fused.fits(x, self.target, self.weight):
            return _fused_costs(x, fused.Comparison(self.target, self.weight, self.smoothing), slope)
        (costs,) = in_blocks(partial(_targets_step, self), self.dim, x, slope, self.target, None)
        return costs, torch.ones_like(costs)

    def plain_costs(self, x: Tensor) -> Tensor:
        """The same costs by differentiable operations."""
        return -weighted(plain_log_softmax(x, self.dim), self._targets(self.target)).sum(self.dim, keepdim=True)

    def times(self, values: Tensor, target: Tensor) -> Tensor:
        """Σ_j w_j t_j v_j of some targets and values, which are used up."""
        t = self._targets(target)
        return values.masked_fill_(t == 0, 0.0).mul_(t).sum(self.dim, keepdim=True)

    def fill(self, out: Tensor, target: Tensor) -> Tensor:
        """Writes w · ((1 − ε) t + ε / C) of some targets."""
        return out.copy_(self._targets(target))

    def _targets(self, target: Tensor) -> Tensor:
        """w · ((1 − ε) t + ε / C)."""
        if self.smoothing:
            target = target * (1.0 - self.smoothing) + self.smoothing / target.shape[self.dim]
        return target if self.weight is None else target * _along(self.weight, self.dim, target.ndim)


Targets: TypeAlias = Labels | Probabilities


def loss(x: Tensor, targets: Targets, reduction: str) -> Tensor:
    """The reduced costs."""
    total = targets.total() if reduction == "mean" else 1
    if x.numel() and by_hand(x) and targets.is_constant():
        result: Tensor = _CrossEntropy.apply(x, targets, reduction, total)
        return result
    return plain_loss(x, targets, reduction, total)


def plain_loss(x: Tensor, targets: Targets, reduction: str, total: Tensor | int | None = None) -> Tensor:
    """The reduced costs by differentiable operations; ``total`` is what the mean divides by, if it is known."""
    if total is None:
        total = targets.total() if reduction == "mean" else 1
    return reduced(targets.plain_costs(x).squeeze(targets.dim), reduction, total)


class _CrossEntropy(torch.autograd.Function):
    """Finds the derivative in the forward pass, where the powers are at hand."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, targets: Targets, reduction: str, total: Tensor | int) -> Tensor:
        slope = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        costs, rate = targets.costs(x, slope)
        if slope is not None:
            rate = rate.div_(total) if reduction == "mean" else rate
            # Last, since 0 / 0 would come of it where nobody counts.
            ctx.save_for_backward(
                x, slope, rate if targets.ignored is None else rate.masked_fill_(targets.ignored, 0.0)
            )
            ctx.dim, ctx.reduction = targets.dim, reduction
            ctx.plain = partial(plain_loss, targets=targets, reduction=reduction, total=total)
        return costs.squeeze(targets.dim) if reduction == "none" else reduced(costs, reduction, total)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, slope, rate = ctx.saved_tensors
        if torch.is_grad_enabled():
            return derivative_of_plain(ctx.plain, x, grad), None, None, None
        if ctx.reduction == "none":
            grad = grad.unsqueeze(ctx.dim)
        return slope * (rate * grad), None, None, None


def _fused_costs(x: Tensor, rows: fused.Comparison, slope: Tensor | None) -> tuple[Tensor, Tensor]:
    costs = fused.costs(x, rows, slope)[0].unsqueeze(1)
    return costs, torch.ones_like(costs)


def _odds_step(x: Tensor, slope: Tensor, index: Tensor) -> tuple[Tensor]:
    """log(1 + r) with the odds against y, r = Σ_{j≠y} e^(x_j − x_y); writes the derivative to ``slope``.

    That is p̂_j = e^(x_j − x_y) / (1 + r) for the others and −r / (1 + r) for y. As exact as `_labels_step` in half of
    the operations, but inf or NaN where a power overflows or a logit is infinite or no number.
    """
    powers = torch.sub(x, _gathered(x, index, 1), out=slope).exp_().scatter_(1, index, 0.0)
    odds = powers.sum(1, keepdim=True)
    costs = odds.log1p()
    powers.scatter_(1, index, -odds).div_(odds.add_(1.0))
    return (costs,)


def _labels_step(x: Tensor, slope: Tensor | None, index: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """x_y − x_k and R; writes (1 + r) times the derivative to ``slope``: e^(x_j − x_k) for the others, for y −R."""
    top = x.amax(dim, keepdim=True)
    powers = below(x, top, out=slope)
    own = spoiled(_gathered(powers, index, dim), top)
    powers.exp_().scatter_(dim, index, torch.zeros_like(own))
    others = powers.sum(dim, keepdim=True)
    powers.scatter_(dim, index, -others)
    return own, others


def _targets_step(
    targets: Targets, x: Tensor, slope: Tensor | None, source: Tensor, ignored: Tensor | None
) -> tuple[Tensor]:
    """−Σ_j t_j log p̂_j = S log(1 + R) − Σ_j t_j (x_j − x_k) with S = Σ_j t_j, R = Σ_{j≠k} e^(x_j − x_k), 0 · ∞ = 0.

    No term is negative. The derivative is S p̂_j − t_j; for class k it is minus the sum of the others',
    Σ_{j≠k} t_j − S R / (1 + R). ``source`` is what some of the targets are made from.
    """
    dim = targets.dim
    top, k = x.max(dim, keepdim=True)
    zero = top.new_zeros(()).expand(top.shape)
    differences = below(x, top)
    powers = torch.exp(differences, out=slope).scatter_(dim, k, zero)
    others = spoiled(powers.sum(dim, keepdim=True), top)
    del top
    drag = targets.times(differences, source)
    t = targets.fill(differences, source)  # in the same memory
    share = t.gather(dim, k)
    rest = t.scatter_(dim, k, zero).sum(dim, keepdim=True)
    share.add_(rest)
    costs = others.log1p().mul_(share).sub_(drag)
    rate = others.add(1.0).reciprocal_().mul_(share)
    of_k = rest.addcmul_(rate, others, value=-1.0)
    if ignored is not None:
        t, costs, rate, of_k = (part.masked_fill_(ignored, 0.0) for part in (t, costs, rate, of_k))
    powers.mul_(rate).sub_(t).scatter_(dim, k, of_k)
    return (costs,)


def _without(values: Tensor, ignored: Tensor | None) -> Tensor:
    """The values, 0 for the examples that are left out."""
    return values if ignored is None else values.masked_fill(ignored, 0.0)


def _along(weight: Tensor, dim: int, num_axes: int) -> Tensor:
    """Class weights (C) in a shape that broadcasts to that of the logits."""
    return weight.view(-1, *[1] * (num_axes - 1 - dim))


def _is_constant(tensor: Tensor) -> bool:
    return not tensor.requires_grad and by_hand(tensor)


def _gathered(values: Tensor, index: Tensor, dim: int) -> Tensor:
    return _at_labels(values.gather, index, dim)


def _at_labels(operation: Callable[..., Tensor], index: Tensor, dim: int, *source: Tensor) -> Tensor:
    """Gathers or scatters at labels; on CPU these operations check them, so that nothing reads them before."""
    try:
        return operation(dim, index, *source)
    except RuntimeError as error:
        if "out of bounds" not in str(error):
            raise
        num_classes = operation.__self__.shape[dim]  # type: ignore[attr-defined]
        raise IndexError(f"target must be in [0, {num_classes}) or ignore_index: {error}") from error
