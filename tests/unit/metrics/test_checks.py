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
