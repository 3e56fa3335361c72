"""The GPU path of the cross-entropy: when the Triton kernels apply, and how they are launched.

N examples, C classes. The forward kernel reads the logits once and keeps a few numbers per row. The backward kernel
reads them again and writes the gradient, rounded once. If rows are few and long, several blocks of the forward kernel
share a row, so that more of the GPU works, and a small kernel joins their results. Launch parameters depend on shapes
alone, so no launch waits for the device.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from fcnet.functional.autograd import Context, can_use_custom_backward, differentiable_grad
from fcnet.runtime.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_DEVICE_TYPE = "cuda"
_ALIGNMENT = 16
"""Bytes of one vector load."""
_TILE_BYTES = 8192
"""Logits in a tile: 32 bytes for each thread of eight warps, few enough for its registers."""
_TILE_WITH_TARGETS = 2048
"""Classes in a tile if it holds as many targets as logits."""
_MAX_REGISTERS = 96
"""Registers per thread of the forward kernel. By default, the assembler takes more, or stops at 64 or 80 and spills."""
_MAX_ROWS = 2**31 - 1
"""Blocks of a launch along its first axis."""
_MAX_CLASSES = 2**26
"""Classes of a row in 32 bits, and in tiles of 2048, fewer than the 65,535 blocks of a launch along its second axis."""
_BLOCKS = 256
"""Blocks that keep a large GPU busy: two for each of some 130 multiprocessors."""
_MIN_TILES_PER_PART = 2
"""Fewer cost more to join than they save."""


@dataclass(frozen=True, eq=False, slots=True)
class TargetSpec:
    """The targets of a batch, as the kernels take them.

    Attributes:
        target: class indices (N,), int64, or class probabilities (N, C), float32 or narrower.
        weight: w (C), float32, or None for 1.
        smoothing: ε.
        ignore_index: the index of rows with loss 0.
    """

    target: Tensor
    weight: Tensor | None = None
    smoothing: float = 0.0
    ignore_index: int = -100


def is_supported(x: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    """True if the kernels apply: CUDA tensors of a supported size and dtype, no transform or dispatch mode active.

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
        and 0 < len(x) <= _MAX_ROWS
        and 0 < x.shape[1] <= _MAX_CLASSES
        and all(type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device == x.device for tensor in given)
        and x.dtype in _DTYPES
        and all(part.dtype in _DTYPES and not part.requires_grad for part in given[1:] if part.is_floating_point())
        and not is_in_torch_dispatch_mode()
        and _triton_works(x.device)
    )


def loss(x: Tensor, spec: TargetSpec, reduction: str, plain: Callable[[Tensor], Tensor]) -> Tensor:
    """Computes the reduced losses, differentiable in the logits.

    Args:
        x: logits (N, C) that `is_supported` accepts.
        spec: the targets.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        plain: the same function of the logits by differentiable operations, for second derivatives.

    Returns:
        float32, (N) or ().
    """
    result: Tensor = _FusedCrossEntropy.apply(x, spec, reduction, plain)
    return result


def losses(x: Tensor, spec: TargetSpec, grad_logits: Tensor | None = None) -> Tensor:
    """Computes the rows' losses and, with ``grad_logits``, their gradients, while a row of one block is in the cache.

    Args:
        x: logits (N, C) that `is_supported` accepts.
        spec: the targets.
        grad_logits: receives the gradients, in the shape and dtype of ``x``; may be ``x`` itself, if contiguous; None
            computes losses alone.

    Returns:
        Row statistics, float32 (4, N) or (6, N): the loss, its weight in a mean, and the numbers that the backward
        kernel starts from.
    """
    read = _align(x)
    written = read if grad_logits is None or grad_logits is x else _align(grad_logits)
    kind, target, weight, own, even = _kernel_arguments(read, spec)
    row_stats = read.new_empty(6 if kind else 4, len(read), dtype=torch.float32)
    block, warps = _block_size(read.shape[1], read.itemsize, kind)
    parts = _num_parts(len(read), read.shape[1], block)
    states = row_stats if parts == 1 else read.new_empty(6, len(read), parts, dtype=torch.float32)
    constants = {
        "KIND": kind,
        "WEIGHTED": spec.weight is not None,
        "PARTS": parts,
        "EXACT": read.dtype == torch.float32,
    }
    with torch.cuda.device_of(read):
        _kernels().cross_entropy_forward[(len(read), parts)](
            *(read, target, weight, states, written, read.shape[1], spec.ignore_index, own, even),
            **constants,
            WRITE_GRAD=grad_logits is not None and parts == 1,
            BLOCK=block,
            GROUP=_ALIGNMENT // read.itemsize,
            num_warps=warps,
            sanitize_overflow=False,
            **_register_limit(),
        )
        if parts > 1:
            _kernels().cross_entropy_join[(len(read),)](
                *(read, target, weight, states, row_stats, read.shape[1], spec.ignore_index), **constants, num_warps=1
            )
    if grad_logits is not None and parts > 1:
        _write_logits_grad(written, read, spec, row_stats, row_stats.new_ones(()), None)
    if grad_logits is not None and written is not grad_logits:
        grad_logits.copy_(written)
    return row_stats


