"""Tests of the digits and of synthetic images."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from fcnet.data.sources import digits, source, synthetic
from fcnet.runtime.errors import UserError
from tests.unit.data.sources.image_trees import (
    read_contents,
)


def test_the_digits_are_scikit_learns_scaled_to_256_levels() -> None:
    from sklearn.datasets import load_digits

    classes, splits = read_contents(digits())
    assert classes == tuple("0123456789")
    assert splits["train"][0].shape == (1437, 1, 8, 8)
    assert splits["test"][0].shape == (360, 1, 8, 8)
    expected = sorted(
        (int(label), bytes(round(x * 255 / 16) for x in image.flat))
        for image, label in zip(*load_digits(return_X_y=True), strict=True)
    )
    got = [(int(label), image.tobytes()) for x, y in splits.values() for image, label in zip(x, y, strict=True)]
    assert sorted(got) == expected


def test_a_fifth_of_every_digit_is_for_testing() -> None:
    _, splits = read_contents(digits())
    train, test = (np.bincount(splits[split][1]) for split in ("train", "test"))
    assert np.all(np.abs(test - (train + test) / 5) < 1)


def test_the_split_of_the_digits_never_changes() -> None:
    _, splits = read_contents(digits())
    digest = hashlib.sha256(splits["test"][0].tobytes() + splits["test"][1].tobytes()).hexdigest()
    assert digest[:16] == "83c99461e31a2576"


def test_synthetic_images_have_the_given_shape_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "CHUNK_BYTES", 2 * 3 * 4 * 5)
    classes, splits = read_contents(synthetic((3, 4, 5), 31, 7, num_classes=4))
    assert classes == ("0", "1", "2", "3")
    assert splits["train"][0].shape == (31, 3, 4, 5)
    assert splits["test"][0].shape == (7, 3, 4, 5)
    assert splits["train"][1].tolist() == [row % 4 for row in range(31)]
    assert len(np.unique(np.concatenate([x for x, _ in splits.values()]), axis=0)) == 38


def test_synthetic_images_are_the_same_every_time() -> None:
    first, second = (read_contents(synthetic((1, 4, 4), 50, 10, num_classes=3))[1]["train"][0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_linear_classifier_separates_the_classes_of_synthetic_images() -> None:
    _, splits = read_contents(synthetic((3, 16, 16), 2000, 500, num_classes=5))
    (x, y), (x_test, y_test) = (
        (pixels.reshape(len(pixels), -1).astype(float), labels) for pixels, labels in (splits["train"], splits["test"])
    )
    means = np.stack([x[y == label].mean(0) for label in range(5)])
    nearest = (x_test @ means.T - (means**2).sum(1) / 2).argmax(1)
    assert (nearest == y_test).mean() > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (8, 8)}, "shape must be three positive numbers (C, H, W), got [8, 8]"),
        ({"shape": (0, 8, 8)}, "shape must be three positive numbers (C, H, W), got [0, 8, 8]"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"train_size": 4}, "train_size must be at least num_classes (5), got 4"),
        ({"test_size": 0}, "test_size must be at least 1, got 0"),
    ],
)
def test_synthetic_rejects_numbers_outside_their_ranges(changes: dict[str, Any], message: str) -> None:
    arguments = {"shape": (1, 8, 8), "train_size": 10, "test_size": 5, "num_classes": 5, **changes}
    with pytest.raises(UserError) as error:
        synthetic(**arguments)
    assert str(error.value) == message


def test_every_parameter_of_a_synthetic_set_is_in_its_fingerprint() -> None:
    made = [
        ((1, 4, 4), 9, 5, 2),
        ((1, 4, 5), 9, 5, 2),
        ((1, 4, 4), 8, 5, 2),
        ((1, 4, 4), 9, 4, 2),
        ((1, 4, 4), 9, 5, 3),
    ]
    assert len({repr(synthetic(*arguments).snapshot().fingerprint) for arguments in made}) == len(made)
