"""What a training says of itself: figures of an epoch, and the sums they are made from."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.models.mlp import most_probable
from fcnet.runtime import distributed

if TYPE_CHECKING:
    from fcnet.data.batches import Batch

_LOGITS_THAT_WAIT = 1 << 16


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
    """Sums over an epoch that stay on the device until they are read: loss, hits, images.

    Attributes:
        images: how many are counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._hits = torch.zeros((), dtype=torch.int64, device=device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self.images = 0

    @property
    def loss(self) -> Tensor:
        """The sum of this rank's losses, float64, on the device."""
        self._catch_up()
        return self._loss

    def add(self, loss: Tensor, logits: Tensor, batch: Batch, *, later: bool = False) -> None:
        """Counts one batch; no host sync.

        Args:
            loss: the sum of the batch's losses.
            logits: of the batch.
            batch: this rank's part of the global batch.
            later: whether it may wait for others to be counted with, on a processor, which takes longer to begin
                with so few numbers than to count them.
        """
        self.images += batch.size
        if later:
            self._waiting.append((loss, logits, batch.labels))
            if len(self._waiting) * logits.numel() >= _LOGITS_THAT_WAIT:
                self._catch_up()
        else:
            self._loss += loss
            self._hits += _hits(logits, batch.labels)

    def _catch_up(self) -> None:
        """Counts the batches that wait."""
        if not self._waiting:
            return
        losses, logits, labels = zip(*self._waiting, strict=True)
        # One after another, so that the sum does not depend on who waited for whom.
        self._loss.fill_(functools.reduce(operator.add, torch.stack(losses).tolist(), self._loss.item()))
        self._hits += _hits(torch.cat(logits), torch.cat(labels))
        self._waiting.clear()

    def clear(self) -> None:
        """Begins anew, in the same memory, which a recorded step adds to."""
        self._waiting.clear()
        self._loss.zero_()
        self._hits.zero_()
        self.images = 0

    def sums(self) -> Tensor:
        """Loss and hits over all ranks, float64 (2,), on the device."""
        self._catch_up()
        return distributed.sum_in_place(torch.stack([self._loss, self._hits.double()]))

    def read(self) -> tuple[float, float]:
        """Mean loss and accuracy over all ranks so far; waits for the device."""
        loss, hits = self.sums().tolist()
        return loss / max(self.images, 1), hits / max(self.images, 1)

    def restore(self, sums: Tensor, images: int) -> None:
        """Goes on from sums over all ranks, which the first rank takes over alone."""
        self.clear()
        if distributed.rank() == 0:
            self._loss.copy_(sums[0])
            self._hits.copy_(sums[1])
        self.images = images


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    return (most_probable(logits) == labels).sum()
