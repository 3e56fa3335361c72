"""Tests of corruptions: their formulas, their severities and their draws."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.testing import assert_close

from fcnet.data.transforms.corruptions import CORRUPTIONS, SEVERITIES, blur, corrupt, rotate, translate
from fcnet.runtime.errors import UserError
from tests.helpers import seeded

IMAGES = torch.randint(0, 256, (6, 3, 9, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
SQUARE = torch.randint(0, 256, (6, 3, 10, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def corrupt_images(kind: str, severity: int, images: Tensor = IMAGES) -> Tensor:
    return corrupt(images, kind, severity, seeded(3))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_keeps_shape_and_dtype_and_does_not_change_its_input(kind: str) -> None:
    before = IMAGES.clone()
    for severity in SEVERITIES:
        for images in (IMAGES, IMAGES[:, :1], IMAGES[:1, :, :1, :1]):
            corrupted = corrupt_images(kind, severity, images)
            assert (corrupted.dtype, corrupted.shape) == (torch.uint8, images.shape)
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_depends_on_the_generator_alone(kind: str) -> None:
    assert torch.equal(corrupt_images(kind, 3), corrupt_images(kind, 3))
    drawn = not torch.equal(corrupt_images(kind, 3), corrupt(IMAGES, kind, 3, seeded(4)))
    assert drawn == (kind in {"noise", "translate", "rotation"})


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruption_grows_with_the_severity_and_severity_0_changes_nothing(kind: str) -> None:
    assert torch.equal(corrupt_images(kind, 0), IMAGES)
    across = torch.linspace(0, 3 * math.pi, 32)
    smooth = (127 + 60 * across.sin()[:, None] * across.cos()).to(torch.uint8).expand(8, 1, 32, 32)
    errors = [
        (corrupt_images(kind, severity, smooth).double() - smooth).square().mean().item() for severity in SEVERITIES
    ]
    assert errors == sorted(errors)
    assert errors[0] > 1.0
    assert len(set(errors)) == len(SEVERITIES)


def test_noise_is_normal_with_the_same_draws_at_each_severity() -> None:
    grey = torch.full((20, 1, 50, 50), 128, dtype=torch.uint8)
    rest = {severity: corrupt_images("noise", severity, grey).double() - 128 for severity in SEVERITIES}
    for severity, deviation in zip(SEVERITIES, CORRUPTIONS["noise"].values, strict=True):
        count = rest[severity].numel()
        assert abs(rest[severity].mean()) < 5 * 255 * deviation / math.sqrt(count)
        inner = 2 * 0.3829 if deviation > 0.2 else 0.6827  # within one deviation; cut off at black and white beyond
        within = (rest[severity].abs() <= 255 * deviation + 0.5).double().mean()
        if deviation < 0.2:
            assert within == pytest.approx(inner, abs=0.03)
            assert rest[severity].std() == pytest.approx(255 * deviation, rel=0.02)
    assert torch.corrcoef(torch.stack([rest[1].flatten(), rest[3].flatten()]))[0, 1] > 0.99
    dark = corrupt_images("noise", 5, torch.zeros_like(grey))
    assert (dark == 0).double().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_blur_is_scipys(share: float) -> None:
    sigma = 9 * share
    reach = max(1, math.ceil(3 * sigma))
    expected = gaussian_filter(IMAGES.double().numpy(), sigma, mode="nearest", radius=reach, axes=(2, 3))
    assert_close(blur(IMAGES, share, seeded(3)).double(), torch.from_numpy(expected), rtol=0, atol=0.501)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_is_added_and_clipped_at_white(severity: int) -> None:
    added = 255 * CORRUPTIONS["brightness"].values[severity - 1]
    expected = (IMAGES.double() + added).clamp(max=255)
    assert_close(corrupt_images("brightness", severity).double(), expected, rtol=0, atol=0.501)
    assert int(corrupt_images("brightness", severity).max()) == 255


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_moves_values_towards_the_mean_of_their_channel(severity: int) -> None:
    kept = CORRUPTIONS["contrast"].values[severity - 1]
    x = IMAGES.double()
    mean = x.mean((2, 3), keepdim=True)
    assert_close(corrupt_images("contrast", severity).double(), mean + kept * (x - mean), rtol=0, atol=0.501)


@pytest.mark.parametrize("share", [0.04, 0.1, 0.2])
def test_each_image_is_translated_in_its_own_direction_and_filled_with_black(share: float) -> None:
    row, column = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    spot = (255 * (-((row - 19.5) ** 2 + (column - 19.5) ** 2) / 18).exp()).round().to(torch.uint8)
    moved = translate(spot.expand(200, 1, 40, 40), share, seeded(3)).double().squeeze(1)
    sums = moved.sum((1, 2))
    down = (moved * row).sum((1, 2)) / sums - 19.5
    across = (moved * column).sum((1, 2)) / sums - 19.5
    assert_close(torch.hypot(down, across), torch.full((200,), 40 * share).double(), rtol=0, atol=0.03)
    angles = torch.atan2(down, across)
    assert angles.sort().values.diff().max() < 0.3  # all around
    white = torch.full((200, 1, 40, 40), 255, dtype=torch.uint8)
    assert (translate(white, 0.2, seeded(3)) == 0).flatten(1).any(1).all()


def test_each_image_rotates_in_one_direction_or_the_other() -> None:
    turned = rotate(SQUARE.repeat(20, 1, 1, 1), 90.0, seeded(3))
    ways = [torch.equal(image, torch.rot90(SQUARE[place % 6], 1, (1, 2))) for place, image in enumerate(turned)]
    others = [torch.equal(image, torch.rot90(SQUARE[place % 6], -1, (1, 2))) for place, image in enumerate(turned)]
    assert all(one != other for one, other in zip(ways, others, strict=True))
    assert 40 <= sum(ways) <= 80


@pytest.mark.parametrize(
    ("images", "kind", "severity", "message"),
    [
        (IMAGES.float(), "blur", 1, "expected uint8 images (B, C, H, W), got torch.float32 (6, 3, 9, 12)"),
        (IMAGES[0], "blur", 1, "expected uint8 images (B, C, H, W), got torch.uint8 (3, 9, 12)"),
        (
            IMAGES,
            "fog",
            1,
            "kind must be one of noise, blur, brightness, contrast, translate, rotation, got 'fog'",
        ),
        (IMAGES, "blur", 6, "severity must be from 0 to 5, got 6"),
        (IMAGES, "blur", -1, "severity must be from 0 to 5, got -1"),
    ],
)
def test_wrong_arguments_are_an_error(images: Tensor, kind: str, severity: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        corrupt(images, kind, severity, seeded(3))
    assert str(error.value) == message
