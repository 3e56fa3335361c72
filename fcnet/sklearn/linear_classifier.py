"""What the two logistic regressions share: their coefficients, the network made of them, and the warnings."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from fcnet import models
from fcnet.sklearn import parameters
from fcnet.sklearn.base import BaseClassifier
from fcnet.sklearn.linear_minima import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from fcnet.linear_model.solver import Progress
    from fcnet.sklearn.base import Array, Floats
    from fcnet.sklearn.linear_minima import LinearMinima


class LinearClassifier(BaseClassifier):
    """Base of classifiers whose logits are linear in the features."""

    coef_: Any
    intercept_: Array
    standardize: bool
    fit_intercept: bool
    class_weight: Mapping[Any, float] | str | None
    tol: float
    max_iter: int
    verbose: bool | int

    def sparsify(self) -> Self:
        """Converts ``coef_`` to a sparse matrix, for weights of which most are 0."""
        check_is_fitted(self)
        self.coef_ = scipy.sparse.csr_matrix(self.coef_)
        return self

    def densify(self) -> Self:
        """Converts ``coef_`` back to an array."""
        check_is_fitted(self)
        self.coef_ = to_array(self.coef_)
        return self

    def _logits(self, x: Any) -> Array:
        products = x @ self.coef_.T
        logits: Array = to_array(products) + self.intercept_
        return logits

    def _search_rules(self) -> dict[str, parameters.Rule]:
        """Returns the rules of the arguments that both classifiers have."""
        return {
            "standardize": parameters.flag(self.standardize),
            "fit_intercept": parameters.flag(self.fit_intercept),
            "class_weight": parameters.class_weight(self.class_weight),
            "tol": parameters.number(self.tol, least=0.0),
            "max_iter": parameters.count(self.max_iter, 0),
            "verbose": parameters.verbosity(self.verbose),
        }

    def _make_task(self, x: Any, labels: npt.NDArray[np.int64], weight: Floats) -> Task:
        """Returns what is minimised, of checked examples."""
        return Task(
            x,
            labels,
            len(self.classes_),
            weight,
            standardize=bool(self.standardize),
            fit_intercept=bool(self.fit_intercept),
            tol=float(self.tol),
            max_iter=int(self.max_iter),
        )

    def _store(
        self, coef: Floats, intercept: Floats, mean: Floats, std: Floats, *, dtype: npt.DTypeLike, has_bias: bool
    ) -> None:
        """Sets the attributes of a fitted classifier.

        Args:
            coef: the weights of the raw features, (1 or C, D).
            intercept: (1,) or (C,).
            mean: what ``model_`` expects subtracted from the features, (D,).
            std: what it expects them divided by, (D,).
            dtype: that of the attributes.
            has_bias: whether ``model_`` has a bias.
        """
        self.mean_, self.std_ = mean, std
        self.coef_, self.intercept_ = coef.astype(dtype), intercept.astype(dtype)
        bias = torch.from_numpy(intercept + coef @ mean) if has_bias else None
        net = models.LogisticRegression.from_weights(torch.from_numpy(coef * std), bias)
        is_single = np.dtype(dtype) == np.float32
        self.model_ = (net.float() if is_single else net).eval().requires_grad_(requires_grad=False)

    def _warn(self, found: LinearMinima, which: list[str]) -> None:
        """Warns of searches that did not reach ``tol``, and of objectives without a minimum.

        Args:
            found: the ends of the searches.
            which: what to call each search in a warning.
        """
        missed = found.gradient > self.tol
        if missed.any():
            worst = int(np.argmax(np.where(missed, found.gradient, 0.0)))
            gradient = f"{which[worst]}the gradient is {found.gradient[worst]:.1e}, tol is {self.tol:g}"
            if found.iterations[worst] >= self.max_iter:
                message = f"no convergence after max_iter={self.max_iter} iterations: {gradient}; raise max_iter or tol"
            else:
                message = (
                    f"no convergence: rounding hides every further decrease after {found.iterations[worst]} "
                    f"iterations, {gradient}; raise tol{'' if self.standardize else ' or standardize the features'}"
                )
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        elif found.is_growing.any():
            warnings.warn(
                "with C=inf the objective has no minimum, because the features separate classes: the coefficients grow "
                f"without limit, and end where the gradient is below tol={self.tol:g}; a finite C has a minimum",
                ConvergenceWarning,
                stacklevel=3,
            )


def to_array(matrix: Any) -> Array:
    """Returns an array as it is, and a sparse matrix as an array."""
    array: Array = matrix.toarray() if scipy.sparse.issparse(matrix) else matrix
    return array


class PassPrinter:
    """Prints a line after each pass over the examples.

    Args:
        prefix: what each line begins with.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix, self._passes = prefix, 0

    def __call__(self, progress: Progress) -> None:
        """Takes the progress of a search."""
        self._passes += 1
        print(f"{self._prefix}Pass {self._passes}, gradient = {float(progress.gradient.max()):.1e}")
