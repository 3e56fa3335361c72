"""Tests of fcnet.diagnostics.matrix_rank."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from fcnet.diagnostics.matrix_rank import effective_rank, singular_values, stable_rank


def random_matrix(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (1, 8), (8, 1), (4, 3, 2, 2)])
def test_singular_values_agree_with_lapack(shape: tuple[int, ...]) -> None:
    weight = random_matrix(*shape)
    assert_close(singular_values(weight), torch.linalg.svdvals(weight.flatten(1).double()), rtol=1e-7, atol=1e-7)


def test_singular_values_of_a_nonfinite_matrix_are_nan() -> None:
    for bad in (math.nan, math.inf):
        weight = random_matrix(4, 6)
        weight[2, 3] = bad
        assert singular_values(weight).isnan().all()
        assert math.isnan(effective_rank(singular_values(weight)))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_both_ranks_count_equal_singular_values(rank: int) -> None:
    values = torch.tensor([2.5] * rank + [0.0] * (8 - rank))
    assert effective_rank(values) == pytest.approx(rank)
    assert stable_rank(values) == pytest.approx(rank)


def test_the_effective_rank_is_two_to_the_entropy_in_bits() -> None:
    shares = [0.5, 0.25, 0.125, 0.125]
    bits = 1.75  # the entropy of these shares
    assert effective_rank(torch.tensor(shares) * 12.0) == pytest.approx(2.0**bits)


def test_both_ranks_are_bounded_and_do_not_depend_on_scale() -> None:
    values = singular_values(random_matrix(12, 30))
    for rank in (effective_rank, stable_rank):
        assert 1.0 <= rank(values) <= 12.0
        assert rank(values * 1e-30) == pytest.approx(rank(values))
        assert rank(torch.zeros(3)) == 0.0


def test_the_stable_rank_is_the_ratio_of_squared_norms() -> None:
    weight = random_matrix(7, 5)
    frobenius, spectral = torch.linalg.norm(weight), torch.linalg.matrix_norm(weight, 2)
    assert stable_rank(singular_values(weight)) == pytest.approx(float((frobenius / spectral) ** 2), rel=1e-5)
