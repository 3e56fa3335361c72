"""Tests of fcnet.sklearn.LogisticRegression: it reaches the minimum of its objective, of dense and sparse features."""

from __future__ import annotations

import tracemalloc
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.special import logsumexp
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.solver import solve
from fcnet.runtime.errors import UserError
from fcnet.sklearn import LogisticRegression

if TYPE_CHECKING:
    import numpy.typing as npt

    from fcnet.linear_model.problem import Problem

    Floats = npt.NDArray[np.float64]

DATASETS = {"iris": load_iris, "cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}


def raw_gradient(fitted: LogisticRegression, x: Floats, y: npt.NDArray[Any], weight: Floats | None = None) -> Floats:
    """Returns the gradient of C Σ_i s_i ℓ_i / S + ½ ‖W‖² / (C S) in the raw coefficients and intercepts, in NumPy."""
    weight = np.ones(len(y)) if weight is None else weight
    logits = x @ fitted.coef_.T + fitted.intercept_
    full = np.hstack([np.zeros_like(logits), logits]) if len(fitted.classes_) == 2 else logits
    residuals = np.exp(full - logsumexp(full, axis=1, keepdims=True)) - (y[:, None] == fitted.classes_)
    residuals = (residuals[:, 1:] if len(fitted.classes_) == 2 else residuals) * (weight / weight.sum())[:, None]
    grad = residuals.T @ x + fitted.coef_ / (fitted.C * weight.sum())
    return np.hstack([grad, residuals.sum(0)[:, None]]) if fitted.fit_intercept else grad


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


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1])
def test_a_constant_feature_has_no_effect(value: float) -> None:
    x, y = load_iris(return_X_y=True)
    extended = np.hstack([x, np.full((len(x), 1), value)])
    fitted = LogisticRegression().fit(extended, y)
    np.testing.assert_allclose(fitted.coef_[:, -1], 0.0, atol=1e-9)
    np.testing.assert_allclose(
        fitted.predict_proba(extended), LogisticRegression().fit(x, y).predict_proba(x), atol=1e-6
    )


def test_grid_search_works_in_a_pipeline() -> None:
    x, y = load_iris(return_X_y=True)
    search = GridSearchCV(make_pipeline(LogisticRegression()), {"logisticregression__C": [1e-6, 1.0]}, cv=3).fit(x, y)
    assert search.best_params_ == {"logisticregression__C": 1.0}


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_columns_of_very_different_sizes_reach_the_tolerance(intercept: bool, offset: float) -> None:
    x, y = load_iris(return_X_y=True)
    x = x * [1e-6, 1.0, 1e6, 1.0] + [0.0, offset, 0.0, -offset]
    fitted = LogisticRegression(standardize=False, fit_intercept=intercept).fit(x, y)  # a warning would be an error
    # tol and the rounding of the raw coefficients, whose logits are differences of numbers up to 1000
    assert np.abs(raw_gradient(fitted, x, y)).max() < 1e-7
    assert fitted.n_iter_[0] < 60


@pytest.mark.parametrize("outlier", [1e6, -1e9])
def test_an_outlier_in_raw_columns_does_not_keep_the_search_from_the_tolerance(outlier: float) -> None:
    x, y = load_iris(return_X_y=True)
    x, y = np.vstack([x, outlier * x[:1]]), np.append(y, 0)
    fitted = LogisticRegression(standardize=False).fit(x, y)  # a warning would be an error
    assert fitted.n_iter_[0] < 40
    assert np.abs(raw_gradient(fitted, x, y)).max() < 1e-7


def test_a_tolerance_that_rounding_hides_gives_a_warning_with_the_gradient() -> None:
    x, y = load_iris(return_X_y=True)
    x = x * 1e12
    with pytest.warns(
        ConvergenceWarning,
        match=r"no convergence: rounding hides every further decrease after \d+ iterations, the gradient is .*, tol is "
        r"1e-08; raise tol or standardize the features",
    ):
        LogisticRegression(standardize=False).fit(x, y)
    with pytest.warns(ConvergenceWarning, match=r"rounding hides .*; raise tol$"):
        LogisticRegression(tol=0.0).fit(x, y)


