"""Tests of fcnet.metrics.calibration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.metrics import calibration_error, confidence_bins

PREDICTED = st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=80)


@given(PREDICTED, st.integers(1, 20))
def test_each_example_is_in_the_bin_of_its_confidence(predicted: list[tuple[float, bool]], num_bins: int) -> None:
    confidences, correct = zip(*predicted, strict=True)
    bins = confidence_bins(confidences, correct, num_bins)
    assert sum(each.count for each in bins) == len(predicted)
    assert sum(each.num_correct for each in bins) == sum(correct)
    assert sum(each.count * each.confidence for each in bins) == pytest.approx(sum(confidences))
    assert all(each.count for each in bins)
    places = [each.confidence * num_bins for each in bins]
    assert all(later - earlier > -1e-9 for earlier, later in itertools.pairwise(places))
    edges = np.arange(1, num_bins) / num_bins
    expected = np.bincount(np.digitize(np.array(confidences), edges, right=True), minlength=num_bins)
    ours = {math.ceil(place - 1e-9): each.count for place, each in zip(places, bins, strict=True)}
    if all(min(abs(c * num_bins - edge) for edge in range(num_bins + 1)) > 1e-6 for c in confidences):
        assert ours == {place + 1: count for place, count in enumerate(expected.tolist()) if count}


@given(PREDICTED)
def test_the_calibration_error_is_the_mean_gap_over_examples(predicted: list[tuple[float, bool]]) -> None:
    confidences, correct = zip(*predicted, strict=True)
    bins = confidence_bins(confidences, correct, 10)
    gaps = [abs(each.num_correct / each.count - each.confidence) for each in bins for _ in range(each.count)]
    assert calibration_error(bins) == pytest.approx(np.mean(gaps))


def test_the_calibration_error_is_0_if_accuracy_equals_confidence() -> None:
    assert calibration_error(confidence_bins([0.75] * 4 + [0.5] * 2, [True] * 3 + [False, True, False])) == 0.0
    assert calibration_error(confidence_bins([1.0] * 3, [False] * 3)) == 1.0
    assert math.isnan(calibration_error([]))
