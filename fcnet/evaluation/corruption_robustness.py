"""How good a network is on damaged images: one evaluation for each kind of damage and severity."""

from __future__ import annotations

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
    """What damage does to a network.

    Attributes:
        clean: on the images as they are.
        corrupted: by kind, one evaluation for each severity.
        seed: that the damage was drawn from.
    """

    clean: Evaluation
    corrupted: dict[str, tuple[Evaluation, ...]]
    seed: int

    def mean(self, kind: str) -> float:
        """The mean accuracy over the severities of one kind."""
        return sum(each.accuracy for each in self.corrupted[kind]) / len(self.corrupted[kind])

    @property
    def mean_accuracy(self) -> float:
        """The mean of the kinds' means."""
        return sum(map(self.mean, self.corrupted)) / len(self.corrupted)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for a file."""
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
                        {"severity": severity, "value": value, **_to_dict(each)}
                        for severity, value, each in zip(SEVERITIES, CORRUPTIONS[kind].values, row, strict=True)
                    ],
                }
                for kind, row in self.corrupted.items()
            },
        }


@dataclass(frozen=True)
class CorruptedBatches:
    """A set of images as `corrupt` leaves them, as uint8 for an `ImageClassifier`, made batch by batch.

    Attributes:
        batches: the set, of uint8 images; the damage depends on the size of its batches.
        kind: of damage.
        severity: from 0, none, to 5.
        seed: what is random follows from it, the kind and the batch's number.
    """

    batches: Batches
    kind: str
    severity: int
    seed: int = 0

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return self.batches.num_images

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.batches.device

    def __iter__(self) -> Iterator[Batch]:
        """Every image once, in order."""
        for number, rows in enumerate(self.batches.rows.split(self.batches.batch_size)):
            images = self.batches.images[rows.to(self.batches.images.device)].to(self.device)
            labels = self.batches.labels[rows.to(self.device)]
            yield Batch(self._corrupt(images, number), labels, labels, len(rows))

    def _corrupt(self, images: Tensor, number: int) -> Tensor:
        return corrupt(images, self.kind, self.severity, generator(self.seed, "corruption", self.kind, number))


def evaluate_corrupted(classifier: nn.Module, batches: Batches, *, seed: int = 0) -> Robustness:
    """Evaluates a network on a set of images, as they are and with each damage at each severity.

    Args:
        classifier: of uint8 images.
        batches: the set, of uint8 images, on the network's device.
        seed: what is random in the damage follows from it, and is the same for every classifier.

    Returns:
        What was seen.

    Raises:
        UserError: the set is empty.

    Example:
        >>> import torch
        >>> from fcnet import MLP
        >>> from fcnet.data.batches import Batches
        >>> from fcnet.experiment.image_classifier import ImageClassifier
        >>> half = torch.full((1,), 0.5)
        >>> classifier = ImageClassifier(MLP(16, (), 2), classes=("cat", "dog"), shape=(1, 4, 4), mean=half, std=half)
        >>> images = torch.randint(256, (20, 1, 4, 4), dtype=torch.uint8)
        >>> seen = evaluate_corrupted(classifier, Batches(images, torch.arange(20) % 2))
        >>> list(seen.corrupted), len(seen.corrupted["noise"])
        (['noise', 'blur', 'brightness', 'contrast', 'shift', 'rotation'], 5)
    """
    clean = evaluate(classifier, CorruptedBatches(batches, "noise", 0, seed))
    corrupted = {
        kind: tuple(evaluate(classifier, CorruptedBatches(batches, kind, severity, seed)) for severity in SEVERITIES)
        for kind in CORRUPTIONS
    }
    return Robustness(clean, corrupted, seed)


def example_images(batches: Batches, kind: str, *, seed: int = 0) -> Tensor:
    """The first image of a set, uint8 (1 + S, C, H, W): as it is, then at each severity of one kind of damage."""
    first = CorruptedBatches(batches, kind, 0, seed)
    return torch.cat([next(iter(replace(first, severity=severity))).images[:1] for severity in (0, *SEVERITIES)]).cpu()


def _to_dict(seen: Evaluation) -> dict[str, Any]:
    return {
        "accuracy": seen.accuracy,
        "interval": seen.interval,
        "loss": seen.loss if seen.loss * 0 == 0 else None,
    }
