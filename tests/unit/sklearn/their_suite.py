"""A pytest plugin that puts fcnet's estimators in the place of scikit-learn's, for scikit-learn's own tests of them.

It runs in a process of its own: ``python -m pytest -p tests.unit.sklearn.their_suite --pyargs sklearn…``. The adapters
have scikit-learn's argument names and translate them. What fcnet does not offer raises `NotOfferedError`, whose reason
is the outcome of the test, which the plugin writes with all others to the file named by ``THEIR_SUITE_OUTCOMES``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics
import sklearn.neural_network
import torch
from sklearn.linear_model._base import LinearClassifierMixin
from sklearn.utils.metaestimators import available_if

import fcnet.sklearn

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTCOMES_VARIABLE = "THEIR_SUITE_OUTCOMES"


class NotOfferedError(Exception):
    """A test asks for what fcnet does not have, by design."""


def refuse(reason: str) -> NoReturn:
    raise NotOfferedError(reason)


_NO_CONVERGENCE = {
    "lbfgs": "lbfgs failed to converge",
    "liblinear": "Liblinear failed to converge, increase the number of iterations.",
    "newton-cg": "newton-cg failed to converge. Increase the number of iterations.",
    "newton-cholesky": "Newton solver did not converge after 1 iterations",
    "sag": "The max_iter was reached which means the coef_ did not converge",
    "saga": "The max_iter was reached which means the coef_ did not converge",
}
"""What each solver's warning begins with, for the tests of what else is true of a search that ends too early."""


class LogisticRegression(fcnet.sklearn.LogisticRegression):
    standardize = False
    _predict_proba_lr = LinearClassifierMixin._predict_proba_lr  # one of their tests compares with it

    def __init__(
        self,
        penalty: Any = "deprecated",
        *,
        C: Any = 1.0,  # noqa: N803
        l1_ratio: Any = 0.0,
        dual: Any = False,
        tol: Any = 1e-4,
        fit_intercept: Any = True,
        intercept_scaling: Any = 1,
        class_weight: Any = None,
        random_state: Any = None,
        solver: Any = "lbfgs",
        max_iter: Any = 100,
        verbose: Any = 0,
        warm_start: Any = False,
        n_jobs: Any = None,
    ) -> None:
        self.penalty = penalty
        self.C = C
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        if self.penalty != "deprecated":
            refuse("the deprecated argument penalty")
        if self.l1_ratio != 0.0:
            refuse("L1 and elastic-net penalties")
        if self.dual:
            refuse("the dual problem")
        if self.n_jobs is not None:
            refuse("the deprecated argument n_jobs")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            super().fit(X, y, sample_weight)
        for warning in caught:
            text = str(warning.message).replace("no convergence", _NO_CONVERGENCE[self.solver])
            warnings.warn(text, warning.category, stacklevel=2)
        return self

    def set_callbacks(self, *_: Any) -> NoReturn:
        refuse("callbacks")


class MLPClassifier(fcnet.sklearn.MLPClassifier):
    activation: Any
    batch_size: Any

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: Any = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: Any = 0.001,
        power_t: Any = 0.5,
        max_iter: Any = 200,
        shuffle: Any = True,
        random_state: Any = None,
        tol: Any = 1e-4,
        verbose: Any = False,
        warm_start: Any = False,
        momentum: Any = 0.9,
        nesterovs_momentum: Any = True,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: Any = 15000,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun

    normalization, dropout, label_smoothing, class_weight = "none", 0.0, 0.0, None
    hidden = property(lambda self: self.hidden_layer_sizes)
    epochs = property(lambda self: self.max_iter)
    weight_decay = property(lambda self: self.alpha)
    # The rates of plain gradient descent and of Adam are of different sizes; AdamW takes those of Adam.
    lr = property(lambda self: 5e-3 if self.solver == "sgd" else self.learning_rate_init)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        with self._translated():
            return super().fit(X, y, sample_weight)

    @available_if(lambda self: self.solver != "lbfgs")  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, *, classes: Any = None, sample_weight: Any = None) -> Self:  # noqa: N803
        with self._translated():
            return super().partial_fit(X, y, classes=classes, sample_weight=sample_weight)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        if self.activation == "tanh":
            refuse("the activation tanh")
        if self.max_fun != 15000:
            refuse("a limit of the calls of L-BFGS")
        if self.learning_rate != "constant":
            refuse("the learning-rate schedules of plain gradient descent")
        if self.max_iter >= 1000 and not self.early_stopping:
            refuse("a tolerance for the training loss")
        if not self.shuffle:
            refuse("an order that is not shuffled")
        given = self.activation, self.batch_size
        self.activation = "sigmoid" if self.activation == "logistic" else self.activation
        self.batch_size = 200 if self.batch_size == "auto" else self.batch_size
        try:
            yield
        finally:
            self.activation, self.batch_size = given


class MLPRegressor:
    def __init__(self, *_: Any, **__: Any) -> None:
        refuse("MLPRegressor")


