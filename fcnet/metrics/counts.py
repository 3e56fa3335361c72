"""Metrics that follow from the counts of true and predicted classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.metrics.confusion import Confusion

if TYPE_CHECKING:
    from collections.abc import Sequence


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


def _to_confusion(confusion: Confusion | Sequence[Sequence[int]]) -> Confusion:
    return confusion if isinstance(confusion, Confusion) else Confusion.from_table(confusion)
