"""The record of an epoch, and the running sums behind it."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.models.mlp import outputs_to_classes
from fcnet.runtime import distributed
from fcnet.runtime.hardware import float64_device

if TYPE_CHECKING:
    from fcnet.data.batches import Batch

_MAX_PENDING_LOGITS = 1 << 16


@dataclass(frozen=True)
class EpochRecord:
    """The figures of one epoch. Accuracies are fractions. Validation figures are None without a validation set.

    Attributes:
        epoch: finished epochs.
        step: finished steps.
        lr: the learning rate of the first parameter group in the last step.
        train_loss: the mean loss of the training images as the network saw them: augmented, mixed and weighted, each
            before the step on its batch.
        train_accuracy: the accuracy on the same images, without weights. A mixed image counts as the class of its
            larger part.
        validation_loss: the mean cross-entropy on the validation set after the epoch.
        validation_accuracy: the accuracy on the validation set after the epoch.
        seconds: seconds spent in the training steps of this epoch, until the device has finished them.
        images_per_second: training images divided by ``seconds``.
        validation_score: the validation figure that ``select`` of `GradientDescent` names, if it is neither the loss
            nor the accuracy; else None.
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
    validation_score: float | None = None


class MetricAccumulator:
    """Sums the loss, the correct predictions and the images of an epoch, on the device until they are read.

    A device without float64 cannot hold the sums. They are on the CPU then, and batches are added several at once.

    Attributes:
        num_images: the number of images so far, over all ranks.
    """

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=float64_device(device))
        self._on_host = self._loss.device.type != device.type
        self._num_correct = torch.zeros((), dtype=torch.int64, device=self._loss.device)
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self.num_images = 0

    @property
    def loss(self) -> Tensor:
        """The sum of this rank's losses, float64, on the device if it has float64."""
        self._flush()
        return self._loss

    def update(self, loss: Tensor, outputs: Tensor, batch: Batch, *, deferred: bool = False) -> None:
        """Adds one batch, without a host sync.

        Args:
            loss: the sum of the losses of this rank's slice.
            outputs: the logits of this rank's slice, or its predicted classes, int64 (B,).
            batch: this rank's slice of the global batch.
            deferred: whether to add several batches at once later. On a CPU the calls cost more than the arithmetic on
                a small batch.
        """
        self.num_images += batch.size
        if deferred or self._on_host:
            if self._pending and self._pending[-1][1].shape[1:] != outputs.shape[1:]:
                self._flush()  # logits after classes, or classes after logits
            self._pending.append((loss, outputs, batch.labels))
            if len(self._pending) * outputs.numel() >= _MAX_PENDING_LOGITS:
                self._flush()
        else:
            self._loss += loss
            self._num_correct += _count_correct(outputs, batch.labels)

    def _flush(self) -> None:
        """Adds the pending batches."""
        if not self._pending:
            return
        losses, outputs, labels = zip(*self._pending, strict=True)
        # One loss after another, so that the rounding of the sum does not depend on when it was flushed.
        self._loss.fill_(functools.reduce(operator.add, torch.stack(losses).tolist(), self._loss.item()))
        self._num_correct += _count_correct(torch.cat(outputs), torch.cat(labels)).to(self._num_correct.device)
        self._pending.clear()

    def reset(self) -> None:
        """Sets all sums to 0, in place, because a captured CUDA graph adds to these tensors."""
        self._pending.clear()
        self._loss.zero_()
        self._num_correct.zero_()
        self.num_images = 0

    def sums(self) -> Tensor:
        """Returns the loss and the correct predictions, summed over all ranks, float64 (2,)."""
        self._flush()
        return distributed.all_reduce(torch.stack([self._loss, self._num_correct.double()]))

    def compute(self) -> tuple[float, float]:
        """Returns the mean loss and the accuracy so far, over all ranks. It waits for the device."""
        loss, num_correct = self.sums().tolist()
        return loss / max(self.num_images, 1), num_correct / max(self.num_images, 1)

    def restore(self, sums: Tensor, num_images: int) -> None:
        """Restores the result of `sums`. The first rank takes the sums of all ranks, the others start at 0."""
        self.reset()
        if distributed.rank() == 0:
            self._loss.copy_(sums[0])
            self._num_correct.copy_(sums[1])
        self.num_images = num_images


def _count_correct(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs_to_classes(outputs) == labels).sum()
