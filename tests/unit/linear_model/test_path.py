"""Paths of logistic regressions: the minimum, the certificate, resumption."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fcnet.data.features import open_features
from fcnet.linear_model import Progress, SearchStopped, feature_blocks, fit_path, logistic_path, newton

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["memory map", "mapped tensor"])
def test_features_past_memory_are_read_in_blocks(
    kind: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = problem(3000)
    x = x.to(dtype)
    expected = logistic_path(x, y, [0.01, 10.0], tol=1e-9)
    np.save(tmp_path / "x_train.npy", x.numpy())
    np.save(tmp_path / "y_train.npy", y.numpy())
    np.save(tmp_path / "x_test.npy", x[:3].numpy())
    np.save(tmp_path / "y_test.npy", y[:3].numpy())
    mapped: Any = np.load(tmp_path / "x_train.npy", mmap_mode="r")
    if kind == "mapped tensor":
        mapped = open_features(tmp_path).train.x
    monkeypatch.setattr(feature_blocks, "_MOST_COPIED", 0)
    monkeypatch.setattr(feature_blocks, "_BLOCK_VALUES", 1)
    monkeypatch.setattr(newton, "_CHEAP_FLOPS", 0)  # so that both precisions are read
    sizes, convert = set(), feature_blocks.to_floating

    def note(values: Any) -> torch.Tensor:
        sizes.add(len(values))
        result: torch.Tensor = convert(values)
        return result

    monkeypatch.setattr(feature_blocks, "to_floating", note)
    path = logistic_path(mapped, y, [0.01, 10.0], tol=1e-9)
    assert max(sizes) == 512
    assert path.converged.all()
    torch.testing.assert_close(path.objective, expected.objective, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(path.coef, expected.coef, rtol=1e-4, atol=1e-5)
