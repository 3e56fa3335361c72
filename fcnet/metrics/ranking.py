"""Metrics of a ranking by scores: average precision and the area under the ROC curve.

N examples, C classes. Examples are ranked by descending score; equal scores share one threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fcnet.metrics.checks import to_labels, to_scores
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class ClassRanking:
    """How well the scores of one class rank its examples before those of all other classes.

    Attributes:
        count: the number of examples of this class.
        average_precision: the mean precision over the examples of this class; None without any, where scikit-learn
            warns and gives 0.
        roc_auc: the probability that an example of this class has a higher score than one of another class; None
            without examples of either kind, where scikit-learn warns and gives NaN.
    """

    count: int
    average_precision: float | None
    roc_auc: float | None


def average_precision(is_positive: Any, scores: Any) -> float | None:  # noqa: ANN401 - array-likes
    """Computes the average precision Σ_n (R_n − R_{n−1}) P_n over the thresholds n, from high to low.

    P_n and R_n are precision and recall where all examples with a score of at least threshold n are taken as positive.

    Args:
        is_positive: (N,), true or 1 for each positive example, false or 0 for the others.
        scores: (N,), higher for positive examples.

    Returns:
        A fraction; None without a positive example, where scikit-learn warns and gives 0.

    Raises:
        UserError: a ValueError; there is not one score for each example, or a score is NaN.

    Example:
        >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
        0.8333
    """
    return rank_class(*_to_binary(is_positive, scores)).average_precision


def roc_auc(is_positive: Any, scores: Any) -> float | None:  # noqa: ANN401 - array-likes
    """Computes the area under the ROC curve: the probability that a positive example has the higher score.

    Pairs with equal scores count half.

    Args:
        is_positive: (N,), true or 1 for each positive example, false or 0 for the others.
        scores: (N,), higher for positive examples.

    Returns:
        A fraction; None unless there are positive and negative examples, where scikit-learn warns and gives NaN.

    Raises:
        UserError: a ValueError; there is not one score for each example, or a score is NaN.

    Source:
        Hanley, McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC) curve", 1982.

    Example:
        >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75
    """
    return rank_class(*_to_binary(is_positive, scores)).roc_auc


def class_rankings(labels: Any, scores: Any) -> list[ClassRanking]:  # noqa: ANN401 - array-likes
    """Computes average precision and ROC AUC of each class against all others.

    Args:
        labels: the true classes, integers (N,).
        scores: (N, C), higher where the class is more probable.

    Returns:
        One record per class, in the order of the classes.

    Raises:
        UserError: a ValueError; labels and scores do not fit, or a score is NaN.

    Example:
        >>> rows = class_rankings([0, 1, 2], [[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.2, 0.5, 0.3]])
        >>> [row.roc_auc for row in rows]
        [1.0, 0.5, 0.75]
    """
    scores = to_scores(scores, "scores")
    labels = to_labels(labels, scores.shape[1], "labels")
    if len(labels) != len(scores):
        raise UserError(f"labels and scores must have one length, got {len(labels):,} and {len(scores):,}")
    return [rank_class(labels == label, scores[:, label]) for label in range(scores.shape[1])]


def mean_average_precision(rankings: list[ClassRanking] | tuple[ClassRanking, ...]) -> float | None:
    """Computes the mean of the classes' average precisions, mAP.

    Args:
        rankings: from `class_rankings`.

    Returns:
        The mean over the classes that have examples; None if none has. (scikit-learn's macro average warns and counts
        the other classes as 0.)

    Example:
        >>> mean_average_precision([ClassRanking(3, 0.5, 0.7), ClassRanking(1, 1.0, 1.0), ClassRanking(0, None, None)])
        0.75
    """
    values = [row.average_precision for row in rankings if row.average_precision is not None]
    return float(np.mean(values)) if values else None


def mean_roc_auc(rankings: list[ClassRanking] | tuple[ClassRanking, ...], *, weighted: bool = False) -> float | None:
    """Computes the mean of the classes' ROC AUCs, each class against all others.

    Args:
        rankings: from `class_rankings`.
        weighted: whether each class counts by its number of examples instead of equally.

    Returns:
        The mean over the classes whose AUC is defined; None if there is none.

    Example:
        >>> rows = [ClassRanking(3, 0.5, 0.75), ClassRanking(1, 1.0, 1.0)]
        >>> mean_roc_auc(rows), mean_roc_auc(rows, weighted=True)
        (0.875, 0.8125)
    """
    rows = [(row.roc_auc, row.count if weighted else 1) for row in rankings if row.roc_auc is not None]
    if not sum(weight for _, weight in rows):
        return None
    values, weights = zip(*rows, strict=True)
    return float(np.average(values, weights=weights))


def rank_class(is_positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating[Any]]) -> ClassRanking:
    """Returns the ranking of one class; the arguments are checked.

    Args:
        is_positive: bool (N,).
        scores: floating (N,) without NaN.
    """
    order = np.argsort(-scores)
    scores, hits = scores[order], is_positive[order]
    # The last place of each threshold: examples with equal scores are counted together.
    ends = np.append((scores[1:] != scores[:-1]).nonzero()[0], len(scores) - 1) if len(scores) else np.empty(0, int)
    true_positives = np.cumsum(hits)[ends].astype(np.float64)
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    precision = true_positives / (ends + 1.0)
    new_positives = np.diff(true_positives, prepend=0.0)
    return ClassRanking(
        positives,
        float((new_positives * precision).sum() / positives) if positives else None,
        _roc_auc(true_positives, new_positives, ends, positives, negatives) if positives and negatives else None,
    )


def _roc_auc(
    true_positives: npt.NDArray[np.float64],
    new_positives: npt.NDArray[np.float64],
    ends: npt.NDArray[np.int64],
    positives: int,
    negatives: int,
) -> float:
    """Counts, for each positive, the negatives with a lower score, and half of those with the same score."""
    false_positives = ends + 1.0 - true_positives
    new_negatives = np.diff(false_positives, prepend=0.0)
    lower = negatives - false_positives + new_negatives / 2
    return float((new_positives * lower).sum() / positives / negatives)


def _to_binary(is_positive: Any, scores: Any) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.floating[Any]]]:  # noqa: ANN401
    labels, scores = to_labels(is_positive, 2, "is_positive"), to_scores(scores, "scores", ndim=1)
    if len(labels) != len(scores):
        raise UserError(f"is_positive and scores must have one length, got {len(labels):,} and {len(scores):,}")
    return labels == 1, scores
