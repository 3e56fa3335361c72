"""Calibration: the difference between confidence and accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.metrics.checks import to_flags, to_fractions, to_integers
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ConfidenceBin:
    """The examples with a confidence, the largest predicted probability, in one bin of [0, 1].

    Attributes:
        count: the number of examples, at least one.
        confidence: their mean confidence.
        num_correct: the number of correct predictions among them.
    """

    count: int
    confidence: float
    num_correct: int

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions."""
        return self.num_correct / self.count


def confidence_bins(confidences: Sequence[float], correct: Sequence[bool], num_bins: int = 15) -> list[ConfidenceBin]:
    """Sorts examples by confidence into bins of equal width, (i/n, (i+1)/n].

    Args:
        confidences: the largest predicted probability of each example, in [0, 1].
        correct: True where the prediction is correct.
        num_bins: n.

    Returns:
        The bins that are not empty, in rising order.

    Raises:
        UserError: a ValueError; a confidence is not from 0 to 1, or there is not one for each prediction.

    Example:
        >>> confidence_bins([0.55, 0.95, 1.0], [True, False, True], num_bins=10)[-1]
        ConfidenceBin(count=2, confidence=0.975, num_correct=1)
    """
    confidences, correct = to_fractions(confidences, "confidences"), to_flags(correct, "correct")
    if len(confidences) != len(correct):
        raise UserError(f"confidences and correct must have one length, got {len(confidences)} and {len(correct)}")
    (num_bins,) = to_integers([num_bins], "num_bins")
    if num_bins < 1:
        raise UserError(f"num_bins must be at least 1, got {num_bins}")
    members: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_correct in zip(confidences, correct, strict=True):
        place = min(max(math.ceil(confidence * num_bins) - 1, 0), num_bins - 1)
        members.setdefault(place, []).append((confidence, is_correct))
    return [
        ConfidenceBin(len(rows), math.fsum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows))
        for _, rows in sorted(members.items())
    ]


def calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """Computes the expected calibration error: the mean distance between confidence and accuracy.

    It is Σ_b n_b / n · ``|accuracy_b − confidence_b|`` over the bins b.

    Args:
        bins: from `confidence_bins`.

    Returns:
        A fraction, 0 if accuracy equals confidence in every bin; NaN without examples.

    Source:
        Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017.

    Example:
        >>> round(calibration_error([ConfidenceBin(10, 0.9, 6), ConfidenceBin(30, 0.7, 21)]), 3)
        0.075
    """
    total = sum(each.count for each in bins)
    if not total:
        return math.nan
    return math.fsum(each.count * abs(each.accuracy - each.confidence) for each in bins) / total
