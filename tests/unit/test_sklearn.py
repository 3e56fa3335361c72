"""The classifiers are scikit-learn's in every check it has, and logistic regression reaches the optimum."""

from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fcnet.runtime.errors import UserError
from fcnet.sklearn import LogisticRegression, MLPClassifier

if TYPE_CHECKING:
    import numpy.typing as npt

SETS = {"iris": load_iris, "cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        LogisticRegression(standardize=False),
        MLPClassifier(epochs=15, lr=1e-2),
        MLPClassifier((16, 16), epochs=15, lr=2e-2, normalization="batch", dropout=0.1),
    ],
    ids=str,
)
def test_scikit_learns_own_checks_pass(estimator: LogisticRegression | MLPClassifier) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks' own, and their three iterations
        results = check_estimator(estimator, on_skip=None)
    assert len(results) > 50
    needs = {"check_array_api_input", "check_classifier_data_not_an_array", "check_sample_weights_pandas_series"}
    assert {result["check_name"] for result in results if result["status"] != "passed"} <= needs  # not installed


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_coefficients_are_those_of_scikit_learns_logistic_regression(name: str, strength: float) -> None:
    x, y = SETS[name](return_X_y=True)
    ours = LogisticRegression(strength).fit(x, y)
    theirs = make_pipeline(StandardScaler(), Reference(C=strength, tol=1e-10, max_iter=10_000)).fit(x, y)
    scaled = ours.coef_ * ours.std_
    np.testing.assert_allclose(scaled, theirs[-1].coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=0, atol=1e-5)


def test_without_standardising_it_is_their_estimator_alone() -> None:
    x, y = load_iris(return_X_y=True)
    ours = LogisticRegression(10.0, standardize=False).fit(x, y)
    theirs = Reference(C=10.0, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=0, atol=5e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_gradient_of_the_promised_function_is_zero_at_the_coefficients(num_classes: int) -> None:
    x, y = load_iris(return_X_y=True)
    x, y = x[y < num_classes], y[y < num_classes]
    weight = np.random.default_rng(0).uniform(0.0, 2.0, len(y))
    found = LogisticRegression(3.0, standardize=False).fit(x, y, weight)

    def objective(parameters: npt.NDArray[np.float64]) -> float:
        coef, intercept = parameters[:-1].T, parameters[-1]
        logits = x @ coef.T + intercept
        logits = np.hstack([np.zeros_like(logits), logits]) if num_classes == 2 else logits
        losses = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
        return float(3.0 * (weight * losses).sum() + 0.5 * (coef**2).sum())

    best = np.vstack([found.coef_.T, found.intercept_])
    for direction in np.random.default_rng(1).normal(size=(20, *best.shape)):
        slope = (objective(best + 1e-5 * direction) - objective(best - 1e-5 * direction)) / 2e-5
        assert abs(slope) < 1e-4
        assert objective(best + 0.1 * direction) > objective(best)


def test_coefficients_are_of_the_features_as_they_come() -> None:
    x, y = load_wine(return_X_y=True)
    found = LogisticRegression().fit(x, y)
    logits = x @ found.coef_.T + found.intercept_
    np.testing.assert_allclose(found.decision_function(x), logits)
    np.testing.assert_allclose(found.predict_proba(x), np.exp(logits - logsumexp(logits, axis=1, keepdims=True)))


def test_a_weight_is_worth_as_many_examples() -> None:
    x, y = load_iris(return_X_y=True)
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    weighted = LogisticRegression().fit(x, y, weight)
    repeated = LogisticRegression().fit(np.repeat(x, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=0, atol=1e-6)


def test_too_few_iterations_are_warned_of() -> None:
    x, y = load_digits(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match=r"max_iter must be larger for a gradient of at most 1e-08, got 3: "):
        LogisticRegression(max_iter=3).fit(x, y)


@pytest.mark.parametrize("estimator", [MLPClassifier((16,), lr=1e-2, random_state=3), LogisticRegression()], ids=str)
def test_any_labels_do_and_a_pickle_says_the_same(estimator: Any) -> None:
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    fitted = estimator.fit(x, names)
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert set(fitted.predict(x)) <= set(names)
    assert fitted.score(x, names) > 0.9
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(again.predict_proba(x), fitted.predict_proba(x))
    np.testing.assert_array_equal(clone(fitted).fit(x, names).predict_proba(x), fitted.predict_proba(x))
    assert not any(parameter.requires_grad for parameter in fitted.model_.parameters())


def test_random_state_decides_and_torchs_own_is_left_alone() -> None:
    x, y = load_iris(return_X_y=True)
    before = torch.get_rng_state()
    first, same, other = (
        MLPClassifier((8,), epochs=3, dropout=0.2, random_state=state).fit(x, y).predict_proba(x) for state in (0, 0, 1)
    )
    LogisticRegression().fit(x, y)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3
    assert torch.equal(torch.get_rng_state(), before)


def test_the_scale_of_a_feature_is_of_no_consequence() -> None:
    x, y = load_iris(return_X_y=True)
    scaled = x * [1e-6, 1.0, 1e6, 1.0] + [0.0, 5.0, 0.0, -5.0]
    for estimator in (LogisticRegression(), MLPClassifier((8,), epochs=5, random_state=0)):
        plain = estimator.fit(x, y).predict_proba(x)
        np.testing.assert_allclose(estimator.fit(scaled, y).predict_proba(scaled), plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1])
def test_a_feature_that_never_varies_says_nothing(value: float) -> None:
    x, y = load_iris(return_X_y=True)
    still = np.hstack([x, np.full((len(x), 1), value)])
    found = LogisticRegression().fit(still, y)
    np.testing.assert_allclose(found.coef_[:, -1], 0.0, atol=1e-9)
    np.testing.assert_allclose(found.predict_proba(still), LogisticRegression().fit(x, y).predict_proba(x), atol=1e-6)


def test_the_network_learns_digits() -> None:
    x, y = load_digits(return_X_y=True)
    found = MLPClassifier((64,), epochs=20, random_state=0).fit(x[:1200], y[:1200])
    assert found.score(x[1200:], y[1200:]) > 0.9
    assert len(found.loss_curve_) == 20
    assert found.loss_curve_[-1] < 0.5 * found.loss_curve_[0]


def test_a_search_takes_it() -> None:
    x, y = load_iris(return_X_y=True)
    search = GridSearchCV(make_pipeline(LogisticRegression()), {"logisticregression__C": [1e-6, 1.0]}, cv=3).fit(x, y)
    assert search.best_params_ == {"logisticregression__C": 1.0}


def test_what_cannot_be_learnt_from_is_refused_in_a_line() -> None:
    x, y = load_iris(return_X_y=True)
    for estimator, args, said in (
        (LogisticRegression(), (x[:9], y[:9]), "y must hold at least two classes, got 1 class: "),
        (LogisticRegression(0.0), (x, y), r"C must be greater than 0, got 0\.0"),
        (LogisticRegression(), (x, y, np.zeros(len(y))), "Sample weights must|sample_weight must"),
        (MLPClassifier((0,)), (x, y), "each width of hidden must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=said):
            estimator.fit(*args)
    assert issubclass(UserError, ValueError)
