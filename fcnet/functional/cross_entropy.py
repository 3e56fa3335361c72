"""Cross-entropy of C classes.

N examples, C classes, d1, … further axes; x are the logits, p̂ = softmax(x), y is the true class.

`plain_losses` is the definition, to be read beside the slide. `cross_entropy` computes the same numbers in the fastest
way that the arguments allow: by two kernels on a GPU, by the one-pass forms of `fcnet.functional.softmax_loss` on other
devices, by the shortest of them for a few labels on a CPU, and by the definition itself under the compiler,
`torch.func` and forward mode.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fcnet.functional import fused, softmax_loss
from fcnet.functional.arguments import require_tensor, to_int, to_real
from fcnet.functional.autograd import Context, can_read_without_sync, can_use_custom_backward, differentiable_grad
from fcnet.functional.dtypes import cast_loss, require_floating, to_compute_dtype
from fcnet.functional.reductions import apply_weight, reduce_losses, require_reduction
from fcnet.functional.softmax import plain_log_softmax
from fcnet.functional.softmax_loss import Labels, Probabilities, Targets

_MAX_SMALL = 1 << 14
"""Logits of a batch whose loss takes longer to call than to compute."""
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def plain_losses(x: Tensor, targets: Targets) -> Tensor:
    """Computes −Σ_j w_j t_j log p̂_j of each example; for a class index, −w_y log p̂_y.

    All operations are differentiable to any order, in the logits, the targets and the weights.
    """
    dim = targets.dim
    if isinstance(targets, Probabilities):
        return -apply_weight(plain_log_softmax(x, dim), targets.weighted(targets.target)).sum(dim, keepdim=True)
    if not x.shape[dim] and targets.ignored is not None and targets.ignored.all():
        return x.sum(dim, keepdim=True)  # no class to gather, and every label is ignored: each loss is 0
    # Ignored rows become 0 before the softmax as well as after it: a gradient of 0 times NaN is NaN.
    log_p = plain_log_softmax(softmax_loss.zero_ignored(x, targets.ignored), dim)
    losses, w_y = -softmax_loss.gather_labels(log_p, targets.index, dim), targets.example_weights()
    if w_y is not None:
        losses = apply_weight(losses, w_y)
    if targets.smoothing:
        # t = (1 − ε) onehot(y) + ε / C, so the sum is the term above and an equal share of every class.
        even_target = x.new_full((), targets.smoothing / x.shape[dim])
        if targets.weight is not None:
            even_target = even_target * softmax_loss.broadcast_weight(targets.weight, dim, x.ndim)
        even = apply_weight(log_p, even_target).sum(dim, keepdim=True)
        losses = apply_weight(losses, losses.new_full((), 1.0 - targets.smoothing)) - even
    return softmax_loss.zero_ignored(losses, targets.ignored)


def _plain_loss(x: Tensor, targets: Targets, reduction: str) -> Tensor:
    total = targets.total_weight() if reduction == "mean" else 1
    return reduce_losses(plain_losses(x, targets).squeeze(targets.dim), reduction, total)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Computes −w_y log p̂_y for a class index y, or −Σ_j w_j t_j log p̂_j for class probabilities t.

    With p̂ = softmax(x), −log p̂_y = log(1 + Σ_{j≠y} e^(x_j − x_y)). For a confident and correct example the sum is
    tiny, and `log1p` keeps its digits. The gradient at y is −Σ_{j≠y} p̂_j, a sum, since p̂_y − 1 would cancel.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        target: class indices in [0, C), int64 or uint8, in the shape of ``input`` without C; or
            class probabilities in the shape of ``input``, floating.
        weight: w (C), a factor for each class; None means 1.
        ignore_index: examples with this index have loss and gradient 0, whatever their logits.
        reduction: ``"none"`` returns the losses; ``"sum"`` adds them; ``"mean"`` divides the sum by Σ w_y over the
            examples that are not ignored, or by the number of examples for class probabilities.
        label_smoothing: ε in [0, 1]; targets become (1 − ε) t + ε / C.

    Returns:
        A scalar, or with ``"none"`` the shape of ``input`` without C; float32 under autocast, else the dtype of
        ``input``, promoted with that of class probabilities and their weights.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: ``reduction`` is unknown, or the numbers of examples differ.
        NotImplementedError: ``input`` is not floating.
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
    # Labels alone, few of them: a call costs more than its arithmetic, so this case goes without what the others need.
    if weight is None and _is_small_batch(input, target, ignore_index, label_smoothing):
        small_loss: Tensor | None = _SmallCrossEntropy.apply(input, target, reduction)
        if small_loss is not None:
            return small_loss
    ignore_index, label_smoothing = to_int("ignore_index", ignore_index), to_real("label_smoothing", label_smoothing)
    target, w, compute_dtype, dtype = _check_arguments(input, target, weight, ignore_index, label_smoothing)

    # GPU path: one kernel reads the logits, another writes the gradient. Only a second derivative needs the definition.
    if compute_dtype == torch.float32 and fused.is_supported(input, target, w):

        def plain(x: Tensor) -> Tensor:
            targets = _make_targets(x, target, w, compute_dtype, ignore_index, label_smoothing)
            return _plain_loss(x.to(compute_dtype), targets, reduction)

        spec = fused.TargetSpec(target, w, label_smoothing, ignore_index)
        return cast_loss(fused.loss(input, spec, reduction, plain), dtype)

    x = input.to(compute_dtype)
    targets = _make_targets(x, target, w, compute_dtype, ignore_index, label_smoothing)
    if x.numel() and can_use_custom_backward(x) and targets.is_constant():
        loss: Tensor = _CrossEntropy.apply(x, targets, reduction)
    else:
        loss = _plain_loss(x, targets, reduction)
    return cast_loss(loss, dtype)


def _is_small_batch(x: Tensor, y: Tensor, ignore_index: int, label_smoothing: float) -> bool:
    """True for few logits and labels on the CPU, as `_SmallCrossEntropy` takes them, and no other arguments."""
    return (
        type(x) is Tensor
        and type(y) is Tensor
        and x.dtype in _DTYPES
        and y.dtype is torch.int64
        and x.is_cpu
        and 0 < x.numel() <= _MAX_SMALL
        and x.ndim == y.ndim + 1  # the gather checks the shapes, and faster
        and x.numel() == y.numel() * x.size(1 if x.ndim > 1 else 0)
        and type(ignore_index) is int
        and ignore_index < 0
        and type(label_smoothing) is float
        and label_smoothing == 0.0
        and can_use_custom_backward(x)
        and can_read_without_sync(x)
    )


class _SmallCrossEntropy(torch.autograd.Function):
    """−log p̂_y = log(1 + r) with the odds against y, r = Σ_{j≠y} e^(x_j − x_y) = (1 − p̂_y) / p̂_y.

    The gradient is p̂_j = e^(x_j − x_y) / (1 + r) for j ≠ y, and p̂_y − 1 = −r / (1 + r).
    Returns None where this form is not exact or does not apply.
    """

    @staticmethod
    def forward(ctx: Context, input: Tensor, y: Tensor, reduction: str) -> Tensor | None:
        x, dim = to_compute_dtype(input), 1 if input.ndim > 1 else 0
        try:
            odds, grad_logits = softmax_loss.odds_and_grad(x, y.unsqueeze(dim), dim)
        except (IndexError, RuntimeError):  # an ignored label; or a mistake, to be told in the words of the other forms
            return None
        if not grad_logits.max().item() < softmax_loss.MAX_POWER:  # or NaN
            return None
        losses = odds.log1p()
        total = x.new_full((), losses.numel() if reduction == "mean" else 1)  # faster to divide by than a number
        if ctx.needs_input_grad[0]:
            divisor = torch.addcmul(total, total, odds)  # total · (1 + r)
            ctx.save_for_backward(input, y, grad_logits, divisor)
            ctx.dim, ctx.reduction = dim, reduction
        # A copy, as the caller may change a result in place but no view that a function returns.
        loss = losses.squeeze(dim).clone() if reduction == "none" else reduce_losses(losses, reduction, total)
        return cast_loss(loss, input.dtype)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None]:
        input, y, grad_logits, divisor = ctx.saved_tensors
        if torch.is_grad_enabled():
            targets = Labels(y.unsqueeze(ctx.dim), None, None, 0.0, ctx.dim)
            plain = partial(_plain_loss, targets=targets, reduction=ctx.reduction)
            return differentiable_grad(lambda x: plain(to_compute_dtype(x)), input, grad.to(divisor.dtype)), None, None
        if ctx.reduction == "none":
            grad = grad.unsqueeze(ctx.dim)
        return (grad_logits * (grad / divisor)).to(input.dtype), None, None


class _CrossEntropy(torch.autograd.Function):
    """Computes the gradient in the forward pass, where the powers e^(x_j − x_k) already exist.

    The gradient of one example is S p̂_j − t_j with S = Σ_j t_j, which is p̂ − onehot(y) for a class index.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, targets: Targets, reduction: str) -> Tensor:
        total = targets.total_weight() if reduction == "mean" else 1
        grad_logits = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        losses, scale = softmax_loss.losses_and_grad(x, targets, grad_logits)
        if grad_logits is not None:
            scale = scale.div_(total) if reduction == "mean" else scale
            # Ignored examples are masked after the division: if all are ignored, it is 0 / 0.
            scale = scale if targets.ignored is None else scale.masked_fill_(targets.ignored, 0.0)
            ctx.save_for_backward(x, grad_logits, scale)
            ctx.dim, ctx.reduction = targets.dim, reduction
            ctx.plain = partial(_plain_loss, targets=targets, reduction=reduction)
        return losses.squeeze(targets.dim).clone() if reduction == "none" else reduce_losses(losses, reduction, total)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None]:
        x, grad_logits, scale = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_grad(ctx.plain, x, grad), None, None
        if ctx.reduction == "none":
            grad = grad.unsqueeze(ctx.dim)
        # One factor per example first: a single pass over the logits, and a second backward pass finds them unchanged.
        return grad_logits * (scale * grad), None, None


