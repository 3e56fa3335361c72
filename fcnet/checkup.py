"""The look into the network at the end of an epoch: with which images, how often, and what is kept of it.

How often follows from the sizes and never from a clock, so that a run that was stopped and gone on with looks when the
uninterrupted one does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from fcnet.diagnostics import diagnose
from fcnet.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor

    from fcnet.training import Training

IMAGES = 256
_SHARE = 0.02
_STEP, _UPDATE, _PRODUCT = 3e-4, 1e-9, 2e-11
_LOOK, _FIGURES, _VALUE, _EIGENVALUES = 1e-3, 3e-4, 5e-9, 2e-9


class Checkup:
    """Looks into a network under training, always with the same few training images, as they are.

    Args:
        training: whose numbers no look changes.

    Attributes:
        every: the epochs from one look to the next; there is one before the first step, and one at the end.

    Example:
        >>> from fcnet import MLP, GradientDescent
        >>> from fcnet.data.batches import Batches
        >>> from fcnet.training import Training
        >>> model = MLP(4, (8,), 3)
        >>> algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=2)
        >>> checkup = Checkup(Training(model, Batches(torch.rand(20, 4), torch.arange(20) % 3), algorithm))
        >>> checkup.due, checkup.look()["epoch"]
        (True, 0)
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        batches, epochs = training.batches, training.algorithm.epochs
        drawn = torch.randperm(batches.num_images, generator=generator(training.seed, "look"))
        self.rows = batches.rows[drawn[:IMAGES].sort().values]
        matrices = [tuple(p.flatten(1).shape) for p in training.model.parameters() if p.ndim > 1]
        self.every = interval(matrices, batches.num_images, len(batches), epochs)

    @property
    def due(self) -> bool:
        """Whether an epoch has just ended, or none has begun, and it is one to look after."""
        training = self.training
        between = training.step == training.epoch * len(training.batches)
        return between and (training.epoch % self.every == 0 or training.ended)

    def look(self) -> dict[str, Any]:
        """A line of ``diagnostics.jsonl``: what `diagnose` says of the network as it is trained, and when."""
        training, batches = self.training, self.training.batches
        images: Tensor = batches.take(self.rows.to(batches.images.device))
        labels = batches.labels[self.rows.to(batches.labels.device)]
        seen = diagnose(training.model, images, labels, training.algorithm.loss)
        return {"epoch": training.epoch, "step": training.step, **seen.record()}


def interval(matrices: list[tuple[int, ...]], num_images: int, num_steps: int, epochs: int) -> int:
    """Epochs between looks, so that they take some 2 % of the time that training takes.

    Args:
        matrices: (n[l], m[l]) of every layer's weights.
        num_images: of an epoch.
        num_steps: likewise.
        epochs: of the training.

    Returns:
        From 1 to ``epochs``; a training of few short epochs is looked into before it and after it alone.

    Example:
        >>> interval([(2048, 3072), (10, 2048)], num_images=50_000, num_steps=391, epochs=10)
        1
        >>> interval([(10, 64)], num_images=1_000, num_steps=8, epochs=100)
        50
    """
    parameters = sum(math.prod(shape) for shape in matrices)
    epoch = num_steps * (_STEP + _UPDATE * parameters) + _PRODUCT * 3 * num_images * parameters
    look = _LOOK + _PRODUCT * 3 * min(num_images, IMAGES) * parameters
    look += sum(_layer(*shape, rows=min(num_images, IMAGES)) for shape in matrices)
    most = max(2, int(_SHARE * epochs * epoch / look))
    return math.ceil(epochs / (most - 1))


def _layer(units: int, inputs: int, *, rows: int) -> float:
    """Seconds that a layer's figures take."""
    short, long = sorted((units, inputs))
    return _FIGURES + _VALUE * rows * units + 2.0 * _PRODUCT * long * short**2 + _EIGENVALUES * float(short) ** 2.5
