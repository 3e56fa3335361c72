"""Batches on the stand-in device."""

from __future__ import annotations

from typing import Any

import torch

from fcnet.data.batches import Batches
from tests.device_stand_in import DEVICE
from tests.helpers import random_images


def make_batches(
    num_images: int = 40,
    shape: tuple[int, int, int] = (3, 8, 8),
    *,
    num_classes: int = 10,
    batch_size: int = 16,
    **settings: Any,
) -> Batches:
    """Returns batches of images that lie on the device, which must permit copies."""
    images, labels = random_images(num_images, shape), torch.arange(num_images) % num_classes
    return Batches(images.to(DEVICE), labels, num_classes=num_classes, batch_size=batch_size, device=DEVICE, **settings)
