"""Logistic regression as a scikit-learn classifier, trained to the minimum of its convex objective."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from fcnet import models
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import generator
from fcnet.sklearn import parameters
from fcnet.sklearn.base import BaseClassifier
from fcnet.sklearn.newton import minimize
from fcnet.sklearn.objective import DenseFeatures, Objective, SparseFeatures
from fcnet.sklearn.scaler import compute_statistics, search_scales

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from fcnet.sklearn.base import Array, Floats
    from fcnet.sklearn.newton import Minimum
    from fcnet.sklearn.scaler import Statistics


class LogisticRegression(BaseClassifier):
    """Logistic regression, or softmax regression for more than two classes, trained to its optimum.

    It minimizes C Σ_i s_i ℓ_i + ½ ‖W‖² by Newton's method on all examples at once, in float64. ℓ is the cross-entropy
    of standardized features x, s the weights of the examples, and the intercept is not penalized. scikit-learn's
    estimator of this name has the same objective after its ``StandardScaler``, and on raw features without
    ``standardize``. Sparse matrices stay sparse: the mean and the standard deviation go into the coefficients.

    Args:
        C: the inverse of the penalty's strength. Infinity turns the penalty off.
        standardize: whether to standardize the features, so that the penalty does not depend on their units. Without
            an intercept they are divided by their standard deviation and not centred.
        fit_intercept: whether to fit an intercept.
        class_weight: the weights of the classes by label, 1 for those left out; ``"balanced"`` for the same weight of
            all classes together; None for 1. They multiply the sample weights.
        tol: the largest entry of the gradient of the mean objective at which the search ends.
        max_iter: the largest number of Newton steps.
        warm_start: whether ``fit`` starts at the coefficients of the previous fit, on the same features and classes.
        verbose: whether to print the objective and its gradient before each step.

    Attributes:
        classes_: the C labels, sorted.
        coef_: the weights of the raw features, (1, D) for two classes, else (C, D); float32 for float32 features.
        intercept_: the intercepts for the raw features, (1,) or (C,).
        n_iter_: the number of Newton steps, as an array with one entry.
        model_: the trained `fcnet.LogisticRegression` on standardized features.
        mean_: the mean of each feature, (D,); 0 without ``standardize`` or without an intercept.
        std_: the standard deviation of each feature, (D,); 1 for a constant feature, or without ``standardize``.
        n_features_in_: D.
        feature_names_in_: the names of the features, if they have names.

    Raises:
        UserError: a ValueError, from ``fit``; an argument is out of its range, or y has a single class.

    Warns:
        ConvergenceWarning: the gradient is greater than ``tol``, after ``max_iter`` steps or because rounding hides
            every further decrease; or the objective has no minimum.

    Source:
        The lecture's logistic regression, from maximum likelihood.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> classifier = LogisticRegression().fit(x, y)
        >>> classifier.score(x, y) > 0.9, classifier.coef_.shape
        (True, (3, 4))
    """

    coef_: Any
    intercept_: Array

    def __init__(
        self,
        C: float = 1.0,
        *,
        standardize: bool = True,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | str | None = None,
        tol: float = 1e-8,
        max_iter: int = 1000,
        warm_start: bool = False,
        verbose: bool | int = False,
    ) -> None:
        self.C = C
        self.standardize = standardize
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.verbose = verbose

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Trains on features X (B, D), labels y (B,) of any type, and sample weights (B,).

        X may be a sparse matrix. An example of weight 0 changes nothing but ``classes_``.
        """
        self._check_parameters()
        resumes = bool(self.warm_start) and hasattr(self, "coef_")
        x, y = self._check_training_data(X, y)
        labels = self._set_classes(y, keep=resumes)
        if resumes and self.coef_.shape[1] != x.shape[1]:
            raise UserError(
                f"X must have {self.coef_.shape[1]} features for warm_start, as in the previous call to fit, "
                f"got {x.shape[1]}"
            )
        weight = self._weights(sample_weight, self.class_weight, x, labels)
        counted = weight > 0.0
        if not counted.all():
            x, labels, weight = x[counted], labels[counted], weight[counted]
        mean, std = self._scales(x, compute_statistics(x, weight))
        make_features = SparseFeatures if scipy.sparse.issparse(x) else DenseFeatures
        decay = 1.0 / max(float(self.C) * weight.sum(), 1e-300)
        penalty = np.full(x.shape[1], decay) if self.standardize else decay / std**2
        objective = Objective(
            make_features(x, mean, std, intercept=self.fit_intercept),
            labels,
            len(self.classes_),
            weight,
            np.append(penalty, np.zeros(int(self.fit_intercept))),
        )
        start = np.zeros(objective.shape)
        if resumes:
            coef = _to_array(self.coef_).astype(np.float64)
            start[:, : x.shape[1]] = coef * std
            if self.fit_intercept:
                start[:, -1] = self.intercept_ + coef @ mean

        def to_raw_gradient(grad: Floats) -> Floats:
            if not self.fit_intercept:
                return grad * std
            return np.hstack([grad[:, :-1] * std + grad[:, -1:] * mean, grad[:, -1:]])

        found = minimize(
            objective,
            start,
            tol=float(self.tol),
            max_iter=int(self.max_iter),
            measure=np.asarray if self.standardize else to_raw_gradient,
            report=_print_iteration if self.verbose else None,
        )
        self._store(found, mean, std, x.dtype)
        self._warn(found)
        return self

    def sparsify(self) -> Self:
        """Converts ``coef_`` to a sparse matrix, for weights of which most are 0."""
        check_is_fitted(self)
        self.coef_ = scipy.sparse.csr_matrix(self.coef_)
        return self

    def densify(self) -> Self:
        """Converts ``coef_`` back to an array."""
        check_is_fitted(self)
        self.coef_ = _to_array(self.coef_)
        return self

    def _logits(self, x: Any) -> Array:
        products = x @ self.coef_.T
        logits: Array = _to_array(products) + self.intercept_
        return logits

    def _check_parameters(self) -> None:
        rules = {
            "C": parameters.number(self.C, above=0.0, finite=False),
            "standardize": parameters.flag(self.standardize),
            "fit_intercept": parameters.flag(self.fit_intercept),
            "class_weight": parameters.class_weight(self.class_weight),
            "tol": parameters.number(self.tol, least=0.0),
            "max_iter": parameters.count(self.max_iter, 0),
            "warm_start": parameters.flag(self.warm_start),
            "verbose": parameters.verbosity(self.verbose),
        }
        parameters.check_parameters(rules, self)

    def _scales(self, x: Any, statistics: Statistics) -> tuple[Floats, Floats]:
        """Sets ``mean_`` and ``std_``, and returns the mean and the scale of the features on which the search runs."""
        centres = bool(self.fit_intercept)
        zeros, ones = np.zeros_like(statistics.mean), np.ones_like(statistics.mean)
        self.mean_ = statistics.mean if self.standardize and centres else zeros
        self.std_ = statistics.std if self.standardize else ones
        if self.standardize:
            return self.mean_, self.std_
        return search_scales(x, statistics, centred=centres)

    def _store(self, found: Minimum, mean: Floats, std: Floats, dtype: npt.DTypeLike) -> None:
        """Sets the attributes of a fitted classifier."""
        columns = len(mean)
        coef = found.parameters[:, :columns] / std
        intercept = found.parameters[:, -1] - coef @ mean if self.fit_intercept else np.zeros(len(coef))
        self.coef_, self.intercept_ = coef.astype(dtype), intercept.astype(dtype)
        self.n_iter_ = np.array([found.iterations], np.int32)
        unused = generator(0, "initialisation")  # keeps torch's global generator untouched
        model = models.LogisticRegression(
            columns, len(self.classes_), bias=bool(self.fit_intercept), generator=unused
        ).double()
        layer = model.dense_layers()[0]
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(coef * self.std_))
            if layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(intercept + coef @ self.mean_))
        is_single = np.dtype(dtype) == np.float32
        self.model_ = (model.float() if is_single else model).eval().requires_grad_(requires_grad=False)

    def _warn(self, found: Minimum) -> None:
        """Warns of a search that did not reach ``tol``, and of an objective without a minimum."""
        if found.gradient > self.tol:
            gradient = f"the gradient is {found.gradient:.1e}, tol is {self.tol:g}"
            if found.iterations >= self.max_iter:
                message = f"no convergence after max_iter={self.max_iter} iterations: {gradient}; raise max_iter or tol"
            else:
                message = (
                    f"no convergence: rounding hides every further decrease after {found.iterations} iterations, "
                    f"{gradient}; raise tol{'' if self.standardize else ' or standardize the features'}"
                )
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        elif np.isinf(self.C) and found.is_growing:
            warnings.warn(
                "with C=inf the objective has no minimum, because the features separate classes: the coefficients grow "
                f"without limit, and end where the gradient is below tol={self.tol:g}; a finite C has a minimum",
                ConvergenceWarning,
                stacklevel=3,
            )


def _to_array(matrix: Any) -> Array:
    array: Array = matrix.toarray() if scipy.sparse.issparse(matrix) else matrix
    return array


def _print_iteration(iteration: int, value: float, gradient: float) -> None:
    line = f"Iteration {iteration}, objective = {value:.8f}, gradient = {gradient:.1e}"
    print(line)
