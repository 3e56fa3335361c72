"""The minima of many objectives: groups, starts, progress, and the last step of each search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.testing import assert_close

from fcnet.linear_model import solver
from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.lbfgs import Search
from fcnet.linear_model.preconditioner import Preconditioner
from fcnet.linear_model.problem import Problem
from fcnet.linear_model.solver import Minima, Progress, solve

if TYPE_CHECKING:
    from torch import Tensor

STRENGTH = torch.tensor([1.0, 1e-1, 1e-2, 1e-3, 1e-4], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _lbfgs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newton's method would end all searches in a few steps."""
    monkeypatch.setattr("fcnet.linear_model.newton._MOST_PARAMETERS", 0)


def make_problem(strength: Tensor = STRENGTH) -> Problem:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=g).double()
    y = (x @ torch.randn(5, 3, generator=g).double() + torch.randn(300, 3, generator=g)).argmax(1)
    weight = torch.ones(300, dtype=torch.float64)
    features = FeatureBlocks(x, weight, center=True, device=torch.device("cpu"))
    return Problem(features, y, 3, weight, strength[:, None].expand(-1, 5), intercept=True)


def find(start: Tensor | None = None, *, newton: bool = False, strength: Tensor = STRENGTH, **arguments: Any) -> Minima:
    problem = make_problem(strength)
    preconditioner = None if newton else Preconditioner(problem.features, problem.weight, torch.ones(5).double())
    options: dict[str, Any] = {"tol": 1e-9, "max_iter": 500, **arguments}
    return solve(problem, preconditioner, strength, start, **options)


TWO_TOGETHER = pytest.mark.parametrize(
    ("limit", "most"), [("_MOST_HISTORY", 2 * solver._BYTES_PER_PARAMETER * 3 * 6), ("_MOST_COLUMNS", 2 * 3)]
)


