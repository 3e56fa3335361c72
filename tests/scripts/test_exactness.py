"""scripts/exactness.py: in no regime is fcnet farther from the float64 truth than torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 20_000
NUM_CASES = 19


@pytest.mark.parametrize("number", range(NUM_CASES))
def test_values_and_gradients_are_as_near_to_the_truth_as_torchs(number: int, program: Callable[[str], Any]) -> None:
    """Where both err by the rounding of the same difference, half an ulp more may be chance."""
    exactness = program("exactness")
    assert len(exactness.CASES) == NUM_CASES
    case = exactness.CASES[number]
    value, torchs_value, gradient, torchs_gradient = exactness.errors(case, ROWS)
    assert value <= torchs_value + 0.5, case
    assert gradient <= torchs_gradient + 0.5, case


def test_an_ulp_is_the_distance_between_neighbors(program: Callable[[str], Any]) -> None:
    ulps = program("exactness").ulps
    for x in (1.0, 1.5, -3.0e-20, 2.0**-140):
        here = torch.tensor([x])
        neighbor = torch.nextafter(here, 2 * here)
        assert ulps(neighbor, here.double(), here.double()) == 1.0
        assert ulps(here, here.double(), here.double()) == 0.0
