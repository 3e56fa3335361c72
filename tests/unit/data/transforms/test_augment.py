"""Tests of the random transforms of single images."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms.v2 import functional as torchvision

from fcnet.data.transforms.augment import Affine, ColorJitter, Cutout, Flip, Shift, Transform
from tests.helpers import seeded

COLOURS = torch.randint(0, 256, (23, 3, 7, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
GREYS = COLOURS[:, :1]
TRANSFORMS: list[Transform] = [Flip(), Shift(2), Affine(30.0, 0.3), ColorJitter(0.5), Cutout(3)]


def matrices(degrees: float, factor: float = 1.0, size: int = 23) -> Tensor:
    """Returns the matrices that `Affine` draws for one angle and one factor."""
    angle = math.radians(degrees)
    rows = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return (torch.tensor(rows) / factor).expand(size, 2, 2)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("images", [COLOURS, GREYS, COLOURS[:, :2, :, :5]], ids=["colours", "greys", "two channels"])
def test_the_result_for_an_image_does_not_depend_on_its_batch(transform: Transform, images: Tensor) -> None:
    drawn = transform.draw(23, seeded())
    before = images.clone()
    whole = transform.apply(images, drawn)
    assert torch.equal(images, before)
    assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
    assert not torch.equal(whole, images)
    for size in (1, 2, 5, 16):
        parts = zip(images.split(size), drawn.split(size), strict=True)
        assert torch.equal(torch.cat([transform.apply(*part) for part in parts]), whole), size
    assert transform.apply(images[:0], drawn[:0]).shape == (0, *images.shape[1:])


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_one_row_is_drawn_for_each_image_from_the_generator_alone(transform: Transform) -> None:
    first = transform.draw(40, seeded(3))
    torch.manual_seed(99)
    assert len(first) == 40
    assert torch.equal(transform.draw(40, seeded(3)), first)
    assert not torch.equal(transform.draw(40, seeded(4)), first)


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2])
@pytest.mark.parametrize("side", [6, 7])
def test_quarter_turns_are_exact(quarters: int, side: int) -> None:
    images = COLOURS[..., :side, :side]
    turned = Affine().apply(images, matrices(90.0 * quarters))
    assert torch.equal(turned, torch.rot90(images, quarters, (2, 3)))


def test_a_half_turn_of_a_rectangular_image_is_exact() -> None:
    images = COLOURS[..., :5]
    assert torch.equal(Affine().apply(images, matrices(180.0)), images.flip(2, 3))


@pytest.mark.parametrize(("degrees", "factor"), [(20.0, 1.0), (-77.0, 1.3), (0.0, 0.6), (0.0, 2.0)])
def test_rotation_and_scaling_agree_with_torchvision(degrees: float, factor: float) -> None:
    images = COLOURS[..., :5]
    ours = Affine().apply(images, matrices(degrees, factor))
    theirs = torchvision.affine(
        images.double(),
        angle=-degrees,  # theirs is clockwise
        translate=[0, 0],
        scale=factor,
        shear=[0.0, 0.0],
        interpolation=torchvision.InterpolationMode.BILINEAR,
    )
    assert_close(ours.double(), theirs, rtol=0, atol=0.51)  # half a level, and torchvision's own rounding


def test_angles_and_factors_cover_their_ranges() -> None:
    drawn = Affine(30.0, 0.5).draw(20_000, seeded()).double()
    factor = drawn.det().rsqrt()
    angle = torch.atan2(drawn[:, 1, 0], drawn[:, 0, 0]).rad2deg()
    assert_close(drawn[:, 0, 0], drawn[:, 1, 1])
    assert_close(drawn[:, 0, 1], -drawn[:, 1, 0])
    for values, least, most in ((angle, -30.0, 30.0), (factor.log(), -math.log(1.5), math.log(1.5))):
        assert least - 1e-5 <= float(values.min()) <= least * 0.99
        assert most * 0.99 <= float(values.max()) <= most + 1e-5
        # four standard errors of a uniform distribution's mean, and 2 % of its spread
        assert abs(float(values.mean())) < 4 * most / math.sqrt(3 * 20_000)
        assert float(values.std()) == pytest.approx(most / math.sqrt(3), rel=0.02)
    assert abs(float(torch.corrcoef(torch.stack([angle, factor]))[0, 1])) < 0.03


@pytest.mark.parametrize("transform", [Affine(0.0, 0.0), ColorJitter(0.0)], ids=str)
@pytest.mark.parametrize("images", [COLOURS, GREYS], ids=["colours", "greys"])
def test_a_transform_of_strength_0_changes_nothing(transform: Transform, images: Tensor) -> None:
    assert torch.equal(transform.apply(images, transform.draw(23, seeded())), images)


def factors(*values: float) -> Tensor:
    return torch.tensor(values).expand(23, 3)


def test_each_colour_factor_alone_agrees_with_torchvision() -> None:
    """Compares each factor alone, since torchvision clips after each. Its luma differs in the last digits."""
    changes = (torchvision.adjust_brightness, torchvision.adjust_contrast, torchvision.adjust_saturation)
    for place, theirs in enumerate(changes):
        for factor in (0.0, 0.4, 1.7):
            values = [1.0, 1.0, 1.0]
            values[place] = factor
            expected = 255 * theirs(COLOURS.double() / 255, factor)
            assert_close(ColorJitter(1.0).apply(COLOURS, factors(*values)).double(), expected, rtol=0, atol=0.55)


def test_colour_factors_apply_in_order_and_values_are_clipped_once() -> None:
    drawn = ColorJitter(0.8).draw(23, seeded())
    x = COLOURS.double()
    brightness, contrast, saturation = drawn.double()[..., None, None, None].unbind(1)
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    grey = (x * luma).sum(1, keepdim=True)
    x = (grey + saturation * (x - grey)) * brightness
    mean = (x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    expected = (mean + contrast * (x - mean)).clamp(0, 255)
    assert_close(ColorJitter(0.8).apply(COLOURS, drawn).double(), expected, rtol=0, atol=0.501)


def test_grey_has_no_saturation() -> None:
    jitter = ColorJitter(0.8)
    drawn = jitter.draw(23, seeded())
    others = drawn.clone()
    others[:, 2] = 1.0
    assert torch.equal(jitter.apply(GREYS, drawn), jitter.apply(GREYS, others))
    without = jitter.apply(COLOURS, factors(1.0, 1.0, 0.0))
    assert torch.equal(without, without[:, :1].expand_as(without))


def test_factors_are_uniform_around_1() -> None:
    drawn = ColorJitter(0.4).draw(20_000, seeded())
    assert drawn.shape == (20_000, 3)
    assert 0.6 <= float(drawn.min()) < 0.601
    assert 1.399 < float(drawn.max()) <= 1.4
    assert_close(drawn.mean(0), torch.ones(3), rtol=0, atol=4 * 0.4 / math.sqrt(3 * 20_000))
    assert_close(torch.corrcoef(drawn.T), torch.eye(3), rtol=0, atol=0.03)


@given(
    st.integers(1, 8), st.floats(0.0, 1.0, exclude_max=True, width=32), st.floats(0.0, 1.0, exclude_max=True, width=32)
)
def test_cutout_blackens_exactly_the_square(side: int, row: float, column: float) -> None:
    white = torch.full((1, 2, 7, 5), 255, dtype=torch.uint8)
    result = Cutout(side).apply(white, torch.tensor([[row, column]]))
    top, left = math.floor(row * 7) - side // 2, math.floor(column * 5) - side // 2
    for i in range(7):
        for j in range(5):
            black = top <= i < top + side and left <= j < left + side
            assert result[0, :, i, j].tolist() == [0 if black else 255] * 2


def test_every_pixel_is_equally_often_the_centre_of_the_square() -> None:
    white = torch.full((21_000, 1, 7, 5), 255, dtype=torch.uint8)
    cut = Cutout(1).apply(white, Cutout(1).draw(21_000, seeded())) == 0
    assert (cut.sum((1, 2, 3)) == 1).all()
    often = cut.sum((0, 1)).double()
    assert_close(often, torch.full((7, 5), 600.0).double(), rtol=0, atol=5 * math.sqrt(600))
    inner = Cutout(3).apply(white[:1], torch.tensor([[0.5, 0.5]]))
    assert int((inner == 0).sum()) == 9


def test_flip_mirrors_half_of_the_images() -> None:
    values = Flip().draw(2000, torch.Generator().manual_seed(0))
    assert 900 < int(values.sum()) < 1100
    flipped = Flip().apply(COLOURS, values[:23])
    for before, after, mirrored in zip(COLOURS, flipped, values, strict=False):
        assert_close(after, before.flip(-1) if mirrored else before)


def test_shift_moves_an_image_and_fills_with_black() -> None:
    shift = Shift(2)
    values = shift.draw(2000, torch.Generator().manual_seed(0))
    assert sorted(set(map(tuple, values.tolist()))) == [(row, column) for row in range(5) for column in range(5)]
    moved = shift.apply(COLOURS, values[:23])
    for before, after, (top, left) in zip(COLOURS, moved, values.tolist(), strict=False):
        expected = torch.zeros_like(before)
        for row in range(7):
            for column in range(7):
                if 0 <= row + top - 2 < 7 and 0 <= column + left - 2 < 7:
                    expected[:, row, column] = before[:, row + top - 2, column + left - 2]
        assert_close(after, expected)
