"""The networks and images of the training benchmark, and the contenders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fcnet.data.batches import normalize
from fcnet.models.flops import step_cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SHAPE = (3, 32, 32)
CLASSES = 10
IMAGES = 50_000
LR, MOMENTUM = 1e-3, 0.9
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


@dataclass(frozen=True)
class Case:
    """A network to train.

    Attributes:
        hidden: the widths of the hidden layers.
        batch_size: the images per step.
        precision: the dtype of matrix products.
        optimizer: ``sgd`` (with momentum) or ``muon``.
        in_features: the number of values of an image.
    """

    hidden: tuple[int, ...]
    batch_size: int = 128
    precision: torch.dtype = torch.float32
    optimizer: str = "sgd"
    in_features: int = math.prod(SHAPE)

    @property
    def widths(self) -> list[int]:
        """n[0], …, n[L]."""
        return [self.in_features, *self.hidden, CLASSES]

    @property
    def flops(self) -> float:
        """The operations per image, in matrix products."""
        return step_cost(self.widths, self.batch_size).flops / self.batch_size

    def __str__(self) -> str:
        network = str(list(self.hidden)) if self.hidden else "softmax regression"
        precision = str(self.precision).removeprefix("torch.")
        return f"{network}, batch {self.batch_size}, {precision}, {self.optimizer}"


CASES = {
    "cpu": (Case(()), Case((512, 256))),
    "cuda": (
        Case(()),
        Case((512, 256), 1024),
        Case((8192, 2048), 4096, torch.bfloat16),
        Case((8192, 2048), 4096, torch.bfloat16, "muon"),
    ),
}


@dataclass(frozen=True)
class Data:
    """Images to train on.

    Attributes:
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,).
        device: the device of the training.
    """

    pixels: Tensor
    labels: Tensor
    device: torch.device

    @classmethod
    def random(cls, images: int, device: torch.device, shape: tuple[int, ...] = SHAPE) -> Data:
        """Draws random pixels and labels; only the time of the training matters."""
        draws = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (images, *shape), dtype=torch.uint8, generator=draws)
        return cls(pixels, torch.randint(0, CLASSES, (images,), generator=draws), device)

    @cached_property
    def images(self) -> Tensor:
        """The normalized images, float32 (N, C · H · W), in CPU memory."""
        return torch.cat([normalize(part, *self.statistics) for part in self.pixels.split(4096)]).flatten(1)

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation (C,) for the normalization."""
        channels = self.pixels.shape[1]
        return torch.tensor(MEAN[:channels]), torch.tensor(STD[:channels])


@dataclass(frozen=True)
class Contender:
    """An implementation of the training.

    Attributes:
        name: the name in the tables.
        train: trains on ``images`` images once.
        images: the number of images per call of ``train``.
        parameters: returns the current parameters of the network, as arrays or tensors; empty before the first training
            if that creates them.
        threads: the number of torch's threads.
        differs: how the training differs from the case; empty if it does not.
    """

    name: str
    train: Callable[[], object]
    images: int
    parameters: Callable[[], Iterable[Any]]
    threads: int
    differs: str = ""
