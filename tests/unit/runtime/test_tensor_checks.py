"""Tests of fcnet.runtime.tensor_checks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fcnet.runtime.errors import UserError
from fcnet.runtime.tensor_checks import check_finite, check_tensors

GOOD = {"a": torch.ones(2, 3), "b": torch.zeros((), dtype=torch.int64), "c": torch.empty(0)}


def test_expected_tensors_pass_on_any_device() -> None:
    check_tensors(GOOD, {name: tensor.to("meta") for name, tensor in GOOD.items()}, "x")
    check_finite(GOOD, "x")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "x: the tensor a must be float32 (2, 3), got absent"),
        (GOOD | {"a": torch.ones(3, 2)}, "x: the tensor a must be float32 (2, 3), got float32 (3, 2)"),
        (GOOD | {"b": torch.zeros(())}, "x: the tensor b must be int64 (), got float32 ()"),
        (GOOD | {"\x1b[2J": torch.zeros(1)}, "x: the tensor '\\x1b[2J' must be absent, got float32 (1,)"),
    ],
)
def test_another_tensor_is_named(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_tensors(tensors, GOOD, "x")
    assert str(error.value) == message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_must_be_finite(value: float, dtype: torch.dtype) -> None:
    for place in range(3):
        tensor = torch.zeros(3, dtype=dtype)
        tensor[place] = value
        with pytest.raises(UserError, match=r"^x: the tensor a must be finite, got NaN or infinity$"):
            check_finite({"a": tensor}, "x")
