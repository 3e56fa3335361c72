"""Predictions of a classifier for each image of a set, collected in memory and stored in a run folder.

N images, C classes; the K most probable classes are kept for each image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fcnet.models.mlp import logits_to_probabilities
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, read_metadata, write_checksummed
from fcnet.runtime.tensor_checks import check_finite, check_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

TOP_K = 10
"""K, or C if that is smaller."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions for N images, in the order of the set.

    Attributes:
        labels: int64 (N,), the true classes.
        classes: int64 (N, K), the most probable classes in descending order of probability.
        probabilities: float32 (N, K), the probabilities of these classes.
        true_probabilities: float32 (N,), the probability of the true class, whether it is among the K or not.
    """

    labels: Tensor
    classes: Tensor
    probabilities: Tensor
    true_probabilities: Tensor

    @property
    def is_correct(self) -> Tensor:
        """Whether the most probable class is the true class, bool (N,)."""
        return self.classes[:, 0] == self.labels

    def confusion(self, num_classes: int) -> tuple[tuple[int, ...], ...]:
        """Returns the counts ``confusion[truth][prediction]``, (C, C)."""
        cells = self.labels * num_classes + self.classes[:, 0]
        counts = cells.bincount(minlength=num_classes**2).view(num_classes, num_classes)
        return tuple(map(tuple, counts.tolist()))


class PredictionCollector:
    """Collects the predictions of a set batch by batch; for ``on_batch`` of `fcnet.evaluation.evaluate`.

    Example:
        >>> collector = PredictionCollector()
        >>> collector.update(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2]))
        >>> predictions = collector.compute()
        >>> predictions.classes.tolist(), [round(p, 3) for p in predictions.probabilities[0].tolist()]
        ([[1, 2, 0]], [0.665, 0.245, 0.09])
        >>> predictions.is_correct.tolist()
        [False]
    """

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds the logits of a batch, (B,) for two classes or (B, C), and its labels, int64 (B,)."""
        probabilities = logits_to_probabilities(logits.float())
        # Sorted by logit, since distinct logits may round to equal probabilities; stable, as argmax takes the first.
        scores = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
        classes = scores.sort(dim=1, descending=True, stable=True).indices[:, :TOP_K]
        true_probabilities = probabilities.gather(1, labels[:, None]).squeeze(1)
        batch = (labels, classes, probabilities.gather(1, classes), true_probabilities)
        self._batches.append(tuple(tensor.cpu() for tensor in batch))

    def compute(self) -> Predictions:
        """Returns all predictions of all ranks, on the CPU; collective, every rank must call it."""
        ranks = distributed.all_gather(self._batches)
        batches = [part for batch in zip(*ranks, strict=True) for part in batch]  # a rank has a slice of each batch
        return Predictions(*(torch.cat(column) for column in zip(*batches, strict=True)))


def write_predictions(folder: Path, predictions: Predictions, classes: Sequence[str], data: str) -> None:
    """Writes ``predictions.safetensors`` and ``predictions.json`` with checksums into a run folder.

    Args:
        folder: the run folder, with the model that made the predictions.
        predictions: the predictions for the test set.
        classes: the class names.
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
    """Reads the predictions of a run; None if there are none, or if they are those of another model.

    Raises:
        UserError: a file is damaged, or its contents are no predictions of the model.
    """
    from fcnet.config.json_schema import (  # pydantic takes long to import
        ModelEntries,
        PredictionsMetadata,
        parse_object,
    )

    stem = folder / "predictions"
    if not stem.with_suffix(".json").is_file():
        return None
    tensors, content = read_checksummed(stem)
    metadata = parse_object(PredictionsMetadata, content, f"{stem}.json")
    model = parse_object(ModelEntries, read_metadata(folder / "model"), folder / "model.json")
    if metadata.model_checksum != model.checksum:
        return None
    file = stem.with_suffix(".safetensors")
    if len(metadata.classes) != len(model.classes):
        raise UserError(f"{stem}.json must have the {len(model.classes)} classes of the model")
    _check_predictions(tensors, len(model.classes), file)
    return Predictions(
        tensors["labels"].long(), tensors["classes"].long(), tensors["probabilities"], tensors["true_probabilities"]
    )


def _check_predictions(tensors: dict[str, Tensor], num_classes: int, file: Path) -> None:
    """Checks the tensors of a file, which may come from a stranger.

    Raises:
        UserError: a tensor is missing or has the wrong shape, or holds what is no class or no probability.
    """
    count, kept = len(tensors.get("labels", torch.empty(1)).view(-1)), min(num_classes, TOP_K)
    dtypes = {"labels": torch.int32, "classes": torch.int32}
    shapes = {
        "labels": (count,),
        "classes": (count, kept),
        "probabilities": (count, kept),
        "true_probabilities": (count,),
    }
    expected = {
        name: torch.empty(shape, dtype=dtypes.get(name, torch.float32), device="meta") for name, shape in shapes.items()
    }
    check_tensors(tensors, expected, file)
    check_finite(tensors, file)
    for name, tensor in tensors.items():
        # Rounding can leave a probability a little above 1.
        last = num_classes - 1 if name in dtypes else 1.00001
        if count and not 0 <= tensor.min() <= tensor.max() <= last:
            raise UserError(
                f"{file}: the tensor {name} must be from 0 to {last:g}, got {tensor.min():g} to {tensor.max():g}"
            )


def _model_checksum(folder: Path) -> Any:  # noqa: ANN401 - a JSON value
    """Returns the checksum of the model in a run folder, which covers its weights too."""
    return read_metadata(folder / "model")["checksum"]
