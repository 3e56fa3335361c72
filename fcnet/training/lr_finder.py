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

LOWEST, HIGHEST, NUM_STEPS = 1e-6, 10.0, 200
_SMOOTHING = 0.9
_LOST = 4.0


@dataclass(frozen=True)
class Trial:
    """One step of the test.

    Attributes:
        lr: the learning rate that the step was made with.
        loss: the batch's mean loss before the step.
        smoothed: the running mean of the losses, a step's share 10 %.
    """

    lr: float
    loss: float
    smoothed: float


def try_rates(training: Training) -> Iterator[Trial]:
    """Trains for up to `NUM_STEPS` steps while the learning rate rises from `LOWEST` to `HIGHEST`.

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
    training.algorithm = dataclasses.replace(training.algorithm, schedule=rate)
    training.model.train()
    mean, lowest = 0.0, math.inf
    for step, batch in zip(range(NUM_STEPS), _endless(training), strict=False):
        before = training.tally.loss.clone()
        train_step(training, batch)
        loss = distributed.sum_in_place(training.tally.loss - before).item() / batch.size
        mean = _SMOOTHING * mean + (1.0 - _SMOOTHING) * loss
        smoothed = mean / (1.0 - _SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed):
            return
        yield Trial(rate(step), loss, smoothed)
        lowest = min(lowest, smoothed)
        if smoothed > _LOST * lowest:
            return


def suggested(trials: Sequence[Trial]) -> float:
    """A tenth of the rate at which the smoothed loss was lowest, rounded to two digits.

    Example:
        >>> suggested([Trial(0.001, 2.0, 2.0), Trial(0.1, 1.0, 1.5), Trial(1.0, 3.0, 1.8)])
        0.01
    """
    return float(f"{min(trials, key=lambda trial: trial.smoothed).lr / 10.0:.1e}")


def rate(step: int) -> float:
    """The learning rate of a step of the test."""
    return float(LOWEST * (HIGHEST / LOWEST) ** (step / (NUM_STEPS - 1)))


def _endless(training: Training) -> Iterator[Batch]:
    """The batches of epoch after epoch."""
    for epoch in itertools.count():
        yield from training.batches.epoch(training.seed, epoch, recycle=True)
