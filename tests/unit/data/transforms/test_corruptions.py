"""Damage is what its formula says, grows with its strength, and follows from its generator alone."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.testing import assert_close

from fcnet.data.transforms.corruptions import CORRUPTIONS, STRENGTHS, blur, corrupt, move, turn
from fcnet.runtime.errors import UserError

IMAGES = torch.randint(0, 256, (6, 3, 9, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
SQUARE = torch.randint(0, 256, (6, 3, 10, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def draws(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def damage(kind: str, strength: int, images: Tensor = IMAGES) -> Tensor:
    return corrupt(images, kind, strength, draws())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_images_stay_uint8_of_their_shape_and_the_given_ones_as_they_were(kind: str) -> None:
    before = IMAGES.clone()
    for strength in STRENGTHS:
        for images in (IMAGES, IMAGES[:, :1], IMAGES[:1, :, :1, :1]):
            damaged = damage(kind, strength, images)
            assert (damaged.dtype, damaged.shape) == (torch.uint8, images.shape)
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_damage_follows_from_the_generator_alone(kind: str) -> None:
    assert torch.equal(damage(kind, 3), damage(kind, 3))
    drawn = not torch.equal(damage(kind, 3), corrupt(IMAGES, kind, 3, draws(4)))
    assert drawn == (kind in {"noise", "shift", "rotation"})


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_damage_grows_with_the_strength_and_none_is_none(kind: str) -> None:
    assert torch.equal(damage(kind, 0), IMAGES)
    across = torch.linspace(0, 3 * math.pi, 32)
    smooth = (127 + 60 * across.sin()[:, None] * across.cos()).to(torch.uint8).expand(8, 1, 32, 32)
    errors = [(damage(kind, strength, smooth).double() - smooth).square().mean().item() for strength in STRENGTHS]
    assert errors == sorted(errors)
    assert errors[0] > 1.0
    assert len(set(errors)) == len(STRENGTHS)


def test_noise_is_normal_of_its_deviation_and_the_same_at_each_strength() -> None:
    grey = torch.full((20, 1, 50, 50), 128, dtype=torch.uint8)
    rest = {strength: damage("noise", strength, grey).double() - 128 for strength in STRENGTHS}
    for strength, deviation in zip(STRENGTHS, CORRUPTIONS["noise"].values, strict=True):
        count = rest[strength].numel()
        assert abs(rest[strength].mean()) < 5 * 255 * deviation / math.sqrt(count)
        inner = 2 * 0.3829 if deviation > 0.2 else 0.6827  # within one deviation; cut off at black and white beyond
        within = (rest[strength].abs() <= 255 * deviation + 0.5).double().mean()
        if deviation < 0.2:
            assert within == pytest.approx(inner, abs=0.03)
            assert rest[strength].std() == pytest.approx(255 * deviation, rel=0.02)
    assert torch.corrcoef(torch.stack([rest[1].flatten(), rest[3].flatten()]))[0, 1] > 0.99
    dark = damage("noise", 5, torch.zeros_like(grey))
    assert (dark == 0).double().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_blur_is_scipys(share: float) -> None:
    sigma = 9 * share
    reach = max(1, math.ceil(3 * sigma))
    expected = gaussian_filter(IMAGES.double().numpy(), sigma, mode="nearest", radius=reach, axes=(2, 3))
    assert_close(blur(IMAGES, share, draws()).double(), torch.from_numpy(expected), rtol=0, atol=0.501)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_light_is_added_and_cut_off_at_white(strength: int) -> None:
    added = 255 * CORRUPTIONS["brightness"].values[strength - 1]
    expected = (IMAGES.double() + added).clamp(max=255)
    assert_close(damage("brightness", strength).double(), expected, rtol=0, atol=0.501)
    assert int(damage("brightness", strength).max()) == 255


@pytest.mark.parametrize("strength", STRENGTHS)
def test_contrast_moves_values_to_the_mean_of_their_channel(strength: int) -> None:
    kept = CORRUPTIONS["contrast"].values[strength - 1]
    x = IMAGES.double()
    mean = x.mean((2, 3), keepdim=True)
    assert_close(damage("contrast", strength).double(), mean + kept * (x - mean), rtol=0, atol=0.501)


@pytest.mark.parametrize("share", [0.04, 0.1, 0.2])
def test_each_image_moves_so_far_in_a_direction_of_its_own_and_black_moves_in(share: float) -> None:
    row, column = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    spot = (255 * (-((row - 19.5) ** 2 + (column - 19.5) ** 2) / 18).exp()).round().to(torch.uint8)
    moved = move(spot.expand(200, 1, 40, 40), share, draws()).double().squeeze(1)
    sums = moved.sum((1, 2))
    down = (moved * row).sum((1, 2)) / sums - 19.5
    across = (moved * column).sum((1, 2)) / sums - 19.5
    assert_close(torch.hypot(down, across), torch.full((200,), 40 * share).double(), rtol=0, atol=0.03)
    angles = torch.atan2(down, across)
    assert angles.sort().values.diff().max() < 0.3  # all around
    white = torch.full((200, 1, 40, 40), 255, dtype=torch.uint8)
    assert (move(white, 0.2, draws()) == 0).flatten(1).any(1).all()


def test_each_image_turns_one_way_or_the_other() -> None:
    turned = turn(SQUARE.repeat(20, 1, 1, 1), 90.0, draws())
    ways = [torch.equal(image, torch.rot90(SQUARE[place % 6], 1, (1, 2))) for place, image in enumerate(turned)]
    others = [torch.equal(image, torch.rot90(SQUARE[place % 6], -1, (1, 2))) for place, image in enumerate(turned)]
    assert all(one != other for one, other in zip(ways, others, strict=True))
    assert 40 <= sum(ways) <= 80


@pytest.mark.parametrize(
    ("images", "kind", "strength", "message"),
    [
        (IMAGES.float(), "blur", 1, "expected uint8 images (B, C, H, W), got torch.float32 (6, 3, 9, 12)"),
        (IMAGES[0], "blur", 1, "expected uint8 images (B, C, H, W), got torch.uint8 (3, 9, 12)"),
        (
            IMAGES,
            "fog",
            1,
            "kind must be one of noise, blur, brightness, contrast, shift, rotation, got 'fog'",
        ),
        (IMAGES, "blur", 6, "strength must be from 0 to 5, got 6"),
        (IMAGES, "blur", -1, "strength must be from 0 to 5, got -1"),
    ],
)
def test_what_cannot_be_damaged_is_refused(images: Tensor, kind: str, strength: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        corrupt(images, kind, strength, draws())
    assert str(error.value) == message
