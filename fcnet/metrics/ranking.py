"""Metrics of a ranking by scores: average precision and the area under the ROC curve.

N examples, C classes. Examples are ranked by descending score; equal scores share one threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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
    """Returns the ranking of one class; the arguments are checked by those who offer it.

    Args:
        is_positive: bool (N,).
        scores: floating (N,) without NaN.
    """
    return _Thresholds.of(is_positive, scores).ranking()


class RankingInfluences(NamedTuple):
    """The ranking of one class, and how much each example's weight changes it.

    The derivatives sum to 0. The sum of their squares is the variance of the metric over samples of examples, up to
    terms of higher order; see `fcnet.metrics.influence_interval`.

    Attributes:
        ranking: the ranking.
        average_precision: float64 (N,), the derivative of the average precision by each example's weight, at 1; zeros
            if it is undefined.
        roc_auc: float64 (N,), the same of the ROC AUC.
    """

    ranking: ClassRanking
    average_precision: npt.NDArray[np.float64]
    roc_auc: npt.NDArray[np.float64]


def rank_class_with_influences(
    is_positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating[Any]]
) -> RankingInfluences:
    """Returns the ranking of one class and the influences of its examples; the arguments are those of `rank_class`.

    Source:
        Efron, "The jackknife, the bootstrap and other resampling plans", 1982: the infinitesimal jackknife. For the ROC
        AUC it is the variance of DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated
        receiver operating characteristic curves: a nonparametric approach", 1988.

    Example:
        >>> found = rank_class_with_influences(np.array([True, False, True]), np.array([3.0, 2.0, 1.0]))
        >>> found.ranking.roc_auc, found.roc_auc.tolist()
        (0.5, [0.25, 0.0, -0.25])
    """
    thresholds = _Thresholds.of(is_positive, scores)
    return RankingInfluences(
        thresholds.ranking(), thresholds.average_precision_influences(), thresholds.roc_auc_influences()
    )


@dataclass(frozen=True)
class _Thresholds:
    """Counts of one class at each of the T thresholds, the different scores from high to low.

    Attributes:
        num_positives: the number of positive examples.
        num_negatives: the number of negative examples.
        predicted: float64 (T,), the number of examples with a score of at least the threshold.
        true_positives: float64 (T,), the number of positive ones among them.
        order: int64 (N,), the examples by descending score.
        places: int64 (N,), the threshold of each example in that order.
        hits: bool (N,), whether it is positive, in that order.
    """

    num_positives: int
    num_negatives: int
    predicted: npt.NDArray[np.float64]
    true_positives: npt.NDArray[np.float64]
    order: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    hits: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, is_positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating[Any]]) -> _Thresholds:
        order = np.argsort(-scores)
        scores, hits = scores[order], is_positive[order]
        is_new = np.ones(len(scores), dtype=np.bool_)
        is_new[1:] = scores[1:] != scores[:-1]
        ends = np.append(is_new[1:], True).nonzero()[0] if len(scores) else np.empty(0, np.int64)
        num_positives = int(is_positive.sum())
        return cls(
            num_positives,
            len(scores) - num_positives,
            predicted=ends.astype(np.float64) + 1.0,
            true_positives=np.cumsum(hits)[ends].astype(np.float64),
            order=order,
            places=np.cumsum(is_new) - 1,
            hits=hits,
        )

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        return self.true_positives / self.predicted

    @property
    def new_positives(self) -> npt.NDArray[np.float64]:
        """The number of positive examples with the score of each threshold."""
        return np.diff(self.true_positives, prepend=0.0)

    @property
    def shares_below(self) -> npt.NDArray[np.float64]:
        """The fraction of negatives that rank below each threshold, with half of those that have its score."""
        false_positives = self.predicted - self.true_positives
        new_negatives = np.diff(false_positives, prepend=0.0)
        return (self.num_negatives - false_positives + new_negatives / 2) / self.num_negatives

    @property
    def shares_above(self) -> npt.NDArray[np.float64]:
        """The fraction of positives that rank above each threshold, with half of those that have its score."""
        return (self.true_positives - self.new_positives / 2) / self.num_positives

    def ranking(self) -> ClassRanking:
        positives, negatives = self.num_positives, self.num_negatives
        return ClassRanking(
            positives,
            float((self.new_positives * self.precision).sum() / positives) if positives else None,
            float((self.new_positives * self.shares_below).sum() / positives) if positives and negatives else None,
        )

    def average_precision_influences(self) -> npt.NDArray[np.float64]:
        """Differentiates Σ_i w_i P_i / Σ_i w_i over the positives i, where P_i = TP / (TP + FP) depends on w, too."""
        if not self.num_positives:
            return np.zeros(len(self.order))
        precision, shares = self.precision, self.new_positives / self.predicted
        mean = (self.new_positives * precision).sum() / self.num_positives
        # An example counts in TP or FP at its own threshold and all lower ones: sums from the lowest threshold up.
        as_positive = np.cumsum((shares * (1.0 - precision))[::-1])[::-1] + precision - mean
        as_negative = -np.cumsum((shares * precision)[::-1])[::-1]
        return self._by_example(as_positive / self.num_positives, as_negative / self.num_positives)

    def roc_auc_influences(self) -> npt.NDArray[np.float64]:
        if not (self.num_positives and self.num_negatives):
            return np.zeros(len(self.order))
        below, above = self.shares_below, self.shares_above
        auc = (self.new_positives * below).sum() / self.num_positives
        return self._by_example((below - auc) / self.num_positives, (above - auc) / self.num_negatives)

    def _by_example(
        self, as_positive: npt.NDArray[np.float64], as_negative: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Returns the value of each example, in the order of the set, from those of its threshold."""
        values = np.empty(len(self.order))
        values[self.order] = np.where(self.hits, as_positive[self.places], as_negative[self.places])
        return values


def _to_binary(is_positive: Any, scores: Any) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.floating[Any]]]:  # noqa: ANN401
    labels, scores = to_labels(is_positive, 2, "is_positive"), to_scores(scores, "scores", ndim=1)
    if len(labels) != len(scores):
        raise UserError(f"is_positive and scores must have one length, got {len(labels):,} and {len(scores):,}")
    return labels == 1, scores
