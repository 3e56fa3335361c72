"""Tests of fcnet.metrics.ranking: scikit-learn is the oracle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import label_binarize

from fcnet.metrics import (
    ClassRanking,
    average_precision,
    class_rankings,
    mean_average_precision,
    mean_roc_auc,
    rank_class_with_influences,
    roc_auc,
)
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy.typing as npt

FINITE = st.floats(-1e6, 1e6)
# Few different scores make many ties.
SCORES = st.one_of(FINITE, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
EXAMPLES = st.lists(st.tuples(st.booleans(), SCORES), min_size=1, max_size=50)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(EXAMPLES)
def test_average_precision_and_roc_auc_are_scikit_learns(dtype: Any, examples: list[tuple[bool, float]]) -> None:
    positive, scores = np.array([each[0] for each in examples]), np.array([each[1] for each in examples], dtype=dtype)
    if positive.any():
        assert average_precision(positive, scores) == pytest.approx(
            average_precision_score(positive, scores), abs=1e-12
        )
    if positive.any() and not positive.all():
        assert roc_auc(positive, scores) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def random_case(
    count: int, num_classes: int, *, ties: bool = False, seed: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(num_classes, size=count), rng.normal(size=(count, num_classes))
    logits[np.arange(count), labels] += 1.0
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, scores.round(1) + 1e-3 if ties else scores


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("count", "num_classes"), [(50, 3), (2000, 10), (3000, 40)])
def test_classes_and_means_are_scikit_learns(count: int, num_classes: int, ties: bool) -> None:
    labels, scores = random_case(count, num_classes, ties=ties)
    rows = class_rankings(labels, scores)
    one_hot = label_binarize(labels, classes=range(num_classes))
    expected = average_precision_score(one_hot, scores, average=None)
    assert [row.average_precision for row in rows] == pytest.approx(expected.tolist(), abs=1e-12)
    expected = roc_auc_score(one_hot, scores, average=None)
    assert [row.roc_auc for row in rows] == pytest.approx(expected.tolist(), abs=1e-12)
    assert [row.count for row in rows] == one_hot.sum(0).tolist()
    assert mean_average_precision(rows) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    scores /= scores.sum(1, keepdims=True)  # scikit-learn's condition
    rows = class_rankings(labels, scores)
    for weighted, average in ((False, "macro"), (True, "weighted")):
        theirs = roc_auc_score(labels, scores, multi_class="ovr", average=average)
        assert mean_roc_auc(rows, weighted=weighted) == pytest.approx(theirs, abs=1e-12)


def test_what_scikit_learn_warns_of_is_none() -> None:
    scores = [0.25, 0.5, 0.75]
    with pytest.warns(UserWarning, match="No positive class found in y_true"):
        assert average_precision_score([0, 0, 0], scores) == 0.0
    with pytest.warns(UndefinedMetricWarning, match="Only one class is present in y_true"):
        assert math.isnan(roc_auc_score([1, 1, 1], scores))
    assert average_precision([0, 0, 0], scores) is None
    assert roc_auc([0, 0, 0], scores) is roc_auc([1, 1, 1], scores) is None
    assert average_precision([1, 1, 1], scores) == average_precision_score([1, 1, 1], scores) == 1.0
    assert class_rankings(torch.tensor([1, 1]), torch.rand(2, 3)) == [
        ClassRanking(0, None, None),
        ClassRanking(2, 1.0, None),
        ClassRanking(0, None, None),
    ]
    assert average_precision([], []) is None


def test_means_leave_undefined_classes_out() -> None:
    rows = [ClassRanking(3, 0.5, 0.25), ClassRanking(0, None, None), ClassRanking(1, 1.0, 0.75)]
    assert mean_average_precision(rows) == 0.75
    assert (mean_roc_auc(rows), mean_roc_auc(rows, weighted=True)) == (0.5, 0.375)
    assert mean_average_precision(rows[1:2]) is mean_roc_auc(rows[1:2]) is None


def test_equal_scores_say_nothing() -> None:
    assert roc_auc([0, 1, 0, 1], [0.5] * 4) == 0.5
    assert average_precision([0, 1, 0, 1], [0.5] * 4) == 0.5
    assert roc_auc([0, 1], [-math.inf, math.inf]) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: roc_auc([0, 1], [0.5, math.nan]), r"scores must not be NaN, got 1 of 2 NaN"),
        (lambda: average_precision([0, 1], [0.5]), r"is_positive and scores must have one length, got 2 and 1"),
        (lambda: average_precision([0, 2], [0.5, 0.1]), r"is_positive must be from 0 to 1, got 2"),
        (lambda: class_rankings([0, 1], [[0.5, 0.5]]), r"labels and scores must have one length, got 2 and 1"),
        (lambda: class_rankings([0, 2], torch.rand(2, 2)), r"labels must be from 0 to 1, got 2"),
        (
            lambda: class_rankings(0, torch.rand(2)),
            r"scores must be one row of C scores an example, \(N, C\), got the shape \(2,\); a single .* is \[scores\]",
        ),
        (lambda: class_rankings([0], [["a", "b"]]), r"scores must be numbers, got the dtype <U1"),
        (lambda: class_rankings([0, 0], [[1.0], [1.0, 2.0]]), r"scores must have rows of one length"),
        (
            lambda: roc_auc([0, 1], torch.rand(2, 2)),
            r"scores must be one score an example, \(N,\), got the shape \(2, 2\)",
        ),
    ],
)
def test_what_are_no_labels_or_scores_is_one_sentence(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        call()


@pytest.mark.parametrize("ties", [False, True])
def test_influences_are_derivatives_by_the_weights_of_examples(ties: bool) -> None:
    labels, all_scores = random_case(60, 3, ties=ties)
    positive, scores = labels == 0, all_scores[:, 0]
    found = rank_class_with_influences(positive, scores)
    for metric, ours in (
        (average_precision_score, found.average_precision),
        (roc_auc_score, found.roc_auc),
    ):
        for example in range(60):
            weights = [np.ones(60), np.ones(60)]
            for weight, change in zip(weights, (-1e-5, 1e-5), strict=True):
                weight[example] += change
            low, high = (metric(positive, scores, sample_weight=weight) for weight in weights)
            assert ours[example] == pytest.approx((high - low) / 2e-5, abs=1e-8)
        assert ours.sum() == pytest.approx(0.0, abs=1e-12)


def test_influences_of_undefined_rankings_are_0() -> None:
    for positive in (np.zeros(3, dtype=bool), np.ones(3, dtype=bool), np.zeros(0, dtype=bool)):
        found = rank_class_with_influences(positive, np.arange(float(len(positive))))
        assert not found.roc_auc.any()
        assert not found.average_precision.any()
