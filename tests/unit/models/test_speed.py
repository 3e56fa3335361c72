"""Rules of fcnet.models.speed."""

from __future__ import annotations

import pytest
import torch

from fcnet.models.speed import max_images_per_second


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("widths", "pixels"), [([12, 5, 3], 12), ([4, 3], 12), ([12, 1], 12)])
def test_any_network_has_a_limit(widths: list[int], pixels: int, precision: torch.dtype) -> None:
    assert max_images_per_second(widths, 8, pixels=pixels, precision=precision, seconds=0.0) > 0.0


def test_more_work_is_slower() -> None:
    small, large = (max_images_per_second([64, width, 10], 64, pixels=64) for width in (16, 4096))
    assert small > 4 * large


def test_timing_leaves_torchs_own_numbers_alone() -> None:
    before = torch.get_rng_state()
    max_images_per_second([4, 2], 3, pixels=4, seconds=0.0)
    assert torch.get_rng_state().equal(before)
