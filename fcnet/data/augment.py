"""Changes to training images that leave their class as it is, made on the device in whole batches.

What happens to an image is drawn once an epoch, before the first batch, as a row of a small
tensor; a step only looks its rows up. So the draws do not depend on batches, ranks or where a run
was resumed. B images of C channels, H rows and W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad


class Transform(Protocol):
    """One kind of change: numbers drawn for each image, then applied to a batch."""

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """One row for each image, on the CPU."""

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """``images`` uint8 (B, C, H, W), changed as ``drawn`` (B, …), on the same device, says."""


@dataclass(frozen=True)
class Flip:
    """Left becomes right, for each image with probability ½."""

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Bool (num_images,): whether the image is flipped."""
        return torch.rand(num_images, generator=generator) < 0.5

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The images, mirrored where drawn."""
        return torch.where(drawn[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class Shift:
    """Moves an image by whole pixels, each way of both axes equally likely; black moves in.

    Attributes:
        pixels: the farthest an image is moved along an axis.
    """

    pixels: int

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Int64 (num_images, 2): row and column where the window on the padded image begins."""
        return torch.randint(0, 2 * self.pixels + 1, (num_images, 2), generator=generator)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The images, moved as drawn."""
        height, width = images.shape[2:]
        padded = pad(images, (self.pixels,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = drawn.unbind(1)
        return windows[torch.arange(len(images), device=images.device), :, top, left]
