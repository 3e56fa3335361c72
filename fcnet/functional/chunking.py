"""Chunks of rows that stay in the processor's cache while several operations pass over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_CHUNK_ELEMENTS = 1 << 20
"""Elements in a chunk: 4 MiB of float32, a part of a typical last-level cache."""


def map_chunks(
    step: Callable[..., tuple[Tensor, ...]], dim: int, x: Tensor, *others: Tensor | None
) -> tuple[Tensor, ...]:
    """Applies a step to chunks of the first axis and concatenates the results.

    Few elements, other devices than the CPU, and classes on the first axis take one call on everything.

    Args:
        step: rows of ``x`` and ``others`` -> tensors with as many rows.
        dim: the class axis, not negative.
        x: logits.
        others: tensors with as many rows, or None.

    Returns:
        The results of the step for all rows.
    """
    if x.numel() <= _CHUNK_ELEMENTS or dim == 0 or x.device.type != "cpu":
        return step(x, *others)
    size = max(1, _CHUNK_ELEMENTS * len(x) // x.numel())  # rows in a chunk
    chunks = [slice(start, start + size) for start in range(0, len(x), size)]
    results = [step(x[rows], *(None if other is None else other[rows] for other in others)) for rows in chunks]
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))
