"""Early stopping: keep the weights of the epoch with the best validation figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fcnet.config.selection import CRITERIA

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fcnet.config.selection import Selection


class EarlyStopping:
    """Keeps the best epoch's weights and ends training when a validation figure stops improving.

    A tie goes to the earlier epoch. A figure that is NaN or infinite is worse than any other.

    Args:
        patience: epochs without improvement before training stops.
        select: the figure: a loss improves when it falls, all others when they rise.

    Attributes:
        epoch: the best epoch, counted from 1; 0 before the first update.
        value: the figure of the best epoch; None before the first update, and for NaN and infinity.
        criterion: the figure, and which of two values is better.
        weights: the parameters and buffers of the best epoch, by name.

    Source:
        Prechelt, "Early stopping, but when?", 1998.

    Example:
        >>> import torch
        >>> model, stopping = torch.nn.Linear(1, 1), EarlyStopping(patience=2)
        >>> for epoch, accuracy in enumerate([0.6, 0.7, 0.7, 0.65], start=1):
        ...     stopping.update(epoch, accuracy, model)
        >>> stopping.epoch, stopping.should_stop(epoch=4)
        (2, True)
        >>> stopping = EarlyStopping(patience=2, select="validation_loss")
        >>> for epoch, loss in enumerate([0.6, 0.7, 0.5], start=1):
        ...     stopping.update(epoch, loss, model)
        >>> stopping.epoch, stopping.value
        (3, 0.5)
    """

    def __init__(self, patience: int, select: Selection = "validation_accuracy") -> None:
        self.patience, self.criterion = patience, CRITERIA[select]
        self.epoch = 0
        self.value: float | None = None
        self.weights: dict[str, Tensor] = {}

    def update(self, epoch: int, value: float, model: nn.Module) -> None:
        """Copies the model's weights if the figure is the best so far."""
        # The first epoch is the best so far whatever its figure, or a figure that is always NaN would leave no weights.
        if self.epoch == 0 or self.criterion.is_better(value, self.value):
            self.epoch, self.value = epoch, value if math.isfinite(value) else None
            self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def should_stop(self, epoch: int) -> bool:
        """Returns whether ``patience`` epochs have passed since the best one."""
        return epoch - self.epoch >= self.patience

    def restore_best(self, model: nn.Module) -> None:
        """Loads the best epoch's weights into the model."""
        model.load_state_dict(self.weights)
