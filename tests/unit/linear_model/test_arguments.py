"""Tests of fcnet.linear_model.arguments: what a path of regressions takes, and the sentence that refuses the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fcnet import UserError, logistic_path
from fcnet.linear_model.arguments import (
    check_agreement,
    check_features,
    check_penalties,
    check_target,
    check_weight,
    class_factors,
    number_classes,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = np.arange(8.0).reshape(4, 2)
Y = ["no", "yes", "no", "yes"]


def number(y: Any, count: int) -> tuple[np.ndarray[Any, Any], torch.Tensor]:
    """Returns the classes, and indices or probabilities."""
    return number_classes(*check_target(y, count))


def refuse(message: str) -> Any:
    return pytest.raises(UserError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"Cs": "strong"}, "Cs must be numbers, got 'strong'"),
        ({"Cs": [1.0, "strong"]}, "Cs must be numbers, got [1.0, 'strong']"),
        ({"Cs": 1.0}, "Cs must be a list of numbers, got 1.0"),
        ({"Cs": []}, "Cs must be a list of numbers, got []"),
        ({"Cs": [[1.0]]}, "Cs must be a list of numbers, got [[1.0]]"),
        ({"Cs": [1.0, 0.0]}, "Cs must be finite and greater than 0, got 0"),
        ({"Cs": [-2.0]}, "Cs must be finite and greater than 0, got -2"),
        ({"Cs": [float("inf")]}, "Cs must be finite and greater than 0, got inf"),
        ({"Cs": [None]}, "Cs must be finite and greater than 0, got nan"),
        ({"x": X[:, 0]}, "x must have the shape (N, D), got (4,)"),
        ({"x": X[:0]}, "x must hold at least one row and one feature, got the shape (0, 2)"),
        ({"x": X[:, :0]}, "x must hold at least one row and one feature, got the shape (4, 0)"),
        ({"x": [["a"], ["b"]]}, "x must hold numbers, got the text 'a'"),
        ({"x": X * 1j}, "x must be an array of real numbers, got complex128"),
        ({"x": [[1.0], [2.0, 3.0]]}, "x must have rows of one shape, got rows that differ"),
        ({"x": np.where(X == 5, np.nan, X)}, "x must hold finite numbers, got NaN in row 2"),
        ({"x": np.where(X == 7, -np.inf, X)}, "x must hold finite numbers, got infinity in row 3"),
        ({"x": X * 1e200}, "x must be in the range of float32, got the mean 3e+200 and the standard deviation inf in "),
        ({"x": X * 1e-200}, "x must be in the range of float32, got the mean 3e-200 and the standard deviation 0 in "),
        ({"device": "gpu"}, "device must be one of torch, such as cpu or cuda, got 'gpu'"),
        ({"device": 1.5}, "device must be one of torch, such as cpu or cuda, got 1.5"),
        ({"device": "meta"}, "device meta is not available: Cannot copy out of meta tensor; no data!"),
        ({"y": Y[:3]}, "y must hold 4 labels, one for each row of x, got the shape (3,)"),
        ({"y": 1}, "y must hold 4 labels, one for each row of x, got the shape ()"),
        ({"y": [[0, 1]] * 4}, "y must hold labels (N,) or probabilities (N, C), got int64 (4, 2)"),
        ({"y": [[1.0]] * 4}, "y must hold labels (N,) or probabilities (N, C), got float64 (4, 1)"),
        ({"y": [[0.5, 0.6]] * 4}, "y must hold probabilities, rows that are not negative and add up to 1"),
        ({"y": [[1.5, -0.5]] * 4}, "y must hold probabilities, rows that are not negative and add up to 1"),
        ({"y": [[np.nan, 0.5]] * 4}, "y must hold probabilities, rows that are not negative and add up to 1"),
        ({"y": [0.0, 1.0, np.nan, 1.0]}, "y must hold labels, got NaN or infinity"),
        ({"y": ["a", None, "b", 1]}, "y must hold labels of one kind, which can be sorted, got NoneType, int, str"),
        ({"y": [[1], [2, 3], [1], [1]]}, "y must hold one label for each row of x, got rows that differ in length"),
        ({"y": ["no"] * 4}, "y must hold at least two classes, got only no"),
        ({"sample_weight": [1.0] * 3}, "sample_weight must have the shape (4,), got (3,)"),
        ({"sample_weight": 2.0}, "sample_weight must have the shape (4,), got ()"),
        ({"sample_weight": [1.0, -1.0, 1.0, 1.0]}, "sample_weight must hold finite numbers, none negative"),
        ({"sample_weight": [1.0, np.nan, 1.0, 1.0]}, "sample_weight must hold finite numbers, none negative"),
        ({"sample_weight": ["a"] * 4}, "sample_weight must hold numbers, got the text 'a'"),
        ({"sample_weight": [0.0] * 4}, "sample_weight must have a positive entry"),
        ({"class_weight": "equal"}, "class_weight must be \"balanced\" or a mapping, got 'equal'"),
        ({"class_weight": [1.0, 2.0]}, 'class_weight must be "balanced" or a mapping, got [1.0, 2.0]'),
        ({"class_weight": {"maybe": 1.0}}, "class_weight must have labels of y, got 'maybe'"),
        ({"class_weight": {"no": "much"}}, "class_weight must hold numbers, got {'no': 'much'}"),
        ({"class_weight": {"no": -1.0}}, "class_weight must hold finite numbers, none negative"),
        ({"class_weight": {"no": np.inf}}, "class_weight must hold finite numbers, none negative"),
        ({"y": [[0.5, 0.5]] * 4, "class_weight": "balanced"}, "class_weight needs labels, and y holds probabilities"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_sentence(changed: dict[str, Any], message: str) -> None:
    if message.endswith(" in "):
        message += "column 0; scale the column"
    arguments: dict[str, Any] = {"x": X, "y": Y, "Cs": [1.0]}
    with refuse(message):
        logistic_path(**arguments | changed)


def test_penalties_keep_their_order() -> None:
    assert check_penalties([10, 0.1, 10]).tolist() == [10.0, 0.1, 10.0]
    assert check_penalties(np.array([2.0], np.float32)).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_features_stay_as_they_are(dtype: torch.dtype) -> None:
    x = torch.tensor(X).to(dtype)
    checked, device = check_features(x, None)
    assert checked.data_ptr() == x.data_ptr()
    assert checked.dtype == dtype
    assert device == torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("u1", "float32"), ("?", "float32"), ("u2", "float32"), ("i4", "float64"), ("u8", "float64"), (">f4", "float32")],
)
def test_other_numbers_become_floating_without_a_loss(dtype: str, expected: str) -> None:
    x = np.array([[0, 1], [1, 0]], dtype)
    checked, _ = check_features(x, "cpu")
    assert str(checked.dtype) == f"torch.{expected}"
    assert checked.tolist() == x.astype(float).tolist()
    large = np.array([[2**31 - 1]], "i4")
    assert check_features(large, "cpu")[0].item() == 2**31 - 1


def test_a_memory_map_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    checked, device = check_features(x, None)
    assert checked is x
    assert device == torch.device("cpu")
    assert isinstance(device, torch.device)


def test_the_row_of_a_nan_is_counted_over_all_blocks(tmp_path: Path) -> None:
    values = np.zeros((10_000, 2), np.float16)
    values[9_876, 1] = np.nan
    np.save(tmp_path / "x.npy", values)
    for x in (values, np.load(tmp_path / "x.npy", mmap_mode="r")):
        with refuse("x must hold finite numbers, got NaN in row 9876"):
            check_features(x, None)


@pytest.mark.parametrize(
    ("y", "classes", "indices"),
    [
        (["b", "a", "b"], ["a", "b"], [1, 0, 1]),
        (torch.tensor([7, -1, 7]), [-1, 7], [1, 0, 1]),
        (np.array([2.5, 0.5, 2.5], np.float16), [0.5, 2.5], [1, 0, 1]),
        ([True, False, True], [False, True], [1, 0, 1]),
        (np.array(["b", "a", "c"], object), ["a", "b", "c"], [1, 0, 2]),
    ],
)
def test_labels_are_sorted_and_numbered(y: Any, classes: list[Any], indices: list[int]) -> None:
    found, target = number(y, 3)
    assert found.tolist() == classes
    assert target.dtype == torch.int64
    assert target.tolist() == indices


def test_classes_of_other_ranks_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = np.array(["cat", "eel"])
    monkeypatch.setattr("fcnet.linear_model.arguments.all_gather", lambda value: [value, elsewhere])
    classes, target = number(["dog", "eel", "dog"], 3)
    assert classes.tolist() == ["cat", "dog", "eel"]
    assert target.tolist() == [1, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_probabilities_of_any_precision_add_up_to_1_in_float64(dtype: torch.dtype) -> None:
    y = torch.rand(50, 7, generator=torch.Generator().manual_seed(0)).softmax(1).to(dtype)
    if dtype == torch.bfloat16:  # its rounding is too coarse for most rows
        y = torch.tensor([[0.25, 0.75]]).to(dtype)
    classes, target = number(y, len(y))
    assert classes.tolist() == list(range(y.shape[1]))
    assert_close(target.sum(1), torch.ones(len(y)).double(), rtol=0, atol=1e-15)
    assert_close(target, y.double(), rtol=2e-3, atol=0)


def test_what_must_be_equal_on_all_ranks_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"Cs": [1.0], "number_of_features": 3}
    monkeypatch.setattr("fcnet.linear_model.arguments.all_gather", lambda value: [value, other])
    check_agreement(Cs=[1.0], number_of_features=3)
    with refuse("all ranks must have the same number of features, got 4 and 3"):
        check_agreement(Cs=[1.0], number_of_features=4)


def test_weights_are_float64() -> None:
    assert check_weight(None, 3).tolist() == [1.0, 1.0, 1.0]
    weight = check_weight(np.array([0, 2, 1], np.uint8), 3)
    assert weight.dtype == torch.float64
    assert weight.tolist() == [0.0, 2.0, 1.0]


def test_balanced_classes_weigh_the_same_together() -> None:
    classes, target = number(["a", "b", "a", "c", "a"], 5)
    weight = torch.tensor([1.0, 2.0, 0.5, 4.0, 0.0]).double()
    balanced = weight * class_factors("balanced", classes, target, weight)
    assert_close(torch.bincount(target, balanced), torch.full((3,), 7.5 / 3).double())


def test_a_class_without_weight_is_no_nan_where_classes_are_balanced() -> None:
    classes, target = number(["a", "b", "a", "c"], 4)
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0]).double()
    balanced = weight * class_factors("balanced", classes, target, weight)
    assert balanced.tolist() == [0.5, 0.0, 0.5, 1.0]


def test_classes_are_balanced_over_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    classes, target = number(["a", "b"], 2)
    weight = torch.ones(2).double()
    monkeypatch.setattr("fcnet.linear_model.arguments.all_gather", lambda value: [value, [0.0, 4.0]])
    assert class_factors("balanced", classes, target, weight).tolist() == [3.0, 0.6]


def test_classes_that_a_mapping_leaves_out_have_the_factor_1() -> None:
    classes, target = number([3, 5, 3], 3)
    assert class_factors({np.int64(5): 4}, classes, target, torch.ones(3).double()).tolist() == [1.0, 4.0, 1.0]


@pytest.mark.parametrize("convert", [list, tuple, np.array, torch.tensor])
def test_arrays_of_any_library_give_the_same_path(convert: Callable[[Any], Any]) -> None:
    expected = logistic_path(X, [0, 1, 0, 1], [1.0])
    path = logistic_path(convert(X.tolist()), convert([0, 1, 0, 1]), [1.0], sample_weight=convert([1, 1, 1, 1]))
    assert_close(path.coef, expected.coef, rtol=1e-5, atol=0)


def test_a_device_without_float64_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with refuse("device must compute in float64, as cpu and cuda do, got mps"):
        check_features(X, "mps")
