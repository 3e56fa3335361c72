"""The sum of the gradients over all ranks, in messages that travel while other gradients are still computed.

The backward pass reaches the last layer first. So the parameters, from the last to the first, are divided into buckets,
and a bucket is sent as soon as all its gradients exist. The buckets depend on shapes alone and are sent in order, so
all ranks send the same messages. A message costs mostly its latency, so a small network has a single bucket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.runtime import distributed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BUCKET_BYTES = 1 << 24
"""Gradients in a message, enough to travel at full speed. A larger parameter is a message of its own."""


class GradientSums:
    """Sums the gradients of a step over all ranks, in place. A single process sends nothing.

    Args:
        parameters: the parameters, in the order of the forward pass.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> weight.grad = torch.tensor([1.0, 2.0])
        >>> sums = GradientSums([weight])
        >>> sums.add(weight)
        >>> sums.finish(torch.tensor(0.5)), weight.grad
        (tensor(0.5000), tensor([1., 2.]))
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._buckets = _make_buckets(parameters) if distributed.world_size() > 1 else []
        self._bucket_of = {id(p): number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._missing = [{id(p) for p in bucket} for bucket in self._buckets]
        self._num_sent = 0
        self._messages: list[tuple[list[Tensor], Tensor, Callable[[], None]]] = []

    def add(self, parameter: Tensor) -> None:
        """Sends the buckets that are complete now that a parameter has its gradient. The last one waits for `finish`.

        Args:
            parameter: any parameter, whose ``grad`` changes no more.
        """
        number = self._bucket_of.get(id(parameter))
        if number is not None:
            self._missing[number].discard(id(parameter))
            while self._num_sent < len(self._buckets) - 1 and not self._missing[self._num_sent]:
                self._send_bucket()

    def finish(self, loss: Tensor) -> Tensor:
        """Sends what is left and waits until all gradients are sums. Parameters without a gradient are skipped.

        Args:
            loss: this rank's loss, a scalar; it travels with the last gradients.

        Returns:
            The sum of the ranks' losses.
        """
        if distributed.world_size() == 1:
            return loss
        total = loss.clone()
        while self._num_sent < len(self._buckets) - 1:
            self._send_bucket()
        last = [p.grad for p in self._buckets[-1] if p.grad is not None] if self._buckets else []
        if last and (last[0].dtype, last[0].device) != (total.dtype, total.device):
            self._send(last)
            last = []
        self._send([*last, total])
        for tensors, flat, wait in self._messages:
            wait()
            sums = flat.split([tensor.numel() for tensor in tensors])
            for tensor, summed in zip(tensors, sums, strict=True):
                tensor.copy_(summed.view_as(tensor))
        return total

    def _send_bucket(self) -> None:
        """Sends the next bucket."""
        self._send([p.grad for p in self._buckets[self._num_sent] if p.grad is not None])
        self._num_sent += 1

    def _send(self, tensors: list[Tensor]) -> None:
        if tensors:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            self._messages.append((tensors, flat, distributed.start_all_reduce(flat)))


def _make_buckets(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """Divides the parameters that are trained, from the last to the first, into buckets of one dtype and device."""
    buckets, num_bytes = list[list[Tensor]](), _BUCKET_BYTES
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        before = buckets[-1][-1] if buckets else None
        is_alike = before is not None and (before.dtype, before.device) == (parameter.dtype, parameter.device)
        if num_bytes >= _BUCKET_BYTES or not is_alike:
            buckets.append([])
            num_bytes = 0
        buckets[-1].append(parameter)
        num_bytes += parameter.nbytes
    return buckets
