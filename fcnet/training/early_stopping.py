"""Early stopping: keep the weights of the epoch with the best validation accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


class EarlyStopping:
    """Keeps the best epoch's weights and ends training when the accuracy stops improving.

    A tie goes to the earlier epoch.

    Args:
        patience: epochs without improvement before training stops.

    Attributes:
        epoch: the best epoch, counted from 1; 0 before the first update.
        accuracy: the validation accuracy of the best epoch.
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
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.epoch, self.accuracy = 0, -1.0
        self.weights: dict[str, Tensor] = {}

    def update(self, epoch: int, accuracy: float, model: nn.Module) -> None:
        """Copies the model's weights if the accuracy is the best so far."""
        if accuracy > self.accuracy:
            self.epoch, self.accuracy = epoch, accuracy
            self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def should_stop(self, epoch: int) -> bool:
        """Returns whether ``patience`` epochs have passed since the best one."""
        return epoch - self.epoch >= self.patience

    def restore_best(self, model: nn.Module) -> None:
        """Loads the best epoch's weights into the model."""
        model.load_state_dict(self.weights)