@pytest.mark.parametrize("classes", [2, 3])
def test_separable_classes_without_a_penalty_are_said(classes: int) -> None:
    x, y = load_iris(return_X_y=True)
    x, y = x[y < classes], y[y < classes]
    with pytest.warns(ConvergenceWarning, match="with C=inf the objective has no minimum, because the features sep"):
        fitted = LogisticRegression(C=np.inf).fit(x, y)
    assert np.isfinite(fitted.coef_).all()
    assert fitted.score(x, y) > 0.98
    LogisticRegression(C=1e30).fit(x, y)  # has a minimum, and no warning


def test_classes_that_overlap_have_a_minimum_without_a_penalty() -> None:
    x, y = load_iris(return_X_y=True)
    x, y = x[y > 0, :2], y[y > 0]
    fitted = LogisticRegression(C=np.inf, standardize=False).fit(x, y)
    theirs = SklearnLogisticRegression(C=1e12, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(fitted.coef_, theirs.coef_, rtol=1e-6)
    standardized = LogisticRegression(C=np.inf).fit(x, y)
    np.testing.assert_allclose(standardized.coef_, fitted.coef_, rtol=1e-6)


@pytest.mark.parametrize("standardize", [False, True])
def test_without_an_intercept_the_decision_is_zero_at_zero(standardize: bool) -> None:
    x, y = load_wine(return_X_y=True)
    ours = LogisticRegression(fit_intercept=False, standardize=standardize).fit(x, y)
    scaler = StandardScaler(with_mean=False, with_std=standardize)
    theirs = make_pipeline(
        scaler, SklearnLogisticRegression(fit_intercept=False, solver="newton-cholesky", tol=1e-12)
    ).fit(x, y)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-5)
    assert ours.intercept_.tolist() == [0.0, 0.0, 0.0]
    assert not ours.decision_function(np.zeros((1, 13))).any()
    assert ours.model_.dense_layers()[0].bias is None


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_sparse_matrix_gives_the_same_as_its_array(classes: int, intercept: bool, standardize: bool) -> None:
    x, y = load_digits(return_X_y=True)
    x, y = x[y < classes][:200], y[y < classes][:200]
    classifier = LogisticRegression(standardize=standardize, fit_intercept=intercept)
    dense = classifier.fit(x, y)
    expected, probabilities = dense.coef_, dense.predict_proba(x)
    sparse = LogisticRegression(standardize=standardize, fit_intercept=intercept).fit(scipy.sparse.csr_matrix(x), y)
    np.testing.assert_allclose(sparse.coef_, expected, atol=1e-6)
    np.testing.assert_allclose(sparse.predict_proba(scipy.sparse.csr_matrix(x)), probabilities, atol=1e-6)


def test_a_sparse_matrix_stays_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = scipy.sparse.random(200, 3_000, 0.01, random_state=0, format="csr")
    y = np.where(x @ rng.normal(size=3_000) > 0.0, "yes", "no")

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("the features were made dense")

    for name in ("toarray", "todense"):
        monkeypatch.setattr(type(x), name, refuse)
    fitted = LogisticRegression(C=10.0).fit(x, y)
    assert fitted.score(x, y) == 1.0


def test_duplicate_entries_of_a_sparse_matrix_add_up_and_stay_as_they_are() -> None:
    x, y = load_iris(return_X_y=True)
    once = scipy.sparse.csr_matrix(x)
    twice = scipy.sparse.csr_matrix(
        (np.repeat(once.data / 2, 2), np.repeat(once.indices, 2), 2 * once.indptr), shape=x.shape
    )
    expected = LogisticRegression().fit(x, y).coef_
    np.testing.assert_allclose(LogisticRegression().fit(twice, y).coef_, expected, atol=1e-8)
    assert twice.nnz == 2 * once.nnz


@pytest.mark.parametrize("standardize", [False, True])
def test_class_weights_multiply_sample_weights(standardize: bool) -> None:
    x, y = load_iris(return_X_y=True)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    by_class = LogisticRegression(class_weight={0: 2.0, 2: 0.5}, standardize=standardize).fit(x, y, weight)
    by_sample = LogisticRegression(standardize=standardize).fit(x, y, weight * np.array([2.0, 1.0, 0.5])[y])
    np.testing.assert_allclose(by_class.coef_, by_sample.coef_, atol=1e-9)