class LogisticRegressionCV(fcnet.sklearn.LogisticRegressionCV):
    standardize = False
    C_: Any
    l1_ratio_: Any
    n_iter_: Any

    def __init__(
        self,
        *,
        Cs: Any = 10,  # noqa: N803
        l1_ratios: Any = "warn",
        fit_intercept: Any = True,
        cv: Any = None,
        dual: Any = False,
        penalty: Any = "deprecated",
        scoring: Any = "warn",
        solver: Any = "lbfgs",
        tol: Any = 1e-4,
        max_iter: Any = 100,
        class_weight: Any = None,
        n_jobs: Any = None,
        verbose: Any = 0,
        refit: Any = True,
        intercept_scaling: Any = 1.0,
        random_state: Any = None,
        use_legacy_attributes: Any = "warn",
    ) -> None:
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.dual = dual
        self.penalty = penalty
        self.scoring = scoring
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.refit = refit
        self.intercept_scaling = intercept_scaling
        self.random_state = random_state
        self.use_legacy_attributes = use_legacy_attributes

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> Self:  # noqa: N803
        if self.penalty != "deprecated":
            refuse("the deprecated argument penalty")
        ratios = [0.0] if isinstance(self.l1_ratios, str) or self.l1_ratios is None else list(self.l1_ratios)
        if any(ratio != 0.0 for ratio in ratios):
            refuse("L1 and elastic-net penalties")
        given = self.scoring
        self.scoring = None if given == "warn" else given
        try:
            super().fit(X, y, sample_weight, **params)
        finally:
            self.scoring = given
        self.l1_ratios_, self.l1_ratio_ = np.array(ratios), 0.0
        if self.use_legacy_attributes is not False:
            self._to_legacy_attributes()
        return self

    def _get_scorer(self) -> Any:
        return sklearn.metrics.get_scorer("accuracy" if self.scoring in ("warn", None) else self.scoring)

    def _to_legacy_attributes(self) -> None:
        """Gives the attributes the shapes that scikit-learn 1.10 no longer has by default."""
        classes = self.classes_[1:] if len(self.classes_) == 2 else self.classes_
        paths = np.moveaxis(self.coefs_paths_, (3, 0, 2, 1), (0, 1, 2, 3))
        scores, iterations = self.scores_.swapaxes(1, 2), self.n_iter_.swapaxes(1, 2)[None]
        if isinstance(self.l1_ratios, str) or self.l1_ratios is None:
            paths, scores, iterations = paths[:, :, :, 0], scores[:, :, 0], iterations[..., 0]
        self.coefs_paths_: Any = dict(zip(classes, paths, strict=True))
        self.scores_: Any = dict.fromkeys(classes, scores)
        self.n_iter_ = iterations
        self.C_, self.l1_ratio_ = np.full(len(classes), self.C_), np.full(len(classes), 0.0)


_OUTCOMES: dict[str, str] = {}


def pytest_configure() -> None:
    for kind in (LogisticRegression, LogisticRegressionCV):
        setattr(sklearn.linear_model, kind.__name__, kind)
    for network in (MLPClassifier, MLPRegressor):
        setattr(sklearn.neural_network, network.__name__, network)


def pytest_collection_finish() -> None:
    networks = sys.modules.get("sklearn.neural_network.tests.test_mlp")
    if networks is not None:
        networks.ACTIVATION_TYPES.remove("tanh")
    linear = sys.modules.get("sklearn.linear_model.tests.test_logistic")
    for name in ("_logistic_regression_path", "_log_reg_scoring_path"):
        if linear is not None:
            setattr(linear, name, lambda *_, name=name, **__: refuse(f"the private function {name}"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.name.partition("[")[0] == "test_preserve_feature_names":
        pytest.skip("it needs pandas, which is no dependency")  # so no outcome depends on what else is installed


def pytest_runtest_call() -> None:
    torch.set_num_threads(1)  # their conftest gives each test all cores, on which tiny products wait for each other


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    name = f"{Path(item.location[0]).name}::{item.name}"
    if call.excinfo is None:
        _OUTCOMES.setdefault(name, "passed")
    elif call.excinfo.typename == "Skipped":
        _OUTCOMES[name] = f"skipped: {call.excinfo.value}"
    elif (refusal := _find_refusal(call.excinfo.value)) is not None:
        _OUTCOMES[name] = f"not offered: {refusal}"
    else:
        lines = str(call.excinfo.value).strip().splitlines() or [""]
        _OUTCOMES[name] = f"failed: {call.excinfo.typename}: {lines[0]}"


def _find_refusal(error: BaseException | None) -> NotOfferedError | None:
    """Returns the refusal behind an error; `pytest.warns` raises its own over it."""
    while error is not None and not isinstance(error, NotOfferedError):
        error = error.__context__
    return error


def pytest_sessionfinish() -> None:
    Path(os.environ[OUTCOMES_VARIABLE]).write_text(json.dumps(_OUTCOMES, indent=1))
