"""fcnet.functional.dtypes: float16 and bfloat16 are computed in float32, and what autocast returns."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import fcnet.functional as F
from fcnet.functional.dtypes import cast_loss, require_floating, require_real, to_compute_dtype
from tests.unit.functional.helpers import (
    ELEMENTWISE,
    OVER_CLASSES,
    TORCH,
    get_activation,
    random_labels,
    random_tensor,
    value_and_grads,
)

HALF = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_rounded_once_at_the_end(dtype: torch.dtype) -> None:
    x, y = random_tensor(300, 50, dtype=dtype), random_labels(300, num_classes=50)
    t = torch.softmax(random_tensor(300, 50, seed=3), 1).to(dtype)
    for function in (
        lambda x: F.cross_entropy(x, y),
        lambda x: F.cross_entropy(x, y, label_smoothing=0.1),
        lambda x: F.cross_entropy(x, t.to(x.dtype)),
        lambda x: F.binary_cross_entropy_with_logits(x, t.to(x.dtype)),
        lambda x: F.softmax(x, 1),
        lambda x: F.log_softmax(x, 1),
        F.sigmoid,
        F.logsigmoid,
    ):
        half, full = value_and_grads(function, x), value_and_grads(function, x.float())
        assert half[0].dtype == half[1].dtype == dtype
        assert_close(half[0], full[0].to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALF)
def test_autocast_leaves_losses_in_float32(dtype: torch.dtype) -> None:
    x, y, w = random_tensor(6, 4, dtype=dtype), random_labels(6, num_classes=4), torch.rand(4)
    t = torch.softmax(x.float(), 1).to(dtype)
    with torch.autocast("cpu", dtype):
        for target in (y, t):
            for weight in (None, w):
                loss = F.cross_entropy(x, target, weight)
                assert loss.dtype == torch.float32
                assert_close(loss, TORCH.cross_entropy(x.float(), target if target is y else t.float(), weight))
        assert F.binary_cross_entropy_with_logits(x, t).dtype == torch.float32
        for name in (*ELEMENTWISE, *OVER_CLASSES):
            assert get_activation(F, name)(x).dtype == dtype


@pytest.mark.parametrize("dtype", HALF)
def test_sums_over_50000_classes_keep_their_digits_in_half_precision(dtype: torch.dtype) -> None:
    x, y = random_tensor(3, 50_000, dtype=dtype), torch.tensor([0, 49_999, 7])
    for function in (
        lambda x: F.cross_entropy(x, y, reduction="none"),
        lambda x: F.cross_entropy(x, y, reduction="none", label_smoothing=0.1),
        lambda x: F.softmax(x, 1),
        lambda x: F.log_softmax(x, 1),
    ):
        half, exact = value_and_grads(function, x), value_and_grads(function, x.double())
        assert_close(half[0].double(), exact[0], rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).smallest_normal)


def test_only_half_precision_is_widened() -> None:
    for dtype in HALF:
        assert to_compute_dtype(torch.ones(2, dtype=dtype)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=dtype)
        assert to_compute_dtype(x) is x


def test_a_loss_has_the_dtype_of_its_arguments_but_float32_under_autocast() -> None:
    loss = torch.tensor(1.0)
    assert cast_loss(loss, torch.float32) is loss
    assert cast_loss(loss, torch.bfloat16).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert cast_loss(loss, torch.bfloat16) is loss
        assert cast_loss(loss, torch.float64).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_a_dtype_that_is_not_floating_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(NotImplementedError, match=rf"^score must be of a floating dtype, got {dtype}$"):
        require_floating("score", torch.zeros(1, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_a_dtype_that_is_not_real_is_refused(dtype: torch.dtype) -> None:
    require_real("target", torch.zeros(1, dtype=torch.int64))
    with pytest.raises(NotImplementedError, match=rf"^target must be of a real dtype, got {dtype}$"):
        require_real("target", torch.zeros(1, dtype=dtype))
