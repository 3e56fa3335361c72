"""Tests of fcnet.metrics.checks: what the metrics take, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fcnet import metrics
from fcnet.runtime.errors import UserError

UNTYPED: Any = metrics  # arguments that its annotations do not allow


def test_arrays_and_tensors_of_counts_give_the_numbers_that_lists_give() -> None:
    table = [[8, 2], [1, 9]]
    for kind in (np.array, torch.tensor):
        for metric in (UNTYPED.accuracy, UNTYPED.class_metrics):
            assert repr(metric(kind(table))) == repr(metric(table))
        assert repr(UNTYPED.holm_adjust(kind([0.25, 0.5]))) == "[0.5, 0.5]"
        found = UNTYPED.confidence_bins(kind([0.25, 0.75]), kind([True, False]))
        assert repr(found) == repr(UNTYPED.confidence_bins([0.25, 0.75], [True, False]))
    # 2¹⁰⁰ and the binomial coefficients of 100 are beyond int64
    assert UNTYPED.mcnemar_test(np.int64(40), np.int64(60)) == UNTYPED.mcnemar_test(40, 60) < 0.1
    assert UNTYPED.accuracy(np.full((2, 2), 2**60)) == 0.5


LISTS: dict[str, tuple[Any, ...]] = {
    "accuracy": ([[8, 2], [1, 9]],),
    "average_metrics": ([[8, 2], [1, 9]],),
    "average_precision": ([0, 1], [0.5, 0.75]),
    "brier_score": ([0, 1], [0.5, 0.75]),
    "class_metrics": ([[8, 2], [1, 9]],),
    "class_rankings": ([0, 1], [[0.5, 0.5], [0.25, 0.75]]),
    "confidence_bins": ([0.5, 0.75], [True, False]),
    "difference_interval": (1, 2, 1, 2),
    "holm_adjust": ([0.5, 0.25],),
    "homogeneity_test": ([1, 2], [2, 1]),
    "log_loss": ([0, 1], [0.5, 0.75]),
    "mcnemar_test": (1, 2),
    "mean_class_accuracy": ([[8, 2], [1, 9]],),
    "mean_interval": ([1.0, 2.0],),
    "roc_auc": ([0, 1], [0.5, 0.75]),
    "top_k_accuracy": ([0, 1], [[0.5, 0.5], [0.25, 0.75]], 1),
    "two_proportion_test": (1, 2, 1, 2),
    "wilson_interval": (1, 2),
}


def replaced(value: Any, wrong: Any) -> Any:
    """Returns an argument with its last number replaced."""
    return [*value[:-1], replaced(value[-1], wrong)] if isinstance(value, list) else wrong


@pytest.mark.parametrize("wrong", [math.nan, "a", None, [0.5]])
@pytest.mark.parametrize("name", LISTS)
def test_nan_and_what_is_no_number_is_refused_in_one_line(name: str, wrong: Any) -> None:
    metric, arguments = getattr(metrics, name), LISTS[name]
    metric(*arguments)
    for place in range(len(arguments)):
        changed = [*arguments]
        changed[place] = replaced(arguments[place], wrong)
        with pytest.raises(UserError) as error:
            metric(*changed)
        assert "\n" not in str(error.value)
        assert " must " in str(error.value)


@pytest.mark.parametrize("kind", [lambda value: value, np.array, torch.tensor])
@pytest.mark.parametrize("name", [name for name, (first, *_) in LISTS.items() if isinstance(first, list)])
def test_a_single_row_or_number_is_refused_in_one_line(name: str, kind: Any) -> None:
    metric, arguments = getattr(metrics, name), LISTS[name]
    first_of_each = [kind(each[0]) if isinstance(each, list) else each for each in arguments]
    with pytest.raises(UserError, match=r" must .*got"):
        metric(*first_of_each)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: UNTYPED.accuracy([0, 1, 1]),
            "confusion must be a square table of counts such as [[8, 2], [1, 9]], got a list",
        ),
        (
            lambda: UNTYPED.accuracy(np.ones((2, 3), int)),
            "confusion must be a square table of counts such as [[8, 2], [1, 9]], got a ndarray (2, 3)",
        ),
        (
            lambda: UNTYPED.class_metrics([[0.5, 0.5], [0.1, 0.9]]),
            "each entry of confusion must be a count, which is a whole number, got 0.5",
        ),
        (
            lambda: UNTYPED.accuracy(np.full((2, 2), 2**62)),
            f"confusion must count fewer than 2⁶³ images, got {2**64}",
        ),
        (lambda: UNTYPED.accuracy([[-1, 2], [3, 4]]), "each entry of confusion must be at least 0, got -1"),
        (lambda: UNTYPED.wilson_interval(5, 4), "num_correct must be at most count=4, got 5"),
        (lambda: UNTYPED.wilson_interval(0.9, 100), "num_correct must be a count, which is a whole number, got 0.9"),
        (lambda: UNTYPED.difference_interval(1, 2, 1, 0), "other_count must be at least 1, got 0"),
        (lambda: UNTYPED.two_proportion_test(1, 0, 0, 1), "count must be at least 1, got 0"),
        (
            lambda: UNTYPED.homogeneity_test([1, 2], [1, 2, 3]),
            "counts and other_counts must have one entry a class, got 2 and 3",
        ),
        (
            lambda: UNTYPED.homogeneity_test([0, 0], [1, 2]),
            "counts and other_counts must each hold at least one example, got 0",
        ),
        (lambda: UNTYPED.mcnemar_test(-1, 3), "only_first and only_second must be at least 0, got -1"),
        (lambda: UNTYPED.holm_adjust([0.5, math.nan]), "p_values must be numbers from 0 to 1, got nan"),
        (lambda: UNTYPED.confidence_bins([55, 99], [True, False]), "confidences must be numbers from 0 to 1, got 55"),
        (
            lambda: UNTYPED.confidence_bins(torch.rand(2, 3), torch.tensor([True, False])),
            "confidences must be numbers from 0 to 1, got a row of 3",
        ),
        (
            lambda: UNTYPED.confidence_bins([0.5], [True, False]),
            "confidences and correct must have one length, got 1 and 2",
        ),
        (lambda: UNTYPED.confidence_bins([0.5], [True], 0), "num_bins must be at least 1, got 0"),
    ],
)
def test_what_are_no_counts_or_fractions_is_one_sentence(call: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == message
