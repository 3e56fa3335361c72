"""fcnet.functional.reductions: what a loss returns, and 0 · ∞ = 0 in a weighted loss."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fcnet.functional.reductions import apply_weight, reduce_losses, require_reduction
from tests.unit.functional.helpers import INF, NAN, value_and_grads


def test_losses_are_returned_added_or_averaged() -> None:
    losses = torch.tensor([1.0, 2.0, 6.0])
    assert reduce_losses(losses, "none", 2) is losses
    assert reduce_losses(losses, "sum", 2).item() == 9.0
    assert reduce_losses(losses, "mean", 2).item() == 4.5
    assert reduce_losses(losses, "mean", torch.tensor(4.5)).item() == 2.0


def test_an_unknown_reduction_is_refused() -> None:
    for reduction in ("none", "mean", "sum"):
        require_reduction(reduction)
    with pytest.raises(ValueError, match=r"^reduction must be one of none, mean, sum, got 'avg'$"):
        require_reduction("avg")


def test_weight_0_makes_an_infinite_loss_0_but_not_a_nan() -> None:
    losses = torch.tensor([2.0, INF, INF, NAN])
    assert_close(
        apply_weight(losses, torch.tensor([0.5, 0.0, 2.0, 0.0])), torch.tensor([1.0, 0.0, INF, NAN]), equal_nan=True
    )


def test_the_gradient_of_a_loss_with_weight_0_is_finite() -> None:
    _, loss_gradient, weight_gradient = value_and_grads(
        lambda losses, weight: apply_weight(losses, weight).sum(), torch.tensor([3.0, INF]), torch.tensor([2.0, 0.0])
    )
    assert_close(loss_gradient, torch.tensor([1.0, 0.0]))
    assert_close(weight_gradient, torch.tensor([1.5, 0.0]))
