"""Evaluates a classifier on corrupted images: one evaluation for each kind of corruption and severity."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fcnet.data.batches import Batch
from fcnet.data.transforms.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from fcnet.evaluation.classification import evaluate
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from fcnet.data.batches import Batches
    from fcnet.evaluation.classification import Evaluation


@dataclass(frozen=True)
class Robustness:
    """The results on clean and on corrupted images.

    Attributes:
        clean: the evaluation on the clean images.
        corrupted: for each kind of corruption, one evaluation per severity.
        seed: the seed of the corruptions.
    """

    clean: Evaluation
    corrupted: dict[str, tuple[Evaluation, ...]]
    seed: int

    def mean(self, kind: str) -> float:
        """Returns the mean accuracy over the severities of one kind."""
        return sum(result.accuracy for result in self.corrupted[kind]) / len(self.corrupted[kind])

    @property
    def mean_accuracy(self) -> float:
        """The mean accuracy over all kinds and severities."""
        return sum(map(self.mean, self.corrupted)) / len(self.corrupted)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON-able content of the results."""
        return {
            "images": self.clean.count,
            "seed": self.seed,
            "clean": _to_dict(self.clean),
            "mean_accuracy": self.mean_accuracy,
            "corruptions": {
                kind: {
                    "value_meaning": CORRUPTIONS[kind].meaning,
                    "mean_accuracy": self.mean(kind),
                    "severities": [
                        {"severity": severity, "value": value, **_to_dict(result)}
                        for severity, value, result in zip(SEVERITIES, CORRUPTIONS[kind].values, row, strict=True)
                    ],
                }
                for kind, row in self.corrupted.items()
            },
        }


@dataclass(frozen=True)
class CorruptedBatches:
    """A set of images that `corrupt` changes batch by batch, as uint8 images for an `ImageClassifier`.

    Attributes:
        batches: the uint8 images. Random corruptions depend on the batch size.
        kind: the kind of corruption, a key of `fcnet.data.transforms.corruptions.CORRUPTIONS`.
        severity: from 0 (clean) to 5.
        seed: the seed; each batch has a generator of its own, derived from the seed, the kind and its number.
    """

    batches: Batches
    kind: str
    severity: int
    seed: int = 0

    @property
    def num_images(self) -> int:
        """The number of images."""
        return self.batches.num_images

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self.batches.device

    def __iter__(self) -> Iterator[Batch]:
        """Iterates over all images once, in order."""
        for number, rows in enumerate(self.batches.rows.split(self.batches.batch_size)):
            images = self.batches.images[rows.to(self.batches.images.device)].to(self.device)
            labels = self.batches.labels[rows.to(self.device)]
            yield Batch(self._corrupt(images, number), labels, labels, len(rows))

    def _corrupt(self, images: Tensor, number: int) -> Tensor:
        return corrupt(images, self.kind, self.severity, generator(self.seed, "corruption", self.kind, number))


def evaluate_corrupted(classifier: nn.Module, batches: Batches, *, seed: int = 0) -> Robustness:
    """Evaluates a classifier on clean images, and with each kind of corruption at each severity.

    Args:
        classifier: uint8 images -> logits.
        batches: the uint8 images, on the device of the classifier.
        seed: the seed of the corruptions. Classifiers with the same seed and batches see the same images.

    Raises:
        UserError: there are no images.

    Example:
        >>> import torch
        >>> from fcnet import MLP
        >>> from fcnet.data.batches import Batches
        >>> from fcnet.experiment.image_classifier import ImageClassifier
        >>> half = torch.full((1,), 0.5)
        >>> classifier = ImageClassifier(MLP(16, (), 2), classes=("cat", "dog"), shape=(1, 4, 4), mean=half, std=half)
        >>> images = torch.randint(256, (20, 1, 4, 4), dtype=torch.uint8)
        >>> result = evaluate_corrupted(classifier, Batches(images, torch.arange(20) % 2))
        >>> result.clean.count, len(result.corrupted["noise"])
        (20, 5)
    """
    clean = evaluate(classifier, CorruptedBatches(batches, "noise", 0, seed))
    corrupted = {
        kind: tuple(evaluate(classifier, CorruptedBatches(batches, kind, severity, seed)) for severity in SEVERITIES)
        for kind in CORRUPTIONS
    }
    return Robustness(clean, corrupted, seed)


def example_images(batches: Batches, kind: str, *, seed: int = 0) -> Tensor:
    """Returns the first image of a set, clean and at each of the S severities of one kind, uint8 (1 + S, C, H, W)."""
    first = CorruptedBatches(batches, kind, 0, seed)
    return torch.cat([next(iter(replace(first, severity=severity))).images[:1] for severity in (0, *SEVERITIES)]).cpu()


def _to_dict(result: Evaluation) -> dict[str, Any]:
    return {
        "accuracy": result.accuracy,
        "interval": result.interval,
        "loss": result.loss if math.isfinite(result.loss) else None,
    }
