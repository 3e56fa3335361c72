"""Tests of fcnet.report.images."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from fcnet.report.images import image_data_uri, weight_data_uri


def decode(uri: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_data_uri_holds_the_exact_pixels(channels: int) -> None:
    pixels = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    decoded = decode(image_data_uri(pixels))
    assert torch.from_numpy(decoded.copy()).equal(
        pixels.permute(1, 2, 0).squeeze(2) if channels == 1 else pixels.permute(1, 2, 0)
    )


def test_a_large_image_is_scaled_down_and_other_numbers_of_channels_become_grey() -> None:
    assert decode(image_data_uri(torch.zeros(3, 400, 200, dtype=torch.uint8))).shape == (96, 48, 3)
    assert decode(image_data_uri(torch.full((4, 5, 5), 9, dtype=torch.uint8))).tolist() == [[9] * 5] * 5


def test_weights_are_orange_above_0_white_at_0_and_blue_below() -> None:
    above, zero, below = decode(weight_data_uri(torch.tensor([[[2.0, 0.0, -2.0]]])))[0].tolist()
    assert zero == [255, 255, 255]
    assert above[0] > above[2]
    assert below[0] < below[2]
    assert decode(weight_data_uri(torch.zeros(1, 1, 1))).tolist() == [[[255, 255, 255]]]


def test_weights_of_three_channels_are_grey_at_0_and_use_the_whole_range() -> None:
    decoded = decode(weight_data_uri(torch.tensor([[[0.0, 3.0]], [[0.0, 0.0]], [[0.0, -3.0]]])))
    assert decoded.tolist() == [[[128, 128, 128], [255, 128, 0]]]
