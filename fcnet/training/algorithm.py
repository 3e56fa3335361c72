"""A learning algorithm: gradient descent and its settings in one value."""

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
    """Gradient descent on the empirical risk: the optimizer, the loss, and the settings of a training.

    Learning takes a dataset, a model and a learning algorithm. `fcnet.fit` takes one of each.

    Attributes:
        optimizer: any optimizer of torch's over the model's parameters. ``schedule`` scales its learning rates.
        epochs: passes over the training set.
        schedule: maps the step to a factor on the learning rate.
        loss: returns the sum of a batch's losses. Training minimizes its mean over the global batch.
        clip_norm: the largest norm of the global batch's gradient, over all parameters together. Clipping shortens a
            longer gradient to this norm; 0 turns it off.
        precision: the dtype of matrix products. ``torch.bfloat16`` runs the forward pass and the loss under autocast.
        accumulate: the number of micro-batches per batch. They pass through the network one after another, to save
            memory, and their gradients add up to the batch's. Batch norm uses the statistics of each micro-batch.
        ema_decay: β of the exponential moving average of the weights, W̄ ← β W̄ + (1 − β) W after each step.
            Validation and the trained model use the average; 0 turns it off.
        patience: epochs without a better validation accuracy before training stops early. With patience the trained
            model has the weights of the best epoch; 0 trains all epochs and keeps the last weights.

    Example:
        >>> import fcnet
        >>> model = fcnet.MLP(2, (16,), 2)
        >>> fcnet.GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=5, clip_norm=1.0).accumulate
        1
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
