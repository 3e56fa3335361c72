"""What a training says of itself: figures of an epoch, and the sums they are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet import distributed
from fcnet.models import most_probable

if TYPE_CHECKING:
    from fcnet.data.batches import Batch


@dataclass(frozen=True)
class EpochRecord:
    """One epoch in figures. Accuracies are fractions; validation is None where none was kept aside.

    Attributes:
        epoch: how many epochs are done.
        step: how many steps are done.
        lr: the first parameter group's learning rate in the last step.
        train_loss: mean loss of the images as they were trained on, mixed and weighted, while the
            parameters changed.
        train_accuracy: likewise, without weights; of a mixed image the label of the larger share counts.
        validation_loss: mean cross-entropy after the epoch.
        validation_accuracy: likewise.
        seconds: spent in this epoch's training steps alone.
        images_per_second: training images over ``seconds``.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    images_per_second: float


class Tally:
    """Sums over an epoch that stay on the device until they are read: loss, hits, images."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def add(self, loss: Tensor, logits: Tensor, batch: Batch) -> None:
        """Counts one batch; no host sync."""
        self.loss += loss
        self.hits += (most_probable(logits) == batch.labels).sum()
        self.images += batch.size

    def clear(self) -> None:
        """Begins anew, in the same memory, which a recorded step adds to."""
        self.loss.zero_()
        self.hits.zero_()
        self.images = 0

    def sums(self) -> Tensor:
        """Loss and hits over all ranks, float64 (2,), on the device."""
        return distributed.sum_in_place(torch.stack([self.loss, self.hits.double()]))

    def read(self) -> tuple[float, float]:
        """Mean loss and accuracy over all ranks so far; waits for the device."""
        loss, hits = self.sums().tolist()
        return loss / max(self.images, 1), hits / max(self.images, 1)

    def restore(self, sums: Tensor, images: int) -> None:
        """Goes on from sums over all ranks, which the first rank takes over alone."""
        if distributed.rank() == 0:
            self.loss.copy_(sums[0])
            self.hits.copy_(sums[1])
        self.images = images