class _Context(Context):
    spec: TargetSpec


class _FusedCrossEntropy(torch.autograd.Function):
    """Computes the gradient in the backward pass, from the logits and the row statistics.

    So nothing as large as the logits is held in between, and the incoming gradient is applied before rounding.
    """

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
        # A copy, not a view of the saved statistics, so that the caller may change it in place.
        return row_stats[0].sum() if reduction == "sum" else row_stats[0].clone()

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, row_stats, *total = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_grad(ctx.plain, x, grad), None, None, None
        return _logits_grad(x, ctx.spec, row_stats, grad, total[0] if total else None), None, None, None


def _logits_grad(x: Tensor, spec: TargetSpec, row_stats: Tensor, grad: Tensor, total: Tensor | None) -> Tensor:
    """Returns the gradient in the logits, multiplied by ``grad``, (N) or (), and divided by ``total``."""
    read = _align(x)
    grad_logits = torch.empty_like(read)
    _write_logits_grad(grad_logits, read, spec, row_stats, grad, total)
    return grad_logits


def _write_logits_grad(
    grad_logits: Tensor, read: Tensor, spec: TargetSpec, row_stats: Tensor, grad: Tensor, total: Tensor | None
) -> None:
    """Launches the backward kernel; ``grad_logits`` and ``read``, the logits, are aligned and may be one tensor."""
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


def _kernel_arguments(x: Tensor, spec: TargetSpec) -> tuple[int, Tensor, Tensor, float, float]:
    """Returns the kind of targets, the targets and class weights as the kernels read them, 1 − ε and ε / C."""
    soft = spec.target.is_floating_point()
    kind = 2 if soft else int(spec.smoothing > 0.0)
    weight = x if spec.weight is None else spec.weight.contiguous()  # without weights, any pointer will do
    target = _align(spec.target) if soft else spec.target.contiguous()
    return kind, target, weight, 1.0 - spec.smoothing, spec.smoothing / x.shape[1]


def _align(tensor: Tensor) -> Tensor:
    """Returns the tensor, or a copy, contiguous and starting at a multiple of 16 bytes."""
    dense = tensor.contiguous()
    return dense if dense.data_ptr() % _ALIGNMENT == 0 else dense.clone()


def _block_size(num_classes: int, itemsize: int, kind: int) -> tuple[int, int]:
    """Returns the number of classes in a tile, and of warps that process it."""
    group = _ALIGNMENT // itemsize
    most = _TILE_WITH_TARGETS if kind else _TILE_BYTES // itemsize
    # A row that is not a multiple of 16 bytes long may start anywhere in its first group.
    span = num_classes if num_classes % group == 0 else num_classes + group - 1
    block = min(most, max(32 * group, 1 << (span - 1).bit_length()))
    return block, max(1, 8 * block // most)


def _num_parts(num_rows: int, num_classes: int, block: int) -> int:
    """Returns the number of blocks that share a row, a power of two: 1 unless rows are few and long."""
    most = min(_BLOCKS // num_rows, num_classes // (_MIN_TILES_PER_PART * block))
    return 1 << max(0, most.bit_length() - 1)


def _register_limit() -> dict[str, int]:
    """Returns the launch argument that limits the registers; Triton's compiler for AMD's GPUs knows none."""
    return {} if torch.version.hip else {"maxnreg": _MAX_REGISTERS}


@cache
def _kernels() -> ModuleType:
    from fcnet.functional import triton_kernels  # imports Triton, which is optional and slow to load

    return triton_kernels


@cache
def _triton_works(device: torch.device) -> bool:
    """Tests once per device that Triton is installed and compiles, and warns if it is installed and does not."""
    try:
        x = torch.zeros(1, 2, device=device)
        losses(x, TargetSpec(torch.zeros(1, dtype=torch.int64, device=device)))
    except ModuleNotFoundError:
        return False
    except Exception as error:  # noqa: BLE001  a missing or broken compiler raises anything, and the plain form needs none
        reason = first_line(error)
        message = f"the cross-entropy uses torch's operations, because its Triton kernel fails on {device}: {reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return False
    return True
