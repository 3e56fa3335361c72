"""Rules of fcnet.diagnostics.matrix_rank."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from fcnet.diagnostics.matrix_rank import effective_rank, singular_values, stable_rank


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (1, 8), (8, 1), (4, 3, 2, 2)])
def test_singular_values_are_those_of_the_decomposition_by_lapack(shape: tuple[int, ...]) -> None:
    weight = drawn(*shape)
    assert_close(singular_values(weight), torch.linalg.svdvals(weight.flatten(1).double()), rtol=1e-7, atol=1e-7)


def test_singular_values_of_what_is_no_number_are_none() -> None:
    for bad in (math.nan, math.inf):
        weight = drawn(4, 6)
        weight[2, 3] = bad
        assert singular_values(weight).isnan().all()
        assert math.isnan(effective_rank(singular_values(weight)))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_of_equal_directions_every_one_counts(rank: int) -> None:
    values = torch.tensor([2.5] * rank + [0.0] * (8 - rank))
    assert effective_rank(values) == pytest.approx(rank)
    assert stable_rank(values) == pytest.approx(rank)


def test_effective_rank_is_the_exponential_of_the_entropy_of_the_shares() -> None:
    shares = [0.5, 0.25, 0.125, 0.125]
    bits = 1.75  # of the textbook's distribution
    assert effective_rank(torch.tensor(shares) * 12.0) == pytest.approx(2.0**bits)


def test_both_ranks_lie_between_one_and_the_number_of_values_and_know_no_scale() -> None:
    values = singular_values(drawn(12, 30))
    for rank in (effective_rank, stable_rank):
        assert 1.0 <= rank(values) <= 12.0
        assert rank(values * 1e-30) == pytest.approx(rank(values))
        assert rank(torch.zeros(3)) == 0.0


def test_stable_rank_is_the_ratio_of_the_squared_norms() -> None:
    weight = drawn(7, 5)
    frobenius, spectral = torch.linalg.norm(weight), torch.linalg.matrix_norm(weight, 2)
    assert stable_rank(singular_values(weight)) == pytest.approx(float((frobenius / spectral) ** 2), rel=1e-5)
