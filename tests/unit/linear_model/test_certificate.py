"""The gap bounds how far objectives are above their minima, everywhere, and closely near a minimum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from fcnet.linear_model.certificate import objective_gaps
from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.newton import NewtonSearch
from fcnet.linear_model.preconditioner import Preconditioner
from fcnet.linear_model.problem import ObjectiveValues, Problem
from tests.unit.linear_model.hard_problems import CS, minima

ALL = torch.arange(len(CS))
NAMES = ["plain", "two classes", "separable", "rare class", "no intercept", "soft targets", "a class without weight"]


class Case(NamedTuple):
    """A problem, its minima and the parameters there, as the search finds them."""

    problem: Problem
    least: torch.Tensor
    best: torch.Tensor

    def excess_and_gap(self, points: torch.Tensor, *, corrected: bool) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.problem.evaluate(points, torch.float64, ALL)
        features, weight = self.problem.features, self.problem.weight
        preconditioner = Preconditioner(features, weight, torch.ones_like(features.std)) if corrected else None
        return found.value - self.least, objective_gaps(self.problem, preconditioner, points, found, tight=1e-9)


def make_case(name: str) -> Case:
    hard, _, found = minima(name, "float64")
    weight = torch.as_tensor(hard.arguments.get("sample_weight", np.ones(len(hard.x))))
    intercept = hard.arguments.get("fit_intercept", True)
    x, y = torch.from_numpy(hard.x), torch.from_numpy(hard.y)
    features = FeatureBlocks(x, weight, center=intercept, device=torch.device("cpu"))
    strength = 1.0 / (torch.tensor(CS, dtype=torch.float64) * weight.sum())
    penalty = strength[:, None].expand(-1, x.shape[1])
    classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    problem = Problem(features, y, classes, weight, penalty, intercept=intercept)
    search = NewtonSearch(problem, strength, problem.zeros(), tol=1e-12, max_iter=torch.full((len(CS),), 60))
    while len(search.active):
        search.advance()
    least = torch.tensor([each.objective for each in found], dtype=torch.float64) * strength
    return Case(problem, least, search.result)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("corrected", [False, True])
def test_the_gap_bounds_the_excess_at_any_point(name: str, corrected: bool) -> None:
    case = make_case(name)
    generator = torch.Generator().manual_seed(0)
    for size in (0.0, 1e-9, 1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3):
        noise = torch.randn(case.best.shape, generator=generator, dtype=torch.float64)
        if not case.problem.intercept:
            noise[..., -1] = 0.0
        for points in (case.best + size * noise, case.best * (1.0 - size)):
            excess, gap = case.excess_and_gap(points, corrected=corrected)
            assert (excess <= gap).all(), (size, excess, gap)


@pytest.mark.parametrize("name", NAMES)
def test_intercepts_far_from_their_best_are_known_to_be(name: str) -> None:
    case = make_case(name)
    if case.problem.intercept:
        for shift in (-1.0, 1.0):
            points = case.best.clone()
            points[:, -1, -1] += shift
            excess, gap = case.excess_and_gap(points, corrected=True)
            assert (excess > 0.0).all()
            assert (excess <= gap).all()
    excess, gap = case.excess_and_gap(case.problem.zeros(), corrected=True)
    assert (excess <= gap).all()


@pytest.mark.parametrize("name", ["plain", "two classes", "no intercept", "soft targets"])
def test_the_gap_is_rounding_at_a_minimum(name: str) -> None:
    case = make_case(name)
    value = case.problem.evaluate(case.best, torch.float64, ALL).value
    for corrected in (False, True):
        _, gap = case.excess_and_gap(case.best, corrected=corrected)
        assert (gap <= 1e-9 * value).all()
        assert (gap >= 16.0 * torch.finfo(torch.float64).eps * value).all()


@pytest.mark.parametrize(("name", "factor"), [("plain", 1e5), ("two classes", 1e4), ("soft targets", 1.5)])
def test_the_correction_by_the_covariance_keeps_the_gap_close_under_a_weak_penalty(name: str, factor: float) -> None:
    case = make_case(name)
    noise = torch.randn(case.best.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = case.best + 1e-5 * (noise - noise.mean(1, keepdim=True) if noise.shape[1] > 1 else noise)
    excess, gap = case.excess_and_gap(points, corrected=True)
    _, plain = case.excess_and_gap(points, corrected=False)
    assert (gap <= plain).all()
    assert gap[-1] < factor * excess[-1]
    assert gap[-1] < 0.01 * plain[-1]


@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_covariance_loosens_the_gap_and_no_more(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(seed)

    def solve(_: Preconditioner, grad: torch.Tensor) -> torch.Tensor:
        wrong = torch.randn(grad.shape[2], grad.shape[2], generator=generator, dtype=torch.float64)
        return 10.0 ** (seed - 2) * grad @ wrong

    monkeypatch.setattr(Preconditioner, "solve_covariance", solve)
    case = make_case(NAMES[seed])
    for size in (1e-6, 1e-3, 1.0):
        excess, gap = case.excess_and_gap(case.best * (1.0 + size), corrected=True)
        assert (excess <= gap).all()


def test_no_penalty_has_no_gap_without_a_correction() -> None:
    problem = make_case("plain").problem.select(ALL)
    problem.penalty = torch.zeros_like(problem.penalty)
    found = problem.evaluate(problem.zeros(), torch.float64, ALL)
    assert (objective_gaps(problem, None, problem.zeros(), found, tight=1e-9) > 1e300).all()


def test_a_class_without_examples_has_a_finite_gap_with_an_intercept_or_without() -> None:
    for name in ("a class without weight", "a class without weight, no intercept"):
        case = make_case(name)
        excess, gap = case.excess_and_gap(case.best, corrected=False)
        value = case.problem.evaluate(case.best, torch.float64, ALL).value
        assert (gap <= 1e-8 * value).all()
        assert (excess <= gap).all()


def test_a_point_that_is_not_finite_has_an_infinite_gap() -> None:
    case = make_case("plain")
    points = case.best.clone()
    points[0] = torch.nan
    found = case.problem.evaluate(case.best, torch.float64, ALL)
    broken = ObjectiveValues(*(part.clone() for part in found))
    broken.grad[0] = torch.nan
    gap = objective_gaps(case.problem, None, points, broken, tight=1e-9)
    assert gap[0].isinf()
    assert gap[1:].isfinite().all()
