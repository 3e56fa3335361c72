"""Tests of fcnet.data.arrays; tests of fcnet.fit have the sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fcnet.data.arrays import check_classes, check_finite, to_inputs, to_labels
from fcnet.runtime.errors import UserError


class Frame:
    """A table as pandas has it: no array, but NumPy makes one of it."""

    def __init__(self, values: Any) -> None:
        self.values = np.array(values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.values if dtype is None else self.values.astype(dtype)


def test_tables_are_arrays() -> None:
    assert torch.equal(to_inputs(Frame([[1, 2], [3, 4]]), torch.float32), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert to_labels(Frame([[1], [0]])).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", ["b1", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "g"])
def test_every_real_dtype_is_taken(dtype: str) -> None:
    values = np.array([[0, 1], [1, 1]], dtype)
    assert torch.equal(to_inputs(values, torch.float32), torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    assert to_labels(values[:, 0]).tolist() == [0, 1]


def test_a_tensor_of_the_right_dtype_is_not_copied() -> None:
    x = np.ones((3, 2), np.float32)
    assert to_inputs(x, torch.float32).data_ptr() == x.ctypes.data


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ma.masked_equal([[1, 2]], 2), "x must hold no masked values; fill them, for example by filled(0)"),
        ({"a": 1}, "x must be an array of real numbers, got dict"),
        (5, "x must have a row for each example, (N, …), got the shape ()"),
        ([[None, 1.0]], "x must hold numbers, got an object of the type NoneType"),
        (np.array([["2020-01-01"]], "M8"), "x must be an array of real numbers, got datetime64[D]"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(x: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        to_inputs(x, torch.float32)
    assert str(error.value) == message


def test_a_model_of_pixels_takes_images_only() -> None:
    assert to_inputs(np.zeros((2, 3, 3), np.uint8), torch.uint8).shape == (2, 1, 3, 3)
    with pytest.raises(
        UserError, match=r"^x must be uint8 images \(N, C, H, W\) for this model, got float32 \(2, 3\)$"
    ):
        to_inputs(np.zeros((2, 3), np.float32), torch.uint8)
    with pytest.raises(UserError, match=r"for this model, got uint8 \(2, 3\)$"):
        to_inputs(np.zeros((2, 3), np.uint8), torch.uint8)
    with pytest.raises(UserError, match=r"got int64 \(2, 3, 3\); for values from 0 to 255 pass x.astype\(\"uint8\"\)$"):
        to_inputs(np.full((2, 3, 3), 255), torch.uint8)


def test_infinity_and_rows_are_named() -> None:
    with pytest.raises(UserError, match=r"^x must hold finite numbers, got infinity in row 1$"):
        check_finite(torch.tensor([[0.0], [-float("inf")]]))
    with pytest.raises(UserError, match=r"got 4 in row 17; this model has 3 classes$"):
        check_classes(torch.tensor([0, 4]), 3, rows=[5, 17])
    with pytest.raises(UserError, match=r"^y must hold class indices, which are whole numbers, got 1.5 in row 9$"):
        to_labels([1.0, 1.5], rows=[8, 9])
