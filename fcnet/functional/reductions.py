"""From one cost an example to what a loss returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_REDUCTIONS = ("none", "mean", "sum")


def require_reduction(reduction: str) -> None:
    """Refuses any other word.

    Raises:
        ValueError: ``reduction`` is not one of the three.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")


def reduced(costs: Tensor, reduction: str, total: Tensor | int) -> Tensor:
    """The costs, their sum, or their sum over ``total``."""
    if reduction == "none":
        return costs
    return costs.sum() if reduction == "sum" else costs.sum() / total


def weighted(costs: Tensor, weight: Tensor) -> Tensor:
    """weight · costs, where nothing of an infinite cost is nothing: 0 · ∞ = 0, the limit of w log w."""
    nothing = (weight == 0) & costs.isinf()
    return costs.masked_fill(nothing, 0.0) * weight
