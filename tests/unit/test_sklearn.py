"""Tests of fcnet.sklearn: scikit-learn's own checks pass, and logistic regression reaches the optimum."""

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
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fcnet.runtime.errors import UserError
from fcnet.sklearn import LogisticRegression, MLPClassifier

if TYPE_CHECKING:
    import numpy.typing as npt

DATASETS = {"iris": load_iris, "cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}


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
        warnings.simplefilter("ignore")  # from the checks themselves, which allow three iterations
        results = check_estimator(estimator, on_skip=None)
    assert len(results) > 50
    optional = {"check_array_api_input", "check_classifier_data_not_an_array", "check_sample_weights_pandas_series"}
    assert {
        result["check_name"] for result in results if result["status"] != "passed"
    } <= optional  # they need packages that are not installed


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_coefficients_equal_those_of_scikit_learns_logistic_regression(name: str, strength: float) -> None:
    x, y = DATASETS[name](return_X_y=True)
    ours = LogisticRegression(strength).fit(x, y)
    theirs = make_pipeline(StandardScaler(), SklearnLogisticRegression(C=strength, tol=1e-10, max_iter=10_000)).fit(
        x, y
    )
    scaled = ours.coef_ * ours.std_
    np.testing.assert_allclose(scaled, theirs[-1].coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=0, atol=1e-5)


def test_without_standardization_coefficients_equal_scikit_learns_on_raw_features() -> None:
    x, y = load_iris(return_X_y=True)
    ours = LogisticRegression(10.0, standardize=False).fit(x, y)
    theirs = SklearnLogisticRegression(C=10.0, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=0, atol=5e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_gradient_of_the_documented_objective_is_zero_at_the_coefficients(num_classes: int) -> None:
    x, y = load_iris(return_X_y=True)
    x, y = x[y < num_classes], y[y < num_classes]
    weight = np.random.default_rng(0).uniform(0.0, 2.0, len(y))
    fitted = LogisticRegression(3.0, standardize=False).fit(x, y, weight)

    def objective(parameters: npt.NDArray[np.float64]) -> float:
        coef, intercept = parameters[:-1].T, parameters[-1]
        logits = x @ coef.T + intercept
        logits = np.hstack([np.zeros_like(logits), logits]) if num_classes == 2 else logits
        losses = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
        return float(3.0 * (weight * losses).sum() + 0.5 * (coef**2).sum())

    best = np.vstack([fitted.coef_.T, fitted.intercept_])
    for direction in np.random.default_rng(1).normal(size=(20, *best.shape)):
        derivative = (objective(best + 1e-5 * direction) - objective(best - 1e-5 * direction)) / 2e-5
        assert abs(derivative) < 1e-4
        assert objective(best + 0.1 * direction) > objective(best)


def test_coefficients_apply_to_raw_features() -> None:
    x, y = load_wine(return_X_y=True)
    fitted = LogisticRegression().fit(x, y)
    logits = x @ fitted.coef_.T + fitted.intercept_
    np.testing.assert_allclose(fitted.decision_function(x), logits)
    np.testing.assert_allclose(fitted.predict_proba(x), np.exp(logits - logsumexp(logits, axis=1, keepdims=True)))


def test_a_sample_weight_equals_repeating_the_example() -> None:
    x, y = load_iris(return_X_y=True)
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    weighted = LogisticRegression().fit(x, y, weight)
    repeated = LogisticRegression().fit(np.repeat(x, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=0, atol=1e-6)


def test_too_few_iterations_give_a_warning() -> None:
    x, y = load_digits(return_X_y=True)
    with pytest.warns(
        ConvergenceWarning, match=r"no convergence after max_iter=3 iterations: the gradient is .*, tol is 1e-08; "
    ):
        LogisticRegression(max_iter=3).fit(x, y)


@pytest.mark.parametrize("estimator", [MLPClassifier((16,), lr=1e-2, random_state=3), LogisticRegression()], ids=str)
def test_labels_may_be_strings_and_a_pickle_predicts_the_same(estimator: Any) -> None:
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    fitted = estimator.fit(x, names)
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert set(fitted.predict(x)) <= set(names)
    assert fitted.score(x, names) > 0.9
    loaded = pickle.loads(pickle.dumps(fitted))  # noqa: S301 - bytes from the line itself
    np.testing.assert_array_equal(loaded.predict_proba(x), fitted.predict_proba(x))
    np.testing.assert_array_equal(clone(fitted).fit(x, names).predict_proba(x), fitted.predict_proba(x))
    assert not any(parameter.requires_grad for parameter in fitted.model_.parameters())


def test_random_state_alone_determines_the_result() -> None:
    x, y = load_iris(return_X_y=True)
    before = torch.get_rng_state()
    first, same, other = (
        MLPClassifier((8,), epochs=3, dropout=0.2, random_state=state).fit(x, y).predict_proba(x) for state in (0, 0, 1)
    )
    LogisticRegression().fit(x, y)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3
    assert torch.equal(torch.get_rng_state(), before)


def test_the_scale_of_a_feature_does_not_matter() -> None:
    x, y = load_iris(return_X_y=True)
    scaled = x * [1e-6, 1.0, 1e6, 1.0] + [0.0, 5.0, 0.0, -5.0]
    for estimator in (LogisticRegression(), MLPClassifier((8,), epochs=5, random_state=0)):
        plain = estimator.fit(x, y).predict_proba(x)
        np.testing.assert_allclose(estimator.fit(scaled, y).predict_proba(scaled), plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1])
def test_a_constant_feature_has_no_effect(value: float) -> None:
    x, y = load_iris(return_X_y=True)
    extended = np.hstack([x, np.full((len(x), 1), value)])
    fitted = LogisticRegression().fit(extended, y)
    np.testing.assert_allclose(fitted.coef_[:, -1], 0.0, atol=1e-9)
    np.testing.assert_allclose(
        fitted.predict_proba(extended), LogisticRegression().fit(x, y).predict_proba(x), atol=1e-6
    )


def test_the_network_learns_digits() -> None:
    x, y = load_digits(return_X_y=True)
    fitted = MLPClassifier((64,), epochs=20, random_state=0).fit(x[:1200], y[:1200])
    assert fitted.score(x[1200:], y[1200:]) > 0.9
    assert len(fitted.loss_curve_) == 20
    assert fitted.loss_curve_[-1] < 0.5 * fitted.loss_curve_[0]


def test_grid_search_works_in_a_pipeline() -> None:
    x, y = load_iris(return_X_y=True)
    search = GridSearchCV(make_pipeline(LogisticRegression()), {"logisticregression__C": [1e-6, 1.0]}, cv=3).fit(x, y)
    assert search.best_params_ == {"logisticregression__C": 1.0}


def test_arguments_and_labels_out_of_range_are_errors() -> None:
    x, y = load_iris(return_X_y=True)
    for estimator, args, message in (
        (LogisticRegression(), (x[:9], y[:9]), "y must hold at least two classes, got 1 class: "),
        (LogisticRegression("l2"), (x, y), "C must be greater than 0, got 'l2'"),  # type: ignore[arg-type]
        (LogisticRegression(tol=-1.0), (x, y), r"tol must be at least 0, got -1\.0"),
        (MLPClassifier(lr=0.0), (x, y), r"lr must be a number greater than 0, got 0\.0"),
        (MLPClassifier(weight_decay=-1), (x, y), "weight_decay must be at least 0, got -1"),
        (MLPClassifier(label_smoothing=2.0), (x, y), r"label_smoothing must be from 0 to 1, got 2\.0"),
        (
            MLPClassifier(batch_size="auto"),  # type: ignore[arg-type]
            (x, y),
            "batch_size must be a whole number of at least 1, got 'auto'",
        ),
        (LogisticRegression(0.0), (x, y), r"C must be greater than 0, got 0\.0"),
        (LogisticRegression(), (x, y, np.zeros(len(y))), "Sample weights must|sample_weight must"),
        (MLPClassifier((0,)), (x, y), "each width of hidden must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            estimator.fit(*args)
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize("classes", [2, 3])
def test_log_probabilities_are_the_logarithms_and_stay_finite(classes: int) -> None:
    x, y = load_iris(return_X_y=True)
    x, y = x[y < classes], y[y < classes]
    for classifier in (LogisticRegression(), MLPClassifier((3,), epochs=2, random_state=0)):
        found = classifier.fit(x, y).predict_log_proba(x)
        np.testing.assert_allclose(found, np.log(classifier.predict_proba(x)), rtol=1e-12, atol=1e-15)
        assert np.isfinite(classifier.predict_log_proba(1e4 * x)).all()
