"""Logistic regression as a scikit-learn classifier that chooses the strength of its penalty by cross-validation."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.metrics import get_scorer, make_scorer
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch
from sklearn.utils.metadata_routing import (
    UNUSED,
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.validation import _check_method_params

from fcnet.runtime.errors import UserError
from fcnet.sklearn import parameters
from fcnet.sklearn.linear_classifier import LinearClassifier, PassPrinter
from fcnet.sklearn.linear_minima import LinearMinima, find_minima
from fcnet.sklearn.logistic_regression import LogisticRegression
from fcnet.sklearn.scaler import compute_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from fcnet.sklearn.base import Array, Floats
    from fcnet.sklearn.linear_minima import Task

    Fold = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class LogisticRegressionCV(LinearClassifier):
    """`LogisticRegression` with the C of the best mean score of a cross-validation.

    In each fold the regressions of all C are minimised together, by one path of `fcnet.logistic_path`, which starts at
    the minima of the fold before. scikit-learn's estimator of this name has the same objective on raw features, which
    is ours without ``standardize``; it fits one C after another. With ``standardize``, a fold's statistics are those of
    its own training examples.

    Args:
        Cs: the inverse strengths of the penalty, or how many from 1e-4 to 1e4, evenly spaced in the logarithm.
        standardize: as for `LogisticRegression`.
        fit_intercept: as for `LogisticRegression`.
        cv: the number of stratified folds, 5 for None; a splitter; or pairs of training and test indices.
        scoring: the name of a score, or a callable (estimator, X, y) -> float; None for the accuracy.
        class_weight: as for `LogisticRegression`; ``"balanced"`` counts the classes of all examples, not of a fold.
        tol: as for `LogisticRegression`.
        max_iter: the largest number of steps for each C in each fold.
        refit: whether to fit all examples with the best C. Otherwise ``coef_`` and ``intercept_`` are the means over
            the folds of those with each fold's best score, and ``C_`` is the mean of their C.
        verbose: whether to print the largest entry of the gradient after each pass over the examples.

    Attributes:
        classes_: the C labels, sorted.
        C_: the C that was chosen.
        Cs_: the K values of C, in the order given.
        scores_: the scores, (folds, 1, K). The axis of length 1, here and below, is that of scikit-learn's
            ``l1_ratios``: these are the attributes that scikit-learn has with ``use_legacy_attributes=False``.
        coefs_paths_: the coefficients of each fold for raw features, (folds, 1, K, 1 or C, D + 1), the intercept last;
            without an intercept (…, D).
        n_iter_: the number of steps, (folds, 1, K).
        coef_: the weights of the raw features, (1, D) for two classes, else (C, D); float32 for float32 features.
        intercept_: the intercepts for the raw features, (1,) or (C,).
        model_: the `fcnet.LogisticRegression` on standardized features.
        mean_: the mean of each feature, (D,); 0 without ``standardize`` or without an intercept.
        std_: the standard deviation of each feature, (D,); 1 for a constant feature, or without ``standardize``.
        n_features_in_: D.
        feature_names_in_: the names of the features, if they have names.

    Raises:
        UserError: a ValueError, from ``fit``; an argument is out of its range, or y has a single class.

    Warns:
        ConvergenceWarning: a gradient is greater than ``tol``, in the words of `LogisticRegression`; of several
            searches, it names the worst.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> classifier = LogisticRegressionCV(Cs=[0.01, 1.0, 100.0]).fit(x, y)
        >>> classifier.C_, classifier.scores_.shape
        (100.0, (5, 1, 3))
    """

    __metadata_request__score = {"sample_weight": UNUSED}  # noqa: RUF012 - scikit-learn reads it; the scorer gets them

    def __init__(
        self,
        *,
        Cs: int | Sequence[float] = 10,
        standardize: bool = True,
        fit_intercept: bool = True,
        cv: Any = None,
        scoring: str | Callable[..., float] | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        tol: float = 1e-8,
        max_iter: int = 1000,
        refit: bool = True,
        verbose: bool | int = False,
    ) -> None:
        self.Cs = Cs
        self.standardize = standardize
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.scoring = scoring
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.refit = refit
        self.verbose = verbose

    def fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None, **params: Any
    ) -> Self:
        """Chooses C and trains on features X (B, D), labels y (B,) of any type, and sample weights (B,).

        X may be a sparse matrix. With scikit-learn's metadata routing, ``params`` go to the splitter and the scorer;
        without it there are none, and the scorer gets the sample weights.
        """
        _raise_for_params(params, self, "fit")
        self._check_parameters()
        x, y = self._check_training_data(X, y)
        labels = self._set_classes(y, keep=False)
        weight = self._weights(sample_weight, self.class_weight, x, labels)
        task = self._make_task(x, labels, weight)
        routed = self._route("fit", sample_weight, params)
        folds = [(_to_rows(train), _to_rows(test)) for train, test in _split(self.cv, x, y, routed.splitter.split)]
        self.Cs_ = _to_values(self.Cs)
        paths = self._fit_folds(task, folds)
        score = _Score(self.scoring, self.classes_, x, y, sample_weight, routed.scorer.score)
        scores = np.array(
            [
                [score(coef, intercept, test) for coef, intercept in zip(path.coef, path.intercept, strict=True)]
                for path, (_, test) in zip(paths, folds, strict=True)
            ]
        )
        ends = self._choose(task, paths, scores)
        self._set_paths(paths, scores, x.dtype)
        names = [f"in fold {fold} of {len(folds)} with C={C:g} " for fold in range(1, len(folds) + 1) for C in self.Cs_]
        self._warn(ends, [*names, f"with C={self.C_:g} on all examples "])
        return self

    def score(
        self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None, **params: Any
    ) -> float:
        """Returns the score that ``scoring`` names, of features X (B, D) and labels y (B,)."""
        _raise_for_params(params, self, "score")
        if sample_weight is not None:
            params["sample_weight"] = sample_weight
        routed = process_routing(self, "score", **params).scorer.score if _routing_enabled() else params
        result: float = self._get_scorer()(self, X, y, **routed)
        return result

    def get_metadata_routing(self) -> MetadataRouter:
        """Returns where scikit-learn's metadata routing sends what ``fit`` and ``score`` take."""
        to_split = MethodMapping().add(caller="fit", callee="split")
        to_score = MethodMapping().add(caller="score", callee="score").add(caller="fit", callee="score")
        router = MetadataRouter(owner=self).add_self_request(self)
        router = router.add(splitter=self.cv, method_mapping=to_split)
        return router.add(scorer=self._get_scorer(), method_mapping=to_score)

    def _get_scorer(self) -> Any:
        return get_scorer(self.scoring or "accuracy")

    def _route(self, method: str, sample_weight: Any, params: dict[str, Any]) -> Any:
        """Returns the arguments of the splitter and the scorer."""
        if _routing_enabled():
            return process_routing(self, method, sample_weight=sample_weight, **params)
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        return Bunch(splitter=Bunch(split={}), scorer=Bunch(score=weights))

    def _fit_folds(self, task: Task, folds: list[Fold]) -> list[LinearMinima]:
        """Returns the minima of all C in each fold."""
        paths: list[LinearMinima] = []
        for number, (train, _) in enumerate(folds, 1):
            if not (task.weight[train] > 0.0).any():
                raise UserError(
                    f"fold {number} of {len(folds)} must have a training example of a weight greater than 0"
                )
            printer = PassPrinter(f"Fold {number} of {len(folds)}: ") if self.verbose else None
            start = (paths[-1].coef, paths[-1].intercept) if paths else None
            paths.append(find_minima(task, self.Cs_, rows=train, start=start, on_pass=printer))
        return paths

    def _choose(self, task: Task, paths: list[LinearMinima], scores: Floats) -> LinearMinima:
        """Sets ``C_`` and the coefficients; returns all minima one after another."""
        ends = list(paths)
        if self.refit:
            best = int(scores.sum(0).argmax())
            self.C_ = float(self.Cs_[best])
            start = tuple(np.mean([part[best : best + 1] for part in parts], 0) for parts in zip(*paths, strict=True))
            printer = PassPrinter("All examples: ") if self.verbose else None
            found = find_minima(task, self.Cs_[best : best + 1], start=(start[0], start[1]), on_pass=printer)
            coef, intercept, mean, std = found.coef[0], found.intercept[0], found.mean, found.std
            ends.append(found)
        else:
            each = scores.argmax(1)
            self.C_ = float(self.Cs_[each].mean())
            coef = np.mean([path.coef[best] for path, best in zip(paths, each, strict=True)], 0)
            intercept = np.mean([path.intercept[best] for path, best in zip(paths, each, strict=True)], 0)
            mean, std = self._compute_scales(task)
        self._store(coef, intercept, mean, std, dtype=task.x.dtype, has_bias=task.fit_intercept)
        fields = {
            name: np.concatenate([getattr(end, name) for end in ends])
            for name in ("coef", "intercept", "iterations", "gradient", "is_growing")
        }
        return LinearMinima(**fields, mean=mean, std=std)

    def _compute_scales(self, task: Task) -> tuple[Floats, Floats]:
        """Returns the mean and the standard deviation of ``model_`` without a fit of all examples."""
        zeros = np.zeros(task.x.shape[1])
        if not task.standardize:
            return zeros, zeros + 1.0
        statistics = compute_statistics(task.x, task.weight)
        return statistics.mean if task.fit_intercept else zeros, statistics.std

    def _set_paths(self, paths: list[LinearMinima], scores: Floats, dtype: npt.DTypeLike) -> None:
        """Sets the attributes that have a value for each fold."""
        self.scores_ = scores[:, None]
        self.n_iter_ = np.stack([path.iterations for path in paths]).astype(np.int32)[:, None]
        coefs = np.stack([path.coef for path in paths])
        if self.fit_intercept:
            coefs = np.concatenate([coefs, np.stack([path.intercept for path in paths])[..., None]], 3)
        self.coefs_paths_ = coefs.astype(dtype)[:, None]

    def _check_parameters(self) -> None:
        rules = {
            "Cs": parameters.strengths(self.Cs),
            "refit": parameters.flag(self.refit),
        }
        parameters.check_parameters(rules | self._search_rules(), self)
        self._get_scorer()  # raises what is wrong with its name