@TWO_TOGETHER
def test_groups_find_the_same_minima(monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    together = find()
    assert together.converged.all()
    monkeypatch.setattr(solver, limit, most)
    progress: list[Progress] = []
    grouped = find(on_pass=progress.append)
    assert_close(grouped.value, together.value, rtol=1e-9, atol=0.0)
    ends = (part - part.mean(1, keepdim=True) for part in (grouped.parameters, together.parameters))
    assert_close(*ends, rtol=1e-4, atol=1e-5)  # equal shifts of all nodes change nothing
    ended = torch.stack([each.ended for each in progress]).int()
    assert ended[-1].all()
    assert (ended.diff(dim=0) >= 0).all()  # in each group, and group by group
    assert ended[:, :2].min(1).values.argmax() < ended[:, 2:4].min(1).values.argmax()
    assert [each.passes for each in progress] == list(range(1, len(progress) + 1))


@TWO_TOGETHER
def test_groups_resume_bit_for_bit(monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    monkeypatch.setattr(solver, limit, most)
    states: list[dict[str, Tensor]] = []
    whole = find(on_pass=lambda progress: states.append(progress.state()))
    for state in states[::4]:
        for found, expected in zip(find(state=state), whole, strict=True):
            assert torch.equal(found, expected)


def test_the_gradient_of_the_progress_falls_and_is_infinite_before_the_first_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(solver, "_MOST_HISTORY", 0)
    gradients: list[Tensor] = []
    found = find(on_pass=lambda progress: gradients.append(progress.gradient.clone()))
    assert gradients[0].isinf().tolist() == [False, True, True, True, True]
    assert (gradients[-1] <= 1e-9).all()
    assert_close(gradients[-1][:-1], found.gradient[:-1])


def test_most_penalties_of_a_long_path_start_between_the_minima_of_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    strength = torch.logspace(0, -4, 17, dtype=torch.float64)
    options: dict[str, Any] = {"strength": strength, "tol": 1e-5}
    together = find(**options)
    monkeypatch.setattr(solver, "_MIN_COLUMNS", 3 * 17)
    states: list[dict[str, Tensor]] = []
    ended: list[Tensor] = []

    def note(progress: Progress) -> None:
        states.append(progress.state())
        ended.append(progress.ended.clone())

    path = find(**options, on_pass=note)
    assert path.converged.all()
    assert_close(path.value, together.value, rtol=1e-6, atol=0.0)
    first = torch.arange(17) % 4 == 0  # a factor of ten apart
    assert torch.equal(next(each for each in ended if each.any()) & ~first, torch.zeros(17, dtype=torch.bool))
    assert (path.iterations - together.iterations)[first].abs().max() <= 1  # rounded differently
    assert path.iterations[~first].sum() < 0.7 * together.iterations[~first].sum()
    for state in states[::9]:
        for found, expected in zip(find(**options, state=state), path, strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("strength", "step"),
    [
        (torch.logspace(0, -4, 17, dtype=torch.float64), 4),
        (torch.logspace(0, -4, 9, dtype=torch.float64), 2),
        (torch.logspace(0, -4, 5, dtype=torch.float64), 1),
        (torch.logspace(0, -1, 17, dtype=torch.float64), 4),
        (torch.ones(17), 1),
        (torch.tensor([1.0, 1e-3, 0.0]), 1),
        (torch.ones(1), 1),
    ],
)
def test_the_penalties_that_come_first_are_at_most_a_factor_of_ten_apart(
    monkeypatch: pytest.MonkeyPatch, strength: Tensor, step: int
) -> None:
    monkeypatch.setattr(solver, "_MIN_COLUMNS", 1)
    first = torch.full((len(strength),), -1)

    def note(progress: Progress) -> None:
        first[progress.gradient.isfinite() & (first < 0)] = progress.passes

    find(strength=strength.double(), max_iter=1, on_pass=note)
    expected = [k for k in range(len(strength)) if k % step == 0 or k == len(strength) - 1]
    assert (first == 1).nonzero().flatten().tolist() == expected


def test_newtons_method_and_lbfgs_end_at_the_same_minima(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = find()
    monkeypatch.undo()
    for newton in (False, True):
        found = find(newton=newton)
        assert_close(found.value, expected.value, rtol=1e-9, atol=0.0)
        assert (found.iterations <= expected.iterations).all()


def test_minima_as_a_start_need_no_step_and_a_worse_start_than_0_is_left_out() -> None:
    cold = find()
    warm = find(cold.parameters)
    assert warm.iterations.tolist() == [0] * 5
    assert_close(warm.value, cold.value, rtol=1e-12, atol=0.0)
    far = find(cold.parameters + 1e3 * torch.randn(cold.parameters.shape, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(far.parameters, cold.parameters)
    mixed = cold.parameters.clone()
    mixed[0] += 1e6
    mixed[0, 0] -= 2e6
    found = find(mixed).iterations.tolist()
    assert 0 < found[0] <= cold.iterations[0] + 3
    assert found[1:] == [0] * 4


def test_the_limit_counts_the_steps_in_both_precisions() -> None:
    for limit in (0, 1, 4):
        found = find(max_iter=limit, tol=1e-13)
        assert found.iterations.tolist() == [limit] * 5
        assert not found.converged.any()


def test_the_last_step_is_taken_where_it_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    better = find(tol=1e-3)

    class Uphill(Search):
        def _end(self, accepted: Tensor) -> None:
            super()._end(accepted)
            self.last_step *= -1.0

    monkeypatch.setattr(solver, "Search", Uphill)
    kept = find(tol=1e-3)
    assert (better.value <= kept.value).all()
    assert (better.value < kept.value).any()
    problem = make_problem()
    at_end = problem.evaluate(kept.parameters, torch.float64, torch.arange(5))
    assert_close(kept.value, at_end.value, rtol=1e-14, atol=0.0)
    assert_close(kept.gradient, at_end.grad.abs().amax((1, 2)), rtol=1e-9, atol=1e-15)
