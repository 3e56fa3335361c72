"""Tests of the augmentation and the preprocessing of batches, as values."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fcnet.data.transforms.augment import Cutout, Flip, Shift, Transform
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.data.transforms.pipeline import Augmentation, Preprocessing, l2_normalize, standardize
from fcnet.runtime.seeds import generator

CPU = torch.device("cpu")


def test_each_transform_draws_from_its_own_generator() -> None:
    transforms: tuple[Transform, ...] = (Flip(), Shift(2), Cutout(3))
    draws, mixture = Augmentation(transforms).draw(9, (3, 6, 5), seed=4, epoch=7)
    assert mixture is None
    for index, (transform, values) in enumerate(zip(transforms, draws, strict=True)):
        assert torch.equal(values, transform.draw(9, generator(4, "augment", index, 7)))


def test_mixing_does_not_change_the_draws_of_the_transforms() -> None:
    mixing = MixupCutmix(0.4, 1.0)
    (plain,), _ = Augmentation((Shift(2),)).draw(9, (3, 6, 5), seed=4, epoch=7)
    (mixed,), mixture = Augmentation((Shift(2),), mixing).draw(9, (3, 6, 5), seed=4, epoch=7)
    assert torch.equal(plain, mixed)
    assert mixture is not None
    expected = mixing.draw(9, (6, 5), generator(4, "mixing", 7))
    assert all(torch.equal(*pair) for pair in zip(mixture.tensors(), expected.tensors(), strict=True))


def test_images_without_a_shape_of_rows_and_columns_can_be_drawn_for_without_mixing() -> None:
    assert Augmentation().draw(9, (4,), seed=0, epoch=0) == ([], None)


def test_augmentations_with_equal_parts_are_equal() -> None:
    assert Augmentation((Flip(), Shift(2)), MixupCutmix(0.4)) == Augmentation((Flip(), Shift(2)), MixupCutmix(0.4))
    assert Augmentation((Flip(),)) != Augmentation()


def test_without_statistics_pixels_are_divided_by_255() -> None:
    scale, shift = Preprocessing().scale_and_offset(3, CPU)
    assert_close(scale, torch.full((3,), 1 / 255))
    assert_close(shift, torch.zeros(3))


def test_scale_and_offset_normalize_pixels() -> None:
    mean, std = torch.tensor([0.4, 0.5]), torch.tensor([0.2, 0.3])
    scale, shift = Preprocessing(mean, std).scale_and_offset(2, CPU)
    pixels = torch.tensor([[0.0, 100.0, 255.0], [0.0, 100.0, 255.0]])
    assert_close(pixels * scale[:, None] + shift[:, None], (pixels / 255 - mean[:, None]) / std[:, None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_standardized_features_keep_their_digits_beside_a_large_mean(dtype: torch.dtype) -> None:
    x = torch.tensor([[1024.0], [1032.0], [1040.0]], dtype=torch.float64) * (1.0 if dtype == torch.float16 else 2.0**20)
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    found = standardize(x.to(dtype), mean.float(), std.float())
    assert found.dtype == torch.float32
    assert_close(found.double(), (x.double() - mean) / std, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_are_scaled_to_unit_norm_in_no_less_than_float32_and_zeros_stay(dtype: torch.dtype) -> None:
    x = torch.tensor([[300.0, -400.0], [0.0, 0.0]], dtype=dtype)
    found = l2_normalize(x)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(found.double(), torch.tensor([[0.6, -0.8], [0.0, 0.0]]).double())
