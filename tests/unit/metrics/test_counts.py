"""Tests of fcnet.metrics.counts."""

from __future__ import annotations

import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

from fcnet.metrics import Confusion, accuracy, average_metrics, class_metrics, mean_class_accuracy

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(LABELS)
def test_class_metrics_and_accuracy_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = zip(*pairs, strict=True)
    confusion = confusion_matrix(truth, predicted, labels=range(4)).tolist()
    precision, recall, f1, count = precision_recall_fscore_support(
        truth, predicted, labels=range(4), zero_division=math.nan
    )
    rows = class_metrics(confusion)
    assert [row.count for row in rows] == count.tolist()
    for ours, theirs in (
        ([row.precision for row in rows], precision),
        ([row.recall for row in rows], recall),
        ([row.f1 for row in rows], f1),
    ):
        assert [math.nan if value is None else value for value in ours] == pytest.approx(theirs.tolist(), nan_ok=True)
    assert class_metrics(Confusion.from_labels(truth, predicted, 4)) == rows
    assert accuracy(confusion) == pytest.approx(sum(t == c for t, c in pairs) / len(pairs))


def test_without_examples_the_accuracy_is_nan() -> None:
    assert math.isnan(accuracy([[0, 0], [0, 0]]))


@given(LABELS)
def test_averages_are_scikit_learns_and_count_undefined_metrics_as_0(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = zip(*pairs, strict=True)
    confusion = Confusion.from_labels(truth, predicted, 4)
    for weighted, average in ((False, "macro"), (True, "weighted")):
        *expected, _ = precision_recall_fscore_support(
            truth, predicted, labels=range(4), average=average, zero_division=0.0
        )
        ours = average_metrics(confusion, weighted=weighted)
        assert [ours.precision, ours.recall, ours.f1] == pytest.approx(expected, abs=1e-12)
    assert average_metrics(confusion, weighted=True).recall == pytest.approx(accuracy(confusion), abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # y_pred contains classes not in y_true
        assert mean_class_accuracy(confusion) == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)


def test_without_examples_averages_are_0_and_the_mean_class_accuracy_is_nan() -> None:
    for table in ([[0, 0], [0, 0]], []):
        for weighted in (False, True):
            assert set(vars(average_metrics(table, weighted=weighted)).values()) == {0.0}
        assert math.isnan(mean_class_accuracy(table))
