"""The objectives, their gradients and all sums over the examples equal those of plain formulas and of autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.problem import Problem

N, D, K = 700, 3, 2
ALL = torch.arange(K)


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_problem(classes: int, *, soft: bool = False, intercept: bool = True) -> Problem:
    """Returns objectives of two penalties on weighted examples."""
    x, weight = draw(N, D) + 0.3, draw(N).abs()
    features = FeatureBlocks(x, weight, center=intercept, device=torch.device("cpu"))
    target = draw(N, classes, seed=2).softmax(1) if soft else draw(N, classes, seed=2).argmax(1)
    penalty = torch.tensor([[1e-2] * D, [0.5, 1.0, 2.0]], dtype=torch.float64)
    return Problem(features, target, classes, weight, penalty, intercept=intercept)


def standardized(problem: Problem) -> torch.Tensor:
    """Returns the features and a column of ones, (N, D + 1)."""
    x = torch.cat([block.to_dense() for _, block in problem.features.blocks(torch.float64)])
    return torch.cat([x, torch.ones(N, 1, dtype=torch.float64)], 1)


def log_probabilities(problem: Problem, point: torch.Tensor) -> torch.Tensor:
    logits = standardized(problem) @ point.T
    if problem.num_nodes == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return logits.log_softmax(1)


def targets(problem: Problem) -> torch.Tensor:
    t = problem.target
    return (torch.nn.functional.one_hot(t, problem.num_classes) if t.ndim == 1 else t).double()


def objective(problem: Problem, k: int, point: torch.Tensor) -> torch.Tensor:
    losses = -(targets(problem) * log_probabilities(problem, point)).sum(1)
    mean = (problem.weight * losses).sum() / problem.weight.sum()
    return mean + 0.5 * (problem.penalty[k] * point[:, :-1] ** 2).sum()


def draw_points(problem: Problem) -> torch.Tensor:
    points = draw(K, problem.num_nodes, D + 1, seed=3)
    if not problem.intercept:
        points[..., -1] = 0.0
    return points


CASES = [
    {"classes": classes, "soft": soft, "intercept": intercept}
    for classes in (2, 4)
    for soft in (False, True)
    for intercept in (False, True)
]


@pytest.fixture(params=CASES, ids=str)
def problem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Problem:
    """Each kind of problem, read in several blocks."""
    monkeypatch.setattr("fcnet.linear_model.feature_blocks._BLOCK_VALUES", 1)
    return make_problem(**request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_those_of_autograd(problem: Problem, dtype: torch.dtype) -> None:
    points = draw_points(problem).requires_grad_()
    values = torch.stack([objective(problem, k, point) for k, point in enumerate(points)])
    (grad,) = torch.autograd.grad(values.sum(), points)
    if not problem.intercept:
        grad[..., -1] = 0.0
    found = problem.evaluate(points.detach(), dtype, ALL)
    tolerance: dict[str, Any] = (
        {"rtol": 1e-12, "atol": 1e-14} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    )
    assert_close(found.value, values.detach(), **tolerance)
    assert_close(found.grad, grad, **tolerance)
    penalties = 0.5 * (problem.penalty[:, None] * points.detach()[..., :-1] ** 2).sum((1, 2))
    assert_close(found.value - penalties, found.mean_loss)


def test_curvature_is_the_mean_of_the_second_derivatives_in_the_logits(problem: Problem) -> None:
    points = draw_points(problem)
    _, found = problem.evaluate_with_curvature(points, torch.float64, ALL)
    for point, matrix in zip(points, found, strict=True):
        p = log_probabilities(problem, point).exp()[:, -problem.num_nodes :]
        second = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        assert_close(matrix, torch.einsum("n,nij->ij", problem.weight, second) / problem.weight.sum())


def test_very_many_nodes_have_the_diagonal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(4)
    points = draw_points(problem)
    _, matrix = problem.evaluate_with_curvature(points, torch.float64, ALL)
    monkeypatch.setattr("fcnet.linear_model.problem._MOST_COUPLED", 3)
    _, diagonal = problem.evaluate_with_curvature(points, torch.float64, ALL)
    assert_close(diagonal, matrix.diagonal(dim1=1, dim2=2)[..., None])


def test_some_examples_represent_all_in_the_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.linear_model.problem._FEWEST_ROWS", 64)
    problem = make_problem(4)
    points = draw_points(problem)
    few, some = problem.evaluate_with_curvature(points, torch.float64, ALL)
    monkeypatch.undo()
    every, whole = make_problem(4).evaluate_with_curvature(points, torch.float64, ALL)
    assert torch.equal(few.grad, every.grad)
    assert not torch.equal(some, whole)
    assert_close(some, whole, rtol=0.3, atol=0.03)
    assert torch.equal(make_problem(4).evaluate(points, torch.float64, ALL).grad, every.grad)


def test_second_derivatives_are_those_of_autograd(problem: Problem) -> None:
    points, directions = draw_points(problem), draw(K, problem.num_nodes, D + 1, seed=4)
    found, products = problem.second_derivatives(points, ALL), problem.multiply(points, directions, ALL)
    free = torch.ones(problem.num_nodes, D + 1, dtype=torch.float64)
    free[:, -1] = float(problem.intercept)
    for k, point in enumerate(points):

        def at(flat: torch.Tensor, k: int = k) -> torch.Tensor:
            return objective(problem, k, flat.view_as(free))

        matrix = torch.autograd.functional.hessian(at, point.flatten())
        expected = matrix * free.flatten() * free.flatten()[:, None]
        assert_close(found[k], expected, rtol=1e-10, atol=1e-12)
        direction = directions[k].flatten()
        if not problem.intercept:  # which has no part in a search
            expected = matrix * free.flatten()[:, None]
        assert_close(products[k].flatten(), expected @ direction, rtol=1e-10, atol=1e-12)


def test_the_dual_changes_each_probability_within_limits(problem: Problem) -> None:
    points, shifts = draw_points(problem), draw(K, problem.num_nodes, D + 1, seed=5)
    entropy, slopes = problem.evaluate_dual(points, shifts)
    x, total = standardized(problem), problem.weight.sum()
    for k, point in enumerate(points):
        p = log_probabilities(problem, point).exp()
        change = x @ shifts[k].T
        if problem.num_nodes == 1:
            change = torch.cat([-change, change], 1)
        q = torch.minimum(torch.maximum(p - change, p / 6.0), 6.0 * p)
        q /= q.sum(1, keepdim=True)
        assert_close(entropy[k], -(problem.weight * (q * q.log()).sum(1)).sum() / total)
        residuals = (q - targets(problem))[:, -problem.num_nodes :] * problem.weight[:, None]
        assert_close(slopes[k], residuals.T @ x / total)


@pytest.mark.parametrize("intercept", [False, True])
def test_the_dual_gives_classes_without_examples_no_probability_where_the_intercept_demands_it(intercept: bool) -> None:
    x, weight = draw(N, D), torch.ones(N, dtype=torch.float64)
    features = FeatureBlocks(x, weight, center=intercept, device=torch.device("cpu"))
    target = (x[:, 0] > 0.0).long()
    problem = Problem(features, target, 3, weight, torch.ones(1, D).double(), intercept=intercept)
    _, slopes = problem.evaluate_dual(problem.zeros(), problem.zeros())
    expected = [0.5, 0.5, 0.0] if intercept else [1.0 / 3.0] * 3
    assert_close(slopes[0, :, -1] + problem.frequencies, torch.tensor(expected, dtype=torch.float64))


def test_class_means_and_frequencies_are_weighted(problem: Problem) -> None:
    t, x = targets(problem) * problem.weight[:, None] / problem.weight.sum(), standardized(problem)
    assert_close(problem.frequencies, t.sum(0))
    assert_close(problem.class_means, t.T @ x[:, :-1])
    assert_close(problem.feature_means, problem.weight @ x[:, :-1] / problem.weight.sum())
    assert problem.num_rows == N
    assert problem.total == pytest.approx(float(problem.weight.sum()))


def test_some_penalties_are_evaluated_alone() -> None:
    problem = make_problem(4)
    points = draw_points(problem)
    both = problem.evaluate(points, torch.float64, ALL)
    second = problem.evaluate(points[1:], torch.float64, torch.tensor([1]))
    selected = problem.select(torch.tensor([1])).evaluate(points[1:], torch.float64, torch.tensor([0]))
    assert_close(second.value, both.value[1:])
    assert_close(selected.grad, both.grad[1:])
    assert problem.select(torch.tensor([1])).zeros().shape == (1, 4, D + 1)
    taken = both.where(torch.tensor([False, True]), both.select(torch.tensor([1, 0])))
    assert taken.value.tolist() == [both.value[0], both.value[0]]


def test_confident_examples_keep_the_digits_of_their_loss() -> None:
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    features = FeatureBlocks(x, torch.ones(2).double(), center=True, device=torch.device("cpu"))
    problem = Problem(
        features, torch.tensor([1, 0]), 2, torch.ones(2).double(), torch.zeros(1, 1).double(), intercept=True
    )
    for dtype in (torch.float32, torch.float64):
        found = problem.evaluate(torch.tensor([[[50.0, 0.0]]], dtype=torch.float64), dtype, torch.arange(1))
        assert_close(found.value, torch.tensor([-50.0], dtype=torch.float64).exp(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_confident_examples_keep_the_digits_of_gradients_and_of_the_dual(classes: int, soft: bool) -> None:
    x, weight = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    features = FeatureBlocks(x, weight, center=False, device=torch.device("cpu"))
    labels = torch.tensor([classes - 1, 0])
    target = torch.nn.functional.one_hot(labels, classes).double() if soft else labels
    problem = Problem(features, target, classes, weight, torch.zeros(1, 1).double(), intercept=False)
    logits = torch.linspace(
        -20.0, 20.0, classes, dtype=torch.float64
    )  # of the first example; the second's are reversed
    point = problem.zeros()
    point[0, :, 0] = logits if classes > 2 else 40.0
    powers = (logits - 20.0).exp()
    wrong = powers[:-1].sum() / powers.sum()  # the probability of all classes but the right one
    expected = -0.5 * (wrong + powers[0] / powers.sum())
    found = problem.evaluate(point, torch.float64, torch.arange(1))
    assert_close(found.value[0], -(-wrong).log1p(), rtol=1e-12, atol=0.0)
    assert_close(found.grad[0, -1, 0], expected, rtol=1e-12, atol=0.0)
    entropy, slopes = problem.evaluate_dual(point, problem.zeros())
    others = powers[:-1] / powers.sum()
    assert_close(entropy[0], torch.special.entr(others).sum() + (wrong - 1.0) * (-wrong).log1p(), rtol=1e-12, atol=0.0)
    assert_close(slopes[0, -1, 0], expected, rtol=1e-12, atol=0.0)
