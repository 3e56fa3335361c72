"""The table of errors against the float64 truth: in no regime is ours farther from it than torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 20_000
NUM_CASES = 19


@pytest.mark.parametrize("number", range(NUM_CASES))
def test_values_and_derivatives_are_as_near_to_the_truth_as_torchs(number: int, program: Callable[[str], Any]) -> None:
    """Where both err by the rounding of one and the same difference, half an ulp more may be luck."""
    exactness = program("exactness")
    assert len(exactness.CASES) == NUM_CASES
    case = exactness.CASES[number]
    value, their_value, slope, their_slope = exactness.errors(case, ROWS)
    assert value <= their_value + 0.5, case
    assert slope <= their_slope + 0.5, case


def test_an_ulp_is_the_distance_between_neighbours(program: Callable[[str], Any]) -> None:
    ulps = program("exactness").ulps
    for x in (1.0, 1.5, -3.0e-20, 2.0**-140):
        here = torch.tensor([x])
        neighbour = torch.nextafter(here, 2 * here)
        assert ulps(neighbour, here.double(), here.double()) == 1.0
        assert ulps(here, here.double(), here.double()) == 0.0
