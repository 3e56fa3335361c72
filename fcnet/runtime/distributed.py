"""Communication between the processes that train one model together.

Each process, a rank, holds a contiguous slice of every global batch. Sums over the batch become sums over ranks, so
the loss, the batch-norm statistics and the gradients equal those of a single process. In a single process every
function here returns at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

if dist.is_available():
    # This module binds the process group as a default argument when it is first imported, and torch imports it during
    # the first step. Imported by then, it has no group to keep alive: one that outlives `destroy_process_group` has
    # threads that may abort the interpreter as it exits.
    import torch.distributed.nn.functional

T = TypeVar("T")


def world_size() -> int:
    """Returns the number of processes that train together: 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def rank_slice(size: int) -> slice:
    """Returns this rank's rows of a global batch of ``size`` rows: contiguous, and equal among ranks up to one row."""
    ranks, mine = world_size(), rank()
    return slice(size * mine // ranks, size * (mine + 1) // ranks)


def all_reduce(tensor: Tensor) -> Tensor:
    """Sums ``tensor`` over all ranks in place and returns it. Gradients do not flow through the sum."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def differentiable_all_reduce(tensor: Tensor) -> Tensor:
    """Returns the sum of ``tensor`` over all ranks. Gradients flow back to every rank."""
    total: Tensor = _AllReduce.apply(tensor) if world_size() > 1 else tensor
    return total


def all_reduce_gradients(parameters: Iterable[Tensor], loss: Tensor) -> Tensor:
    """Sums the gradients over all ranks in place, in one message for each dtype and device.

    Args:
        parameters: parameters with this rank's gradients; those without a gradient are skipped.
        loss: this rank's loss, a scalar; it travels with the gradients.

    Returns:
        The sum of the ranks' losses.
    """
    if world_size() == 1:
        return loss
    total = loss.clone()
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {(total.dtype, total.device): [total]}
    for parameter in parameters:
        if parameter.grad is not None:
            groups.setdefault((parameter.dtype, parameter.device), []).append(parameter.grad)
    for tensors in groups.values():
        # One flat tensor for each group: a message costs mostly its latency.
        flat = all_reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        sums = flat.split([tensor.numel() for tensor in tensors])
        for tensor, summed in zip(tensors, sums, strict=True):
            tensor.copy_(summed.view_as(tensor))
    return total


def any_rank(flag: bool) -> bool:  # noqa: FBT001 - it reads as a fact
    """Returns whether ``flag`` is true on any rank; every rank gets the same answer."""
    if world_size() == 1:
        return flag
    return bool(all_reduce(torch.tensor(int(flag))).item())


def broadcast(text: str) -> str:
    """Returns the first rank's text on every rank."""
    if world_size() == 1:
        return text
    texts = [text]
    dist.broadcast_object_list(texts)
    return texts[0]


def all_gather(value: T) -> list[T]:
    """Returns the values of all ranks, in order of rank."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits until every rank has called it."""
    if world_size() > 1:
        dist.barrier()


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return all_reduce(tensor.clone())

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        """Saves nothing: the gradient of a sum over ranks is the sum of the gradients over ranks."""

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return all_reduce(gradient.clone())
