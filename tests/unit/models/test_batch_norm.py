"""Tests of fcnet.models.batch_norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from fcnet.data.batches import Batches
from fcnet.models.batch_norm import BatchNorm, eval_mode, update_bn
from fcnet.models.mlp import MLP
from tests.helpers import seeded

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 3.0 + 1.0


def inputs(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def test_batch_norm_equals_torchs_in_training_and_evaluation() -> None:
    ours, theirs = BatchNorm(5), nn.BatchNorm1d(5)
    with torch.no_grad():
        for parameter in (ours.weight, theirs.weight):
            parameter.copy_(torch.arange(1.0, 6.0))
    x = inputs(16, 5) * 3 + 2
    for _ in range(3):
        assert_close(ours(x), theirs(x))
    assert_close(ours.running_mean, theirs.running_mean)
    assert_close(ours.running_var, theirs.running_var)
    assert_close(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_over_one_rank_equals_torchs_with_its_gradients() -> None:
    ours, theirs = BatchNorm(5), nn.BatchNorm1d(5)
    x = inputs(16, 5) * 3 + 2
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    left, right = ours._sync_forward(mine), theirs(other)
    assert_close(left, right)
    weights = inputs(16, 5, seed=1)
    (left * weights).sum().backward()
    (right * weights).sum().backward()
    # the gradient is a difference of nearly equal sums, so the absolute rounding error counts
    assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert_close(ours.running_var, theirs.running_var)


def test_a_batch_of_one_image_can_be_trained_on() -> None:
    model = MLP(6, (5,), 3, normalization="batch", generator=seeded())
    model(inputs(1, 6)).sum().backward()
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_eval_mode_restores_the_mode_of_each_module() -> None:
    model = nn.Sequential(nn.Dropout(0.5), BatchNorm(5)).train()
    model[1].eval()
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False]


def test_updated_statistics_of_one_batch_are_its_mean_and_variance() -> None:
    norm = BatchNorm(5)
    model = nn.Sequential(norm, nn.Dropout(0.5))
    norm.running_mean.fill_(7.0)
    update_bn(model, Batches(X, torch.zeros(60, dtype=torch.int64), batch_size=60))
    assert_close(norm.running_mean, X.mean(0))
    assert_close(norm.running_var, X.var(0))
    assert norm.momentum == 0.1
    assert norm.training


def test_updated_statistics_weight_each_batch_by_its_size() -> None:
    norm = BatchNorm(5)
    update_bn(norm, Batches(X[:40], torch.zeros(40, dtype=torch.int64), batch_size=16))
    batches = X[:40].split(16)
    assert_close(norm.running_mean, X[:40].mean(0))
    assert_close(norm.running_var, sum(len(batch) / 40 * batch.var(0) for batch in batches))
