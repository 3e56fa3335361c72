"""Rules of fcnet.evaluation.dataset_shift."""

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


def pixels(mean: float = 0.5, std: float = 0.2, *, error: float = 0.001) -> PixelShift:
    """One channel beside one of mean 0.5 and standard deviation 0.2."""
    return PixelShift((mean,), (std,), (0.5,), (0.2,), (error,))


def words(shift: DatasetShift) -> dict[str, str]:
    """What is said, by what it is about."""
    return {line.split(": ")[0]: line for line in shift.describe(CLASSES)}


def test_shares_and_their_distance_are_those_of_the_counts() -> None:
    shift = class_shift([10, 30, 60], [20, 20, 0])
    assert [share.run for share in shift.shares] == [0.1, 0.3, 0.6]
    assert [share.other for share in shift.shares] == [0.5, 0.5, 0.0]
    assert shift.total_variation == pytest.approx(0.6)
    assert shift.p == homogeneity_test([10, 30, 60], [20, 20, 0])
    assert shift.shares[2].p == two_proportion_test(0, 40, 60, 100)


def test_pixels_are_those_of_the_set_as_numpy_counts_them() -> None:
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


def test_one_image_has_no_standard_error_and_is_no_mistake() -> None:
    batches = Batches(PIXELS[:1], torch.zeros(1, dtype=torch.int64))
    assert pixel_shift(batches, torch.full((3,), 0.5), torch.full((3,), 0.3)).mean_error == (0.0, 0.0, 0.0)


def test_a_difference_of_accuracies_comes_with_its_interval_and_its_test() -> None:
    shift = accuracy_shift(40, 50, 0.9, 200)
    assert (shift.run, shift.run_images, shift.other) == (0.9, 200, 0.8)
    assert shift.difference == pytest.approx(-0.1)
    assert shift.interval == difference_interval(40, 50, 180, 200)
    assert shift.p == two_proportion_test(40, 50, 180, 200)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ([9, 11, 10], "as often as in training, but for chance (total variation 0.03; p = 0.9131)"),
        (
            [180, 60, 60],
            "not so: cat 33.3% → 60.0%, dog 33.3% → 20.0%, eel 33.3% → 20.0% (total variation 0.27; p < 0.0001)",
        ),
        ([100, 150, 50], "not so: dog 33.3% → 50.0%, eel 33.3% → 16.7% (total variation 0.17; p < 0.0001)"),
    ],
)
def test_classes_are_named_where_their_share_is_more_than_chance(other: list[int], said: str) -> None:
    said = f"classes: {said}".replace("not so", "not as often as in training")
    assert words(DatasetShift(class_shift([100, 100, 100], other), pixels(), None))["classes"] == said


def test_many_small_changes_that_are_one_large_one_are_seen() -> None:
    shift = class_shift([100] * 10, [27] * 5 + [12] * 5)
    assert min(share.p for share in shift.shares) > 0.05
    said = DatasetShift(shift, pixels(), None).describe("abcdefghij")[0]
    assert said == (
        "classes: not as often as in training: a 10.0% → 13.8%, b 10.0% → 13.8%, c 10.0% → 13.8% "
        "(total variation 0.19; p = 0.0039)"
    )


def test_of_many_classes_the_three_that_changed_most_are_named() -> None:
    shift = DatasetShift(class_shift([100] * 6, [400, 10, 20, 30, 40, 100]), pixels(), None)
    said = shift.describe("abcdef")[0]
    assert "training: a 16.7% → 66.7%, b 16.7% → 1.7%, c 16.7% → 3.3% and 2 more (" in said


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (pixels(), "about as in training"),
        (pixels(0.515), "about as in training"),
        (pixels(0.53), "brighter"),
        (pixels(0.53, error=0.02), "about as in training"),
        (pixels(0.4), "darker"),
        (pixels(std=0.17), "of less contrast"),
        (pixels(0.6, 0.3), "brighter and of more contrast"),
        (
            PixelShift((0.6, 0.4), (0.2, 0.2), (0.5, 0.5), (0.2, 0.2), (0.0, 0.0)),
            "in other colours",
        ),
    ],
    ids=str,
)
def test_pixels_are_named_by_how_they_differ(shift: PixelShift, said: str) -> None:
    assert words(DatasetShift(None, shift, None))["pixels"].startswith(f"pixels: {said} (")


def test_pixels_come_with_their_figures() -> None:
    assert words(DatasetShift(None, pixels(0.56, 0.15), None))["pixels"] == (
        "pixels: brighter and of less contrast (mean 0.560, in training 0.500: +0.30 standard deviations; "
        "standard deviation × 0.75)"
    )


@pytest.mark.parametrize(
    ("hits", "count", "said"),
    [
        (60, 100, "accuracy: 60.00%, on the run's own 300 test images 90.00%: worse than there (-30.00 points, "),
        (100, 100, "accuracy: 100.00%, on the run's own 300 test images 90.00%: better than there (+10.00 points, "),
        (88, 100, "accuracy: 88.00%, on the run's own 300 test images 90.00%: no more than chance explains (-2.00 "),
    ],
)
def test_a_difference_of_accuracies_is_judged_by_its_test(hits: int, count: int, said: str) -> None:
    shift = accuracy_shift(hits, count, 0.9, 300)
    line = words(DatasetShift(None, pixels(), shift))["accuracy"]
    assert line.startswith(said)
    low, high = shift.interval
    assert f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}; p" in line
    assert ("p < 0.0001)" if shift.p < 1e-4 else f"p = {shift.p:.4f})") in line


def test_what_the_run_does_not_say_is_left_out() -> None:
    assert list(words(DatasetShift(None, pixels(), None))) == ["pixels"]
    facts = DatasetShift(None, pixels(), None).to_dict(CLASSES)
    assert (facts["classes"], facts["accuracy"]) == (None, None)


def test_the_facts_hold_all_of_it_in_json() -> None:
    shift = DatasetShift(class_shift([10, 20, 30], [10, 10, 10]), pixels(0.6), accuracy_shift(20, 30, 0.9, 100))
    facts = json.loads(json.dumps(shift.to_dict(CLASSES), allow_nan=False))
    assert [row["class"] for row in facts["classes"]["shares"]] == list(CLASSES)
    assert [row["run"] for row in facts["classes"]["shares"]] == [10 / 60, 20 / 60, 30 / 60]
    assert facts["pixels"]["mean_shift"] == list(shift.pixels.mean_shift)
    assert facts["pixels"]["std_ratio"] == [1.0]
    assert facts["accuracy"]["difference"] == pytest.approx(20 / 30 - 0.9)
    assert facts["description"] == shift.describe(CLASSES)
