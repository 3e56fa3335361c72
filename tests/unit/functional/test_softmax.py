"""fcnet.functional.softmax and log_softmax: torch's values and gradients, with more digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import fcnet.functional as F
from tests.unit.functional.helpers import (
    CONFIDENT_LOSS,
    LOGITS,
    NAN,
    OVER_CLASSES,
    UNLIKELY,
    get_activation,
    random_tensor,
    value_and_grad,
    value_and_grads,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("name", OVER_CLASSES)
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (3, 1)], ids=str)
def test_value_and_gradient_are_torchs(name: str, shape: tuple[int, ...]) -> None:
    x = random_tensor(*shape, scale=5.0)
    assert_close(value_and_grads(get_activation(F, name), x), value_and_grads(get_activation(torch, name), x))


@pytest.mark.parametrize("name", OVER_CLASSES)
@pytest.mark.parametrize("dim", [0, 1, -1, -3])
def test_any_axis_can_hold_the_classes(name: str, dim: int) -> None:
    x = random_tensor(2, 3, 4)
    assert_close(
        value_and_grads(lambda x: getattr(F, name)(x, dim), x),
        value_and_grads(lambda x: getattr(torch, name)(x, dim), x),
    )
    assert_close(getattr(F, name)(torch.tensor(3.0), 0), getattr(torch, name)(torch.tensor(3.0), 0))


def test_a_transposed_input_gives_the_transposed_probabilities() -> None:
    x = random_tensor(3, 4, 5, 2, dtype=torch.float32)
    assert_close(F.softmax(x.transpose(0, 1), 0), F.softmax(x, 1).transpose(0, 1), rtol=0, atol=0)


@given(LOGITS, st.integers(-(2**14), 2**14), st.randoms(use_true_random=False))
def test_a_constant_added_to_every_logit_changes_nothing(rows: list[list[float]], constant: int, random: Any) -> None:
    x = torch.tensor(rows)
    y = torch.tensor([random.randrange(x.shape[1]) for _ in rows])
    shifted = x + constant  # exact: eighths below 2^15 fit into float32
    for function in (
        lambda x: F.cross_entropy(x, y, reduction="none"),
        lambda x: F.cross_entropy(x, y, reduction="none", label_smoothing=0.1),
        lambda x: F.softmax(x, 1),
        lambda x: F.log_softmax(x, 1),
    ):
        assert_close(value_and_grads(function, shifted), value_and_grads(function, x), rtol=0, atol=0)


def test_a_confident_log_probability_keeps_its_digits_and_its_gradient() -> None:
    x = torch.tensor([20.0, 0.0])
    assert_close(F.log_softmax(x, 0), torch.tensor([-CONFIDENT_LOSS, -20.0 - CONFIDENT_LOSS]), rtol=1e-6, atol=0)
    for function, jacobian in (
        (lambda x: F.log_softmax(x, 0), [[UNLIKELY, -UNLIKELY], [UNLIKELY - 1.0, 1.0 - UNLIKELY]]),
        (lambda x: F.softmax(x, 0), [[UNLIKELY, -UNLIKELY], [-UNLIKELY, UNLIKELY]]),
    ):
        for ours in (torch.autograd.functional.jacobian(function, x), torch.func.jacrev(function)(x)):
            assert_close(ours, torch.tensor(jacobian), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("through", ["backward", "func"])
def test_no_finite_logit_overflows(dtype: torch.dtype, through: str) -> None:
    large = torch.finfo(dtype).max / 4
    x = torch.tensor([[large, -large, 0.0], [-large, -large, -large]], dtype=dtype)
    value, gradient = value_and_grad(lambda x: F.softmax(x, 1), x, through=through)
    assert_close(value, torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=dtype))
    assert gradient.isfinite().all()


def test_a_nan_logit_makes_its_row_nan_and_no_other() -> None:
    x = torch.tensor([[NAN, 0.0], [1.0, 0.0]])
    assert F.softmax(x, 1).isnan().any(1).tolist() == [True, False]
    assert F.log_softmax(x, 1).isnan().any(1).tolist() == [True, False]


def test_an_empty_input_gives_an_empty_output() -> None:
    for shape in ((0, 3), (2, 0)):
        assert F.softmax(torch.zeros(shape), 1).shape == F.log_softmax(torch.zeros(shape), 1).shape == shape


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's forward mode calls it
@pytest.mark.parametrize("name", OVER_CLASSES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)], ids=str)
def test_an_empty_input_has_all_derivatives(name: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    for dim in range(len(shape)):

        def function(x: Tensor, dim: int = dim) -> Tensor:
            result: Tensor = getattr(F, name)(x, dim)
            return result

        assert torch.autograd.gradcheck(function, x, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, x, check_fwd_over_rev=True)
        assert torch.func.hessian(function)(x.detach()).shape == shape * 3
        assert torch.func.vmap(function)(x.detach().expand(2, *shape)).shape == (2, *shape)
        meta = x.detach().to("meta").requires_grad_()
        assert torch.autograd.grad(function(meta).sum(), meta)[0].shape == shape
    torch.compiler.reset()
    compiled = torch.compile(lambda x: getattr(F, name)(x, 0), backend="aot_eager", fullgraph=True)
    assert torch.autograd.grad(compiled(x).sum(), x)[0].shape == shape


def test_dtype_converts_the_input_first() -> None:
    assert F.softmax(torch.arange(3), 0, dtype=torch.float64).dtype == torch.float64
    assert F.softmax(random_tensor(3, 4, dtype=torch.float32), 1, torch.float16).dtype == torch.float16


ERRORS: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (lambda: F.softmax(torch.zeros(4).long(), 0), NotImplementedError, "input must be of a floating dtype"),
    (lambda: F.softmax(torch.zeros(4, 10), 2), IndexError, "dim must be in [-2, 1], got 2"),
    (lambda: F.log_softmax(torch.empty(0, 3), 2), IndexError, "dim must be in [-2, 1], got 2"),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=[text for _, _, text in ERRORS])
def test_wrong_arguments_are_refused(call: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
