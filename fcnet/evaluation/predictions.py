"""What a network said of each image of a set, kept so that nobody has to run it again.

N images, C classes, of which the K most probable ones are kept for each image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fcnet.models.mlp import logits_to_probabilities
from fcnet.runtime import distributed
from fcnet.runtime.files import read_checksummed, read_metadata, write_checksummed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

TOP_K = 10
"""K, or C where that is less."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was said of N images, in the order of the set.

    Attributes:
        labels: int64 (N,), the true classes.
        classes: int64 (N, K), the most probable classes, the most probable one first.
        probabilities: float32 (N, K), theirs.
        true_probabilities: float32 (N,), the true class's, whether it is among the K or not.
    """

    labels: Tensor
    classes: Tensor
    probabilities: Tensor
    true_probabilities: Tensor

    @property
    def is_correct(self) -> Tensor:
        """Whether the most probable class is the true one, bool (N,)."""
        return self.classes[:, 0] == self.labels

    def confusion(self, num_classes: int) -> tuple[tuple[int, ...], ...]:
        """Counts, ``confusion[truth][prediction]``, (C, C)."""
        cells = self.labels * num_classes + self.classes[:, 0]
        counts = cells.bincount(minlength=num_classes**2).view(num_classes, num_classes)
        return tuple(map(tuple, counts.tolist()))


class PredictionCollector:
    """Takes the logits of a set batch by batch, as `fcnet.evaluation.classification.evaluate` notes them.

    Example:
        >>> collector = PredictionCollector()
        >>> collector.update(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2]))
        >>> found = collector.compute()
        >>> found.classes.tolist(), [round(p, 3) for p in found.probabilities[0].tolist()], found.is_correct.tolist()
        ([[1, 2, 0]], [0.665, 0.245, 0.09], [False])
    """

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Takes one batch's logits (B,) of two classes, or (B, C), and labels int64 (B,)."""
        sure = logits_to_probabilities(logits.float())
        scores = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :TOP_K]  # the first of equals first
        true_probabilities = sure.gather(1, labels[:, None]).squeeze(1)
        self._batches.append((labels.cpu(), order.cpu(), sure.gather(1, order).cpu(), true_probabilities.cpu()))

    def compute(self) -> Predictions:
        """All that was noted, on the CPU; all ranks must ask together."""
        ranks = distributed.all_gather(self._batches)
        batches = [part for batch in zip(*ranks, strict=True) for part in batch]  # a rank's share is contiguous
        return Predictions(*(torch.cat(column) for column in zip(*batches, strict=True)))


def write_predictions(folder: Path, predictions: Predictions, classes: Sequence[str], data: str) -> None:
    """Writes ``predictions.safetensors`` and ``predictions.json`` beside the network that they are of, sealed.

    Args:
        folder: the run's, which holds the finished network.
        predictions: of the test set.
        classes: the names of the classes.
        data: the fingerprint of the data.
    """
    tensors = {
        "labels": predictions.labels.int(),
        "classes": predictions.classes.int(),
        "probabilities": predictions.probabilities,
        "true_probabilities": predictions.true_probabilities,
    }
    write_checksummed(
        folder / "predictions",
        tensors,
        {"classes": list(classes), "data": data, "model_checksum": _model_checksum(folder)},
    )


def read_predictions(folder: Path) -> Predictions | None:
    """What `write_predictions` wrote; None where there is nothing, or what another network said.

    Raises:
        UserError: a file is damaged.
    """
    stem = folder / "predictions"
    if not stem.with_suffix(".json").is_file():
        return None
    tensors, metadata = read_checksummed(stem)
    if metadata["model_checksum"] != _model_checksum(folder):
        return None
    return Predictions(
        tensors["labels"].long(), tensors["classes"].long(), tensors["probabilities"], tensors["true_probabilities"]
    )


def _model_checksum(folder: Path) -> Any:  # noqa: ANN401 - a fact of a sealed file
    """Names the network of a folder to the bit."""
    return read_metadata(folder / "model")["checksum"]
