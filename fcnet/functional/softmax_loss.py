"""The cross-entropy of C classes, fast: losses and their gradient in one pass over the rows.

`fcnet.functional.cross_entropy` states the formula. This module computes the same losses together with their gradient,
from the same powers. N examples, C classes, d1, … further axes; y is the true class, k the class of the largest logit.
Losses have the shape of the logits with one class.

The sum over the classes appears in three forms here, since each is the fastest where it applies:

- `odds_and_grad`: class indices and finite powers. It takes differences to x_y, so it needs no search for k.
- `_far_label_losses`: class indices and any logits. It takes differences to x_k, so no power overflows.
- `_target_losses`: any targets, that is, class probabilities and smoothed labels.

`fcnet.functional.triton_kernels` has the sum once more, for the GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from fcnet.functional import fused
from fcnet.functional.autograd import can_read_without_sync, can_use_custom_backward
from fcnet.functional.chunking import map_chunks
from fcnet.functional.reductions import apply_weight
from fcnet.functional.softmax import propagate_nan_, sub_max

MAX_POWER = math.exp(8.0)
"""Differences of logits below 8 round by at most two units in the last place of their powers."""


def loss_and_grad(x: Tensor, target: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Computes the sum of the rows' cross-entropies and its gradient in the logits.

    A training step calls this instead of `cross_entropy` and `backward`.

    Args:
        x: logits (N, C), float32 or float64.
        target: class indices int64 (N,), in [0, C); or class probabilities in the shape and dtype of ``x``.
        label_smoothing: ε in [0, 1].

    Returns:
        The sum, a scalar, and its gradient, a new tensor (N, C).

    Example:
        >>> loss, grad_logits = loss_and_grad(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
        >>> loss, grad_logits
        (tensor(2.0612e-09), tensor([[-2.0612e-09,  2.0612e-09]]))
    """
    grad_logits = torch.empty_like(x)
    # GPU path: one kernel writes losses and gradient.
    if fused.is_supported(x, target, None):
        return fused.losses(x, fused.TargetSpec(target, smoothing=label_smoothing), grad_logits)[0].sum(), grad_logits
    targets: Targets
    if target.is_floating_point():
        targets = Probabilities(target, None, label_smoothing, 1)
    else:
        targets = Labels(target.unsqueeze(1), None, None, label_smoothing, 1)
    if isinstance(targets, Labels) and not label_smoothing and can_read_without_sync(x):
        loss = _odds_losses(x, targets.index, grad_logits).sum()
        # An overflow shows in the sum. It is rare, so trying the fast form first pays.
        if math.isfinite(loss.item()):
            return loss, grad_logits
    losses, scale = losses_and_grad(x, targets, grad_logits)
    return losses.sum(), grad_logits.mul_(scale)


@dataclass(frozen=True, eq=False, slots=True)
class Labels:
    """Class indices as targets: t = (1 − ε) · onehot(y) + ε / C.

    Attributes:
        index: y, int64, in [0, C), in the shape of the logits with one class.
        ignored: bool, in the shape of ``index``: True for examples to leave out; None if there are none.
        weight: w (C), or None for 1.
        smoothing: ε.
        dim: the class axis.
    """

    index: Tensor
    ignored: Tensor | None
    weight: Tensor | None
    smoothing: float
    dim: int

    def is_constant(self) -> bool:
        """True if no gradient flows to the targets."""
        return self.weight is None or _is_constant(self.weight)

    def select(self, rows: slice) -> Labels:
        """Returns the targets of some rows."""
        return replace(self, index=self.index[rows], ignored=None if self.ignored is None else self.ignored[rows])

    def total_weight(self) -> Tensor | int:
        """Returns the denominator of the mean: Σ w_y over the examples that are not ignored."""
        weights = self.example_weights()
        if weights is not None:
            return zero_ignored(weights, self.ignored).sum()
        return self.index.numel() - (0 if self.ignored is None else self.ignored.sum())

    def example_weights(self) -> Tensor | None:
        """Returns w_y in the shape of ``index``, or None for 1."""
        if self.weight is None:
            return None
        return gather_labels(self.weight, self.index.flatten(), 0).view(self.index.shape)

    def weighted_sum(self, values: Tensor, index: Tensor) -> Tensor:
        """Returns Σ_j w_j t_j v_j for a chunk of values and labels."""
        even_target = self.smoothing / values.shape[self.dim]
        own = gather_labels(values, index, self.dim)
        factor: Tensor = own.new_full((), 1.0 - self.smoothing)
        if self.weight is None:
            return values.sum(self.dim, keepdim=True).mul_(even_target).add_(apply_weight(own, factor))
        factor = factor * gather_labels(self.weight, index.flatten(), 0).view(index.shape)
        even = apply_weight(values, even_target * broadcast_weight(self.weight, self.dim, values.ndim))
        return even.sum(self.dim, keepdim=True).add_(apply_weight(own, factor))

    def fill_targets(self, out: Tensor, index: Tensor) -> Tensor:
        """Writes w · t of a chunk of labels to ``out``."""
        addend = out.new_full((), 1.0 - self.smoothing).expand(index.shape)
        out.fill_(self.smoothing / out.shape[self.dim]).scatter_add_(self.dim, index, addend)
        return out if self.weight is None else out.mul_(broadcast_weight(self.weight, self.dim, out.ndim))


