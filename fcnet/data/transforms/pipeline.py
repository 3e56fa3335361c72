"""The steps from stored images to a model's input: augmentation of training images, then preprocessing of all images.

N images of C channels, H rows and W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.data.transforms.augment import Transform
    from fcnet.data.transforms.mixup import MixupCutmix, MixupParams
    from fcnet.data.transforms.whitening import Whitening


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the images of a training epoch: transforms of single images, then cutmix and mixup.

    Attributes:
        transforms: applied to every image, one after another.
        mixing: combines pairs of images; None for none.

    Example:
        >>> from fcnet.data.transforms.augment import Flip, Shift
        >>> draws, mixture = Augmentation((Flip(), Shift(2))).draw(5, (3, 8, 8), seed=0, epoch=0)
        >>> [tuple(values.shape) for values in draws], mixture
        ([(5,), (5, 2)], None)
    """

    transforms: tuple[Transform, ...] = ()
    mixing: MixupCutmix | None = None

    def draw(
        self, num_images: int, shape: Sequence[int], seed: int, epoch: int
    ) -> tuple[list[Tensor], MixupParams | None]:
        """Draws all random values of an epoch, on the CPU.

        Args:
            num_images: N.
            shape: the shape of an image, (C, H, W) with a mixing.
            seed: the run's seed.
            epoch: the epoch's number, from 0.

        Returns:
            One tensor (N, …) for each transform, and the parameters of the mixing or None.
        """
        draws = [
            transform.draw(num_images, generator(seed, "augment", index, epoch))
            for index, transform in enumerate(self.transforms)
        ]
        if self.mixing is None:
            return draws, None
        _, height, width = shape
        return draws, self.mixing.draw(num_images, (height, width), generator(seed, "mixing", epoch))


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Normalization of uint8 images to (pixels / 255 − mean) / std, optionally followed by whitening.

    Features (N, D) become (x − mean) / std, with a mean and a std for each feature; without both they stay as they are.
    They may be scaled to unit norm before.

    Attributes:
        mean: float32 (C,), of pixels / 255; None for 0.
        std: float32 (C,), of pixels / 255; None for 1.
        whitening: a linear map of the normalized values, on the device of the batches; None for none.
        l2_normalize: whether each vector of features is divided by its norm first.
    """

    mean: Tensor | None = None
    std: Tensor | None = None
    whitening: Whitening | None = None
    l2_normalize: bool = False

    def scale_and_offset(self, num_channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns two float32 tensors (C,) on the device: the normalized values are scale · pixels + offset."""
        mean = torch.zeros(num_channels) if self.mean is None else self.mean
        std = torch.ones(num_channels) if self.std is None else self.std
        return scale_and_offset(mean.to(device), std.to(device))


def standardize(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Returns (x − mean) / std as float32, for features (B, D) of any floating dtype and float32 (D,)."""
    # Not scale · x + offset: where the mean is large beside the deviation, its digits would cancel.
    return (x - mean).to(torch.float32) / std


def l2_normalize(x: Tensor) -> Tensor:
    """Returns x / ‖x‖ for each row, floating (B, D) -> float32, or float64 for float64; a row of zeros stays.

    Example:
        >>> l2_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    x = x if x.dtype == torch.float64 else x.to(torch.float32)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / torch.where(norm > 0.0, norm, 1.0)


def scale_and_offset(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the scale and offset, (C,) each, with which scale · pixels + offset normalizes pixels from 0 to 255."""
    return 1.0 / (255.0 * std), -mean / std
