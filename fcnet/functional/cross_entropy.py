"""Cross-entropy of C classes.

N examples, C classes, d1, … further axes. y is the true class, k the class of the largest logit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fcnet.functional import fused, softmax_loss
from fcnet.functional.dtypes import cast_loss, require_floating, to_compute_dtype
from fcnet.functional.reductions import require_reduction


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """−w_y log p̂_y of a class index y, −Σ_j w_j t_j log p̂_j of class probabilities t; p̂ is the softmax.

    −log p̂_y = log(1 + Σ_{j≠y} e^(x_j − x_y)): a sure and right example's loss is small, and `log1p`
    keeps it; its derivative −Σ_{j≠y} p̂_j is summed, not taken as p̂_y − 1.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        target: class indices in [0, C), int64 or uint8, in the shape of ``input`` without C; or
            class probabilities in the shape of ``input``, floating.
        weight: w (C), a factor for each class; None is 1 for all.
        ignore_index: an index that marks examples to leave out: their loss and gradient are 0
            whatever their logits.
        reduction: ``"none"`` gives every loss; ``"sum"``; ``"mean"`` divides the sum by the weights
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
    y, w, compute_dtype, dtype = _check_arguments(input, target, weight, ignore_index, label_smoothing)

    def plain(x: Tensor) -> Tensor:
        return softmax_loss.plain_loss(
            x.to(compute_dtype), _make_targets(x, y, w, compute_dtype, ignore_index, label_smoothing), reduction
        )

    if compute_dtype == torch.float32 and fused.is_supported(input, y, w):
        spec = fused.TargetSpec(y, w, label_smoothing, ignore_index)
        return cast_loss(fused.loss(input, spec, reduction, plain), dtype)
    targets = _make_targets(input, y, w, compute_dtype, ignore_index, label_smoothing)
    return cast_loss(softmax_loss.loss(input.to(compute_dtype), targets, reduction), dtype)


def prepare_targets(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[softmax_loss.Targets, torch.dtype, torch.dtype]:
    """The targets of `cross_entropy`, once its arguments are known to fit; no logit is read.

    Returns:
        The targets, the dtype to compute in, and that of the loss.
    """
    y, w, compute_dtype, dtype = _check_arguments(input, target, weight, ignore_index, label_smoothing)
    return _make_targets(input, y, w, compute_dtype, ignore_index, label_smoothing), compute_dtype, dtype


def _make_targets(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    compute_dtype: torch.dtype,
    ignore_index: int,
    label_smoothing: float,
) -> softmax_loss.Targets:
    """Checked targets with what is ignored told apart, in the dtype to compute in."""
    dim = 1 if input.ndim > 1 else 0
    if target.is_floating_point():
        return softmax_loss.Probabilities(target.to(compute_dtype), weight, label_smoothing, dim)
    labels = target.unsqueeze(dim)
    ignored = labels == ignore_index
    return softmax_loss.Labels(labels.masked_fill(ignored, 0), ignored, weight, label_smoothing, dim)


def _check_arguments(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor | None, torch.dtype, torch.dtype]:
    """Refuses what does not fit; the target and the weights, the dtype to compute in, and that of the loss."""
    require_floating("input", input)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0, got {label_smoothing}")
    dim = 1 if input.ndim > 1 else 0
    if weight is not None:
        _require_weight(input, weight, dim)
    x_dtype, w = torch.promote_types(input.dtype, torch.float32), None if weight is None else to_compute_dtype(weight)
    if target.shape == input.shape:
        dtype = _require_probabilities(input, target, weight, ignore_index)
        compute_dtype = torch.promote_types(x_dtype, dtype)
        w = None if w is None else w.to(compute_dtype)
        return target, w, compute_dtype, dtype
    return _class_indices(input, target, weight, dim), w, x_dtype, input.dtype


def _class_indices(input: Tensor, target: Tensor, weight: Tensor | None, dim: int) -> Tensor:
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
    axes = _axis_names(input, dim)
    expected = f"logits {_format_axes(axes)} and target {_format_axes(axes[:dim] + axes[dim + 1 :])}"
    text = f"expected {expected}, got {tuple(input.shape)} and {tuple(target.shape)}"
    same_number = target.shape[:1] == input.shape[:1] if dim else target.ndim != 1
    return RuntimeError(text) if same_number else ValueError(text)


def _axis_names(input: Tensor, dim: int) -> list[str]:
    return ["N"] * dim + ["C"] + [f"d{axis}" for axis in range(1, input.ndim - dim)]


def _format_axes(names: list[str]) -> str:
    return str(tuple(names)).replace("'", "")


def _require_weight(input: Tensor, weight: Tensor, dim: int) -> None:
    if weight.shape != input.shape[dim : dim + 1]:
        shapes = f"{tuple(input.shape)} and {tuple(weight.shape)}"
        raise RuntimeError(f"expected logits {_format_axes(_axis_names(input, dim))} and weight (C,), got {shapes}")


def _require_probabilities(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> torch.dtype:
    """Refuses what class probabilities cannot be; returns the dtype of the loss."""
    if not input.ndim and target.is_floating_point():
        raise IndexError("expected logits (C), (N, C) or (N, C, d1, …), got ()")
    if not target.is_floating_point():
        raise RuntimeError(f"target in the shape of input must be of a floating dtype, got {target.dtype}")
    if ignore_index >= 0:
        raise RuntimeError(f"ignore_index must be left out for class probabilities, got {ignore_index}")
    dtype = torch.promote_types(input.dtype, target.dtype)
    return dtype if weight is None else torch.promote_types(dtype, weight.dtype)
