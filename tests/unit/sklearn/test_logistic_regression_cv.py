"""Tests of fcnet.sklearn.LogisticRegressionCV: scores, choices and coefficients equal scikit-learn's, fold by fold."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse
import sklearn
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV as SklearnLogisticRegressionCV
from sklearn.metrics import get_scorer, make_scorer, recall_score
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fcnet.runtime.errors import UserError
from fcnet.sklearn import LogisticRegression, LogisticRegressionCV
from fcnet.sklearn.linear_minima import find_minima

if TYPE_CHECKING:
    from collections.abc import Iterator

CS = [0.01, 1.0, 100.0]
X, Y = load_iris(return_X_y=True)


def theirs(**arguments: Any) -> Any:
    """Returns scikit-learn's estimator, exact, with the attributes that its next version has."""
    known = SklearnLogisticRegressionCV().get_params()
    wanted = {"l1_ratios": (0.0,), "use_legacy_attributes": False, "scoring": "accuracy"} | arguments
    if "use_legacy_attributes" not in known:
        pytest.skip("this scikit-learn has these attributes in another form")
    return SklearnLogisticRegressionCV(solver="newton-cholesky", tol=1e-12, max_iter=10_000, **wanted)


def compare(ours: Any, expected: Any) -> None:
    """Requires the same attributes."""
    for name in ("classes_", "Cs_", "scores_", "coefs_paths_", "coef_", "intercept_", "C_"):
        found, wanted = np.asarray(getattr(ours, name)), np.asarray(getattr(expected, name))
        assert found.shape == wanted.shape, name
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=name)
    assert ours.n_iter_.shape == expected.n_iter_.shape


@pytest.fixture(autouse=True)
def _no_warnings_of_theirs() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "neg_brier_score", "balanced_accuracy"])
@pytest.mark.parametrize("classes", [2, 3])
def test_every_attribute_is_scikit_learns(classes: int, scoring: str) -> None:
    x, y = X[classes > Y][:, 1:3], Y[classes > Y]
    expected = theirs(Cs=CS, scoring=scoring, cv=4).fit(x, y)
    ours = LogisticRegressionCV(Cs=CS, standardize=False, scoring=scoring, cv=4).fit(x, y)
    compare(ours, expected)
    assert ours.score(x, y) == pytest.approx(expected.score(x, y), rel=1e-6)
    np.testing.assert_array_equal(ours.predict(x), expected.predict(x))
    assert isinstance(ours.C_, float)


@pytest.mark.parametrize(
    "arguments",
    [{"fit_intercept": False}, {"refit": False}, {"cv": KFold(3, shuffle=True, random_state=0)}, {"Cs": 3}],
    ids=str,
)
def test_arguments_mean_what_they_mean_there(arguments: dict[str, Any]) -> None:
    x, y = load_wine(return_X_y=True)
    x = x[:, 1:9]
    arguments = {"Cs": CS, "scoring": "neg_brier_score"} | arguments
    expected = theirs(**arguments).fit(x, y)
    compare(LogisticRegressionCV(standardize=False, **arguments).fit(x, y), expected)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 2: 0.5}])
@pytest.mark.parametrize("scoring", [None, "accuracy", "neg_log_loss"])
def test_weights_count_in_training_and_in_scores(class_weight: Any, scoring: str | None) -> None:
    weight = np.random.default_rng(0).uniform(0.2, 3.0, len(Y))
    x, y, weight = X[20:, :2], Y[20:], weight[20:]
    if class_weight is not None:
        class_weight = class_weight if isinstance(class_weight, str) else class_weight | {1: 1.0}
    ours = LogisticRegressionCV(Cs=CS, standardize=False, class_weight=class_weight, scoring=scoring)
    expected = theirs(Cs=CS, class_weight=class_weight, scoring=scoring)
    compare(ours.fit(x, y, weight), expected.fit(x, y, sample_weight=weight))


def test_a_callable_scores() -> None:
    recall = make_scorer(recall_score, average="macro")
    compare(
        LogisticRegressionCV(Cs=CS, standardize=False, scoring=recall).fit(X[:, :2], Y),
        theirs(Cs=CS, scoring=recall).fit(X[:, :2], Y),
    )
    fitted = LogisticRegressionCV(Cs=CS, scoring=lambda model, x, _: -np.abs(model.decision_function(x)).sum())
    assert fitted.fit(X, Y).C_ == 0.01


def test_standardisation_is_that_of_each_fold() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    fitted = LogisticRegressionCV(Cs=[0.1], cv=3).fit(x, y)
    scores = cross_val_score(LogisticRegression(0.1), x, y, cv=3)
    np.testing.assert_allclose(fitted.scores_[:, 0, 0], scores)
    np.testing.assert_allclose(fitted.coef_, LogisticRegression(0.1).fit(x, y).coef_, rtol=1e-5)
    scaled = make_pipeline(StandardScaler(), theirs(Cs=[0.1], cv=3)).fit(x, y)
    np.testing.assert_allclose(fitted.coef_ * fitted.std_, scaled[-1].coef_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("standardize", [False, True])
def test_each_fold_is_a_fit_of_its_own_examples(standardize: bool) -> None:
    x, y = load_digits(return_X_y=True)
    x, y = x[:400, 10:20], y[:400]
    folds = list(StratifiedKFold(3).split(x, y))
    fitted = LogisticRegressionCV(Cs=CS, standardize=standardize, cv=folds).fit(x, y)
    for fold, (train, test) in enumerate(folds):
        for k, strength in enumerate(CS):
            alone = LogisticRegression(strength, standardize=standardize).fit(x[train], y[train])
            found = fitted.coefs_paths_[fold, 0, k]
            np.testing.assert_allclose(found[:, :-1], alone.coef_, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found[:, -1], alone.intercept_, rtol=1e-4, atol=1e-4)
            assert fitted.scores_[fold, 0, k] == alone.score(x[test], y[test])


def test_folds_may_be_masks_or_in_any_order() -> None:
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, Y))
    masks = [tuple(np.isin(np.arange(150), rows) for rows in fold) for fold in folds]
    turned = [(train[::-1], test[::-1]) for train, test in folds]
    expected = LogisticRegressionCV(Cs=CS, cv=folds).fit(X, Y)
    for cv in (masks, turned):
        np.testing.assert_array_equal(LogisticRegressionCV(Cs=CS, cv=cv).fit(X, Y).coefs_paths_, expected.coefs_paths_)


