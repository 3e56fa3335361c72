"""Blocks of rows that stay in the processor's cache while several operations pass over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_CHUNK_ELEMENTS = 1 << 20
"""Elements in a block: four mebibytes of float32, a part of what processors share as their last cache."""


def map_chunks(
    step: Callable[..., tuple[Tensor, ...]], dim: int, x: Tensor, *others: Tensor | None
) -> tuple[Tensor, ...]:
    """Takes one step for all rows, or step by step for runs of the first axis where that is faster.

    It is not on other devices, for few elements, and where the first axis is that of the classes.

    Args:
        step: rows of ``x`` and ``others`` -> tensors of as many rows.
        dim: the axis of the classes, not negative.
        x: logits.
        others: of the same length, or None.

    Returns:
        What the steps return, put together.
    """
    if x.numel() <= _CHUNK_ELEMENTS or dim == 0 or x.device.type != "cpu":
        return step(x, *others)
    size = max(1, _CHUNK_ELEMENTS * len(x) // x.numel())
    runs = [slice(start, start + size) for start in range(0, len(x), size)]
    parts = [step(x[rows], *(None if other is None else other[rows] for other in others)) for rows in runs]
    return tuple(torch.cat(results) for results in zip(*parts, strict=True))