@dataclass(frozen=True, eq=False, slots=True)
class Probabilities:
    """Class probabilities as targets: (1 − ε) t + ε / C.

    Attributes:
        target: t, in the shape of the logits.
        weight: w (C), or None for 1.
        smoothing: ε.
        dim: the class axis.
        ignored: None, as no example is left out.
    """

    target: Tensor
    weight: Tensor | None
    smoothing: float
    dim: int
    ignored: None = None

    def is_constant(self) -> bool:
        """True if no gradient flows to the targets."""
        return _is_constant(self.target) and (self.weight is None or _is_constant(self.weight))

    def select(self, rows: slice) -> Probabilities:
        """Returns the targets of some rows."""
        return replace(self, target=self.target[rows])

    def total_weight(self) -> int:
        """Returns the denominator of the mean: the number of examples, whatever their weights."""
        return self.target.numel() // max(self.target.shape[self.dim], 1)

    def weighted(self, target: Tensor) -> Tensor:
        """Returns w · ((1 − ε) t + ε / C) of the whole target or of a chunk."""
        if self.smoothing:
            target = target * (1.0 - self.smoothing) + self.smoothing / target.shape[self.dim]
        return target if self.weight is None else target * broadcast_weight(self.weight, self.dim, target.ndim)

    def weighted_sum(self, values: Tensor, target: Tensor) -> Tensor:
        """Returns Σ_j w_j t_j v_j for a chunk of values, which are overwritten, and its targets."""
        t = self.weighted(target)
        return values.masked_fill_(t == 0, 0.0).mul_(t).sum(self.dim, keepdim=True)

    def fill_targets(self, out: Tensor, target: Tensor) -> Tensor:
        """Writes w · ((1 − ε) t + ε / C) of a chunk of targets to ``out``."""
        return out.copy_(self.weighted(target))


Targets: TypeAlias = Labels | Probabilities


