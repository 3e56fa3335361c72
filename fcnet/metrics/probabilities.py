"""Metrics of predicted probabilities and scores: log loss, Brier score and top-k accuracy.

N examples, C classes. Sums are in float64, whatever the dtype of the arguments.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fcnet.metrics.checks import to_integers, to_labels, to_scores
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy.typing as npt


def log_loss(labels: Any, probabilities: Any) -> float:  # noqa: ANN401 - array-likes
    """Computes the mean of −log p̂ of the true class, the cross-entropy.

    A probability is raised to at least 2.2e-16, the precision of float64, as scikit-learn does it: a probability of 0
    has been rounded. `fcnet.evaluation.ScoreCollector` computes the log loss from logits, which need no such bound.

    Args:
        labels: the true classes, integers (N,).
        probabilities: (N, C), or those of the second of two classes, (N,).

    Returns:
        The mean, at least 0; NaN without examples.

    Raises:
        UserError: a ValueError; labels and probabilities do not fit, a probability is not from 0 to 1, or a row does
            not sum to 1, where scikit-learn warns.

    Example:
        >>> round(log_loss([1, 0, 0, 1], [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]]), 4)
        0.2162
    """
    labels, p = _to_probabilities(labels, probabilities)
    eps = float(np.finfo(np.float64).eps)
    own = np.clip(p[np.arange(len(p)), labels], eps, 1.0 - eps)
    return float(-np.log(own).mean()) if len(own) else math.nan


def brier_score(labels: Any, probabilities: Any) -> float:  # noqa: ANN401 - array-likes
    """Computes the mean squared error of the probabilities, Σ_c (p̂_c − y_c)² with y_c = 1 for the true class, else 0.

    For two classes it is half of that, (p̂ − y)² of one class, as in scikit-learn.

    Args:
        labels: the true classes, integers (N,).
        probabilities: (N, C), or those of the second of two classes, (N,).

    Returns:
        The mean, from 0 to 2; from 0 to 1 for two classes; NaN without examples.

    Raises:
        UserError: a ValueError; labels and probabilities do not fit, a probability is not from 0 to 1, or a row does
            not sum to 1, where scikit-learn warns.

    Source:
        Brier, "Verification of forecasts expressed in terms of probability", 1950.

    Example:
        >>> brier_score([0, 1, 1, 0], [0.125, 0.75, 1.0, 0.5])
        0.08203125
    """
    labels, p = _to_probabilities(labels, probabilities)
    if not len(p):
        return math.nan
    errors = p.copy()
    errors[np.arange(len(p)), labels] -= 1.0
    return float(np.square(errors).sum(1).mean()) / (2 if p.shape[1] == 2 else 1)


def top_k_accuracy(labels: Any, scores: Any, k: int = 5) -> float:  # noqa: ANN401 - array-likes
    """Computes the fraction of examples whose true class is among the k classes with the highest scores.

    Of equal scores, the last class ranks first, as in scikit-learn.

    Args:
        labels: the true classes, integers (N,).
        scores: (N, C), higher where the class is more probable.
        k: from 1 to C − 1. (With all C classes the accuracy is 1, and scikit-learn warns that it says nothing.)

    Returns:
        A fraction; NaN without examples.

    Raises:
        UserError: a ValueError; labels and scores do not fit, a score is NaN, or k is out of its range.

    Example:
        >>> top_k_accuracy([0, 1, 2], [[0.5, 0.2, 0.3], [0.6, 0.3, 0.1], [0.4, 0.5, 0.1]], k=2)
        0.6666666666666666
    """
    scores = to_scores(scores, "scores")
    labels = _fitting_labels(labels, len(scores), scores.shape[1], "scores")
    (k,) = to_integers([k], "k")
    if not 1 <= k < scores.shape[1]:
        raise UserError(f"k must be from 1 to {scores.shape[1] - 1}, less than the number of classes, got {k}")
    own = scores[np.arange(len(scores)), labels][:, None]
    is_before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) > labels[:, None]))
    return float((is_before.sum(1) < k).mean()) if len(scores) else math.nan


def _fitting_labels(labels: Any, count: int, num_classes: int, name: str) -> npt.NDArray[np.int64]:  # noqa: ANN401
    checked = to_labels(labels, num_classes, "labels")
    if len(checked) != count:
        raise UserError(f"labels and {name} must have one length, got {len(checked):,} and {count:,}")
    return checked


def _to_probabilities(labels: Any, probabilities: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:  # noqa: ANN401
    """Returns labels, int64 (N,), and probabilities, float64 (N, C)."""
    values = to_scores(probabilities, "probabilities", ndim=None)
    p = values.astype(np.float64)
    if p.size and not (p.min() >= 0.0 and p.max() <= 1.0):
        raise UserError(f"probabilities must be from 0 to 1, got {p.min() if p.min() < 0.0 else p.max():g}")
    if p.ndim == 1:
        p = np.stack([1.0 - p, p], axis=1)
    sums = p.sum(1)
    wrong = np.abs(sums - 1.0) > math.sqrt(np.finfo(values.dtype).eps)
    if wrong.any():
        raise UserError(f"each row of probabilities must sum to 1, got {sums[wrong][0]:g}")
    return _fitting_labels(labels, len(p), p.shape[1], "probabilities"), p
