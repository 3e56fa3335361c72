"""How good a network is on damaged images: one evaluation for each kind of damage and strength."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fcnet.data.batches import Batch
from fcnet.data.transforms.corruptions import CORRUPTIONS, STRENGTHS, corrupt
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
        damaged: by kind, one evaluation for each strength.
        seed: that the damage was drawn from.
    """

    clean: Evaluation
    damaged: dict[str, tuple[Evaluation, ...]]
    seed: int

    def mean(self, kind: str) -> float:
        """The mean accuracy over the strengths of one kind."""
        return sum(each.accuracy for each in self.damaged[kind]) / len(self.damaged[kind])

    @property
    def mean_accuracy(self) -> float:
        """The mean of the kinds' means."""
        return sum(map(self.mean, self.damaged)) / len(self.damaged)

    def facts(self) -> dict[str, Any]:
        """All of it, for a file."""
        return {
            "images": self.clean.count,
            "seed": self.seed,
            "clean": _facts(self.clean),
            "mean_accuracy": self.mean_accuracy,
            "corruptions": {
                kind: {
                    "values_are": CORRUPTIONS[kind].meaning,
                    "mean_accuracy": self.mean(kind),
                    "strengths": [
                        {"strength": strength, "value": value, **_facts(each)}
                        for strength, value, each in zip(STRENGTHS, CORRUPTIONS[kind].values, row, strict=True)
                    ],
                }
                for kind, row in self.damaged.items()
            },
        }


@dataclass(frozen=True)
class Damaged:
    """A set of images as `corrupt` leaves them, as uint8 for a `Network`, made batch by batch.

    Attributes:
        batches: the set, of uint8 images; the damage depends on the size of its batches.
        kind: of damage.
        strength: from 0, none, to 5.
        seed: what is random follows from it, the kind and the batch's number.
    """

    batches: Batches
    kind: str
    strength: int
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
            yield Batch(self._damaged(images, number), labels, labels, len(rows))

    def _damaged(self, images: Tensor, number: int) -> Tensor:
        return corrupt(images, self.kind, self.strength, generator(self.seed, "corruption", self.kind, number))


def evaluate_damaged(network: nn.Module, batches: Batches, *, seed: int = 0) -> Robustness:
    """Evaluates a network on a set of images, as they are and with each damage at each strength.

    Args:
        network: of uint8 images.
        batches: the set, of uint8 images, on the network's device.
        seed: what is random in the damage follows from it, and is the same for every network.

    Returns:
        What was seen.

    Raises:
        UserError: the set is empty.

    Example:
        >>> import torch
        >>> from fcnet import MLP
        >>> from fcnet.data.batches import Batches
        >>> from fcnet.experiment.network import Network
        >>> half = torch.full((1,), 0.5)
        >>> network = Network(MLP(16, (), 2), classes=("cat", "dog"), shape=(1, 4, 4), mean=half, std=half)
        >>> images = torch.randint(256, (20, 1, 4, 4), dtype=torch.uint8)
        >>> seen = evaluate_damaged(network, Batches(images, torch.arange(20) % 2))
        >>> list(seen.damaged), len(seen.damaged["noise"])
        (['noise', 'blur', 'brightness', 'contrast', 'shift', 'rotation'], 5)
    """
    clean = evaluate(network, Damaged(batches, "noise", 0, seed))
    damaged = {
        kind: tuple(evaluate(network, Damaged(batches, kind, strength, seed)) for strength in STRENGTHS)
        for kind in CORRUPTIONS
    }
    return Robustness(clean, damaged, seed)


def sample(batches: Batches, kind: str, *, seed: int = 0) -> Tensor:
    """The first image of a set, uint8 (1 + S, C, H, W): as it is, then at each strength of one kind of damage."""
    first = Damaged(batches, kind, 0, seed)
    return torch.cat([next(iter(replace(first, strength=strength))).images[:1] for strength in (0, *STRENGTHS)]).cpu()


def _facts(seen: Evaluation) -> dict[str, Any]:
    return {
        "accuracy": seen.accuracy,
        "interval": seen.interval,
        "loss": seen.loss if seen.loss * 0 == 0 else None,
    }
