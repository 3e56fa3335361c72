"""Changes to training images that leave their class as it is, made on the device in whole batches.

What happens to an image is drawn once an epoch, before the first batch, as a row of a small
tensor; a step only looks its rows up. So the draws do not depend on batches, ranks or where a run
was resumed. The arithmetic is that of single pixels, each operation rounded by itself, so an image
comes out the same whatever else is in its batch. B images of C channels, H rows and W columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

_LUMA = (0.299, 0.587, 0.114)
"""What red, green and blue add to the brightness that the eye sees (ITU-R BT.601)."""


class Transform(Protocol):
    """One kind of change: numbers drawn for each image, then applied to a batch."""

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """One row for each image, on the CPU."""

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """``images`` uint8 (B, C, H, W), changed as ``draws`` (B, …), on the same device, says."""


@dataclass(frozen=True)
class Flip:
    """Left becomes right, for each image with probability ½."""

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Bool (num_images,): whether the image is flipped."""
        return torch.rand(num_images, generator=generator) < 0.5

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """The images, mirrored where drawn."""
        return where_uint8(draws[:, None, None, None], images.flip(-1), images)


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

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """The images, moved as drawn."""
        height, width = images.shape[2:]
        padded = pad(images, (self.pixels,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = draws.unbind(1)
        return windows[torch.arange(len(images), device=images.device), :, top, left]


@dataclass(frozen=True)
class Affine:
    """Turns and scales an image about its middle in one bilinear resampling; black moves in.

    Attributes:
        degrees: the largest angle, either way; angles are uniform.
        scale: s; the factor's logarithm is uniform between those of 1 / (1 + s) and 1 + s, so that
            an image is as often enlarged as shrunk by the same factor.
    """

    degrees: float = 0.0
    scale: float = 0.0

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Float32 (num_images, 2, 2): from an offset (x, y) in the new image to that where it is read."""
        angle, size = (2.0 * torch.rand(2, num_images, dtype=torch.float64, generator=generator) - 1.0).unbind()
        angle, factor = angle * math.radians(self.degrees), (size * math.log1p(self.scale)).exp()
        cos, sin = angle.cos() / factor, angle.sin() / factor
        return torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2).float()

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """The images, turned and scaled as drawn."""
        return resample(images, draws)


@dataclass(frozen=True)
class ColorJitter:
    """Changes saturation, then brightness, then contrast, each by its own factor; grey has no saturation.

    Saturation moves a pixel from its grey, brightness multiplies, contrast moves a pixel from the
    image's mean grey. What leaves 0 to 255 is cut off once, at the end. The grey of three channels
    is their luma, of others their mean.

    Attributes:
        strength: j; the factors are uniform in [1 − j, 1 + j].
    """

    strength: float

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Float32 (num_images, 3): the factors of brightness, contrast and saturation."""
        return 1.0 + self.strength * (2.0 * torch.rand(num_images, 3, generator=generator) - 1.0)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """The images, in other colours."""
        brightness, contrast, saturation = draws[..., None, None, None].unbind(1)
        sums = images.sum((2, 3), keepdim=True, dtype=torch.int64)  # exact, whatever the order
        mean = _to_grayscale(sums.double() / math.prod(images.shape[2:])).float()
        values = images.float()
        grey = _to_grayscale(values)
        values = values.sub_(grey).mul_(saturation).add_(grey)
        values.mul_(brightness * contrast).add_(brightness * (1.0 - contrast) * mean)
        return round_to_uint8(values.clamp_(0.0, 255.0))


@dataclass(frozen=True)
class Cutout:
    """Blackens a square at a random place.

    Its middle is any pixel of the image, each equally likely, so that it may hang over the edge.

    Attributes:
        side: in pixels.

    Source:
        DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """

    side: int

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Float32 (num_images, 2): the middle's row and column, as shares of height and width."""
        return torch.rand(num_images, 2, generator=generator)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """The images, each without a square."""
        height, width = images.shape[2:]
        first = torch.stack([draws[:, 0] * height, draws[:, 1] * width], dim=1).long() - self.side // 2
        return images * ~inside_box(images, first, first + self.side)


def where_uint8(which: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """The images where ``which``, bool, says so, else the others: `torch.where`, of uint8 ten times as fast."""
    return images * which + others * ~which


def inside_box(images: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Whether a pixel is in the image's box.

    Args:
        images: (B, C, H, W).
        first: int64 (B, 2), the box's first row and column.
        last: likewise, those after its last; a box may be empty, and may hang over the edge.

    Returns:
        Bool (B, 1, H, W).
    """
    height, width = images.shape[2:]
    row, column = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows = (row >= first[:, :1]) & (row < last[:, :1])
    columns = (column >= first[:, 1:]) & (column < last[:, 1:])
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)


def resample(images: Tensor, matrices: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Images read at other places, bilinearly; black lies around them.

    Args:
        images: uint8 (B, C, H, W).
        matrices: float32 (B, 2, 2), from an offset (x, y) from the middle of the new image to that where it is read.
        offsets: float32 (B, 2), (x, y) in pixels, added to where it is read; None: nothing is.

    Returns:
        uint8 (B, C, H, W).
    """
    height, width = images.shape[2:]
    down = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    across = torch.arange(width, device=images.device) - (width - 1) / 2
    places = images.new_empty((len(images), 2, height, width), dtype=torch.float32)
    for axis, size in enumerate((width, height)):  # as shares of half the size, which `grid_sample` takes
        row = matrices[:, axis, :, None, None] * (2.0 / size)
        torch.add(row[:, 0] * across, row[:, 1] * down, out=places[:, axis])
        if offsets is not None:
            places[:, axis] += offsets[:, axis, None, None] * (2.0 / size)
    return round_to_uint8(grid_sample(images.float(), places.permute(0, 2, 3, 1), align_corners=False))


def round_to_uint8(values: Tensor) -> Tensor:
    """Whole levels, uint8, of values from 0 to 255, which are used up; a CPU is faster by way of int32."""
    return values.round_().to(torch.int32).to(torch.uint8)


def _to_grayscale(values: Tensor) -> Tensor:
    """The grey of channels: (B, C, …) -> (B, 1, …), floating."""
    channels = values.unbind(1)
    weights = _LUMA if len(channels) == len(_LUMA) else (1.0 / len(channels),) * len(channels)
    grey = channels[0] * weights[0]
    for channel, weight in zip(channels[1:], weights[1:], strict=True):
        grey = grey + channel * weight
    return grey.unsqueeze(1)
