"""When the cross-entropy of logits on a GPU is found by kernels of its own, and how they are started.

N examples, C classes. The forward pass reads the logits once and keeps a few numbers a row; the backward
pass reads them once more and writes the derivative, rounded once. Which kernel has how much to do is told
by the shape alone: nothing waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from fcnet.functional.autograd import Context, can_use_custom_backward, differentiable_grad

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_DEVICE_TYPE = "cuda"
_ALIGNMENT = 16
_TILE_BYTES = 8192
"""Logits that a program holds at a time: 32 bytes a thread of eight warps, few enough for its registers."""
_TILE_WITH_TARGETS = 2048
"""How many where it holds as many targets."""
_MAX_REGISTERS = 96
"""What a thread may have where targets are read too: left alone, the assembler stops at 64 or 80 and spills a few."""


@dataclass(frozen=True, eq=False, slots=True)
class TargetSpec:
    """What a row's logits are compared with.

    Attributes:
        target: class indices (N,), int64, or class probabilities (N, C), float32 or narrower.
        weight: w (C), float32, or None for 1.
        smoothing: ε.
        ignore_index: the index of rows that cost nothing.
    """

    target: Tensor
    weight: Tensor | None = None
    smoothing: float = 0.0
    ignore_index: int = -100


def is_supported(x: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    """Whether there are kernels for these logits, targets and class weights, and nobody to look through them.

    Args:
        x: logits.
        target: class indices or probabilities.
        weight: (C), or None.
    """
    given = [x, target] if weight is None else [x, target, weight]
    return (
        x.device.type == _DEVICE_TYPE
        and all(can_use_custom_backward(part) for part in given)
        and x.ndim == 2
        and x.numel() > 0
        and all(type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device == x.device for tensor in given)
        and x.dtype in _DTYPES
        and all(part.dtype in _DTYPES and not part.requires_grad for part in given[1:] if part.is_floating_point())
        and not is_in_torch_dispatch_mode()
        and _triton_works(x.device)
    )


def loss(x: Tensor, spec: TargetSpec, reduction: str, plain: Callable[[Tensor], Tensor]) -> Tensor:
    """The reduced losses.

    Args:
        x: logits (N, C) that `is_supported`.
        spec: what they are compared with.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        plain: the same from logits by differentiable operations, for second derivatives.

    Returns:
        float32, (N) or ().
    """
    result: Tensor = _FusedCrossEntropy.apply(x, spec, reduction, plain)
    return result


def losses(x: Tensor, spec: TargetSpec, grad_logits: Tensor | None = None) -> Tensor:
    """The rows' losses; with ``grad_logits`` their derivatives too, while a row is near.

    Args:
        x: logits (N, C) that `is_supported`.
        spec: what they are compared with.
        grad_logits: written, in the shape and dtype of ``x``, or ``x`` itself, both contiguous; or None.

    Returns:
        Of every row the loss, its weight in a mean, and what `_logits_grad` starts from: float32 (4, N) or (6, N).
    """
    read = _align(x)
    written = read if grad_logits is None or grad_logits is x else _align(grad_logits)
    kind, target, weight, own, even = _kernel_arguments(read, spec)
    row_stats = read.new_empty(6 if kind else 4, len(read), dtype=torch.float32)
    block, warps = _block_size(read.shape[1], read.itemsize, kind)
    with torch.cuda.device_of(read):
        _kernels().cross_entropy_forward[(len(read),)](
            *(read, target, weight, row_stats, written, read.shape[1], spec.ignore_index, own, even),
            KIND=kind,
            WEIGHTED=spec.weight is not None,
            WRITE_GRAD=grad_logits is not None,
            EXACT=read.dtype == torch.float32,
            BLOCK=block,
            GROUP=_ALIGNMENT // read.itemsize,
            num_warps=warps,
            maxnreg=_MAX_REGISTERS if kind == 2 else None,
            sanitize_overflow=False,
        )
    if grad_logits is not None and written is not grad_logits:
        grad_logits.copy_(written)
    return row_stats


class _Context(Context):
    spec: TargetSpec


class _FusedCrossEntropy(torch.autograd.Function):
    """Finds the derivative in the backward pass, from the logits and what the forward pass knows of them."""

    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, spec: TargetSpec, reduction: str, plain: Callable[[Tensor], Tensor]
    ) -> Tensor:
        row_stats = losses(x, spec)
        ctx.spec, ctx.reduction, ctx.plain = spec, reduction, plain
        if reduction == "mean":
            loss_sum, total = row_stats[:2].sum(1).unbind()
            ctx.save_for_backward(x, row_stats, total)
            return loss_sum / total
        ctx.save_for_backward(x, row_stats)
        return row_stats[0].sum() if reduction == "sum" else row_stats[0].clone()  # no view of what is kept

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, row_stats, *total = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_grad(ctx.plain, x, grad), None, None, None
        return _logits_grad(x, ctx.spec, row_stats, grad, total[0] if total else None), None, None, None


def _logits_grad(x: Tensor, spec: TargetSpec, row_stats: Tensor, grad: Tensor, total: Tensor | None) -> Tensor:
    """A new tensor, the derivative in the logits by ``grad``, (N) or (), over ``total``."""
    read = _align(x)
    grad_logits = torch.empty_like(read)
    kind, target, weight, own, even = _kernel_arguments(read, spec)
    block, warps = _block_size(read.shape[1], read.itemsize, kind)
    group = _ALIGNMENT // read.itemsize
    tiles = -(-(read.shape[1] + group - 1) // block)
    with torch.cuda.device_of(read):
        _kernels().cross_entropy_backward[(len(read), tiles)](
            *(read, target, weight, row_stats, grad, grad.stride(0) if grad.ndim else 0),
            *(row_stats if total is None else total, grad_logits, read.shape[1], spec.ignore_index, own, even),
            KIND=kind,
            WEIGHTED=spec.weight is not None,
            MEAN=total is not None,
            EXACT=read.dtype == torch.float32,
            BLOCK=block,
            GROUP=group,
            num_warps=warps,
        )
    return grad_logits


def _kernel_arguments(x: Tensor, spec: TargetSpec) -> tuple[int, Tensor, Tensor, float, float]:
    """The kind of the targets, they and the class weights as the kernels read them, 1 − ε and ε / C."""
    soft = spec.target.is_floating_point()
    kind = 2 if soft else int(spec.smoothing > 0.0)
    weight = x if spec.weight is None else spec.weight.contiguous()
    target = _align(spec.target) if soft else spec.target.contiguous()
    return kind, target, weight, 1.0 - spec.smoothing, spec.smoothing / x.shape[1]


def _align(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that is contiguous and begins where sixteen bytes do."""
    dense = tensor.contiguous()
    return dense if dense.data_ptr() % _ALIGNMENT == 0 else dense.clone()


def _block_size(num_classes: int, itemsize: int, kind: int) -> tuple[int, int]:
    """How many classes a program holds at a time, and by how many warps."""
    group = _ALIGNMENT // itemsize
    most = _TILE_WITH_TARGETS if kind else _TILE_BYTES // itemsize
    span = num_classes if num_classes % group == 0 else num_classes + group - 1
    block = min(most, max(32 * group, 1 << (span - 1).bit_length()))
    return block, max(1, 8 * block // most)


@cache
def _kernels() -> ModuleType:
    from fcnet.functional import triton_kernels

    return triton_kernels


@cache
def _triton_works(device: torch.device) -> bool:
    """Whether Triton is there and can compile for the device; asked once."""
    try:
        x = torch.zeros(1, 2, device=device)
        losses(x, TargetSpec(torch.zeros(1, dtype=torch.int64, device=device)))
    except Exception:  # noqa: BLE001  whatever a missing or broken compiler raises, the plain form does not need it
        return False
    return True
