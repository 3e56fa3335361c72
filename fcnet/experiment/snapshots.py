"""The look into the network at the end of an epoch: with which images, how often, and what is kept of it.

How often follows from the sizes and never from a clock, so that a run that was stopped and gone on with looks when the
uninterrupted one does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from fcnet.diagnostics import diagnose
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fcnet.training.loop import Training

IMAGES = 256
_SHARE = 0.018
_STEP, _LAYER_STEP, _UPDATE = 2e-4, 1.7e-4, 8e-10
_SNAPSHOT, _LAYER_SNAPSHOT, _EIGENVALUES = 3.2e-3, 4e-4, 2e-9
_PRODUCT, _VALUE, _FIGURE = 1.2e-11, 1e-9, 1e-8
"""Seconds on one thread of a processor: of a step, each of its layers and each weight's update; of a look with its
writing, each of its layers and the eigenvalues of a matrix of side 1; of a multiplication with its addition, a value of
an image, a value that is described."""


class Snapshots:
    """Looks into a network under training, always with the same few training images, as they are.

    Args:
        training: whose numbers no look changes.

    Attributes:
        every: the epochs from one look to the next; there is one before the first step, and one at the end.

    Example:
        >>> from fcnet import MLP, GradientDescent
        >>> from fcnet.data.batches import Batches
        >>> from fcnet.training.loop import Training
        >>> model = MLP(4, (8,), 3)
        >>> algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=2)
        >>> snapshots = Snapshots(Training(model, Batches(torch.rand(20, 4), torch.arange(20) % 3), algorithm))
        >>> snapshots.due, snapshots.take()["epoch"]
        (True, 0)
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        batches, epochs = training.batches, training.algorithm.epochs
        permutation = torch.randperm(batches.num_images, generator=generator(training.seed, "look"))
        self.rows = batches.rows[permutation[:IMAGES].sort().values]
        matrices = [(len(p), p[0].numel()) for p in training.model.parameters() if p.ndim > 1]
        self.every = snapshot_interval(matrices, batches.num_images, len(batches), epochs)

    @property
    def due(self) -> bool:
        """Whether an epoch has just ended, or none has begun, and it is one to look after."""
        training = self.training
        between = training.step == training.epoch * len(training.batches)
        return between and (training.epoch % self.every == 0 or training.ended)

    def take(self) -> dict[str, Any]:
        """A line of ``diagnostics.jsonl``: what `diagnose` says of the network as it is trained, and when."""
        training, batches = self.training, self.training.batches
        images: Tensor = batches.get_images(self.rows.to(batches.images.device))
        labels = batches.labels[self.rows.to(batches.labels.device)]
        seen = diagnose(training.model, images, labels, training.algorithm.loss)
        return {"epoch": training.epoch, "step": training.step, **seen.to_dict()}


def snapshot_interval(matrices: Sequence[tuple[int, int]], num_images: int, num_steps: int, epochs: int) -> int:
    """Epochs between looks, so that they take some 1 to 3 % of the time that training takes.

    Args:
        matrices: (n[l], m[l]) of every layer's weights.
        num_images: of an epoch.
        num_steps: likewise.
        epochs: of the training.

    Returns:
        From 1 to ``epochs``; a training of few short epochs is looked into before it and after it alone.

    Example:
        >>> snapshot_interval([(2048, 3072), (10, 2048)], num_images=50_000, num_steps=391, epochs=10)
        5
        >>> snapshot_interval([(512, 64), (256, 512), (10, 256)], num_images=1_294, num_steps=21, epochs=100)
        34
    """
    rows = min(num_images, IMAGES)
    seconds = _snapshot_seconds(matrices, rows)
    most = max(2, int(_SHARE * epochs * _epoch_seconds(matrices, num_images, num_steps) / seconds))
    return math.ceil(epochs / (most - 1))


def _epoch_seconds(matrices: Sequence[tuple[int, int]], num_images: int, num_steps: int) -> float:
    """What an epoch takes on one thread of a processor, within a factor of two."""
    weights = sum(n * m for n, m in matrices)
    values = matrices[0][1] + sum(n for n, _ in matrices)
    step = _STEP + _LAYER_STEP * len(matrices) + _UPDATE * weights
    return num_steps * step + num_images * (3 * _PRODUCT * weights + _VALUE * values)


def _snapshot_seconds(matrices: Sequence[tuple[int, int]], rows: int) -> float:
    """What a look with so many images takes there, likewise."""
    seconds = _SNAPSHOT + rows * _VALUE * matrices[0][1]
    for n, m in matrices:
        short, long = sorted((n, m))
        seconds += _LAYER_SNAPSHOT + rows * (3 * _PRODUCT * n * m + _FIGURE * n)
        seconds += 2 * _PRODUCT * long * short**2 + _EIGENVALUES * float(short) ** 2.5
    return seconds