def prepare_targets(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[Targets, torch.dtype, torch.dtype]:
    """Checks the arguments of `cross_entropy` without reading a logit.

    Returns:
        The targets, the dtype to compute in, and the dtype of the loss.
    """
    ignore_index, label_smoothing = to_int("ignore_index", ignore_index), to_real("label_smoothing", label_smoothing)
    target, w, compute_dtype, dtype = _check_arguments(input, target, weight, ignore_index, label_smoothing)
    return _make_targets(input, target, w, compute_dtype, ignore_index, label_smoothing), compute_dtype, dtype


def _make_targets(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    compute_dtype: torch.dtype,
    ignore_index: int,
    label_smoothing: float,
) -> Targets:
    dim = 1 if x.ndim > 1 else 0
    if target.is_floating_point():
        return Probabilities(target.to(compute_dtype), weight, label_smoothing, dim)
    labels = target.unsqueeze(dim)
    ignored = labels == ignore_index
    # `ignore_index` may lie outside [0, C); 0 is safe to gather at.
    return Labels(labels.masked_fill(ignored, 0), ignored, weight, label_smoothing, dim)


def _check_arguments(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor | None, torch.dtype, torch.dtype]:
    """Checks shapes, dtypes and ranges, with torch's error classes.

    Returns:
        The target and the weights for computing, the dtype to compute in, and the dtype of the loss.
    """
    _require_logits_and_tensors(input, target, weight)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0, got {label_smoothing}")
    dim = 1 if input.ndim > 1 else 0
    if weight is not None and weight.shape != input.shape[dim : dim + 1]:
        shapes = f"{tuple(input.shape)} and {tuple(weight.shape)}"
        raise RuntimeError(f"expected logits {_format_axes(_axis_names(input, dim))} and weight (C,), got {shapes}")
    x_dtype, w = torch.promote_types(input.dtype, torch.float32), None if weight is None else to_compute_dtype(weight)
    if target.shape == input.shape:  # as in torch, the shape decides between probabilities and indices
        dtype = _check_probabilities(input, target, weight, ignore_index)
        compute_dtype = torch.promote_types(x_dtype, dtype)
        return target, None if w is None else w.to(compute_dtype), compute_dtype, dtype
    if input.ndim == 1 and target.shape == (1,):  # one example may come with a vector of one label
        target = target.squeeze(0)
    if target.shape != input.shape[:dim] + input.shape[dim + 1 :]:
        axes = _axis_names(input, dim)
        expected = f"logits {_format_axes(axes)} and target {_format_axes(axes[:dim] + axes[dim + 1 :])}"
        text = f"expected {expected}, got {tuple(input.shape)} and {tuple(target.shape)}"
        # torch raises a ValueError only if the numbers of examples differ.
        same_number = target.shape[:1] == input.shape[:1] if dim else target.ndim != 1
        raise RuntimeError(text) if same_number else ValueError(text)
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"target must be class indices of dtype int64 or uint8, got {target.dtype}")
    if weight is not None and weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
        raise RuntimeError(f"expected input and weight of one dtype, got {input.dtype} and {weight.dtype}")
    return target.long() if target.dtype == torch.uint8 else target, w, x_dtype, input.dtype


def _require_logits_and_tensors(input: Tensor, target: Tensor, weight: Tensor | None) -> None:
    """Checks that the arguments are tensors, and that ``input`` is floating and has a class axis."""
    require_tensor("input", input)
    require_tensor("target", target)
    if weight is not None:
        require_tensor("weight", weight)
    if not input.ndim:
        raise IndexError("expected logits (C), (N, C) or (N, C, d1, …), got ()")
    require_floating("input", input)


def _check_probabilities(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> torch.dtype:
    """Checks class probabilities; returns the dtype of the loss."""
    if not target.is_floating_point():
        raise RuntimeError(f"target in the shape of input must be of a floating dtype, got {target.dtype}")
    if ignore_index >= 0:
        raise RuntimeError(f"ignore_index must be left out for class probabilities, got {ignore_index}")
    dtype = torch.promote_types(input.dtype, target.dtype)
    return dtype if weight is None else torch.promote_types(dtype, weight.dtype)


def _axis_names(input: Tensor, dim: int) -> list[str]:
    return ["N"] * dim + ["C"] + [f"d{axis}" for axis in range(1, input.ndim - dim)]


def _format_axes(names: list[str]) -> str:
    return str(tuple(names)).replace("'", "")
