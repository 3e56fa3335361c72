"""Tests of fcnet.sklearn.linear_minima: the minima of many penalties, on rows, scales and starts of any kind."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from fcnet.sklearn.linear_minima import Task, find_minima

X, Y = load_iris(return_X_y=True)
CS = np.array([100.0, 0.01, 1.0])  # in no order


def make_task(*, is_sparse: bool = False, standardize: bool = True, fit_intercept: bool = True) -> Task:
    return Task(
        scipy.sparse.csr_array(X) if is_sparse else X,
        Y,
        3,
        np.random.default_rng(0).uniform(0.0, 2.0, 150),
        standardize=standardize,
        fit_intercept=fit_intercept,
        tol=1e-9,
        max_iter=1000,
    )


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_every_penalty_has_its_own_minimum(is_sparse: bool, standardize: bool, fit_intercept: bool) -> None:
    task = make_task(is_sparse=is_sparse, standardize=standardize, fit_intercept=fit_intercept)
    found = find_minima(task, CS)
    assert (found.gradient <= 1e-9).all()
    scaled = (X - found.mean) / found.std
    for k, strength in enumerate(CS):
        other = LogisticRegression(
            C=strength, fit_intercept=fit_intercept, solver="newton-cholesky", tol=1e-12, max_iter=1000
        ).fit(scaled, Y, task.weight)
        np.testing.assert_allclose(found.coef[k] * found.std, other.coef_, rtol=1e-4, atol=1e-5)
    assert fit_intercept or not found.intercept.any()
    assert fit_intercept or not found.mean.any()


@pytest.mark.parametrize("is_sparse", [False, True])
def test_rows_are_as_if_the_others_were_not_there(is_sparse: bool) -> None:
    rows = np.arange(0, 150, 2)
    task = make_task(is_sparse=is_sparse)
    alone = dataclasses.replace(task, x=task.x[rows], labels=Y[rows], weight=task.weight[rows])
    unweighted = dataclasses.replace(task, weight=np.where(np.isin(np.arange(150), rows), task.weight, 0.0))
    expected = find_minima(alone, CS)
    for found in (find_minima(task, CS, rows=rows), find_minima(unweighted, CS)):
        np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-9)
        np.testing.assert_allclose(found.std, expected.std, rtol=1e-12)
        assert found.iterations.tolist() == expected.iterations.tolist()


@pytest.mark.parametrize("standardize", [False, True])
def test_a_start_at_the_minima_ends_there(standardize: bool) -> None:
    task = make_task(standardize=standardize)
    cold = find_minima(task, CS)
    warm = find_minima(task, CS, start=(cold.coef, cold.intercept))
    assert warm.iterations.max() <= 1
    np.testing.assert_allclose(warm.coef, cold.coef, rtol=1e-6)


def test_only_a_search_without_a_penalty_can_be_growing() -> None:
    task = make_task()
    assert find_minima(task, np.array([1e30, np.inf])).is_growing.tolist() == [False, True]
    mixed = dataclasses.replace(task, labels=np.random.default_rng(0).integers(3, size=150))
    found = find_minima(mixed, np.array([1.0, np.inf]))
    assert not found.is_growing.any()
    assert (found.gradient <= 1e-9).all()
