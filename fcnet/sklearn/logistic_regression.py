"""Logistic regression as a scikit-learn classifier, trained to the minimum of its convex objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fcnet.runtime.errors import UserError
from fcnet.sklearn import parameters
from fcnet.sklearn.linear_classifier import LinearClassifier, PassPrinter, to_array
from fcnet.sklearn.linear_minima import find_minima

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt


class LogisticRegression(LinearClassifier):
    """Logistic regression, or softmax regression for more than two classes, trained to its optimum.

    It minimizes C Σ_i s_i ℓ_i + ½ ‖W‖² on all examples at once, by the search of `fcnet.logistic_path`: Newton's method
    where second derivatives cost little, L-BFGS elsewhere, in the end in float64. ℓ is the cross-entropy of
    standardized features x, s the weights of the examples, and the intercept is not penalized. scikit-learn's estimator
    of this name has the same objective after its ``StandardScaler``, and on raw features without ``standardize``.
    float32 features stay float32, and sparse matrices sparse: mean and standard deviation go into the coefficients.

    Args:
        C: the inverse of the penalty's strength. Infinity turns the penalty off.
        standardize: whether to standardize the features, so that the penalty does not depend on their units. Without
            an intercept they are divided by their standard deviation and not centred.
        fit_intercept: whether to fit an intercept.
        class_weight: the weights of the classes by label, 1 for those left out; ``"balanced"`` for the same weight of
            all classes together; None for 1. They multiply the sample weights.
        tol: the largest entry of the gradient of the mean objective at which the search ends.
        max_iter: the largest number of steps.
        warm_start: whether ``fit`` starts at the coefficients of the previous fit, on the same features and classes.
        verbose: whether to print the largest entry of the gradient after each pass over the examples.

    Attributes:
        classes_: the C labels, sorted.
        coef_: the weights of the raw features, (1, D) for two classes, else (C, D); float32 for float32 features.
        intercept_: the intercepts for the raw features, (1,) or (C,).
        n_iter_: the number of steps, as an array with one entry.
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
        task = self._make_task(x, labels, self._weights(sample_weight, self.class_weight, x, labels))
        start = (to_array(self.coef_).astype(np.float64)[None], self.intercept_[None]) if resumes else None
        found = find_minima(
            task, np.array([float(self.C)]), start=start, on_pass=PassPrinter() if self.verbose else None
        )
        self._store(
            found.coef[0], found.intercept[0], found.mean, found.std, dtype=x.dtype, has_bias=task.fit_intercept
        )
        self.n_iter_ = found.iterations.astype(np.int32)
        self._warn(found, [""])
        return self

    def _check_parameters(self) -> None:
        rules = {
            "C": parameters.number(self.C, above=0.0, finite=False),
            "warm_start": parameters.flag(self.warm_start),
        }
        parameters.check_parameters(rules | self._search_rules(), self)