def losses_and_grad(x: Tensor, targets: Targets, grad_logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Computes every example's loss and, up to a factor per example, its gradient in the logits.

    The factor stays apart, so that the backward pass can join it with the incoming gradient and multiply once.

    Args:
        x: logits, float32 or float64.
        targets: labels or probabilities.
        grad_logits: receives the gradient, in the shape of ``x``; may be ``x`` itself; None computes losses alone.

    Returns:
        The losses, and the factor of the gradient. The gradient of ignored examples is finite but not yet 0; a factor
        of 0 makes it so.
    """
    # GPU path. Labels of ignored examples are already 0 in `index`, so -1 marks them for the kernel.
    if targets.dim == 1 and fused.is_supported(x, _raw_target(targets), targets.weight):
        if isinstance(targets, Probabilities):
            spec = fused.TargetSpec(targets.target, targets.weight, targets.smoothing)
        else:
            labels = targets.index if targets.ignored is None else targets.index.masked_fill(targets.ignored, -1)
            spec = fused.TargetSpec(labels.squeeze(1), targets.weight, targets.smoothing, ignore_index=-1)
        losses = fused.losses(x, spec, grad_logits)[0].unsqueeze(1)
        return losses, torch.ones_like(losses)
    if isinstance(targets, Labels) and not targets.smoothing:
        # The logits that the gradient overwrites cannot be read again.
        by_odds = grad_logits is not x and can_read_without_sync(x)
        return _label_losses(x, targets, grad_logits, by_odds=by_odds)
    losses = _target_losses(x, targets, grad_logits)
    return losses, torch.ones_like(losses)


def odds_and_grad(x: Tensor, index: Tensor, dim: int, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Computes the odds against y, r = Σ_{j≠y} e^(x_j − x_y), and (1 + r) times the gradient of log(1 + r).

    The loss is −log p̂_y = log(1 + r). This form takes half the operations of `_far_label_losses`. It is as exact while
    r is moderate, but a difference x_j − x_y above 8 rounds by more than a few units in the last place of the power,
    and r is inf or NaN where a power overflows or a logit is not finite.

    Args:
        x: logits.
        index: y, with one class on the axis ``dim``.
        dim: the class axis.
        out: memory for the gradient; None allocates it.
    """
    powers = torch.sub(x, gather_labels(x, index, dim), out=out).exp_()
    odds = powers.scatter_(dim, index, 0.0).sum(dim, keepdim=True)
    # p̂_j = e^(x_j − x_y) / (1 + r), and p̂_y − 1 = −r / (1 + r), without the cancellation in p̂_y − 1.
    return odds, powers.scatter_(dim, index, -odds)


def _odds_losses(x: Tensor, index: Tensor, grad_logits: Tensor) -> Tensor:
    """Returns the losses by `odds_and_grad`, and writes the gradient."""

    def chunk(x: Tensor, grad_logits: Tensor, index: Tensor) -> tuple[Tensor]:
        odds, powers = odds_and_grad(x, index, 1, out=grad_logits)
        losses = odds.log1p()
        powers.div_(odds.add_(1.0))
        return (losses,)

    (losses,) = map_chunks(chunk, 1, x, grad_logits, index)
    return losses


def _label_losses(x: Tensor, labels: Labels, grad_logits: Tensor | None, *, by_odds: bool) -> tuple[Tensor, Tensor]:
    """w_y log(1 + r) for every label, by `odds_and_grad` where it is exact if ``by_odds``, else by `_far_label_losses`.

    Writes (1 + r) times the gradient for w = 1; the factor returned is w_y / (1 + r).
    """
    dim = labels.dim

    def chunk(x: Tensor, grad_logits: Tensor | None, index: Tensor) -> tuple[Tensor, Tensor]:
        if not by_odds or not x.numel():
            return _far_label_losses(x, index, dim, grad_logits)
        odds, powers = odds_and_grad(x, index, dim, out=grad_logits)
        losses, scale = odds.log1p(), odds.add_(1.0).reciprocal_()
        if not powers.max().item() < MAX_POWER:  # or NaN
            # Only the rows that are far off are computed again: a trained network has a few of them in most batches.
            far = (powers.amax(dim) < MAX_POWER).logical_not_()
            x, index, *results = (part.movedim(dim, -1) for part in (x, index, powers, losses, scale))
            far_powers = torch.empty_like(x[far])
            far_losses, far_scale = _far_label_losses(x[far], index[far], 1, far_powers)
            for result, far_result in zip(results, (far_powers, far_losses, far_scale), strict=True):
                result[far] = far_result
        return losses, scale

    losses, scale = map_chunks(chunk, dim, x, grad_logits, labels.index)
    weights = labels.example_weights()
    if weights is not None:
        losses, scale = apply_weight(losses, weights), scale.mul_(weights)
    return losses if labels.ignored is None else losses.masked_fill_(labels.ignored, 0.0), scale


def _far_label_losses(x: Tensor, index: Tensor, dim: int, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """−log p̂_y = log(1 + r) − d, with d = x_y − x_k and r = R + e^d − 1, R = Σ_{j≠y} e^(x_j − x_k), for any logits.

    Writes (1 + r) times the gradient to ``out``, which may be ``x``; returns the losses and 1 / (1 + r).
    """
    # All steps reuse one buffer, `out`: differences, then powers, then the gradient.
    top = x.amax(dim, keepdim=True)
    powers = sub_max(x, top, out=out)
    own = propagate_nan_(gather_labels(powers, index, dim), top)
    others = powers.exp_().scatter_(dim, index, 0.0).sum(dim, keepdim=True)
    # (1 + r)(p̂_y − 1) = −R: minus the sum of the other entries, again without cancellation.
    powers.scatter_(dim, index, -others)
    # 1 + r = Σ_j e^(x_j − x_k). If y = k, then d = 0 and r = R keeps all digits of a small sum. Otherwise R ≥ 1, so
    # r ≥ 0 and the loss is at least log 2: rounding in r does not show. So the index k itself is never needed.
    odds = own.expm1().add_(others)
    return odds.log1p().sub_(own), odds.add_(1.0).reciprocal_()


def _target_losses(x: Tensor, targets: Targets, grad_logits: Tensor | None) -> Tensor:
    """−Σ_j t_j log p̂_j = S log(1 + R) − Σ_j t_j (x_j − x_k), with S = Σ_j t_j and R = Σ_{j≠k} e^(x_j − x_k).

    No term is negative, so none cancels. Writes the gradient, S p̂_j − t_j. Here t includes weights and smoothing.
    """
    dim = targets.dim

    def chunk(x: Tensor, grad_logits: Tensor | None, source: Tensor, ignored: Tensor | None) -> tuple[Tensor]:
        top, k = x.max(dim, keepdim=True)
        zero = top.new_zeros(()).expand(top.shape)
        differences = sub_max(x, top)
        powers = torch.exp(differences, out=grad_logits).scatter_(dim, k, zero)
        others = propagate_nan_(powers.sum(dim, keepdim=True), top)
        del top  # frees memory: the peak is at most torch's
        # Targets are made chunk by chunk: a smoothed one-hot matrix as large as the logits never exists.
        target_dot = targets.weighted_sum(differences, source)
        t = targets.fill_targets(differences, source)  # in the same memory
        total = t.gather(dim, k)
        rest = t.scatter_(dim, k, zero).sum(dim, keepdim=True)
        total.add_(rest)
        losses = others.log1p().mul_(total).sub_(target_dot)
        scale = others.add(1.0).reciprocal_().mul_(total)
        # S p̂_k − t_k is minus the sum of the other entries: Σ_{j≠k} t_j − S R / (1 + R).
        grad_k = rest.addcmul_(scale, others, value=-1.0)
        if ignored is not None:
            t, losses, scale, grad_k = (part.masked_fill_(ignored, 0.0) for part in (t, losses, scale, grad_k))
        powers.mul_(scale).sub_(t).scatter_(dim, k, grad_k)
        return (losses,)

    (losses,) = map_chunks(chunk, dim, x, grad_logits, _raw_target(targets), targets.ignored)
    return losses


def _raw_target(targets: Targets) -> Tensor:
    return targets.target if isinstance(targets, Probabilities) else targets.index


def zero_ignored(values: Tensor, ignored: Tensor | None) -> Tensor:
    """Returns the values with 0 for ignored examples."""
    return values if ignored is None else values.masked_fill(ignored, 0.0)


def broadcast_weight(weight: Tensor, dim: int, num_axes: int) -> Tensor:
    """Returns class weights (C) in a shape that broadcasts to the logits."""
    return weight.view(-1, *[1] * (num_axes - 1 - dim))


def gather_labels(values: Tensor, index: Tensor, dim: int) -> Tensor:
    """Gathers each example's value at its label.

    On CPU this also checks the labels, without an extra pass over them.

    Raises:
        IndexError: a label is outside [0, C), on CPU.
    """
    try:
        return values.gather(dim, index)
    except RuntimeError as error:
        if "out of bounds" not in str(error):
            raise
        raise IndexError(f"target must be in [0, {values.shape[dim]}) or ignore_index: {error}") from error


def _is_constant(tensor: Tensor) -> bool:
    return not tensor.requires_grad and can_use_custom_backward(tensor)