def test_a_fold_without_a_class_is_scored_with_all_labels() -> None:
    y = np.array(["a", "a", "b", "b", "c", "c"])
    x = np.arange(6.0)[:, None]
    fitted = LogisticRegressionCV(Cs=[1e-6, 1.0], cv=KFold(3), scoring="neg_log_loss").fit(x, y)
    assert np.isfinite(fitted.scores_).all()
    assert fitted.C_ == 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sparse_matrix_gives_the_same_as_its_array(dtype: type) -> None:
    x, y = load_digits(return_X_y=True)
    x, y = x[:300, :30].astype(dtype), y[:300] % 3
    dense = LogisticRegressionCV(Cs=CS, cv=3).fit(x, y)
    sparse = LogisticRegressionCV(Cs=CS, cv=3).fit(scipy.sparse.csr_matrix(x), y)
    assert sparse.coef_.dtype == sparse.coefs_paths_.dtype == dtype
    np.testing.assert_allclose(sparse.coefs_paths_, dense.coefs_paths_, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(sparse.scores_, dense.scores_)


def test_all_values_of_a_fold_are_minimised_together(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def spy(task: Any, Cs: Any, **options: Any) -> Any:  # noqa: N803
        calls.append((len(Cs), options["start"] is not None))
        return find_minima(task, Cs, **options)

    monkeypatch.setattr("fcnet.sklearn.logistic_regression_cv.find_minima", spy)
    LogisticRegressionCV(cv=3).fit(X, Y)
    assert calls == [(10, False), (10, True), (10, True), (1, True)]


def test_the_model_computes_the_logits_of_standardized_features() -> None:
    for refit in (True, False):
        fitted = LogisticRegressionCV(Cs=CS, refit=refit).fit(X, Y)
        logits = fitted.model_(torch.from_numpy((X - fitted.mean_) / fitted.std_)).numpy()
        np.testing.assert_allclose(fitted.decision_function(X), logits, rtol=1e-9, atol=1e-9)
    raw = LogisticRegressionCV(Cs=CS, refit=False, standardize=False).fit(X, Y)
    assert not raw.mean_.any()
    assert (raw.std_ == 1.0).all()


def test_a_search_that_ends_too_early_names_the_fold_and_the_value() -> None:
    with pytest.warns(
        ConvergenceWarning,
        match=r"no convergence after max_iter=2 iterations: in fold \d of 5 with C=100 the gradient is .*, tol is ",
    ):
        LogisticRegressionCV(Cs=CS, max_iter=2).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match="with C=inf the objective has no minimum"):
        LogisticRegressionCV(Cs=[1.0, np.inf]).fit(X, Y)


def test_verbose_names_the_fold_of_each_pass(capsys: pytest.CaptureFixture[str]) -> None:
    LogisticRegressionCV(Cs=CS, cv=2, verbose=True).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Fold 1 of 2: Pass 1, gradient = ")
    assert any(line.startswith("Fold 2 of 2: Pass 1, ") for line in lines)
    assert lines[-1].startswith("All examples: Pass ")


def test_what_cannot_be_is_refused() -> None:
    for cs in (0, [], [1.0, -1.0], "many", [np.nan]):
        with pytest.raises(UserError, match="Cs must be a whole number of at least 1 or a list of numbers "):
            LogisticRegressionCV(Cs=cs).fit(X, Y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scoring"):
        LogisticRegressionCV(scoring="best").fit(X, Y)
    with pytest.raises(UserError, match="fold 1 of 3 must have a training example of a weight greater than 0"):
        LogisticRegressionCV(cv=KFold(3)).fit(X, Y, np.where(np.arange(150) < 50, 1.0, 0.0))
    with pytest.raises(ValueError, match="is only supported if enable_metadata_routing=True"):
        LogisticRegressionCV().fit(X, Y, groups=Y)


def test_metadata_goes_to_the_splitter_and_the_scorer() -> None:
    weight = np.random.default_rng(0).uniform(0.2, 3.0, len(Y))
    groups = np.arange(150) % 7
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = get_scorer("accuracy").set_score_request(sample_weight=True)
        arguments = {"Cs": CS, "cv": GroupKFold(3), "scoring": scorer}
        ours = LogisticRegressionCV(standardize=False, **arguments).fit(X[:, :2], Y, weight, groups=groups)
        expected = theirs(**arguments).fit(X[:, :2], Y, sample_weight=weight, groups=groups)
        compare(ours, expected)
        plain = LogisticRegressionCV(Cs=CS, cv=GroupKFold(3), scoring="accuracy")
        with pytest.raises(ValueError, match="are passed but are not explicitly set as requested"):
            plain.fit(X, Y, groups=groups).score(X, Y, sample_weight=weight)
    assert ours.score(X[:, :2], Y, weight) == pytest.approx(np.average(ours.predict(X[:, :2]) == Y, weights=weight))
