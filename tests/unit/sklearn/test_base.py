"""Tests of the classifiers of fcnet.sklearn: scikit-learn's own checks and tools take them."""

from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse
import sklearn
import torch
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fcnet.runtime.errors import UserError
from fcnet.sklearn import LogisticRegression, LogisticRegressionCV, MLPClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

X, Y = load_iris(return_X_y=True)
CLASSIFIERS = [
    LogisticRegression(),
    LogisticRegressionCV(Cs=3, cv=3),
    MLPClassifier(16, epochs=60, lr=2e-2, random_state=0),
]
each = pytest.mark.parametrize("classifier", CLASSIFIERS, ids=lambda value: type(value).__name__)

# Training visits the examples in an order and in batches: a repeated example is not one of twice the weight.
STOCHASTIC = {
    f"check_sample_weight_equivalence_on_{kind}_data": "examples are visited in random batches"
    for kind in ("dense", "sparse")
}


# With more examples, or without those of weight 0, the folds are others.
CROSS_VALIDATED = {
    f"check_sample_weight_equivalence_on_{kind}_data": "the folds do not know the weights"
    for kind in ("dense", "sparse")
}


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (LogisticRegression(), {}),
        (LogisticRegression(standardize=False), {}),
        (LogisticRegression(warm_start=True, class_weight="balanced"), {}),
        (LogisticRegressionCV(Cs=3, cv=3), CROSS_VALIDATED),
        (LogisticRegressionCV(Cs=3, cv=3, standardize=False, refit=False), CROSS_VALIDATED),
        (MLPClassifier(32, epochs=15, lr=1e-2), STOCHASTIC),
        (MLPClassifier((8, 8), epochs=15, lr=5e-2, normalization="batch", dropout=0.05), STOCHASTIC),
        (MLPClassifier(16, epochs=15, lr=2e-2, normalization="layer"), STOCHASTIC),
    ],
    ids=lambda value: " ".join(str(value).split()) if not isinstance(value, dict) else "",
)
def test_scikit_learns_own_checks_pass(estimator: LogisticRegression | MLPClassifier, expected: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the checks themselves, which allow three iterations
        results = check_estimator(estimator, expected_failed_checks=expected, on_skip=None, on_fail=None)
    assert len(results) > 50
    optional = {"check_array_api_input", "check_classifier_data_not_an_array", "check_sample_weights_pandas_series"}
    failed = {
        result["check_name"]: f"{result['status']}: {result['exception']}"
        for result in results
        if result["status"] != "passed" and result["check_name"] not in optional | set(expected)
    }  # the optional ones need packages that are not installed
    assert failed == {}


@each
@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "decision_function"])
def test_cross_val_predict_takes_every_method(classifier: Any, method: str) -> None:
    found = cross_val_predict(classifier, X, Y, cv=3, method=method)
    assert found.shape == ((150,) if method == "predict" else (150, 3))
    assert np.isfinite(found).all()
    labels = found if method == "predict" else found.argmax(1)
    assert (labels == Y).mean() > 0.9


ENSEMBLES: dict[str, Callable[[Any], Any]] = {
    "AdaBoost": lambda classifier: AdaBoostClassifier(classifier, n_estimators=3, random_state=0),
    "bagging": lambda classifier: BaggingClassifier(classifier, n_estimators=3, max_features=3, random_state=0),
    "stacking": lambda classifier: StackingClassifier([("a", classifier), ("b", LogisticRegression())], cv=3),
    "stacking under ours": lambda classifier: StackingClassifier(
        [("a", SklearnLogisticRegression(max_iter=1000))], final_estimator=classifier, cv=3
    ),
    "soft voting": lambda classifier: VotingClassifier([("a", classifier), ("b", LogisticRegression())], voting="soft"),
    "calibration": lambda classifier: CalibratedClassifierCV(classifier, cv=3),
    "one against the rest": OneVsRestClassifier,
    "a search": lambda classifier: GridSearchCV(make_pipeline(StandardScaler(), classifier), {}, cv=3),
}


@each
@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles_and_searches_take_the_classifiers(classifier: Any, name: str) -> None:
    assert ENSEMBLES[name](classifier).fit(X, Y).score(X, Y) > 0.85


