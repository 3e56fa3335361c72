"""A frozen network from pixels to features, and how images are prepared for it.

Letters: B images of C channels, H rows and W columns; D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fcnet.data.decoding.image_decoding import ShorterSide
from fcnet.runtime.errors import UserError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.data.decoding.image_decoding import Size

NETWORK_ERRORS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, NotImplementedError)
"""The errors of a network that does not take its input."""


@dataclass(frozen=True)
class ImagePreprocessing:
    """How an image becomes the input of a network.

    An image is decoded with C channels, scaled and cropped, as uint8 pixels x. The network gets x itself, or
    (x / 255 − mean) / std in float32.

    Attributes:
        channels: C, 1 or 3.
        size: the size of an image; see `fcnet.data.decoding.image_decoding.decode_image`.
        mean: the mean of each channel, or one for all; empty if the network gets uint8 pixels.
        std: the standard deviation of each channel, or one for all.
    """

    channels: int
    size: Size
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        if isinstance(self.size, ShorterSide):
            return self.channels, self.size.height, self.size.width
        return self.channels, *self.size

    def describe(self) -> dict[str, Any]:
        """Returns the settings for ``metadata.json``."""
        described: dict[str, Any] = {"channels": self.channels, "height": self.shape[1], "width": self.shape[2]}
        if isinstance(self.size, ShorterSide):
            described |= {"shorter_side": self.size.pixels, "resampling": self.size.resampling.lower()}
        else:
            described |= {"resampling": "bicubic"}
        return described | ({"mean": list(self.mean), "std": list(self.std)} if self.mean else {"dtype": "uint8"})

    def normalize(self, pixels: Tensor) -> Tensor:
        """Returns the network's input.

        Args:
            pixels: uint8 (B, C, H, W).

        Example:
            >>> half = ImagePreprocessing(1, (1, 2), mean=(0.5,), std=(0.5,))
            >>> half.normalize(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist()
            [[[[-1.0, 1.0]]]]
        """
        if not self.mean:
            return pixels
        mean, std = (torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return pixels.float().div_(255).sub_(mean).div_(std)


class Backbone:
    """A frozen network whose output is taken as features.

    Args:
        network: maps the input (B, C, H, W) on ``device`` to a tensor (B, …), or to a tuple with one.
        preprocessing: how the input is made.
        description: what the network is, for ``metadata.json``: its name, its weights and their checksum.
        device: the device of the network.
        batch_range: the least and the most images that it takes at once.

    Attributes:
        num_features: D.

    Raises:
        UserError: the network does not take its input, or returns anything else.

    Example:
        >>> backbone = Backbone(torch.nn.AvgPool2d(2), ImagePreprocessing(1, (2, 4), (0.0,), (1.0,)), {"name": "pool"})
        >>> backbone.num_features, backbone(torch.full((3, 1, 2, 4), 255, dtype=torch.uint8)).tolist()
        (2, [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    """

    def __init__(
        self,
        network: Callable[[Tensor], Any],
        preprocessing: ImagePreprocessing,
        description: dict[str, Any],
        *,
        device: torch.device | str = "cpu",
        batch_range: tuple[int, int | None] = (1, None),
    ) -> None:
        self.preprocessing, self.device = preprocessing, torch.device(device)
        self.description = description | {"preprocessing": preprocessing.describe()}
        self.least, self.most = max(1, batch_range[0]), batch_range[1]
        self._network = network
        self.num_features = self._try_network()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Computes features.

        On a GPU it returns before they are computed.

        Args:
            pixels: uint8 (B, C, H, W) on the CPU, at most as many images as the network takes.

        Returns:
            float32 (B, D) on the network's device.

        Raises:
            UserError: the network returned something else.
        """
        count = len(pixels)
        if count < self.least:  # more copies of the last image
            pixels = torch.cat([pixels, pixels[-1:].expand(self.least - count, -1, -1, -1)])
        with torch.inference_mode():
            output = self._network(self.preprocessing.normalize(pixels.to(self.device)))
            if isinstance(output, tuple | list) and len(output) == 1:
                output = output[0]
            if not isinstance(output, Tensor):
                raise UserError(f"{self.description['name']} must return one tensor, got a {type(output).__name__}")
            if len(output) != len(pixels) or not output.numel():
                name, shape = self.description["name"], tuple(output.shape)
                raise UserError(f"{name} must return features (B, …) of {len(pixels)} images, got the shape {shape}")
            features: Tensor = output.flatten(1)[:count].float()
        return features

    def _try_network(self) -> int:
        """Runs the network on a black image; returns D."""
        name, shape = self.description["name"], self.preprocessing.shape
        try:
            return self(torch.zeros(1, *shape, dtype=torch.uint8)).shape[1]
        except UserError:
            raise
        except NETWORK_ERRORS as error:
            raise UserError(f"{name} must take images of shape {shape}, got: {first_line(error)}") from None
