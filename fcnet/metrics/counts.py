"""Metrics that follow from the counts of true and predicted classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fcnet.metrics.confusion import Confusion

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class. A metric is None where its denominator is 0.

    Attributes:
        count: the number of examples of this class.
        precision: the fraction of examples predicted as this class that belong to it.
        recall: the fraction of examples of this class that are predicted as it.
        f1: the harmonic mean of precision and recall.
    """

    count: int
    precision: float | None
    recall: float | None
    f1: float | None


def accuracy(confusion: Confusion | Sequence[Sequence[int]]) -> float:
    """Computes the fraction of examples on the diagonal.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C), or a `Confusion`.

    Returns:
        A fraction; NaN without examples.

    Raises:
        UserError: a ValueError; it is no table of counts.

    Example:
        >>> accuracy([[8, 2], [1, 9]])
        0.85
    """
    return _to_confusion(confusion).accuracy


def class_metrics(confusion: Confusion | Sequence[Sequence[int]]) -> list[ClassMetrics]:
    """Computes count, precision, recall and F1 of each class.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C), or a `Confusion`.

    Returns:
        One record per class, in the order of the classes.

    Raises:
        UserError: a ValueError; it is no table of counts.

    Example:
        >>> class_metrics([[8, 2], [0, 0]])[0]
        ClassMetrics(count=10, precision=1.0, recall=0.8, f1=0.8888888888888888)
    """
    counts = _to_confusion(confusion)
    columns = (counts.class_counts, counts.predicted_counts, counts.correct_counts)
    return [
        ClassMetrics(
            count,
            precision=num_correct / predicted if predicted else None,
            recall=num_correct / count if count else None,
            f1=2 * num_correct / (predicted + count) if predicted + count else None,
        )
        for count, predicted, num_correct in zip(*(column.tolist() for column in columns), strict=True)
    ]


@dataclass(frozen=True)
class AverageMetrics:
    """Means of the classes' metrics. A class without the metric counts as 0, as scikit-learn counts it with a warning.

    Attributes:
        precision: the mean precision.
        recall: the mean recall.
        f1: the mean F1.
    """

    precision: float
    recall: float
    f1: float


def average_metrics(confusion: Confusion | Sequence[Sequence[int]], *, weighted: bool = False) -> AverageMetrics:
    """Computes the macro or the weighted average of precision, recall and F1.

    A metric of a class is undefined without predictions or examples of the class. It counts as 0, so the macro average
    of recall is less than `mean_class_accuracy` where a class has no examples.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C), or a `Confusion`.
        weighted: whether each class counts by its number of examples instead of equally. The weighted recall is the
            accuracy.

    Returns:
        The averages; 0 without examples.

    Raises:
        UserError: a ValueError; it is no table of counts.

    Example:
        >>> average_metrics([[8, 2], [0, 0]])
        AverageMetrics(precision=0.5, recall=0.4, f1=0.4444444444444444)
        >>> average_metrics([[8, 2], [0, 0]], weighted=True).recall
        0.8
    """
    counts = _to_confusion(confusion)
    columns = (counts.class_counts, counts.predicted_counts, counts.correct_counts)
    averages = average_columns(*(column[None].astype(np.float64) for column in columns), weighted=weighted)
    return AverageMetrics(*(float(average[0]) for average in averages))


def mean_class_accuracy(confusion: Confusion | Sequence[Sequence[int]]) -> float:
    """Computes the mean recall of the classes with examples, scikit-learn's balanced accuracy.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C), or a `Confusion`.

    Returns:
        A fraction; NaN without examples. Classes without examples are left out, where scikit-learn warns.

    Raises:
        UserError: a ValueError; it is no table of counts.

    Example:
        >>> mean_class_accuracy([[3, 1, 0], [2, 2, 0], [0, 0, 0]])
        0.625
    """
    counts = _to_confusion(confusion)
    present = counts.class_counts > 0
    recalls = counts.correct_counts[present] / counts.class_counts[present]
    return float(recalls.mean()) if len(recalls) else float("nan")


def average_columns(
    counts: npt.NDArray[np.float64],
    predicted: npt.NDArray[np.float64],
    num_correct: npt.NDArray[np.float64],
    *,
    weighted: bool = False,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Computes the averages of `average_metrics` for R tables at once.

    Args:
        counts: float64 (R, C), the number of examples of each class.
        predicted: float64 (R, C), the number of examples predicted as each class.
        num_correct: float64 (R, C), the number of correct predictions of each class.
        weighted: whether each class counts by its number of examples.

    Returns:
        The averages of precision, recall and F1, float64 (R,) each.
    """
    metrics = (
        _divide(num_correct, predicted),
        _divide(num_correct, counts),
        _divide(2.0 * num_correct, predicted + counts),
    )
    if weighted:
        totals = counts.sum(1)
        precision, recall, f1 = (_divide((metric * counts).sum(1), totals) for metric in metrics)
    else:
        precision, recall, f1 = (metric.mean(1) if metric.shape[1] else np.zeros(len(metric)) for metric in metrics)
    return precision, recall, f1


def _divide(numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divides; 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _to_confusion(confusion: Confusion | Sequence[Sequence[int]]) -> Confusion:
    return confusion if isinstance(confusion, Confusion) else Confusion.from_table(confusion)
