"""Several processes that act as one: what counts is the global batch.

Each process, a rank, holds a contiguous share of every global batch. Sums over the batch are
sums over ranks, so that loss, batch-norm statistics and gradients are those of one process.
With one process every function here is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


def world_size() -> int:
    """The number of processes that train together, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def rank_slice(size: int) -> slice:
    """The rows of a global batch of ``size`` that are this rank's: contiguous, even to one row."""
    ranks, mine = world_size(), rank()
    return slice(size * mine // ranks, size * (mine + 1) // ranks)


def all_reduce(tensor: Tensor) -> Tensor:
    """Replaces ``tensor`` by its sum over all ranks; no gradient."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def differentiable_all_reduce(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all ranks, through which gradients flow back to every rank."""
    total: Tensor = _AllReduce.apply(tensor) if world_size() > 1 else tensor
    return total


def all_reduce_gradients(parameters: Iterable[Tensor], loss: Tensor) -> Tensor:
    """Adds up the gradients of all ranks, in one message for each dtype and device.

    Returns:
        The sum of the ranks' losses, which travels with the gradients.
    """
    if world_size() == 1:
        return loss
    whole = loss.clone()
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {(whole.dtype, whole.device): [whole]}
    for parameter in parameters:
        if parameter.grad is not None:
            groups.setdefault((parameter.dtype, parameter.device), []).append(parameter.grad)
    for tensors in groups.values():
        flat = all_reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
    return whole


def any_rank(flag: bool) -> bool:  # noqa: FBT001 - a fact about this rank
    """Whether the flag is up on any rank, the same answer on all."""
    if world_size() == 1:
        return flag
    return bool(all_reduce(torch.tensor(int(flag))).item())


def broadcast(text: str) -> str:
    """The first rank's text, on all."""
    if world_size() == 1:
        return text
    texts = [text]
    dist.broadcast_object_list(texts)
    return texts[0]


def all_gather(value: T) -> list[T]:
    """Every rank's value, the first rank's first."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits until every rank has come here."""
    if world_size() > 1:
        dist.barrier()


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return all_reduce(tensor.clone())

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        """Nothing is needed: the derivative of a sum over ranks is the sum over ranks."""

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return all_reduce(gradient.clone())
