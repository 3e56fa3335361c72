"""Paths of logistic regressions: the minimum, the certificate, resumption."""

import dataclasses

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fcnet.linear_model import Progress, SearchStopped, fit_path, logistic_path


def problem(count: int = 300, width: int = 6, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns features (N, D) and labels (N,) that overlap."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(count, width, generator=g, dtype=torch.float64)
    y = (x @ torch.randn(width, classes, generator=g).double() + torch.randn(count, classes, generator=g)).argmax(1)
    return x, y


@pytest.mark.parametrize("classes", [2, 3])
def test_the_minimum_is_scikit_learns(classes: int) -> None:
    x, y = problem(classes=classes)
    path = logistic_path(x, y, [0.01, 1.0], standardize=False, tol=1e-10)
    for k, penalty in enumerate(path.Cs.tolist()):
        other = LogisticRegression(C=penalty, tol=1e-12, max_iter=10000).fit(x.numpy(), y.numpy())
        assert torch.allclose(path.coef[k], torch.from_numpy(other.coef_), atol=1e-6)


@pytest.mark.parametrize("from_start", [False, True])
def test_an_interrupted_call_resumes_bit_for_bit(from_start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not from_start:  # then Newton's method comes after L-BFGS
        monkeypatch.setattr("fcnet.linear_model.newton._CHEAP_FLOPS", 0)
    x, y = problem()
    states = []

    def note(progress: Progress) -> None:
        states.append(progress.state())

    whole = fit_path(x, y, [0.01, 1.0, 100.0], on_pass=note, tol=1e-9)
    assert whole.converged.all()
    for state in states[::5] + states[-2:]:
        resumed = fit_path(x, y, [0.01, 1.0, 100.0], state=state, tol=1e-9)
        assert torch.equal(resumed.coef, whole.coef)
        assert torch.equal(resumed.iterations, whole.iterations)


def test_a_call_that_is_asked_to_stop_takes_its_last_state_and_raises() -> None:
    x, y = problem()
    stopping: list[bool] = []
    with pytest.raises(SearchStopped):
        fit_path(x, y, [0.01], on_pass=lambda it: stopping.append(it.stopping), stop=lambda: len(stopping) == 2)
    assert stopping == [False, False, True]


@pytest.mark.parametrize("size", [300.0, 1e200])
def test_a_start_that_is_worse_than_zero_costs_no_steps(size: float) -> None:
    x, y = problem()
    cold = fit_path(x, y, [0.01, 100.0])
    far = dataclasses.replace(cold, coef=torch.full_like(cold.coef, size).cumsum(1))
    warm = fit_path(x, y, [0.01, 100.0], start=far)
    assert torch.equal(warm.coef, cold.coef)
    assert fit_path(x, y, [0.01, 100.0], start=cold).iterations.tolist() == [0, 0]


def test_wide_features_of_few_rows_have_a_minimum_under_a_weak_penalty() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 40, generator=g) @ torch.randn(40, 2100, generator=g) + 0.5 * torch.randn(
        300, 2100, generator=g
    )
    y = (x @ torch.randn(2100, 5, generator=g) / 5 + 2 * torch.randn(300, 5, generator=g)).argmax(1)
    assert logistic_path(x, y, [1e4]).converged.all()


@pytest.mark.parametrize("max_iter", [1, 3, 5])
def test_the_gap_bounds_the_distance_of_objective_and_coefficients_from_the_minimum(max_iter: int) -> None:
    x, y = problem()
    exact = logistic_path(x, y, [1e-3, 1.0, 1e3], standardize=False, tol=1e-12)
    path = logistic_path(x, y, [1e-3, 1.0, 1e3], standardize=False, max_iter=max_iter)
    assert bool((path.objective - exact.objective <= path.gap).all())
    assert bool(((path.coef - exact.coef).flatten(1).norm(dim=1) <= (2.0 * path.gap).sqrt()).all())
