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

from fcnet.functional.autograd import Context, by_hand, derivative_of_plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_ON = "cuda"
_ALIGNMENT = 16
_TILE_BYTES = 8192
"""Logits that a program holds at a time: 32 bytes a thread of eight warps, few enough for its registers."""
_TILE = 2048
"""How many where it holds as many targets."""
_REGISTERS = 96
"""What a thread may have where targets are read too: left alone, the assembler stops at 64 or 80 and spills a few."""


@dataclass(frozen=True, eq=False, slots=True)
class Comparison:
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


def fits(x: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    """Whether there are kernels for these logits, targets and class weights, and nobody to look through them.

    Args:
        x: logits.
        target: class indices or probabilities.
        weight: (C), or None.
    """
    given = [x, target] if weight is None else [x, target, weight]
    return (
        x.device.type == _ON
        and all(by_hand(part) for part in given)
        and x.ndim == 2
        and x.numel() > 0
        and all(type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device == x.device for tensor in given)
        and x.dtype in _DTYPES
        and all(part.dtype in _DTYPES and not part.requires_grad for part in given[1:] if part.is_floating_point())
        and not is_in_torch_dispatch_mode()
        and _works(x.device)
    )


def loss(x: Tensor, rows: Comparison, reduction: str, plain: Callable[[Tensor], Tensor]) -> Tensor:
    """The reduced costs.

    Args:
        x: logits (N, C) that `fits`.
        rows: what they are compared with.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        plain: the same from logits by differentiable operations, for second derivatives.

    Returns:
        float32, (N) or ().
    """
    result: Tensor = _Fused.apply(x, rows, reduction, plain)
    return result


def costs(x: Tensor, rows: Comparison, slope: Tensor | None = None) -> Tensor:
    """The rows' costs; with ``slope`` their derivatives too, while a row is near.

    Args:
        x: logits (N, C) that `fits`.
        rows: what they are compared with.
        slope: written, in the shape and dtype of ``x``, or ``x`` itself, both contiguous; or None.

    Returns:
        Of every row the cost, its weight in a mean, and what `_derivative` starts from: float32 (4, N) or (6, N).
    """
    read = _aligned(x)
    written = read if slope is None or slope is x else _aligned(slope)
    kind, target, weight, own, even = _arguments(read, rows)
    amounts = read.new_empty(6 if kind else 4, len(read), dtype=torch.float32)
    block, warps = _block(read.shape[1], read.itemsize, kind)
    with torch.cuda.device_of(read):
        _kernels().costs[(len(read),)](
            *(read, target, weight, amounts, written, read.shape[1], rows.ignore_index, own, even),
            KIND=kind,
            WEIGHTED=rows.weight is not None,
            WRITE=slope is not None,
            EXACT=read.dtype == torch.float32,
            BLOCK=block,
            GROUP=_ALIGNMENT // read.itemsize,
            num_warps=warps,
            maxnreg=_REGISTERS if kind == 2 else None,
            sanitize_overflow=False,
        )
    if slope is not None and written is not slope:
        slope.copy_(written)
    return amounts


class _Context(Context):
    rows: Comparison


class _Fused(torch.autograd.Function):
    """Finds the derivative in the backward pass, from the logits and what the forward pass knows of them."""

    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, rows: Comparison, reduction: str, plain: Callable[[Tensor], Tensor]
    ) -> Tensor:
        amounts = costs(x, rows)
        ctx.rows, ctx.reduction, ctx.plain = rows, reduction, plain
        if reduction == "mean":
            cost, total = amounts[:2].sum(1).unbind()
            ctx.save_for_backward(x, amounts, total)
            return cost / total
        ctx.save_for_backward(x, amounts)
        return amounts[0].sum() if reduction == "sum" else amounts[0].clone()  # no view of what is kept

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, amounts, *total = ctx.saved_tensors
        if torch.is_grad_enabled():
            return derivative_of_plain(ctx.plain, x, grad), None, None, None
        return _derivative(x, ctx.rows, amounts, grad, total[0] if total else None), None, None, None


def _derivative(x: Tensor, rows: Comparison, amounts: Tensor, grad: Tensor, total: Tensor | None) -> Tensor:
    """A new tensor, the derivative in the logits by ``grad``, (N) or (), over ``total``."""
    read = _aligned(x)
    slope = torch.empty_like(read)
    kind, target, weight, own, even = _arguments(read, rows)
    block, warps = _block(read.shape[1], read.itemsize, kind)
    group = _ALIGNMENT // read.itemsize
    tiles = -(-(read.shape[1] + group - 1) // block)
    with torch.cuda.device_of(read):
        _kernels().derivative[(len(read), tiles)](
            *(read, target, weight, amounts, grad, grad.stride(0) if grad.ndim else 0),
            *(amounts if total is None else total, slope, read.shape[1], rows.ignore_index, own, even),
            KIND=kind,
            WEIGHTED=rows.weight is not None,
            MEAN=total is not None,
            EXACT=read.dtype == torch.float32,
            BLOCK=block,
            GROUP=group,
            num_warps=warps,
        )
    return slope


def _arguments(x: Tensor, rows: Comparison) -> tuple[int, Tensor, Tensor, float, float]:
    """The kind of the targets, they and the class weights as the kernels read them, 1 − ε and ε / C."""
    soft = rows.target.is_floating_point()
    kind = 2 if soft else int(rows.smoothing > 0.0)
    weight = x if rows.weight is None else rows.weight.contiguous()
    target = _aligned(rows.target) if soft else rows.target.contiguous()
    return kind, target, weight, 1.0 - rows.smoothing, rows.smoothing / x.shape[1]


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that is contiguous and begins where sixteen bytes do."""
    dense = tensor.contiguous()
    return dense if dense.data_ptr() % _ALIGNMENT == 0 else dense.clone()


def _block(num_classes: int, itemsize: int, kind: int) -> tuple[int, int]:
    """How many classes a program holds at a time, and by how many warps."""
    group = _ALIGNMENT // itemsize
    most = _TILE if kind else _TILE_BYTES // itemsize
    span = num_classes if num_classes % group == 0 else num_classes + group - 1
    block = min(most, max(32 * group, 1 << (span - 1).bit_length()))
    return block, max(1, 8 * block // most)


@cache
def _kernels() -> ModuleType:
    from fcnet.functional import triton_kernels

    return triton_kernels


@cache
def _works(device: torch.device) -> bool:
    """Whether Triton is there and can compile for the device; asked once."""
    try:
        x = torch.zeros(1, 2, device=device)
        costs(x, Comparison(torch.zeros(1, dtype=torch.int64, device=device)))
    except Exception:  # noqa: BLE001  whatever a missing or broken compiler raises, the plain form does not need it
        return False
    return True
