"""Tests of fcnet.evaluation.dataset_shift."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.testing import assert_close

from fcnet.data.batches import Batches
from fcnet.evaluation.dataset_shift import DatasetShift, PixelShift, accuracy_shift, class_shift, pixel_shift
from fcnet.metrics import difference_interval, homogeneity_test, two_proportion_test

CLASSES = ("cat", "dog", "eel")
PIXELS = torch.randint(0, 256, (50, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def make_pixel_shift(mean: float = 0.5, std: float = 0.2, *, error: float = 0.001) -> PixelShift:
    """One channel, compared with a mean of 0.5 and a standard deviation of 0.2."""
    return PixelShift((mean,), (std,), (0.5,), (0.2,), (error,))


def describe(shift: DatasetShift) -> dict[str, str]:
    """The lines of the description, by their first word."""
    return {line.split(": ")[0]: line for line in shift.describe(CLASSES)}


def test_frequencies_and_their_distance_follow_from_the_counts() -> None:
    shift = class_shift([10, 30, 60], [20, 20, 0])
    assert [share.run for share in shift.shares] == [0.1, 0.3, 0.6]
    assert [share.other for share in shift.shares] == [0.5, 0.5, 0.0]
    assert shift.total_variation == pytest.approx(0.6)
    assert shift.p == homogeneity_test([10, 30, 60], [20, 20, 0])
    assert shift.shares[2].p == two_proportion_test(0, 40, 60, 100)


def test_pixel_statistics_agree_with_torch() -> None:
    rows = torch.tensor([4, 9, 2, 30, 31])
    batches = Batches(PIXELS, torch.zeros(50, dtype=torch.int64), rows=rows, batch_size=2)
    shift = pixel_shift(batches, torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.5]))
    x = PIXELS[rows].double() / 255
    assert_close(torch.tensor(shift.mean), x.mean((0, 2, 3)).float())
    assert_close(torch.tensor(shift.std), x.std((0, 2, 3), correction=0).float())
    assert_close(torch.tensor(shift.mean_error).double(), x.mean((2, 3)).std(0) / math.sqrt(5), rtol=1e-6, atol=0)
    own = torch.tensor([0.2, 0.25, 0.5]).double()
    assert shift.mean_shift == pytest.approx(
        ((x.mean((0, 2, 3)) - torch.tensor([0.4, 0.5, 0.6])) / own).tolist(), rel=1e-4, abs=1e-6
    )
    assert shift.std_ratio == pytest.approx((x.std((0, 2, 3), correction=0) / own).tolist())


def test_the_standard_error_of_a_single_image_is_0() -> None:
    batches = Batches(PIXELS[:1], torch.zeros(1, dtype=torch.int64))
    assert pixel_shift(batches, torch.full((3,), 0.5), torch.full((3,), 0.3)).mean_error == (0.0, 0.0, 0.0)


def test_an_accuracy_difference_has_an_interval_and_a_p_value() -> None:
    shift = accuracy_shift(40, 50, 0.9, 200)
    assert (shift.run, shift.run_images, shift.other) == (0.9, 200, 0.8)
    assert shift.difference == pytest.approx(-0.1)
    assert shift.interval == difference_interval(40, 50, 180, 200)
    assert shift.p == two_proportion_test(40, 50, 180, 200)


@pytest.mark.parametrize(
    ("other", "description"),
    [
        ([9, 11, 10], "no significant difference from training (total variation 0.03; p = 0.9131)"),
        (
            [180, 60, 60],
            (
                "frequencies differ from training: cat 33.3% → 60.0%, dog 33.3% → 20.0%, eel 33.3% → 20.0% "
                "(total variation 0.27; p < 0.0001)"
            ),
        ),
        (
            [100, 150, 50],
            "frequencies differ from training: dog 33.3% → 50.0%, eel 33.3% → 16.7% (total variation 0.17; p < 0.0001)",
        ),
    ],
)
def test_classes_with_a_significant_difference_are_named(other: list[int], description: str) -> None:
    assert (
        describe(DatasetShift(class_shift([100, 100, 100], other), make_pixel_shift(), None))["classes"]
        == f"classes: {description}"
    )


def test_many_small_differences_can_be_significant_together() -> None:
    shift = class_shift([100] * 10, [27] * 5 + [12] * 5)
    assert min(share.p for share in shift.shares) > 0.05
    description = DatasetShift(shift, make_pixel_shift(), None).describe("abcdefghij")[0]
    assert description == (
        "classes: frequencies differ from training: a 10.0% → 13.8%, b 10.0% → 13.8%, c 10.0% → 13.8% "
        "(total variation 0.19; p = 0.0039)"
    )


def test_at_most_three_classes_are_named() -> None:
    shift = DatasetShift(class_shift([100] * 6, [400, 10, 20, 30, 40, 100]), make_pixel_shift(), None)
    description = shift.describe("abcdef")[0]
    assert "training: a 16.7% → 66.7%, b 16.7% → 1.7%, c 16.7% → 3.3% and 2 more (" in description


@pytest.mark.parametrize(
    ("shift", "description"),
    [
        (make_pixel_shift(), "similar to training"),
        (make_pixel_shift(0.515), "similar to training"),
        (make_pixel_shift(0.53), "brighter"),
        (make_pixel_shift(0.53, error=0.02), "similar to training"),
        (make_pixel_shift(0.4), "darker"),
        (make_pixel_shift(std=0.17), "lower contrast"),
        (make_pixel_shift(0.6, 0.3), "brighter, higher contrast"),
        (
            PixelShift((0.6, 0.4), (0.2, 0.2), (0.5, 0.5), (0.2, 0.2), (0.0, 0.0)),
            "different colors",
        ),
    ],
    ids=str,
)
def test_pixel_differences_are_described(shift: PixelShift, description: str) -> None:
    assert describe(DatasetShift(None, shift, None))["pixels"].startswith(f"pixels: {description} (")


def test_the_description_of_pixels_has_all_figures() -> None:
    assert describe(DatasetShift(None, make_pixel_shift(0.56, 0.15), None))["pixels"] == (
        "pixels: brighter, lower contrast (mean 0.560, in training 0.500: +0.30 standard deviations; "
        "standard deviation × 0.75)"
    )


@pytest.mark.parametrize(
    ("num_correct", "count", "start"),
    [
        (
            60,
            100,
            "accuracy: 60.00%, significantly lower than the 90.00% on the run's own 300 test images (-30.00 points, ",
        ),
        (
            100,
            100,
            "accuracy: 100.00%, significantly higher than the 90.00% on the run's own 300 test images (+10.00 p",
        ),
        (
            88,
            100,
            "accuracy: 88.00%, not significantly different from the 90.00% on the run's own 300 test images (-2.0",
        ),
    ],
)
def test_the_description_of_accuracies_depends_on_the_p_value(num_correct: int, count: int, start: str) -> None:
    shift = accuracy_shift(num_correct, count, 0.9, 300)
    line = describe(DatasetShift(None, make_pixel_shift(), shift))["accuracy"]
    assert line.startswith(start)
    low, high = shift.interval
    assert f"95% interval {100 * low:+.2f} to {100 * high:+.2f}; p" in line
    assert ("p < 0.0001)" if shift.p < 1e-4 else f"p = {shift.p:.4f})") in line


def test_missing_figures_of_the_run_are_left_out() -> None:
    assert list(describe(DatasetShift(None, make_pixel_shift(), None))) == ["pixels"]
    content = DatasetShift(None, make_pixel_shift(), None).to_dict(CLASSES)
    assert (content["classes"], content["accuracy"]) == (None, None)


def test_to_dict_is_complete_and_json() -> None:
    shift = DatasetShift(
        class_shift([10, 20, 30], [10, 10, 10]), make_pixel_shift(0.6), accuracy_shift(20, 30, 0.9, 100)
    )
    content = json.loads(json.dumps(shift.to_dict(CLASSES), allow_nan=False))
    assert [row["class"] for row in content["classes"]["shares"]] == list(CLASSES)
    assert [row["run"] for row in content["classes"]["shares"]] == [10 / 60, 20 / 60, 30 / 60]
    assert shift.pixels is not None
    assert content["pixels"]["mean_shift"] == list(shift.pixels.mean_shift)
    assert content["pixels"]["std_ratio"] == [1.0]
    assert content["accuracy"]["difference"] == pytest.approx(20 / 30 - 0.9)
    assert content["description"] == shift.describe(CLASSES)