def test_balanced_classes_have_the_same_weight_together() -> None:
    x, y = load_iris(return_X_y=True)
    x, y = x[40:], y[40:]
    ours = LogisticRegression(class_weight="balanced", standardize=False).fit(x, y)
    theirs = SklearnLogisticRegression(class_weight="balanced", solver="newton-cg", tol=1e-12, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    weight = np.random.default_rng(0).integers(1, 4, len(y))
    weighted = LogisticRegression(class_weight="balanced").fit(x, y, weight)
    repeated = LogisticRegression(class_weight="balanced").fit(np.repeat(x, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-8)


def test_a_class_of_weight_zero_is_never_predicted() -> None:
    x, y = load_iris(return_X_y=True)
    fitted = LogisticRegression(class_weight={1: 0.0}).fit(x, y)
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert set(fitted.predict(x)) == {0, 2}
    with pytest.raises(UserError, match="class_weight must be greater than 0 for at least one class"):
        LogisticRegression(class_weight=dict.fromkeys(range(3), 0.0)).fit(x, y)
    with pytest.raises(ValueError, match=r"The classes, .* are not in class_weight"):
        LogisticRegression(class_weight={"setosa": 2.0}).fit(x, y)


def test_a_warm_start_begins_at_the_previous_coefficients() -> None:
    x, y = load_iris(return_X_y=True)
    for standardize in (False, True):
        cold = LogisticRegression(standardize=standardize).fit(x, y)
        warm = LogisticRegression(standardize=standardize, warm_start=True).fit(x, y)
        assert cold.n_iter_[0] > 3
        assert warm.fit(x, y).n_iter_[0] <= 1
        np.testing.assert_allclose(warm.coef_, cold.coef_, atol=1e-6)
        assert warm.set_params(C=1.1).fit(x, y).n_iter_[0] < cold.n_iter_[0]
    with pytest.raises(UserError, match="warm_start can only be used where `y` has the same classes"):
        warm.fit(x[:100], y[:100])
    with pytest.raises(UserError, match=r"X must have 4 features for warm_start, .*, got 3"):
        warm.fit(x[:, :3], y)


def test_a_warm_start_goes_on_where_too_few_steps_ended() -> None:
    x, y = load_iris(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(max_iter=2, warm_start=True)
        likelihoods = [np.log(fitted.fit(x, y).predict_proba(x)[np.arange(150), y]).mean() for _ in range(3)]
        none = LogisticRegression(max_iter=0).fit(x, y)
    assert fitted.n_iter_.tolist() == [2]
    assert likelihoods == sorted(likelihoods)
    assert none.n_iter_.tolist() == [0]
    np.testing.assert_array_equal(none.predict_proba(x), np.full((150, 3), 1 / 3))


def test_the_model_computes_the_logits_of_standardized_features() -> None:
    x, y = load_wine(return_X_y=True)
    fitted = LogisticRegression().fit(x, y)
    logits = fitted.model_(torch.from_numpy((x - fitted.mean_) / fitted.std_)).numpy()
    np.testing.assert_allclose(fitted.decision_function(x), logits, rtol=1e-9, atol=1e-9)


def test_verbose_prints_the_gradient_of_each_pass(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = load_iris(return_X_y=True)
    fitted = LogisticRegression(verbose=1).fit(x, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > fitted.n_iter_[0]
    residuals = 1 / 3 - (y[:, None] == [0, 1, 2])
    largest = np.abs(residuals.T @ ((x - x.mean(0)) / x.std(0))).max() / 150
    assert lines[0] == f"Pass 1, gradient = {largest:.1e}"
    assert float(lines[-1].rpartition(" ")[2]) <= 1e-8


def test_float32_features_are_shared_with_the_search_and_labels_stay_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40_000, 100)).astype(np.float32)
    y = rng.integers(20, size=len(x))
    problems = []

    def spy(problem: Problem, *args: Any, **options: Any) -> Any:
        problems.append(problem)
        return solve(problem, *args, **options)

    monkeypatch.setattr("fcnet.sklearn.linear_minima.solve", spy)
    tracemalloc.start()  # of NumPy's arrays
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(max_iter=1).fit(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fitted.coef_.dtype == np.float32
    assert peak < 0.7 * x.nbytes
    (problem,) = problems
    assert isinstance(problem.features, FeatureBlocks)
    assert problem.features._x.data_ptr() == x.ctypes.data
    assert (problem.target.dtype, tuple(problem.target.shape)) == (torch.int64, (40_000,))


def test_a_raw_fit_is_at_the_minimum_of_weighted_examples() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    weight = np.random.default_rng(0).uniform(0.0, 3.0, len(y))
    fitted = LogisticRegression(standardize=False).fit(x, y, weight)
    assert np.abs(raw_gradient(fitted, x, y, weight)).max() < 2e-8
