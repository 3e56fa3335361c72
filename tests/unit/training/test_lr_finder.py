"""Tests of fcnet.training.lr_finder."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from fcnet.data.batches import Batches
from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import LBFGS
from fcnet.optim.schedules import cosine
from fcnet.runtime.errors import UserError
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training
from fcnet.training.lr_finder import MAX_LR, MIN_LR, NUM_STEPS, RangeTestStep, lr_at, lr_range_test, suggest_lr

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long()


def make_training(optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> Training:
    model = MLP(5, (), 2, generator=torch.Generator().manual_seed(1))
    made = optimizer(model.parameters(), lr=0.3)  # type: ignore[call-arg]
    return Training(model, Batches(X, Y, batch_size=16), GradientDescent(made, epochs=1, schedule=cosine(4)))


def test_learning_rates_rise_geometrically_from_the_lowest_to_the_highest() -> None:
    lrs = [lr_at(step) for step in range(NUM_STEPS)]
    assert lrs[0] == MIN_LR
    assert lrs[-1] == pytest.approx(MAX_LR)
    ratios = [later / earlier for earlier, later in itertools.pairwise(lrs)]
    assert ratios == pytest.approx([ratios[0]] * (NUM_STEPS - 1))


def test_each_step_has_its_stated_learning_rate_and_the_loss_of_its_batch() -> None:
    made = make_training()
    model, batches = made.model, itertools.chain(made.batches.epoch(0, 0), made.batches.epoch(0, 1))
    weight = model.get_parameter("layers.0.weight")
    for step, batch in zip(lr_range_test(made), batches, strict=False):
        after = weight.detach().clone()
        # The gradient of the step is still there. Undoing the step gives the loss before it.
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=step.lr)
            before = nn.functional.binary_cross_entropy_with_logits(model(batch.images), batch.labels.float())
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=step.lr)
        assert step.loss == pytest.approx(before.item(), rel=1e-5)
        assert torch.allclose(weight, after)


def test_the_smoothed_loss_is_an_unbiased_weighted_mean_of_the_losses() -> None:
    steps = list(itertools.islice(lr_range_test(make_training()), 8))
    assert steps[0].smoothed == pytest.approx(steps[0].loss)
    weights = [0.9 ** (7 - index) for index in range(8)]
    mean = sum(weight * step.loss for weight, step in zip(weights, steps, strict=True)) / sum(weights)
    assert steps[7].smoothed == pytest.approx(mean)


def test_the_range_test_ends_when_the_loss_diverges() -> None:
    # No plane separates every other point from the rest, so no large step can end at a loss of 0.
    model, labels = nn.Linear(5, 2), torch.arange(60) % 2
    optimizer = torch.optim.SGD(model.parameters())
    made = Training(model, Batches(1e3 * X, labels, batch_size=16), GradientDescent(optimizer, epochs=1))
    steps = list(lr_range_test(made))
    assert len(steps) < NUM_STEPS
    assert all(math.isfinite(step.smoothed) for step in steps)
    assert steps[-1].smoothed > 4.0 * min(step.smoothed for step in steps)


def test_the_suggestion_is_a_tenth_of_the_rate_with_the_lowest_smoothed_loss() -> None:
    steps = [RangeTestStep(1e-3, 1.0, 3.0), RangeTestStep(0.0234, 2.5, 2.0), RangeTestStep(1.0, 1.0, 2.5)]
    assert suggest_lr(steps) == 0.0023


def test_lbfgs_has_no_learning_rate_to_find() -> None:
    with pytest.raises(UserError, match=r"optimizer\.name must not be lbfgs to find a learning rate"):
        next(lr_range_test(make_training(LBFGS)))
