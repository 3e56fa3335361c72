"""Tests of fcnet.sklearn.layer_attributes: the layers by scikit-learn's names make the network's predictions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from fcnet.sklearn import MLPClassifier

X, Y = load_iris(return_X_y=True)


def test_the_layers_as_scikit_learn_has_them_make_the_same_predictions() -> None:
    fitted = MLPClassifier((8, 6), epochs=5, random_state=0).fit(X, Y)
    a = (X - fitted.mean_) / fitted.std_
    for coef, intercept in zip(fitted.coefs_[:-1], fitted.intercepts_[:-1], strict=True):
        a = np.maximum(a @ coef + intercept, 0.0)
    np.testing.assert_allclose(fitted.decision_function(X), a @ fitted.coefs_[-1] + fitted.intercepts_[-1], rtol=1e-9)
    assert [coef.shape for coef in fitted.coefs_] == [(4, 8), (8, 6), (6, 3)]
    assert (fitted.n_layers_, fitted.n_outputs_, fitted.out_activation_) == (4, 3, "softmax")
    two = MLPClassifier((8,), epochs=5, random_state=0).fit(X[:100], Y[:100])
    assert (two.n_outputs_, two.out_activation_) == (1, "logistic")


def test_a_normalized_layer_has_its_shift() -> None:
    fitted = MLPClassifier((8,), epochs=2, normalization="batch", random_state=0).fit(X, Y)
    assert [intercept.shape for intercept in fitted.intercepts_] == [(8,), (3,)]


def test_there_are_no_layers_before_fit() -> None:
    for name in ("coefs_", "intercepts_", "n_layers_", "n_outputs_", "out_activation_"):
        with pytest.raises(NotFittedError):
            getattr(MLPClassifier(), name)
