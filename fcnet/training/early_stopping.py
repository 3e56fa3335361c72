"""Early stopping: the weights of the epoch that did best on the images kept aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


class EarlyStopping:
    """Remembers the best epoch's weights, and says when better ones are no longer waited for.

    Of two epochs with one accuracy the earlier is the better.

    Args:
        patience: epochs without a better one that are waited for.

    Attributes:
        epoch: the best epoch, 1 for the first; 0 before it.
        accuracy: its validation accuracy.
        weights: its parameters and buffers, by name.

    Source:
        Prechelt, "Early stopping, but when?", 1998.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.epoch, self.accuracy = 0, -1.0
        self.weights: dict[str, Tensor] = {}

    def update(self, epoch: int, accuracy: float, model: nn.Module) -> None:
        """Looks at the model after an epoch."""
        if accuracy > self.accuracy:
            self.epoch, self.accuracy = epoch, accuracy
            self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def should_stop(self, epoch: int) -> bool:
        """Whether so many epochs have passed since the best one that training ends."""
        return epoch - self.epoch >= self.patience

    def restore_best(self, model: nn.Module) -> None:
        """Puts the best weights into the model."""
        model.load_state_dict(self.weights)
