"""The learning-rate range test: from far too small to far too large in one short training."""

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
    """One step of the test.

    Attributes:
        lr: the learning rate that the step was made with.
        loss: the batch's mean loss before the step.
        smoothed: the running mean of the losses, a step's share 10 %.
    """

    lr: float
    loss: float
    smoothed: float


def lr_range_test(training: Training) -> Iterator[RangeTestStep]:
    """Trains for up to `NUM_STEPS` steps while the learning rate rises from `MIN_LR` to `MAX_LR`.

    Each step's rate is the same multiple of the one before. The test ends early where the smoothed
    loss is four times its lowest, or no number.

    Args:
        training: at its beginning; its network is spoilt.

    Yields:
        A trial after each step.

    Raises:
        UserError: the optimizer chooses its steps by itself.

    Source:
        Smith, "Cyclical learning rates for training neural networks", 2017.
    """
    optimizer = training.algorithm.optimizer
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UserError("optimizer.name must be another than lbfgs, which has no use for a rate, to find one")
    for group in optimizer.param_groups:
        group["initial_lr"] = 1.0
    training.algorithm = dataclasses.replace(training.algorithm, schedule=lr_at)
    training.model.train()
    mean, lowest = 0.0, math.inf
    for step, batch in zip(range(NUM_STEPS), _repeat_epochs(training), strict=False):
        before = training.metrics.loss.clone()
        train_step(training, batch)
        loss = distributed.all_reduce(training.metrics.loss - before).item() / batch.size
        mean = _SMOOTHING * mean + (1.0 - _SMOOTHING) * loss
        smoothed = mean / (1.0 - _SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed):
            return
        yield RangeTestStep(lr_at(step), loss, smoothed)
        lowest = min(lowest, smoothed)
        if smoothed > _DIVERGENCE_FACTOR * lowest:
            return


def suggest_lr(trials: Sequence[RangeTestStep]) -> float:
    """A tenth of the rate at which the smoothed loss was lowest, rounded to two digits.

    Example:
        >>> suggest_lr([RangeTestStep(0.001, 2.0, 2.0), RangeTestStep(0.1, 1.0, 1.5), RangeTestStep(1.0, 3.0, 1.8)])
        0.01
    """
    return float(f"{min(trials, key=lambda trial: trial.smoothed).lr / 10.0:.1e}")


def lr_at(step: int) -> float:
    """The learning rate of a step of the test."""
    return float(MIN_LR * (MAX_LR / MIN_LR) ** (step / (NUM_STEPS - 1)))


def _repeat_epochs(training: Training) -> Iterator[Batch]:
    """The batches of epoch after epoch."""
    for epoch in itertools.count():
        yield from training.batches.epoch(training.seed, epoch, reuse_buffer=True)
