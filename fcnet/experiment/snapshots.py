"""Takes a diagnostics snapshot of the network under training every few epochs, with the same images each time."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from fcnet.diagnostics import diagnose
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.training.loop import Training

NUM_IMAGES = 256
_MAX_SHARE_ON_GPU = 0.02


class Snapshots:
    """Takes snapshots of a network under training; they do not change the training.

    Every snapshot uses the same training images, at most 256 and without augmentation, so that the figures can be
    compared between epochs.

    The snapshot after epoch ``every`` is timed. If such snapshots would take more than a share of the training time,
    the interval becomes a multiple of ``every`` from there on. The line of that snapshot has the new interval, so that
    a resumed run keeps to it.

    Args:
        training: the training.
        every: the number of epochs between snapshots; 0 for none.
        lines: the lines of earlier snapshots of the run.
        max_share: the largest share of the training time, inf for no limit; the snapshots before training and at its
            end are not counted.

    Attributes:
        interval: the number of epochs between snapshots from now on.

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

    def __init__(
        self,
        training: Training,
        every: int,
        lines: Sequence[dict[str, Any]] = (),
        *,
        max_share: float = math.inf,
    ) -> None:
        self.training, self.every, self.max_share = training, every, max_share
        self.interval = chosen_interval(lines) or every
        batches = training.batches
        permutation = torch.randperm(batches.num_images, generator=generator(training.seed, "look"))
        self.rows = batches.rows[permutation[:NUM_IMAGES].sort().values]

    @property
    def due(self) -> bool:
        """Whether a snapshot is due now: before the first step, after every n-th epoch, and after the last.

        The answer depends on the epoch and the interval alone, so a resumed run takes the same snapshots.
        """
        training = self.training
        between_epochs = training.step == training.epoch * len(training.batches)
        return self.every > 0 and between_epochs and (training.epoch % self.interval == 0 or training.ended)

    def take(self) -> dict[str, Any]:
        """Returns a line of ``diagnostics.jsonl``: epoch, step, and the result of `fcnet.diagnostics.diagnose`.

        If it changes the interval, the line has the new one.
        """
        since = time.perf_counter()
        training, batches = self.training, self.training.batches
        images = batches.get_images(self.rows.to(batches.images.device))
        labels = batches.labels[self.rows.to(batches.labels.device)]
        diagnosis = diagnose(training.model, images, labels, training.algorithm.loss)
        line = {"epoch": training.epoch, "step": training.step, **diagnosis.to_dict()}
        if training.epoch == self.every:
            factor = _stretch(time.perf_counter() - since, training.train_seconds, self.max_share)
            if factor > 1:
                line["interval"] = self.interval = factor * self.every
        return line


def max_share(device: torch.device) -> float:
    """Returns the largest share of the training time for snapshots: 2%, or inf on a CPU.

    A GPU speeds up steps far more than eigenvalues in float64. On a CPU the configured interval is kept, whatever the
    clock says.

    Example:
        >>> max_share(torch.device("cpu")), max_share(torch.device("cuda"))
        (inf, 0.02)
    """
    return math.inf if device.type == "cpu" else _MAX_SHARE_ON_GPU


def chosen_interval(lines: Sequence[dict[str, Any]]) -> int | None:
    """Returns the interval that a run has chosen in place of the configured one, or None, from its snapshots' lines.

    Example:
        >>> chosen_interval([{"epoch": 0}, {"epoch": 10, "interval": 40}, {"epoch": 40}])
        40
    """
    return next((line["interval"] for line in lines if "interval" in line), None)


def _stretch(seconds: float, training_seconds: float, max_share: float) -> int:
    """Returns by how much to multiply an interval, so that its snapshot takes at most a share of its training time."""
    return max(1, math.ceil(seconds / (max_share * max(training_seconds, 1e-9))))
