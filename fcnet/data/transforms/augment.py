"""Random transforms of training images that keep their class, applied to whole batches on the device.

The random values of an epoch are drawn before its first batch, one row for each image, and a step only selects its
rows. They therefore do not depend on batches, ranks or the step at which a run resumes. All arithmetic is elementwise
with separate rounding, so the result for an image does not depend on the other images of its batch. B images of
C channels, H rows and W columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from fcnet.runtime.hardware import has_float64

_LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in the luma (ITU-R BT.601)."""


class Transform(Protocol):
    """A random transform: random values for each image of an epoch, and their application to a batch."""

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draws the random values, (num_images, …), on the CPU."""

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Transforms uint8 (B, C, H, W) images by their random values (B, …), on the same device."""


@dataclass(frozen=True)
class Flip:
    """Mirrors each image left to right with probability ½."""

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draws bool (num_images,): whether to mirror the image."""
        return torch.rand(num_images, generator=generator) < 0.5

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Mirrors the selected images."""
        return where_uint8(draws[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class Shift:
    """Shifts each image by a uniform number of whole pixels along both axes, and fills with black.

    Attributes:
        pixels: the largest shift along an axis.
    """

    pixels: int

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draws int64 (num_images, 2): the first row and column of a window on the padded image."""
        return torch.randint(0, 2 * self.pixels + 1, (num_images, 2), generator=generator)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Shifts the images."""
        height, width = images.shape[2:]
        padded = pad(images, (self.pixels,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = draws.unbind(1)
        return windows[torch.arange(len(images), device=images.device), :, top, left]


@dataclass(frozen=True)
class Affine:
    """Rotates and scales each image about its centre in one bilinear resampling, and fills with black.

    Attributes:
        degrees: the largest angle; angles are uniform in both directions.
        scale: s; the logarithm of the factor is uniform between those of 1 / (1 + s) and 1 + s, so that enlarging and
            shrinking by the same factor are equally likely.
    """

    degrees: float = 0.0
    scale: float = 0.0

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draws float32 (num_images, 2, 2): matrices from an offset (x, y) in the result to one in the image."""
        angle, size = (2.0 * torch.rand(2, num_images, dtype=torch.float64, generator=generator) - 1.0).unbind()
        angle, factor = angle * math.radians(self.degrees), (size * math.log1p(self.scale)).exp()
        cos, sin = angle.cos() / factor, angle.sin() / factor
        return torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2).float()

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Rotates and scales the images."""
        return resample(images, draws)


@dataclass(frozen=True)
class ColorJitter:
    """Changes saturation, then brightness, then contrast, each by a random factor.

    Saturation scales the distance of a pixel from its grey, brightness scales the pixel, and contrast scales the
    distance from the image's mean grey. Values are clipped to 0 to 255 once, at the end. The grey of three channels is
    their luma; otherwise it is their mean.

    Attributes:
        strength: j; the factors are uniform in [1 − j, 1 + j].
    """

    strength: float

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draws float32 (num_images, 3): the factors of brightness, contrast and saturation."""
        return 1.0 + self.strength * (2.0 * torch.rand(num_images, 3, generator=generator) - 1.0)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Changes the colours of the images."""
        brightness, contrast, saturation = draws[..., None, None, None].unbind(1)
        sums = images.sum((2, 3), keepdim=True, dtype=torch.int64)  # exact in any order
        dtype = torch.float64 if has_float64(images.device) else torch.float32
        mean = _to_grayscale(sums.to(dtype) / math.prod(images.shape[2:])).float()
        values = images.float()
        grey = _to_grayscale(values)
        values = values.sub_(grey).mul_(saturation).add_(grey)
        # Contrast c after brightness b: b·m + c·(b·x − b·m) = b·c·x + b·(1 − c)·m, with the mean m.
        values.mul_(brightness * contrast).add_(brightness * (1.0 - contrast) * mean)
        return round_to_uint8(values.clamp_(0.0, 255.0))


@dataclass(frozen=True)
class Cutout:
    """Blackens a random square of each image.

    Its centre is uniform over the pixels, so the square may extend beyond the image.

    Attributes:
        side: the side of the square in pixels.

    Source:
        DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """

    side: int

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draws float32 (num_images, 2): the row and column of the centre, as fractions of height and width."""
        return torch.rand(num_images, 2, generator=generator)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Blackens the squares."""
        height, width = images.shape[2:]
        first = torch.stack([draws[:, 0] * height, draws[:, 1] * width], dim=1).long() - self.side // 2
        return images * ~inside_box(images, first, first + self.side)


def where_uint8(condition: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """Computes `torch.where` for uint8 tensors and a bool condition, ten times as fast."""
    return images * condition + others * ~condition


def inside_box(images: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Computes a mask of the pixels inside each image's box.

    Args:
        images: (B, C, H, W).
        first: int64 (B, 2), the first row and column of the box.
        last: int64 (B, 2), one past its last row and column. A box may be empty or extend beyond the image.

    Returns:
        Bool (B, 1, H, W), on the device of the images.
    """
    height, width = images.shape[2:]
    row, column = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows = (row >= first[:, :1]) & (row < last[:, :1])
    columns = (column >= first[:, 1:]) & (column < last[:, 1:])
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)


def resample(images: Tensor, matrices: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Resamples images at transformed positions, bilinearly, with black around them.

    Args:
        images: uint8 (B, C, H, W).
        matrices: float32 (B, 2, 2), mapping an offset (x, y) from the centre of the result to one from the centre of
            the image.
        offsets: float32 (B, 2), (x, y) in pixels, added to the mapped offset; None for none.

    Returns:
        uint8 (B, C, H, W).
    """
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    grid = images.new_empty((len(images), 2, height, width), dtype=torch.float32)
    for axis, size in enumerate((width, height)):
        # `grid_sample` takes offsets as fractions of half the size.
        row = matrices[:, axis, :, None, None] * (2.0 / size)
        torch.add(row[:, 0] * x, row[:, 1] * y, out=grid[:, axis])
        if offsets is not None:
            grid[:, axis] += offsets[:, axis, None, None] * (2.0 / size)
    return round_to_uint8(grid_sample(images.float(), grid.permute(0, 2, 3, 1), align_corners=False))


def round_to_uint8(values: Tensor) -> Tensor:
    """Rounds values from 0 to 255 to uint8; overwrites ``values``."""
    # By way of int32, which is faster on a CPU.
    return values.round_().to(torch.int32).to(torch.uint8)


def _to_grayscale(values: Tensor) -> Tensor:
    """Computes the grey of floating images: (B, C, …) to (B, 1, …)."""
    channels = values.unbind(1)
    weights = _LUMA if len(channels) == len(_LUMA) else (1.0 / len(channels),) * len(channels)
    grey = channels[0] * weights[0]
    for channel, weight in zip(channels[1:], weights[1:], strict=True):
        grey = grey + channel * weight
    return grey.unsqueeze(1)
