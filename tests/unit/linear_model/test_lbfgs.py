"""L-BFGS: many searches together, each as if it were alone, which end at minima or say that they do not."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch
from torch.testing import assert_close

from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.lbfgs import Search
from fcnet.linear_model.preconditioner import Preconditioner
from fcnet.linear_model.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

PENALTIES = (1.0, 1e-2, 1e-4)


def make_search(
    penalties: Sequence[float] = PENALTIES,
    *,
    tol: float = 1e-8,
    max_iter: Sequence[int] | int = 500,
    dtype: torch.dtype = torch.float64,
    start: float = 0.0,
    separable: bool = False,
) -> tuple[Search, Problem]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=g).double() @ torch.randn(5, 5, generator=g).double()
    y = (x @ torch.randn(5, 3, generator=g).double() + (not separable) * torch.randn(300, 3, generator=g)).argmax(1)
    weight = torch.ones(300, dtype=torch.float64)
    features = FeatureBlocks(x, weight, center=True, device=torch.device("cpu"))
    strength = torch.tensor(penalties, dtype=torch.float64)
    problem = Problem(features, y, 3, weight, strength[:, None].expand(-1, 5), intercept=True)
    limits = torch.as_tensor(max_iter).expand(len(penalties)).clone()
    preconditioner = Preconditioner(features, weight, torch.ones(5).double())
    return Search(
        problem, preconditioner, strength, problem.zeros() + start, dtype=dtype, tol=tol, max_iter=limits
    ), problem


def run(search: Search) -> Search:
    while len(search.active):
        search.advance()
    return search


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_each_gradient_falls_below_the_tolerance(dtype: torch.dtype, tol: float) -> None:
    search, problem = make_search(dtype=dtype, tol=tol)
    run(search)
    assert search.converged.all()
    assert search.end is not None
    found = problem.evaluate(search.result, torch.float64, torch.arange(3))
    assert (found.grad.abs().amax((1, 2)) <= 2.0 * tol).all()
    assert (search.gradient <= tol).all()
    assert_close(search.end.value, found.value, rtol=1e-6, atol=0.0)
    assert search.iterations.min() > 0
    assert search.iterations.max() < 100


def test_searches_together_are_searches_alone() -> None:
    together = run(make_search()[0])
    for k, penalty in enumerate(PENALTIES):
        alone = run(make_search([penalty])[0])
        assert alone.iterations[0] == together.iterations[k]
        ends = (each - each.mean(0) for each in (alone.result[0], together.result[k]))  # equal shifts change nothing
        assert_close(*ends, rtol=1e-6, atol=1e-9)


def test_each_search_has_its_own_limit() -> None:
    search = run(make_search(max_iter=[1, 3, 500], tol=1e-12)[0])
    assert search.iterations[:2].tolist() == [1, 3]
    assert search.converged.tolist() == [False, False, True]
    none = run(make_search(max_iter=0)[0])
    assert not none.result.any()
    assert not none.converged.any()


def test_no_step_goes_up() -> None:
    search, problem = make_search([1e-6], start=2.0, separable=True)
    values = [float("inf")]
    while len(search.active):
        search.advance()
        if len(search.active):
            values.append(float(problem.evaluate(search.parameters, torch.float64, search.active).value))
    assert all(after <= before * (1.0 + 1e-9) for before, after in pairwise(values))
    assert values[-1] < 0.01 * values[1]


def test_the_end_does_not_depend_on_the_start() -> None:
    search, expected = make_search()[0], run(make_search()[0])
    search.parameters += 3.0 * torch.randn(search.parameters.shape, generator=torch.Generator().manual_seed(0))
    run(search)
    assert search.converged.all()
    assert search.end is not None
    assert expected.end is not None
    assert_close(search.end.value, expected.end.value, rtol=1e-8, atol=0.0)


def test_a_tolerance_below_rounding_ends_the_search_unconverged() -> None:
    for dtype, most in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        search = run(make_search(tol=0.0, max_iter=10_000, dtype=dtype)[0])
        assert not search.converged.any()
        assert (search.gradient < most).all()
        assert search.iterations.max() < 1000


def test_a_small_gradient_alone_is_no_minimum() -> None:
    search = run(make_search([1e-9], tol=1e-3, separable=True)[0])
    assert search.end is not None
    assert search.converged.all()
    assert search.gradient[0] < 1e-4  # far below the tolerance, since the objective itself was not near its minimum
    slope = (search.end.grad * search.last_step).sum()
    assert slope.abs() <= 2e-3 * search.end.value[0]


@pytest.mark.parametrize("after", [1, 2, 7, 20])
def test_a_restored_search_continues_bit_for_bit(after: int) -> None:
    search, whole = make_search()[0], run(make_search()[0])
    for _ in range(after):
        if len(search.active):
            search.advance()
    state = {name: part.clone() for name, part in search.state().items()}
    resumed = make_search()[0]
    resumed.load_state(state)
    run(resumed)
    assert torch.equal(resumed.result, whole.result)
    assert torch.equal(resumed.iterations, whole.iterations)
    assert torch.equal(resumed.converged, whole.converged)


def test_the_last_step_is_downhill() -> None:
    search, problem = make_search(max_iter=3, tol=1e-12)
    run(search)
    grad = problem.evaluate(search.result, torch.float64, torch.arange(3)).grad
    assert ((grad * search.last_step).sum((1, 2)) < 0.0).all()
