"""Newton's method: a few steps to the last digit, and no harm from minima that are not unique."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from sklearn.datasets import load_iris

from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.newton import NewtonSearch, has_small_matrices, is_fast_from_the_start
from fcnet.linear_model.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor


def make_problem(penalties: list[float], repeats: int = 1, *, intercept: bool = True) -> Problem:
    """Returns objectives on iris, whose columns may be repeated."""
    x, y = load_iris(return_X_y=True)
    features = torch.from_numpy(x).repeat(1, repeats)
    weight = torch.ones(len(x), dtype=torch.float64)
    blocks = FeatureBlocks(features, weight, center=True, device=torch.device("cpu"))
    penalty = torch.tensor(penalties, dtype=torch.float64)[:, None].expand(-1, features.shape[1])
    return Problem(blocks, torch.from_numpy(y), 3, weight, penalty, intercept=intercept)


def search(problem: Problem, *, tol: float, max_iter: int = 100, start: Tensor | None = None) -> NewtonSearch:
    """Returns a search at its end."""
    count = len(problem.penalty)
    result = NewtonSearch(
        problem,
        problem.penalty[:, 0],
        problem.zeros() if start is None else start,
        tol=tol,
        max_iter=torch.full((count,), max_iter),
    )
    while len(result.active):
        result.advance()
    return result


@pytest.mark.parametrize("by_products", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_all_gradients_fall_below_the_tolerance_in_a_few_steps(
    intercept: bool, by_products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_products:
        monkeypatch.setattr("fcnet.linear_model.newton._MOST_PARAMETERS", 0)
    problem = make_problem([1e-1, 1e-3, 1e-6], intercept=intercept)
    found = search(problem, tol=1e-12)
    assert found.iterations.max() < 30
    grad = problem.evaluate(found.result, torch.float64, torch.arange(3)).grad
    assert grad.abs().max() <= 1e-12
    torch.testing.assert_close(found.result.sum(1), torch.zeros(3, 5).double(), atol=1e-9, rtol=0.0)
    assert intercept or not found.result[..., -1].any()


def test_equal_features_share_their_weight_without_a_penalty() -> None:
    found = search(make_problem([0.0], repeats=2), tol=1e-9)
    assert found.gradient.max() <= 1e-9
    torch.testing.assert_close(found.result[..., :4], found.result[..., 4:8], rtol=1e-3, atol=1e-3)


def test_a_start_off_the_centre_of_the_nodes_costs_nothing() -> None:
    problem = make_problem([1e-3])
    ends = [search(problem, tol=1e-12, start=problem.zeros() + shift) for shift in (0.0, 3.0)]
    torch.testing.assert_close(ends[0].result, ends[1].result)
    assert ends[0].iterations.tolist() == ends[1].iterations.tolist()


def test_a_tolerance_below_rounding_ends_the_search() -> None:
    found = search(make_problem([1e-3]), tol=0.0, max_iter=1000)
    assert found.gradient.max() < 1e-14
    assert found.iterations.max() < 200


def test_matrices_are_for_few_parameters_and_rows() -> None:
    assert is_fast_from_the_start(make_problem([1.0]))
    assert not is_fast_from_the_start(make_problem([1.0] * 5000))
    assert has_small_matrices(make_problem([1.0] * 5000))
    assert not has_small_matrices(make_problem([1.0], repeats=200))
