"""Rules of fcnet.training.lr_finder."""

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


def training(optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> Training:
    model = MLP(5, (), 2, generator=torch.Generator().manual_seed(1))
    made = optimizer(model.parameters(), lr=0.3)  # type: ignore[call-arg]
    return Training(model, Batches(X, Y, batch_size=16), GradientDescent(made, epochs=1, schedule=cosine(4)))


def test_rates_rise_evenly_in_their_logarithm_from_the_lowest_to_the_highest() -> None:
    rates = [lr_at(step) for step in range(NUM_STEPS)]
    assert rates[0] == MIN_LR
    assert rates[-1] == pytest.approx(MAX_LR)
    ratios = [later / earlier for earlier, later in itertools.pairwise(rates)]
    assert ratios == pytest.approx([ratios[0]] * (NUM_STEPS - 1))


def test_steps_are_made_with_the_rates_that_are_named_and_losses_are_the_batches_own() -> None:
    course = training()
    model, batches = course.model, itertools.chain(course.batches.epoch(0, 0), course.batches.epoch(0, 1))
    weight = model.get_parameter("layers.0.weight")
    for trial, batch in zip(lr_range_test(course), batches, strict=False):
        moved = weight.detach().clone()
        # The step's gradient is still there: undo the step, and the loss before it is found again.
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=trial.lr)
            before = nn.functional.binary_cross_entropy_with_logits(model(batch.images), batch.labels.float())
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=trial.lr)
        assert trial.loss == pytest.approx(before.item(), rel=1e-5)
        assert torch.allclose(weight, moved)


def test_the_smoothed_loss_is_a_mean_of_those_so_far_without_a_bias_to_0() -> None:
    trials = list(itertools.islice(lr_range_test(training()), 8))
    assert trials[0].smoothed == pytest.approx(trials[0].loss)
    weights = [0.9 ** (7 - place) for place in range(8)]
    mean = sum(weight * trial.loss for weight, trial in zip(weights, trials, strict=True)) / sum(weights)
    assert trials[7].smoothed == pytest.approx(mean)


def test_the_test_ends_where_the_loss_is_lost() -> None:
    # No plane parts every other point from the rest, so that no large step can end in a loss of 0.
    model, labels = nn.Linear(5, 2), torch.arange(60) % 2
    optimizer = torch.optim.SGD(model.parameters())
    course = Training(model, Batches(1e3 * X, labels, batch_size=16), GradientDescent(optimizer, epochs=1))
    trials = list(lr_range_test(course))
    assert len(trials) < NUM_STEPS
    assert all(math.isfinite(trial.smoothed) for trial in trials)
    assert trials[-1].smoothed > 4.0 * min(trial.smoothed for trial in trials)


def test_a_tenth_of_the_rate_with_the_lowest_loss_is_suggested() -> None:
    assert (
        suggest_lr([RangeTestStep(1e-3, 1.0, 3.0), RangeTestStep(0.0234, 2.5, 2.0), RangeTestStep(1.0, 1.0, 2.5)])
        == 0.0023
    )


def test_lbfgs_has_no_rate_to_find() -> None:
    with pytest.raises(UserError, match=r"optimizer\.name must be another than lbfgs"):
        next(lr_range_test(training(LBFGS)))
