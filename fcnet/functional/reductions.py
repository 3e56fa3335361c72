"""From one loss an example to what a loss returns."""

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


def reduce_losses(losses: Tensor, reduction: str, total: Tensor | int) -> Tensor:
    """The losses, their sum, or their sum over ``total``."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / total


def apply_weight(losses: Tensor, weight: Tensor) -> Tensor:
    """weight · losses, where nothing of an infinite loss is nothing: 0 · ∞ = 0, the limit of w log w."""
    nothing = (weight == 0) & losses.isinf()
    return losses.masked_fill(nothing, 0.0) * weight
