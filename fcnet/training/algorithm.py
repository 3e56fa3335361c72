"""A learning algorithm in one value: how the parameters follow the gradient of the loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from fcnet.losses import CrossEntropy
from fcnet.optim.schedules import constant

if TYPE_CHECKING:
    from fcnet.losses import Loss
    from fcnet.optim.schedules import Schedule


@dataclass(frozen=True)
class GradientDescent:
    """A learning algorithm: how the parameters follow the gradient of the loss.

    The third of the three things that learning is made of: `fcnet.fit` takes a model, a dataset and one of these.

    Attributes:
        optimizer: any of torch's, over the model's parameters; its rates are what ``schedule`` scales.
        epochs: how often every training image is seen.
        schedule: step -> factor of the learning rate.
        loss: the sum of the losses of a batch, whose mean over the global batch is minimised.
        clip_norm: the largest norm of the global batch's gradient, over all parameters together; a
            longer one is shortened to it. 0 is no bound.
        precision: the dtype of matrix products; ``torch.bfloat16`` runs forward and loss under autocast.
        accumulate: how many parts a batch goes through the network in, one after another, to save
            memory; their gradients add up to the batch's. Batch norm uses each part's statistics.
        ema_decay: β of the weights' running average, W̄ ← β W̄ + (1 − β) W after each step, which is what
            is validated and kept; 0: the weights themselves.
        patience: epochs without a better validation accuracy after which training ends early; then, or
            after the last epoch, the weights of the best one are kept. 0: all epochs, and the last weights.
    """

    optimizer: torch.optim.Optimizer
    epochs: int
    schedule: Schedule = field(default_factory=constant)
    loss: Loss = field(default_factory=CrossEntropy)
    clip_norm: float = 0.0
    precision: torch.dtype = torch.float32
    accumulate: int = 1
    ema_decay: float = 0.0
    patience: int = 0
