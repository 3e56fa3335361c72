"""A learning algorithm: gradient descent and its settings in one value."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from fcnet.config.selection import CRITERIA
from fcnet.losses import CrossEntropy
from fcnet.optim.schedules import constant
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from fcnet.config.selection import Selection
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
            ``"tf32"`` rounds the factors of float32 products to 10 bits, on an NVIDIA GPU alone.
        accumulate: the number of micro-batches per batch. They pass through the network one after another, to save
            memory, and their gradients add up to the batch's. Batch norm uses the statistics of each micro-batch.
        ema_decay: β of the exponential moving average of the weights, W̄ ← β W̄ + (1 − β) W after each step.
            Validation and the trained model use the average; 0 turns it off.
        patience: epochs without a better validation figure before training stops early. With patience the trained
            model has the weights of the best epoch; 0 trains all epochs and keeps the last weights.
        select: the validation figure that tells which epoch is the best: ``"validation_accuracy"``,
            ``"validation_loss"``, ``"mean_class_accuracy"``, ``"macro_f1"``, ``"mean_average_precision"``,
            ``"roc_auc"``, ``"brier_score"`` or ``"top_5_accuracy"``.

    Raises:
        UserError: a ValueError; a setting is not what it must be.

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
    precision: torch.dtype | Literal["tf32"] = torch.float32
    accumulate: int = 1
    ema_decay: float = 0.0
    patience: int = 0
    select: Selection = "validation_accuracy"

    def __post_init__(self) -> None:
        """Checks each setting.

        Raises:
            UserError: a setting is not what it must be.
        """
        rules = {
            "optimizer": ("a torch.optim.Optimizer", isinstance(self.optimizer, torch.optim.Optimizer)),
            "epochs": ("a whole number of at least 1", _is_count(self.epochs, 1)),
            "schedule": ("a function of the step such as fcnet.optim.schedules.cosine(1000)", callable(self.schedule)),
            "loss": ("a function such as fcnet.losses.CrossEntropy()", _is_function(self.loss)),
            "clip_norm": ("a number of at least 0", _is_number(self.clip_norm)),
            "precision": ('a dtype such as torch.bfloat16, or "tf32"', _is_precision(self.precision)),
            "accumulate": ("a whole number of at least 1", _is_count(self.accumulate, 1)),
            "ema_decay": ("a number from 0 to less than 1", _is_number(self.ema_decay) and self.ema_decay < 1.0),
            "patience": ("a whole number of at least 0", _is_count(self.patience, 0)),
            "select": (f"one of {', '.join(CRITERIA)}", isinstance(self.select, str) and self.select in CRITERIA),
        }
        for name, (rule, is_kept) in rules.items():
            if not is_kept:
                value = getattr(self, name)
                is_plain = value is None or isinstance(value, str | numbers.Number | type)
                found = repr(value) if is_plain else f"a {type(value).__name__}"
                raise UserError(f"{name} must be {rule}, got {found}")


def _is_count(value: object, least: int) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Integral) and int(value) >= least


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and 0.0 <= float(value) < math.inf


def _is_precision(value: object) -> bool:
    return isinstance(value, torch.dtype) or value == "tf32"


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type)
