"""Image corruptions at five severities, applied to whole uint8 batches to measure robustness.

They follow CIFAR-10-C, but lengths are fractions of an image's shorter side instead of pixels, so that images of every
size are corrupted equally. For training, see `fcnet.data.transforms.augment`. B images of C channels, H rows and
W columns.

Source:
    Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from fcnet.data.transforms.augment import resample, round_to_uint8
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        values: the strength at each of `SEVERITIES`.
        meaning: the quantity that the values measure, for a table.
        apply: corrupts uint8 (B, C, H, W) images, given a value and a generator on the CPU.
    """

    values: tuple[float, float, float, float, float]
    meaning: str
    apply: Callable[[Tensor, float, torch.Generator], Tensor]


def corrupt(images: Tensor, kind: str, severity: int, generator: torch.Generator) -> Tensor:
    """Corrupts a batch of images.

    Args:
        images: uint8 (B, C, H, W), on any device.
        kind: a key of `CORRUPTIONS`.
        severity: one of `SEVERITIES`; 0 returns the images unchanged.
        generator: a generator on the CPU. The draws are the same at every severity, so that severities differ only in
            strength.

    Returns:
        uint8 (B, C, H, W), on the device of the images.

    Raises:
        UserError: the images are not uint8 (B, C, H, W), or the kind or severity is unknown.

    Example:
        >>> images = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
        >>> corrupt(images, "brightness", 1, torch.Generator()).flatten().tolist()
        [126, 126, 126, 126]
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise UserError(f"expected uint8 images (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    if kind not in CORRUPTIONS:
        raise UserError(f"kind must be one of {', '.join(CORRUPTIONS)}, got {kind!r}")
    if severity not in (0, *SEVERITIES):
        raise UserError(f"severity must be from 0 to {SEVERITIES[-1]}, got {severity}")
    corruption = CORRUPTIONS[kind]
    return corruption.apply(images, corruption.values[severity - 1], generator) if severity else images


def add_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Computes x + 255·σ·n with n ~ N(0, 1) for each value, clipped to 0 to 255."""
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return _round_clipped(images + noise.mul_(255.0 * deviation))


def blur(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Applies a Gaussian filter of standard deviation share · min(H, W) pixels, with the edge pixels repeated."""
    deviation = share * min(images.shape[2:])
    reach = max(1, math.ceil(3.0 * deviation))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
    weights = (-0.5 * (offsets / deviation).square()).exp()
    weights /= weights.sum()
    channels = images.shape[1]
    column, row = (
        weights.view(shape).expand(channels, *shape[1:]) for shape in ((1, 1, len(weights), 1), (1, 1, 1, len(weights)))
    )
    values = pad(images.float(), (reach,) * 4, mode="replicate")
    return _round_clipped(conv2d(conv2d(values, column, groups=channels), row, groups=channels))


def brightness(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Computes x + 255·b, clipped at 255."""
    return _round_clipped(images + 255.0 * share)


def reduce_contrast(images: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Computes x̄ + factor · (x − x̄) with the mean x̄ of each channel of each image, clipped to 0 to 255."""
    values = images.float()
    mean = values.mean((2, 3), keepdim=True)
    return _round_clipped(mean + factor * (values - mean))


def translate(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Translates each image by share · min(H, W) pixels in a random direction, and fills with black."""
    angle = 2.0 * math.pi * torch.rand(len(images), generator=generator)
    offsets = share * min(images.shape[2:]) * torch.stack([angle.cos(), angle.sin()], dim=1)
    identity = torch.eye(2).expand(len(images), 2, 2)
    return resample(images, identity.to(images.device), offsets.to(images.device))


def rotate(images: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Rotates each image about its centre in a random direction, and fills with black."""
    angle = (torch.randint(0, 2, (len(images),), generator=generator) * 2 - 1) * math.radians(degrees)
    cos, sin = angle.cos(), angle.sin()
    return resample(images, torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2).to(images.device))


def _round_clipped(values: Tensor) -> Tensor:
    return round_to_uint8(values.clamp_(0.0, 255.0))


CORRUPTIONS = {
    "noise": Corruption((0.04, 0.08, 0.12, 0.18, 0.26), "standard deviation as a fraction of white", add_noise),
    "blur": Corruption((0.02, 0.03, 0.04, 0.06, 0.08), "standard deviation as a fraction of the shorter side", blur),
    "brightness": Corruption((0.1, 0.2, 0.3, 0.4, 0.5), "added brightness as a fraction of white", brightness),
    "contrast": Corruption((0.75, 0.5, 0.4, 0.3, 0.15), "remaining contrast", reduce_contrast),
    "translate": Corruption((0.04, 0.08, 0.12, 0.16, 0.2), "distance as a fraction of the shorter side", translate),
    "rotation": Corruption((6.0, 12.0, 18.0, 24.0, 30.0), "degrees", rotate),
}
"""The corruptions by name."""
