"""Tests of fcnet.sklearn.linear_classifier: attributes and warnings that both logistic regressions share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning

from fcnet.sklearn import LogisticRegression, LogisticRegressionCV
from fcnet.sklearn.linear_classifier import PassPrinter
from fcnet.sklearn.linear_minima import LinearMinima

X, Y = load_iris(return_X_y=True)


@pytest.mark.parametrize("classifier", [LogisticRegression(), LogisticRegressionCV(Cs=2, cv=2)])
def test_coefficients_become_sparse_and_dense_again(classifier: Any) -> None:
    fitted = classifier.fit(X, Y)
    expected = fitted.decision_function(X)
    assert scipy.sparse.issparse(fitted.sparsify().coef_)
    for features in (X, scipy.sparse.csr_matrix(X)):
        np.testing.assert_allclose(fitted.decision_function(features), expected)
    np.testing.assert_allclose(fitted.densify().decision_function(X), expected)


def test_the_worst_search_is_named() -> None:
    zeros = np.zeros((3, 1, 2))
    steps, growing = np.array([5, 7, 9]), np.zeros(3, bool)
    found = LinearMinima(zeros, zeros[:, :, 0], steps, np.array([1e-9, 2e-3, 1e-4]), growing, zeros[0, 0], zeros[0, 0])
    classifier = LogisticRegression(max_iter=9)
    with pytest.warns(
        ConvergenceWarning, match=r"decrease after 7 iterations, second the gradient is 2\.0e-03, tol is"
    ):
        classifier._warn(found, ["first ", "second ", "third "])
    with pytest.warns(
        ConvergenceWarning, match=r"^no convergence after max_iter=7 iterations: the gradient is 2\.0e-03"
    ):
        LogisticRegression(max_iter=7)._warn(found, [""] * 3)


def test_passes_are_counted_over_several_searches(capsys: pytest.CaptureFixture[str]) -> None:
    printer = PassPrinter("Fold 1: ")
    for gradient in (0.25, 1e-9):
        printer(SimpleNamespace(gradient=torch.tensor([gradient, 0.0])))  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [
        "Fold 1: Pass 1, gradient = 2.5e-01",
        "Fold 1: Pass 2, gradient = 1.0e-09",
    ]
