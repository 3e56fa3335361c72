"""Takes a diagnostics snapshot of the network under training every few epochs, with the same images each time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fcnet.diagnostics import diagnose
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from fcnet.training.loop import Training

NUM_IMAGES = 256


class Snapshots:
    """Takes snapshots of a network under training; they do not change the training.

    Every snapshot uses the same training images, at most 256 and without augmentation, so that the figures can be
    compared between epochs.

    Args:
        training: the training.
        every: the number of epochs between snapshots; 0 for none.

    Example:
        >>> from fcnet import MLP, GradientDescent
        >>> from fcnet.data.batches import Batches
        >>> from fcnet.training.loop import Training
        >>> model = MLP(4, (8,), 3)
        >>> algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=2)
        >>> training = Training(model, Batches(torch.rand(20, 4), torch.arange(20) % 3), algorithm)
        >>> snapshots = Snapshots(training, every=1)
        >>> snapshots.due, snapshots.take()["epoch"]
        (True, 0)
    """

    def __init__(self, training: Training, every: int) -> None:
        self.training, self.every = training, every
        batches = training.batches
        permutation = torch.randperm(batches.num_images, generator=generator(training.seed, "look"))
        self.rows = batches.rows[permutation[:NUM_IMAGES].sort().values]

    @property
    def due(self) -> bool:
        """Whether a snapshot is due now: before the first step, after every n-th epoch, and after the last.

        The answer depends on the epoch alone, never on a clock, so a resumed run takes the same snapshots.
        """
        training = self.training
        between_epochs = training.step == training.epoch * len(training.batches)
        return self.every > 0 and between_epochs and (training.epoch % self.every == 0 or training.ended)

    def take(self) -> dict[str, Any]:
        """Returns a line of ``diagnostics.jsonl``: epoch, step, and the result of `fcnet.diagnostics.diagnose`."""
        training, batches = self.training, self.training.batches
        images = batches.get_images(self.rows.to(batches.images.device))
        labels = batches.labels[self.rows.to(batches.labels.device)]
        diagnosis = diagnose(training.model, images, labels, training.algorithm.loss)
        return {"epoch": training.epoch, "step": training.step, **diagnosis.to_dict()}
