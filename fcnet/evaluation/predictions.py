"""What a network said of each image of a set, kept so that nobody has to run it again.

N images, C classes, of which the K most probable ones are kept for each image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fcnet.models.mlp import probabilities
from fcnet.runtime import distributed
from fcnet.runtime.files import read_sealed, read_sealed_facts, write_sealed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

NUM_KEPT = 10
"""K, or C where that is less."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was said of N images, in the order of the set.

    Attributes:
        labels: int64 (N,), the true classes.
        classes: int64 (N, K), the most probable classes, the most probable one first.
        probabilities: float32 (N, K), theirs.
        of_truth: float32 (N,), the true class's, whether it is among the K or not.
    """

    labels: Tensor
    classes: Tensor
    probabilities: Tensor
    of_truth: Tensor

    @property
    def hits(self) -> Tensor:
        """Whether the most probable class is the true one, bool (N,)."""
        return self.classes[:, 0] == self.labels

    def confusion(self, num_classes: int) -> tuple[tuple[int, ...], ...]:
        """Counts, ``confusion[truth][prediction]``, (C, C)."""
        cells = self.labels * num_classes + self.classes[:, 0]
        counts = cells.bincount(minlength=num_classes**2).view(num_classes, num_classes)
        return tuple(map(tuple, counts.tolist()))


class Collector:
    """Takes the logits of a set batch by batch, as `fcnet.evaluation.classification.evaluate` notes them.

    Example:
        >>> collector = Collector()
        >>> collector.note(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2]))
        >>> found = collector.collected()
        >>> found.classes.tolist(), [round(p, 3) for p in found.probabilities[0].tolist()], found.hits.tolist()
        ([[1, 2, 0]], [0.665, 0.245, 0.09], [False])
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def note(self, logits: Tensor, labels: Tensor) -> None:
        """Takes one batch's logits (B,) of two classes, or (B, C), and labels int64 (B,)."""
        sure = probabilities(logits.float())
        scores = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :NUM_KEPT]  # the first of equals first
        of_truth = sure.gather(1, labels[:, None]).squeeze(1)
        self._parts.append((labels.cpu(), order.cpu(), sure.gather(1, order).cpu(), of_truth.cpu()))

    def collected(self) -> Predictions:
        """All that was noted, on the CPU; all ranks must ask together."""
        ranks = distributed.gathered(self._parts)
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
        "of_truth": predictions.of_truth,
    }
    write_sealed(folder / "predictions", tensors, {"classes": list(classes), "data": data, "of": _network(folder)})


def read_predictions(folder: Path) -> Predictions | None:
    """What `write_predictions` wrote; None where there is nothing, or what another network said.

    Raises:
        UserError: a file is damaged.
    """
    stem = folder / "predictions"
    if not stem.with_suffix(".json").is_file():
        return None
    tensors, facts = read_sealed(stem)
    if facts["of"] != _network(folder):
        return None
    return Predictions(
        tensors["labels"].long(), tensors["classes"].long(), tensors["probabilities"], tensors["of_truth"]
    )


def _network(folder: Path) -> Any:  # noqa: ANN401 - a fact of a sealed file
    """Names the network of a folder to the bit."""
    return read_sealed_facts(folder / "model")["checksum"]
