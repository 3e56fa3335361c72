"""The learning-rate range test: one short training with a rate that rises from far too small to far too large."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError
from fcnet.training.loop import train_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.data.batches import Batch
    from fcnet.training.loop import Training

MIN_LR, MAX_LR, NUM_STEPS = 1e-6, 10.0, 200
_SMOOTHING = 0.9
_DIVERGENCE_FACTOR = 4.0


@dataclass(frozen=True)
class RangeTestStep:
    """One step of the range test.

    Attributes:
        lr: the learning rate of the step.
        loss: the mean loss of the batch before the step.
        smoothed: the running mean of the losses, with a weight of 10% for the newest.
    """

    lr: float
    loss: float
    smoothed: float


def lr_range_test(training: Training) -> Iterator[RangeTestStep]:
    """Trains for up to `NUM_STEPS` steps while the learning rate rises from `MIN_LR` to `MAX_LR`.

    The rate grows by the same factor at each step. The test ends early when the smoothed loss exceeds four times its
    minimum or is not finite.

    Args:
        training: a training at its beginning. The test leaves its network unusable.

    Yields:
        A `RangeTestStep` after each step.

    Raises:
        UserError: the optimizer is L-BFGS, which finds the length of a step by a line search.

    Source:
        Smith, "Cyclical learning rates for training neural networks", 2017.
    """
    optimizer = training.algorithm.optimizer
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UserError("optimizer.name must not be lbfgs to find a learning rate: its line search replaces the rate")
    for group in optimizer.param_groups:
        group["initial_lr"] = 1.0  # so that the schedule gives the rate itself
    training.algorithm = dataclasses.replace(training.algorithm, schedule=lr_at)
    training.model.train()
    mean, lowest = 0.0, math.inf
    for step, batch in zip(range(NUM_STEPS), _repeat_epochs(training), strict=False):
        before = training.metrics.loss.clone()
        train_step(training, batch)
        loss = distributed.all_reduce(training.metrics.loss - before).item() / batch.size
        mean = _SMOOTHING * mean + (1.0 - _SMOOTHING) * loss
        smoothed = mean / (1.0 - _SMOOTHING ** (step + 1))  # corrects the bias of a mean that starts at 0
        if not math.isfinite(smoothed):
            return
        yield RangeTestStep(lr_at(step), loss, smoothed)
        lowest = min(lowest, smoothed)
        if smoothed > _DIVERGENCE_FACTOR * lowest:
            return


def suggest_lr(steps: Sequence[RangeTestStep]) -> float:
    """Returns a tenth of the learning rate with the lowest smoothed loss, rounded to two digits.

    Example:
        >>> suggest_lr([RangeTestStep(0.001, 2.0, 2.0), RangeTestStep(0.1, 1.0, 1.5), RangeTestStep(1.0, 3.0, 1.8)])
        0.01
    """
    return float(f"{min(steps, key=lambda step: step.smoothed).lr / 10.0:.1e}")


def lr_at(step: int) -> float:
    """Returns the learning rate of a step of the range test."""
    return float(MIN_LR * (MAX_LR / MIN_LR) ** (step / (NUM_STEPS - 1)))


def _repeat_epochs(training: Training) -> Iterator[Batch]:
    """Yields the batches of the first epoch, then of the second, and so on without end."""
    for epoch in itertools.count():
        yield from training.batches.epoch(training.seed, epoch, reuse_buffer=True)
