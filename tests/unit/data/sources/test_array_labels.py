"""Tests of fcnet.data.sources.array_labels: any kind of label becomes the index of a named class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcnet.data.sources.array_labels import NamedClasses, name_classes
from fcnet.runtime.errors import UserError


def name(train: Any, test: Any = None, classes: Any = None) -> NamedClasses:
    arrays: dict[Any, tuple[str, Any]] = {"train": ("y_train", np.asarray(train))}
    if test is not None:
        arrays["test"] = ("y_test", np.asarray(test))
    return name_classes(Path("pets.npz"), arrays, None if classes is None else np.asarray(classes))


@pytest.mark.parametrize(
    ("labels", "classes", "indices", "notes"),
    [
        ([0, 2, 1], ("0", "1", "2"), [0, 2, 1], ()),
        ([[0], [1]], ("0", "1"), [0, 1], ()),
        ([1.0, 0.0], ("0", "1"), [1, 0], ()),
        ([True, False], ("False", "True"), [1, 0], ()),
        (["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1], ()),
        ([b"dog", b"cat"], ("cat", "dog"), [1, 0], ()),
        ([1, 2, 1], ("1", "2"), [0, 1, 0], ("labels are 1, 2: classes are named after them",)),
        ([5, -1], ("-1", "5"), [1, 0], ("labels are -1, 5: classes are named after them",)),
        ([10, 9, 2], ("2", "9", "10"), [2, 1, 0], ("labels are 2, 9, 10: classes are named after them",)),
    ],
)
def test_labels_become_indices_of_classes(
    labels: Any, classes: tuple[str, ...], indices: list[int], notes: tuple[str, ...]
) -> None:
    named = name(labels)
    assert named.classes == classes
    assert named.labels["train"].dtype == np.int64
    assert named.labels["train"].tolist() == indices
    assert named.notes == notes


def test_given_classes_name_indices_or_the_sorted_labels() -> None:
    by_index = name([1, 0], classes=["cat", "dog"])
    assert (by_index.classes, by_index.labels["train"].tolist(), by_index.notes) == (("cat", "dog"), [1, 0], ())
    by_order = name([2, 1], classes=["cat", "dog"])
    assert (by_order.classes, by_order.labels["train"].tolist()) == (("cat", "dog"), [1, 0])
    assert by_order.notes == ("labels are 1, 2: classes names them in this order",)


def test_a_given_class_without_images_is_unused() -> None:
    named = name([0, 2], classes=["cat", "cow", "dog"])
    assert (named.classes, named.labels["train"].tolist(), named.unused) == (("cat", "dog"), [0, 1], ["cow"])


def test_a_class_without_test_images_is_said() -> None:
    assert name([0, 1], [1]).notes == ("1 of 2 classes has no test image: 0",)


def test_names_in_nfc_and_nfd_are_one_class() -> None:
    assert name(["caf\u00e9", "cafe\u0301", "tea"]).labels["train"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        ([0.5, 1.0], None, None, r"y_train in pets\.npz must be whole numbers or class names, got 0\.5"),
        ([0.0, float("nan")], None, None, r"y_train in pets\.npz must be whole numbers or class names, got nan"),
        ([0, 1], ["0", "1"], None, "labels in pets.npz must be numbers in all splits or class names in all splits"),
        ([0, 1], [2], None, "every class in pets.npz must have a training image, found none of 2"),
        (["cat"], None, ["dog"], r"labels in pets\.npz must be among its classes, got cat"),
        ([1, 3, 5], None, ["a", "b"], r"classes in pets\.npz must name the 3 labels 1, 3, 5, got 2 names"),
        ([0, 1], None, ["a", "a"], r"classes in pets\.npz must be \(C,\) different strings"),
        ([b"\xff", b"a"], None, None, r"y_train in pets\.npz must be text in UTF-8"),
    ],
)
def test_labels_that_name_no_classes_are_refused(train: Any, test: Any, classes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        name(train, test, classes)
