"""What both classifiers share: checks of arrays, weights of examples, and predictions from logits.

B examples, D features, C classes.
"""

from __future__ import annotations

import numbers
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

import fcnet.functional as F
from fcnet.models.mlp import logits_to_classes, logits_to_probabilities
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Floats = npt.NDArray[np.float64]

_DTYPES = (np.float64, np.float32)


class BaseClassifier(ClassifierMixin, BaseEstimator):
    """Base of both classifiers.

    Probabilities come from the logits of ``decision_function``. float32 features give float32 results, all others
    float64. A sparse matrix may stand in for every array of features.
    """

    classes_: Array

    @abstractmethod
    def _logits(self, x: Any) -> Array:
        """Computes logits of checked features, (B, D) -> (B, 1) for two classes, or (B, C)."""

    def decision_function(self, X: npt.ArrayLike) -> Array:
        """Computes logits, (B, D) -> (B,), those of the second of two classes, or (B, C)."""
        check_is_fitted(self)
        logits = self._logits(
            validate_data(self, X, reset=False, dtype=_DTYPES, accept_sparse="csr", accept_large_sparse=True)
        )
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: npt.ArrayLike) -> Array:
        """Computes class probabilities, (B, D) -> (B, C), in the order of ``classes_``."""
        probabilities: Array = logits_to_probabilities(torch.from_numpy(self.decision_function(X))).numpy()
        return probabilities

    def predict_log_proba(self, X: npt.ArrayLike) -> Array:
        """Computes logarithms of class probabilities, (B, D) -> (B, C), finite where a probability is 0."""
        logits = torch.from_numpy(self.decision_function(X))
        if logits.ndim == 1:
            return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], 1).numpy()
        log_probabilities: Array = F.log_softmax(logits, 1).numpy()
        return log_probabilities

    def predict(self, X: npt.ArrayLike) -> Array:
        """Predicts the most probable class, (B, D) -> (B,)."""
        best = logits_to_classes(torch.from_numpy(self.decision_function(X)))
        labels: Array = self.classes_[best.numpy()]
        return labels

    def __sklearn_tags__(self) -> Any:
        """Returns what scikit-learn's tools may expect."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_training_data(self, X: npt.ArrayLike, y: npt.ArrayLike, *, reset: bool = True) -> tuple[Any, Array]:
        """Checks a training set.

        Returns:
            x, float32 or float64 (B, D), an array or a CSR matrix without duplicates; and y (B,).
        """
        x, labels = validate_data(self, X, y, reset=reset, dtype=_DTYPES, accept_sparse="csr", accept_large_sparse=True)
        check_classification_targets(labels)
        if scipy.sparse.issparse(x) and not x.has_canonical_format:
            x = x.copy()
            x.sum_duplicates()
        return x, labels

    def _set_classes(self, y: Array, *, keep: bool) -> Array:
        """Sets ``classes_`` to the labels in y, or keeps those of an earlier fit; returns y as indices into them.

        Raises:
            UserError: there is one class, or ``keep`` and the classes differ.
        """
        classes = np.unique(y)
        if keep:
            if not np.array_equal(classes, self.classes_):
                raise UserError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        else:
            if len(classes) < 2:
                raise UserError(f"y must hold at least two classes, got 1 class: {classes.tolist()[0]!r}")
            self.classes_ = classes
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _weights(
        self,
        sample_weight: Any,
        class_weight: Mapping[Any, float] | str | None,
        x: Any,
        labels: Array,
    ) -> Floats:
        """Returns the weight of each example, sample weight times class weight, float64 (B,).

        Args:
            sample_weight: (B,), or None for 1.
            class_weight: see the classes' arguments. ``"balanced"`` makes the weights of all classes add up to the
                same, sample weights included.
            x: the features.
            labels: indices into ``classes_``.

        Raises:
            UserError: no weight is greater than 0.
        """
        if isinstance(sample_weight, numbers.Number):
            sample_weight = np.full(x.shape[0], sample_weight)
        weight: Floats = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        if not weight.any():
            raise UserError("sample_weight must be greater than 0 for at least one example, got none")
        if isinstance(class_weight, str):
            totals = np.bincount(labels, weight, len(self.classes_))
            present = np.count_nonzero(totals)
            weight = weight * (weight.sum() / (present * np.where(totals > 0.0, totals, 1.0)))[labels]
        elif class_weight is not None:
            weight = weight * compute_class_weight(class_weight, classes=self.classes_, y=self.classes_)[labels]
            if not weight.any():
                raise UserError("class_weight must be greater than 0 for at least one class with examples, got none")
        return weight
