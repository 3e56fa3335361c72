"""Backbones: normalisation, shapes of the output, and what a network is refused for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fcnet.data.decoding.image_decoding import ShorterSide
from fcnet.embed.backbone import Backbone, ImagePreprocessing
from fcnet.runtime.errors import UserError
from tests.helpers import random_images

RAW = ImagePreprocessing(3, (2, 4))


def identity(images: Tensor) -> Tensor:
    return images


def test_a_network_without_mean_gets_the_pixels() -> None:
    pixels = random_images(5, (3, 2, 4))
    backbone = Backbone(identity, RAW, {"name": "net"})
    assert backbone.num_features == 24
    assert torch.equal(backbone(pixels), pixels.flatten(1).float())


def test_pixels_are_scaled_to_one_and_normalized_channel_by_channel() -> None:
    pixels = random_images(5, (3, 2, 4))
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    features = Backbone(identity, ImagePreprocessing(3, (2, 4), mean, std), {"name": "net"})(pixels)
    expected = torch.stack([(pixels[:, c].float() / 255 - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(features, expected.flatten(1))


def test_one_mean_serves_all_channels() -> None:
    one, all_channels = (
        Backbone(identity, ImagePreprocessing(3, (2, 4), (0.5,) * n, (0.25,) * n), {"name": "net"}) for n in (1, 3)
    )
    pixels = random_images(5, (3, 2, 4))
    assert torch.equal(one(pixels), all_channels(pixels))


def test_a_short_batch_is_filled_up_and_cut_again() -> None:
    sizes = []

    def network(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.float().mean((2, 3))

    backbone = Backbone(network, RAW, {"name": "net"}, batch_range=(4, 4))
    pixels = random_images(4, (3, 2, 4))
    assert torch.equal(backbone(pixels[:1]), backbone(pixels)[:1])
    assert sizes == [4, 4, 4]


def test_a_tuple_of_one_tensor_is_that_tensor() -> None:
    backbone = Backbone(lambda images: (images.float(),), RAW, {"name": "net"})
    assert backbone.num_features == 24


def test_no_gradient_is_recorded() -> None:
    assert not Backbone(nn.Conv2d(3, 1, 1), ImagePreprocessing(3, (2, 4), (0.0,), (1.0,)), {"name": "n"})(
        random_images(1, (3, 2, 4))
    ).requires_grad


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda images: (images, images), "net must return one tensor, got a tuple"),
        (lambda images: {"a": images}, "net must return one tensor, got a dict"),
        (
            lambda images: images.float().sum(0),
            r"net must return features \(B, …\) of 1 images, got the shape \(3, 2, 4\)",
        ),
        (nn.Conv2d(1, 1, 1), r"net must take images of shape \(3, 2, 4\), got: "),
    ],
)
def test_a_network_of_another_kind_is_refused(network: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Backbone(network, ImagePreprocessing(3, (2, 4), (0.0,), (1.0,)), {"name": "net"})


def test_the_description_says_how_images_are_made() -> None:
    raw = Backbone(identity, RAW, {"name": "net"}).description
    assert raw == {
        "name": "net",
        "preprocessing": {"channels": 3, "height": 2, "width": 4, "resampling": "bicubic", "dtype": "uint8"},
    }
    scaled = ImagePreprocessing(1, ShorterSide(9, 8, 8, "BILINEAR"), (0.5,), (0.25,)).describe()
    size = {"channels": 1, "height": 8, "width": 8, "shorter_side": 9, "resampling": "bilinear"}
    assert scaled == {**size, "mean": [0.5], "std": [0.25]}