@pytest.mark.parametrize("classifier", [CLASSIFIERS[0], CLASSIFIERS[-1]], ids=lambda value: type(value).__name__)
def test_metadata_routing_passes_sample_weights(classifier: Any) -> None:
    weight = np.where(Y == 2, 0.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = make_pipeline(MaxAbsScaler(), clone(classifier).set_fit_request(sample_weight=True))
        fitted = routed.fit(X, Y, sample_weight=weight)
        assert set(fitted.predict(X)) == {0, 1}
        scores = cross_validate(
            clone(classifier).set_fit_request(sample_weight=True).set_score_request(sample_weight=True),
            X,
            Y,
            cv=3,
            params={"sample_weight": weight},
        )["test_score"]
    assert scores.min() > 0.9  # the third class would be all wrong, but has no weight


@each
def test_features_may_have_names(classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = np.array(["sepal length", "sepal width", "petal length", "petal width"], object)

    class Frame(np.ndarray[Any, Any]):
        """Stands in for a data frame, because none of their packages is a dependency."""

    monkeypatch.setattr(
        "sklearn.utils.validation._get_feature_names", lambda x: names if isinstance(x, Frame) else None
    )
    options = {"LogisticRegression": "warm_start", "LogisticRegressionCV": "refit", "MLPClassifier": "early_stopping"}
    for arguments in ({}, {options[type(classifier).__name__]: True}):
        fitted = clone(classifier).set_params(**arguments).fit(X.view(Frame), Y)  # a warning would be an error
        assert fitted.feature_names_in_.tolist() == names.tolist()
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        fitted.predict(X)
    assert not hasattr(clone(classifier).fit(X, Y), "feature_names_in_")


@each
def test_float32_stays_float32(classifier: Any) -> None:
    single, double = clone(classifier).fit(X.astype(np.float32), Y), clone(classifier).fit(X, Y)
    for method in ("decision_function", "predict_proba", "predict_log_proba"):
        ours, expected = getattr(single, method)(X.astype(np.float32)), getattr(double, method)(X)
        assert (ours.dtype, expected.dtype) == (np.float32, np.float64)
        assert getattr(single, method)(X).dtype == np.float64
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)
    assert all(parameter.dtype == torch.float32 for parameter in single.model_.parameters())
    assert clone(classifier).fit((10 * X).astype(np.int64), Y).predict_proba(X).dtype == np.float64


@each
@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_come_from_the_decision_with_its_digits(classifier: Any, classes: int) -> None:
    fitted = clone(classifier).fit(X[classes > Y], Y[classes > Y])
    x = X[classes > Y]
    decision, logs = fitted.decision_function(x), fitted.predict_log_proba(x)
    assert decision.shape == ((len(x),) if classes == 2 else (len(x), 3))
    np.testing.assert_allclose(logs, np.log(fitted.predict_proba(x)), rtol=1e-12, atol=1e-15)
    far = fitted.predict_log_proba(1e4 * x)
    assert np.isfinite(far).all()
    if classes == 2:
        scores = fitted.decision_function(1e4 * x)
        np.testing.assert_array_equal(fitted.predict(x), (decision > 0).astype(int))
        np.testing.assert_allclose(far, -np.logaddexp(0.0, np.stack([scores, -scores], 1)), rtol=1e-14)


@each
@pytest.mark.parametrize("container", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.coo_array])
def test_sparse_features_give_the_same_predictions(classifier: Any, container: Any) -> None:
    fitted = clone(classifier).fit(container(X), Y)
    dense = clone(classifier).fit(X, Y)
    for method in ("predict_proba", "decision_function"):
        np.testing.assert_allclose(getattr(fitted, method)(X), getattr(dense, method)(X), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(getattr(fitted, method)(container(X)), getattr(fitted, method)(X), rtol=1e-9)
    assert fitted.__sklearn_tags__().input_tags.sparse
    assert is_classifier(fitted)


@each
def test_features_that_cannot_be_are_refused_in_scikit_learns_words(classifier: Any) -> None:
    fitted = clone(classifier).fit(X, Y)
    for bad, message in (
        (np.where(np.arange(600).reshape(150, 4) == 7, np.nan, X), "Input X contains NaN"),
        (np.where(np.arange(600).reshape(150, 4) == 7, np.inf, X), "Input X contains infinity"),
        (X * 1j, "Complex data not supported"),
        (X[:, 0], "Expected 2D array, got 1D array instead"),
        (X[:0], r"Found array with 0 sample\(s\)"),
        (X[:, :0], r"Found array with 0 feature\(s\)"),
        (X.astype(str)[:, :1] + "?", "could not convert string to float"),
    ):
        with pytest.raises(ValueError, match=message):
            clone(classifier).fit(bad, Y)
        with pytest.raises(ValueError, match=message):
            fitted.predict(bad)
    with pytest.raises(ValueError, match="X has 3 features, but .* is expecting 4 features as input"):  # noqa: RUF043
        fitted.predict(X[:, :3])
    for bad, message in (
        (Y[:10], "inconsistent numbers of samples"),
        (X, "y should be a 1d array"),
        (X[:, 0], "Unknown label type: continuous"),
        (np.where(Y == 0, np.nan, Y), "Input y contains NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            clone(classifier).fit(X, bad)


@each
def test_weights_that_cannot_be_are_refused(classifier: Any) -> None:
    for weight, message in (
        (np.zeros(150), "sample_weight must be greater than 0 for at least one example|Sample weights must"),
        (-np.ones(150), "Negative values in data passed to `sample_weight`"),
        (np.ones(3), r"sample_weight.shape == \(3,\), expected \(150,\)!"),
        (np.full(150, np.nan), "Input sample_weight contains NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            clone(classifier).fit(X, Y, weight)


@each
def test_labels_may_be_strings_and_a_pickle_predicts_the_same(classifier: Any) -> None:
    names = np.array(["setosa", "versicolor", "virginica"])[Y]
    fitted = clone(classifier).fit(X, names)
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert set(fitted.predict(X)) <= set(names)
    assert fitted.score(X, names) > 0.9
    loaded = pickle.loads(pickle.dumps(fitted))  # noqa: S301 - bytes from the line itself
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(clone(fitted).fit(X, names).predict_proba(X), fitted.predict_proba(X))
    assert not any(parameter.requires_grad for parameter in fitted.model_.parameters())


def test_random_state_alone_determines_the_result() -> None:
    before = torch.get_rng_state()
    first, same, other = (
        MLPClassifier((8,), epochs=3, dropout=0.2, random_state=state).fit(X, Y).predict_proba(X) for state in (0, 0, 1)
    )
    LogisticRegression().fit(X, Y)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3
    assert torch.equal(torch.get_rng_state(), before)


def test_the_scale_of_a_feature_does_not_matter() -> None:
    scaled = X * [1e-6, 1.0, 1e6, 1.0] + [0.0, 5.0, 0.0, -5.0]
    for estimator in (LogisticRegression(), MLPClassifier((8,), epochs=5, random_state=0)):
        plain = estimator.fit(X, Y).predict_proba(X)
        np.testing.assert_allclose(estimator.fit(scaled, Y).predict_proba(scaled), plain, rtol=0, atol=1e-4)


LOGISTIC_MISTAKES = {
    "C": (0.0, "C must be a number greater than 0, got 0.0"),
    "standardize": ("yes", "standardize must be True or False, got 'yes'"),
    "fit_intercept": (1, "fit_intercept must be True or False, got 1"),
    "class_weight": ("auto", "class_weight must be a dict of weights of at least 0 by class, 'balanced' or None, got "),
    "tol": (-1.0, "tol must be a number at least 0, got -1.0"),
    "max_iter": (2.5, "max_iter must be a whole number of at least 0, got 2.5"),
    "warm_start": (None, "warm_start must be True or False, got None"),
    "verbose": ("loud", "verbose must be True, False or a whole number of at least 0, got 'loud'"),
}
CROSS_VALIDATION_MISTAKES = {
    **{name: mistake for name, mistake in LOGISTIC_MISTAKES.items() if name not in ("C", "warm_start")},
    "Cs": (0, "Cs must be a whole number of at least 1 or a list of numbers greater than 0, got 0"),
    "cv": ("many", "Expected `cv` as an integer, a cross-validation object "),
    "scoring": ("best", "'best' is not a valid scoring value"),
    "refit": ("no", "refit must be True or False, got 'no'"),
}
NETWORK_MISTAKES = {
    "hidden": ((0,), "each width of hidden must be at least 1, got 0"),
    "activation": ("tanh", "activation must be one of identity, sigmoid, relu, "),
    "normalization": (None, "normalization must be one of none, batch, layer, got None"),
    "dropout": (1.0, "dropout must be a number at least 0 and less than 1, got 1.0"),
    "lr": (0.0, "lr must be a number greater than 0, got 0.0"),
    "weight_decay": (-1, "weight_decay must be a number at least 0, got -1"),
    "epochs": (True, "epochs must be a whole number of at least 1, got True"),
    "batch_size": ("auto", "batch_size must be a whole number of at least 1, got 'auto'"),
    "label_smoothing": (2.0, "label_smoothing must be from 0 to 1, got 2.0"),
    "class_weight": ({0: -1.0}, "class_weight must be a dict of weights of at least 0 by class"),
    "early_stopping": ("no", "early_stopping must be True or False, got 'no'"),
    "validation_fraction": (1.0, "validation_fraction must be a number greater than 0 and less than 1, got 1.0"),
    "n_iter_no_change": (0, "n_iter_no_change must be a whole number of at least 1, got 0"),
    "warm_start": (0, "warm_start must be True or False, got 0"),
    "random_state": ("x", "'x' cannot be used to seed a numpy.random.RandomState instance"),
    "verbose": (-1, "verbose must be True, False or a whole number of at least 0, got -1"),
}
MISTAKES = [
    *((LogisticRegression, name, *mistake) for name, mistake in LOGISTIC_MISTAKES.items()),
    *((LogisticRegressionCV, name, *mistake) for name, mistake in CROSS_VALIDATION_MISTAKES.items()),
    *((MLPClassifier, name, *mistake) for name, mistake in NETWORK_MISTAKES.items()),
]


@pytest.mark.parametrize(("kind", "name", "value", "message"), MISTAKES)
def test_every_parameter_is_checked(kind: Any, name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        kind(**{name: value}).fit(X, Y)
    assert str(error.value).startswith(message)


def test_the_table_of_mistakes_has_every_parameter() -> None:
    assert set(LOGISTIC_MISTAKES) == set(LogisticRegression().get_params())
    assert set(CROSS_VALIDATION_MISTAKES) == set(LogisticRegressionCV().get_params())
    assert set(NETWORK_MISTAKES) == set(MLPClassifier().get_params())


def test_a_single_class_is_refused() -> None:
    for classifier in CLASSIFIERS:
        with pytest.raises(UserError, match="y must hold at least two classes, got 1 class: 0"):
            clone(classifier).fit(X[:9], Y[:9])
