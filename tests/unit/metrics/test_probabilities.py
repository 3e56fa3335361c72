"""Tests of fcnet.metrics.probabilities: scikit-learn is the oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcnet.metrics import brier_score, log_loss, top_k_accuracy
from fcnet.runtime.errors import UserError


def make_case(count: int, num_classes: int, dtype: Any = np.float64) -> tuple[Any, Any]:
    rng = np.random.default_rng(count)
    labels = rng.integers(num_classes, size=count)
    powers = np.exp(3 * rng.normal(size=(count, num_classes)))
    return labels, (powers / powers.sum(1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_classes", [2, 3, 20])
def test_log_loss_and_brier_score_are_scikit_learns(num_classes: int, dtype: Any) -> None:
    labels, p = make_case(200, num_classes, dtype)
    wide, classes = p.astype(np.float64), list(range(num_classes))  # scikit-learn adds float32 in float32
    wide_sums_to_1 = wide / wide.sum(1, keepdims=True) if dtype == np.float32 else wide
    assert log_loss(labels, wide_sums_to_1) == pytest.approx(
        sklearn.metrics.log_loss(labels, wide_sums_to_1, labels=classes), abs=1e-12
    )
    assert log_loss(labels, p) == pytest.approx(float(-np.log(wide[np.arange(200), labels]).mean()), abs=1e-12)
    errors = np.square(wide - np.eye(num_classes)[labels]).sum(1).mean()
    assert brier_score(torch.tensor(labels), torch.tensor(p)) == pytest.approx(
        errors / (2 if num_classes == 2 else 1), abs=1e-12
    )


def test_probabilities_of_the_second_of_two_classes_are_taken_as_scikit_learn_takes_them() -> None:
    labels, p = make_case(100, 2)
    assert log_loss(labels, p[:, 1]) == pytest.approx(sklearn.metrics.log_loss(labels, p[:, 1]), abs=1e-12)
    assert brier_score(labels, p[:, 1]) == pytest.approx(sklearn.metrics.brier_score_loss(labels, p[:, 1]), abs=1e-12)


def test_probabilities_of_0_and_1_are_bounded_as_in_scikit_learn() -> None:
    labels, p = [0, 1, 2], np.eye(3)[[0, 2, 2]]
    assert log_loss(labels, p) == pytest.approx(sklearn.metrics.log_loss(labels, p), abs=1e-12)
    assert brier_score(labels, p) == pytest.approx(2 / 3, abs=1e-12)
    assert log_loss([0, 0], [0.0, 0.0]) == pytest.approx(sklearn.metrics.log_loss([0, 0], [0.0, 0.0], labels=[0, 1]))


@pytest.mark.parametrize("decimals", [0, 1, 12])  # rounded scores have ties
@given(st.integers(1, 60), st.integers(3, 9), st.integers(1, 2))
def test_top_k_accuracy_is_scikit_learns(decimals: int, count: int, num_classes: int, k: int) -> None:
    labels, scores = make_case(count, num_classes)
    scores = scores.round(decimals)
    expected = sklearn.metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(num_classes))
    assert top_k_accuracy(labels, scores, k) == pytest.approx(expected, abs=1e-12)


def test_without_examples_the_figures_are_nan() -> None:
    nothing = np.empty((0, 3))
    for metric in (log_loss, brier_score, lambda labels, scores: top_k_accuracy(labels, scores, k=2)):
        assert math.isnan(metric([], nothing))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_loss([0, 1], [[0.5, 0.5]]), "labels and probabilities must have one length, got 2 and 1"),
        (lambda: log_loss([2], [[0.5, 0.5]]), "labels must be from 0 to 1, got 2"),
        (lambda: log_loss([1], [[0.5, math.nan]]), "probabilities must not be NaN, got 1 of 2 NaN"),
        (lambda: log_loss([1], [[0.5, 1.5]]), "probabilities must be from 0 to 1, got 1.5"),
        (lambda: brier_score([1], [[-0.5, 0.5]]), "probabilities must be from 0 to 1, got -0.5"),
        (lambda: brier_score([1], [[0.5, 0.25]]), "each row of probabilities must sum to 1, got 0.75"),
        (lambda: brier_score(1, 0.5), "probabilities must be one row of C scores an example, (N, C), got the shape ()"),
        (lambda: top_k_accuracy([0], [[0.5, 0.5]], 2), "k must be from 1 to 1, less than the number of classes, got 2"),
        (lambda: top_k_accuracy([0], [[0.5, 0.5]], 0), "k must be from 1 to 1, less than the number of classes, got 0"),
        (
            lambda: top_k_accuracy(0, [0.1, 0.7, 0.2], 1),
            "scores must be one row of C scores an example, (N, C), got the shape (3,); a single example is [scores]",
        ),
    ],
)
def test_what_are_no_labels_or_probabilities_is_one_sentence(call: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == message
