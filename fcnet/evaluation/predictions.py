"""Predictions of a classifier for each image of a set, and the mistakes among them.

N images, C classes; the K most probable classes are kept for each image.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from fcnet.data.store.image_names import ImageNames, encode_names
from fcnet.metrics import Confusion, confidence_bins
from fcnet.models.mlp import logits_to_probabilities
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from fcnet.data.batches import Batches
    from fcnet.metrics import ConfidenceBin

TOP_K = 10
"""K, or C if that is smaller."""

MISTAKE_COLUMNS = ("true_class", "predicted_class", "probability", "true_probability")
"""What files say of a mistake, after its path or index."""

_MAX_SORTED_CLASSES = 100
_NAMES_AT_ONCE = 1 << 14
_MISTAKES_AT_ONCE = 1 << 12


class Mistake(NamedTuple):
    """A misclassified image.

    Attributes:
        position: the image's place in the set, from 0.
        image: its name, such as its path; or its index in the split if the images have no names.
        label: the true class.
        prediction: the predicted class.
        probability: the probability of the predicted class.
        true_probability: the probability of the true class.
    """

    position: int
    image: str | int
    label: int
    prediction: int
    probability: float
    true_probability: float

    def to_dict(self, classes: Sequence[str]) -> dict[str, str | int | float]:
        """Returns the mistake for a file, with class names and six digits of each probability.

        Example:
            >>> Mistake(7, "test/cat/1.png", 0, 1, 0.75, 0.25).to_dict(["cat", "dog"])
            {'path': 'test/cat/1.png', 'true_class': 'cat', 'predicted_class': 'dog', 'probability': 0.75, \
'true_probability': 0.25}
        """
        probability, true_probability = (float(f"{p:.6g}") for p in (self.probability, self.true_probability))
        values: list[str | int | float] = [classes[self.label], classes[self.prediction], probability, true_probability]
        image = "path" if isinstance(self.image, str) else "index"
        return {image: self.image, **dict(zip(MISTAKE_COLUMNS, values, strict=True))}


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions for N images, in the order of the set.

    Attributes:
        labels: int64 (N,), the true classes.
        classes: int64 (N, K), the most probable classes in descending order of probability.
        probabilities: float32 (N, K), the probabilities of these classes.
        true_probabilities: float32 (N,), the probability of the true class, whether it is among the K or not.
        rows: int64 (N,), the index of each image in its split, which may have images of more classes.
        names: the name of each image, such as its path; None if they have no names.

    Example:
        >>> from fcnet import MLP
        >>> from fcnet.data.batches import Batches
        >>> from fcnet.evaluation import evaluate
        >>> batches = Batches(torch.eye(3), torch.tensor([0, 1, 1]), names=["a.png", "b.png", "c.png"])
        >>> model = MLP(3, (), 3)
        >>> _ = model.dense_layers()[0].weight.data.copy_(2 * torch.eye(3))
        >>> collector = PredictionCollector(batches)
        >>> _ = evaluate(model, batches, on_batch=collector.update)
        >>> for mistake in collector.compute().mistakes():
        ...     print(mistake.image, mistake.label, mistake.prediction, round(mistake.probability, 3))
        c.png 1 2 0.787
    """

    labels: Tensor
    classes: Tensor
    probabilities: Tensor
    true_probabilities: Tensor
    rows: Tensor
    names: Sequence[str] | None = None

    @property
    def is_correct(self) -> Tensor:
        """Whether the most probable class is the true class, bool (N,)."""
        return self.classes[:, 0] == self.labels

    @property
    def num_mistakes(self) -> int:
        """The number of misclassified images."""
        return int((~self.is_correct).sum())

    def confusion(self, num_classes: int) -> Confusion:
        """Counts the images for each pair of a true and a predicted class."""
        return Confusion.from_labels(self.labels, self.classes[:, 0], num_classes)

    def confidence_bins(self) -> list[ConfidenceBin]:
        """Groups the images by the probability of the predicted class; see `fcnet.metrics.confidence_bins`."""
        # Rounding can leave a probability a little above 1, which no confidence may exceed.
        confidence = [min(p, 1.0) for p in self.probabilities[:, 0].tolist()]
        return confidence_bins(confidence, self.is_correct.tolist())

    def mistakes(self, count: int | None = None) -> list[Mistake]:
        """Returns the misclassified images, most confident first; ties keep the order of the set.

        Args:
            count: the maximum number of mistakes; None for all.
        """
        return list(itertools.islice(self.iter_mistakes(), count))

    def iter_mistakes(self) -> Iterator[Mistake]:
        """Yields the mistakes of `mistakes` one at a time, for sets of millions of images."""
        positions = (~self.is_correct).nonzero().squeeze(1)
        order = self.probabilities[positions, 0].sort(descending=True, stable=True).indices
        for chunk in positions[order].split(_MISTAKES_AT_ONCE):
            columns = (self.labels, self.classes[:, 0], self.probabilities[:, 0], self.true_probabilities)
            rows = zip(chunk.tolist(), *(column[chunk].tolist() for column in columns), strict=True)
            for position, *values in rows:
                yield Mistake(position, self.image(position), *values)

    def image(self, position: int) -> str | int:
        """Returns the name of the image at a place in the set; without names, its index in the split."""
        return int(self.rows[position]) if self.names is None else self.names[position]


