"""Reductions: from one loss per example to the value that a loss function returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_REDUCTIONS = ("none", "mean", "sum")


def require_reduction(reduction: str) -> None:
    """Checks the name of a reduction.

    Raises:
        ValueError: ``reduction`` is not ``"none"``, ``"mean"`` or ``"sum"``.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")


def reduce_losses(losses: Tensor, reduction: str, total: Tensor | int) -> Tensor:
    """Returns the losses, their sum, or for ``"mean"`` their sum over ``total``."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / total


def apply_weight(losses: Tensor, weight: Tensor) -> Tensor:
    """Returns weight · losses with 0 · ∞ = 0, the limit of w log w at 0."""
    # Masking the loss before the product also keeps NaN out of the gradient.
    infinite = (weight == 0) & losses.isinf()
    return losses.masked_fill(infinite, 0.0) * weight