class _Score:
    """Scores coefficients on the test examples of a fold.

    Args:
        scoring: as for `LogisticRegressionCV`.
        classes: the labels, sorted.
        x: features, (B, D).
        y: labels, (B,).
        sample_weight: (B,), or None.
        params: further arguments of the scorer, of which those with a value for each example are split like them.
    """

    def __init__(
        self, scoring: Any, classes: Array, x: Any, y: Array, sample_weight: Any, params: Mapping[str, Any]
    ) -> None:
        self._x, self._y, self._params = x, y, params
        self._scorer = get_scorer(scoring or "accuracy")
        if scoring is None and sample_weight is not None:
            self._params = {"sample_weight": sample_weight}
        elif scoring is not None:
            self._scorer = _add_labels(self._scorer, classes)
        self._model = LogisticRegression()
        self._model.classes_, self._model.n_features_in_ = classes, x.shape[1]

    def __call__(self, coef: Floats, intercept: Floats, test: npt.NDArray[np.int64]) -> float:
        """Returns the score of one regression."""
        self._model.coef_, self._model.intercept_ = coef, intercept
        params = _check_method_params(X=self._x, params=self._params, indices=test)
        return float(self._scorer(self._model, self._x[test], self._y[test], **params))


def _add_labels(scorer: Any, classes: Array) -> Any:
    """Tells a scorer all labels, of which a fold may lack some."""
    function = getattr(scorer, "_score_func", None)
    names = inspect.signature(function).parameters if function is not None else {}
    if "labels" not in names:
        return scorer
    known = {"labels": classes}
    if len(classes) == 2 and "pos_label" in names:
        known["pos_label"] = classes[-1]
    return make_scorer(
        function,
        greater_is_better=scorer._sign == 1,
        response_method=scorer._response_method,
        **(known | scorer._kwargs),
    )


def _split(cv: Any, x: Any, y: Array, params: Mapping[str, Any]) -> Any:
    return check_cv(cv, y, classifier=True).split(x, y, **params)


def _to_rows(indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Returns ascending indices of examples, given in any order or as a mask."""
    array = np.asarray(indices)
    return np.flatnonzero(array) if array.dtype == bool else np.sort(array).astype(np.int64)


def _to_values(Cs: Any) -> Floats:
    return np.logspace(-4.0, 4.0, Cs) if np.ndim(Cs) == 0 else np.asarray(Cs, dtype=np.float64).copy()
