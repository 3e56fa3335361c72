"""Images and weights as PNG data URIs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_MAX_SIDE = 96
"""Larger images are scaled down to this many pixels; the page shows them at about this size."""

_POSITIVE = torch.tensor([194.0, 65.0, 12.0])
_NEGATIVE = torch.tensor([11.0, 92.0, 173.0])


def image_data_uri(pixels: Tensor) -> str:
    """Encodes an image as a PNG data URI.

    Images larger than 96 pixels are scaled down. Images with other than 1 or 3 channels are shown as the grey mean of
    their channels.

    Args:
        pixels: uint8 (channels, height, width).

    Example:
        >>> image_data_uri(torch.zeros(1, 2, 2, dtype=torch.uint8))[:30]
        'data:image/png;base64,iVBORw0K'
    """
    from PIL import Image

    if len(pixels) not in (1, 3):
        pixels = pixels.float().mean(0, keepdim=True).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if len(pixels) == 1 else array)
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    content = io.BytesIO()
    image.save(content, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def weight_data_uri(weights: Tensor) -> str:
    """Encodes the weights of one unit as a PNG data URI.

    Each image has its own symmetric scale, ± its largest magnitude. Weights of three channels become colours, with
    0 as mid-grey. Other weights are averaged over the channels and coloured from blue (negative) through white (0) to
    orange (positive).

    Args:
        weights: float (channels, height, width).
    """
    scaled = weights if len(weights) == 3 else weights.mean(0, keepdim=True)
    scaled = scaled / scaled.abs().max().clamp(min=torch.finfo(scaled.dtype).tiny)
    if len(scaled) == 3:
        return image_data_uri((127.5 + 127.5 * scaled).round().to(torch.uint8))
    colour = torch.where(scaled[0, :, :, None] > 0, _POSITIVE, _NEGATIVE)
    blended = 255.0 + scaled[0].abs()[:, :, None] * (colour - 255.0)
    return image_data_uri(blended.round().to(torch.uint8).permute(2, 0, 1))