class PredictionCollector:
    """Collects the predictions of a set batch by batch; for ``on_batch`` of `fcnet.evaluation.evaluate`.

    Args:
        batches: the set that is evaluated, from which the predictions get the names of the images. None if the images
            have no names and are numbered from 0.

    Example:
        >>> collector = PredictionCollector()
        >>> collector.update(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2]))
        >>> predictions = collector.compute()
        >>> predictions.classes.tolist(), [round(p, 3) for p in predictions.probabilities[0].tolist()]
        ([[1, 2, 0]], [0.665, 0.245, 0.09])
        >>> predictions.is_correct.tolist()
        [False]
    """

    def __init__(self, batches: Batches | None = None) -> None:
        self._set = batches
        self._batches: list[tuple[Tensor, ...]] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds the logits of a batch, (B,) for two classes or (B, C), and its labels, int64 (B,)."""
        probabilities = logits_to_probabilities(logits.float())
        # By logit, since distinct logits may round to equal probabilities.
        scores = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
        classes = _highest(scores, TOP_K)
        true_probabilities = probabilities.gather(1, labels[:, None]).squeeze(1)
        batch = (labels, classes, probabilities.gather(1, classes), true_probabilities)
        self._batches.append(tuple(tensor.cpu() for tensor in batch))

    def compute(self) -> Predictions:
        """Returns all predictions of all ranks, on the CPU; collective, every rank must call it.

        Raises:
            UserError: the predictions are not one for each image of the set.
        """
        ranks = distributed.all_gather(self._batches)
        batches = [part for batch in zip(*ranks, strict=True) for part in batch]  # a rank has a slice of each batch
        labels, classes, probabilities, true_probabilities = (torch.cat(each) for each in zip(*batches, strict=True))
        rows, names = torch.arange(len(labels)), None
        if self._set is not None:
            rows, names = self._set.rows.cpu(), self._set.names
        if len(labels) != len(rows):
            raise UserError(f"expected one prediction for each of the {len(rows):,} images, got {len(labels):,}")
        if names is not None:
            names = ImageNames(*pack_names(names, rows.numpy()))
        return Predictions(labels, classes, probabilities, true_probabilities, rows, names)


def _highest(scores: Tensor, k: int) -> Tensor:
    """Returns the classes with the k highest scores of each row, (B, C) -> int64 (B, k); the first of equal ones first.

    `argmax` takes the first of equal scores, too. `torch.topk` takes any of them.
    """
    if scores.shape[1] <= _MAX_SORTED_CLASSES:
        # A copy: a view would keep the order of all classes in memory.
        return scores.sort(dim=1, descending=True, stable=True).indices[:, :k].clone()
    top = scores.topk(k, dim=1)
    classes = top.indices.sort(dim=1).values
    order = scores.gather(1, classes).sort(dim=1, descending=True, stable=True).indices
    classes = classes.gather(1, order)
    # Rows with equal scores at the end of the k, or with NaN, are sorted whole.
    rows = ((scores >= top.values[:, -1:]).sum(1) != k).nonzero()[:, 0]
    classes[rows] = scores[rows].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return classes


def pack_names(
    names: Sequence[str], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Returns the two arrays of `ImageNames` for some of the names, with few of them in memory as strings at a time."""
    texts, ends, length = [np.empty(0, np.uint8)], [np.empty(0, np.int64)], 0
    for start in range(0, len(rows), _NAMES_AT_ONCE):
        text, text_ends = encode_names([names[row] for row in rows[start : start + _NAMES_AT_ONCE]], length)
        texts.append(text)
        ends.append(text_ends)
        length += len(text)
    return np.concatenate(texts), np.concatenate(ends)
