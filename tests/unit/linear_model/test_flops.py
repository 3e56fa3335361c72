"""Tests of fcnet.linear_model.flops."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.flops import pass_cost
from fcnet.linear_model.problem import Problem


@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_operations_are_those_of_an_evaluation(num_classes: int) -> None:
    rows, features, penalties = 700, 512, 3
    weight = torch.ones(rows).double()
    blocks = FeatureBlocks(torch.randn(rows, features), weight, center=True, device=torch.device("cpu"))
    target = torch.arange(rows) % num_classes
    problem = Problem(blocks, target, num_classes, weight, torch.ones(penalties, features).double(), intercept=True)
    with FlopCounterMode(display=False) as counted:
        problem.evaluate(problem.zeros(), torch.float32, torch.arange(penalties))
    counted_here = pass_cost(rows, features, num_classes, penalties).flops
    assert counted.get_total_flops() == pytest.approx(counted_here, rel=0.01)  # the rest are sums over the examples


def test_the_bytes_are_those_of_features_logits_and_residuals() -> None:
    cost = pass_cost(100, 20, 3, 2, feature_bytes=2)
    x, logits = torch.zeros(100, 20, dtype=torch.float16), torch.zeros(100, 2 * 3)
    assert cost.bytes_moved == x.nbytes + 2 * (logits.nbytes + logits.nbytes)


def test_the_slower_of_both_bounds_the_seconds() -> None:
    cost = pass_cost(100, 20, 3, 2)
    assert cost.seconds(flops=1.0, memory_bandwidth=1e12) == cost.flops
    assert cost.seconds(flops=1e12, memory_bandwidth=1.0) == cost.bytes_moved
