"""What a training says of itself: figures of an epoch, and the sums they are made from."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.models.mlp import logits_to_classes
from fcnet.runtime import distributed

if TYPE_CHECKING:
    from fcnet.data.batches import Batch

_MAX_PENDING_LOGITS = 1 << 16


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


class MetricAccumulator:
    """Sums over an epoch that stay on the device until they are read: loss, num_correct, images.

    Attributes:
        num_images: how many are counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self.num_images = 0

    @property
    def loss(self) -> Tensor:
        """The sum of this rank's losses, float64, on the device."""
        self._flush()
        return self._loss

    def update(self, loss: Tensor, logits: Tensor, batch: Batch, *, deferred: bool = False) -> None:
        """Counts one batch; no host sync.

        Args:
            loss: the sum of the batch's losses.
            logits: of the batch.
            batch: this rank's part of the global batch.
            deferred: whether it may wait for others to be counted with, on a processor, which takes longer to begin
                with so few numbers than to count them.
        """
        self.num_images += batch.size
        if deferred:
            self._pending.append((loss, logits, batch.labels))
            if len(self._pending) * logits.numel() >= _MAX_PENDING_LOGITS:
                self._flush()
        else:
            self._loss += loss
            self._num_correct += _count_correct(logits, batch.labels)

    def _flush(self) -> None:
        """Counts the batches that wait."""
        if not self._pending:
            return
        losses, logits, labels = zip(*self._pending, strict=True)
        # One after another, so that the sum does not depend on who waited for whom.
        self._loss.fill_(functools.reduce(operator.add, torch.stack(losses).tolist(), self._loss.item()))
        self._num_correct += _count_correct(torch.cat(logits), torch.cat(labels))
        self._pending.clear()

    def reset(self) -> None:
        """Begins anew, in the same memory, which a recorded step adds to."""
        self._pending.clear()
        self._loss.zero_()
        self._num_correct.zero_()
        self.num_images = 0

    def sums(self) -> Tensor:
        """Loss and num_correct over all ranks, float64 (2,), on the device."""
        self._flush()
        return distributed.all_reduce(torch.stack([self._loss, self._num_correct.double()]))

    def compute(self) -> tuple[float, float]:
        """Mean loss and accuracy over all ranks so far; waits for the device."""
        loss, num_correct = self.sums().tolist()
        return loss / max(self.num_images, 1), num_correct / max(self.num_images, 1)

    def restore(self, sums: Tensor, num_images: int) -> None:
        """Goes on from sums over all ranks, which the first rank takes over alone."""
        self.reset()
        if distributed.rank() == 0:
            self._loss.copy_(sums[0])
            self._num_correct.copy_(sums[1])
        self.num_images = num_images


def _count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits_to_classes(logits) == labels).sum()
