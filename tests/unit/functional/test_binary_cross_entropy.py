"""fcnet.functional.binary_cross_entropy_with_logits: torch's values and gradients, with more digits, and its edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import fcnet.functional as F
from fcnet.functional import binary_cross_entropy
from fcnet.losses import CrossEntropy
from tests.unit.functional.helpers import (
    CONFIDENT_LOSS,
    INF,
    NAN,
    TORCH,
    UNLIKELY,
    random_labels,
    random_tensor,
    value_and_grad,
    value_and_grads,
)

if TYPE_CHECKING:
    from collections.abc import Callable

scripting = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
"""torch's own forward mode scripts its decompositions when they are first used (torch 2.9 to 2.15)."""


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", [None, (3,), (5, 1), (5, 3), ()], ids=str)
@pytest.mark.parametrize("pos_weight", [None, (3,), (1,)], ids=str)
def test_value_and_gradients_in_every_argument_are_those_of_the_formula(
    reduction: str, weight: tuple[int, ...] | None, pos_weight: tuple[int, ...] | None
) -> None:
    inputs = {"input": random_tensor(5, 3), "target": random_tensor(5, 3, seed=1).sigmoid()}
    if weight is not None:
        inputs["weight"] = random_tensor(*weight, seed=2).abs()
    if pos_weight is not None:
        inputs["pos_weight"] = random_tensor(*pos_weight, seed=3).abs()

    def ours(*values: Tensor) -> Tensor:
        named = dict(zip(inputs, values, strict=True))
        return F.binary_cross_entropy_with_logits(**named, reduction=reduction)

    def formula(*values: Tensor) -> Tensor:
        """By torch's logarithms, as torch has no gradient in its weights."""
        named = dict(zip(inputs, values, strict=True))
        x, t, w, p = (named.get(name, torch.ones(())) for name in ("input", "target", "weight", "pos_weight"))
        losses = -w * (p * t * TORCH.logsigmoid(x) + (1 - t) * TORCH.logsigmoid(-x))
        return losses if reduction == "none" else getattr(losses, reduction)()

    assert_close(value_and_grads(ours, *inputs.values()), value_and_grads(formula, *inputs.values()))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_value_and_gradient_for_a_constant_target_are_torchs(reduction: str) -> None:
    x, t = random_tensor(40), random_tensor(40, seed=1).sigmoid().round(decimals=1)
    ours, theirs = (
        value_and_grads(lambda x: module.binary_cross_entropy_with_logits(x, t, reduction=reduction), x)  # noqa: B023
        for module in (F, TORCH)
    )
    assert_close(ours, theirs)


def test_one_node_gives_the_loss_of_two_nodes_with_logits_0_and_x() -> None:
    x, y = random_tensor(30, scale=12.0, dtype=torch.float32), random_labels(30, num_classes=2)
    binary = value_and_grads(lambda x: F.binary_cross_entropy_with_logits(x, y.float(), reduction="none"), x)
    softmax = value_and_grads(
        lambda x: F.cross_entropy(torch.stack([torch.zeros_like(x), x], 1), y, reduction="none"), x
    )
    assert_close(softmax, binary, rtol=2e-6, atol=0)  # e^−36 carries 36 times the rounding of float32
    both = torch.stack([F.sigmoid(-x), F.sigmoid(x)], 1)
    assert_close(F.softmax(torch.stack([torch.zeros_like(x), x], 1), 1), both, rtol=2e-6, atol=0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("through", ["backward", "func", "pos_weight"])
def test_a_confident_loss_keeps_its_digits(sign: float, through: str) -> None:
    x, t = torch.tensor([20.0 * sign]), torch.tensor([(1.0 + sign) / 2.0])

    def loss(x: Tensor) -> Tensor:
        one = torch.ones(1) if through == "pos_weight" else None
        return F.binary_cross_entropy_with_logits(x, t, pos_weight=one)

    if through == "func":
        gradient, value = torch.func.grad_and_value(loss)(x)
    else:
        value, gradient = value_and_grad(loss, x)
    assert_close(value.item(), CONFIDENT_LOSS, rtol=1e-6, atol=0)
    assert_close(gradient, torch.tensor([-sign * UNLIKELY]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("through", ["backward", "func"])
def test_no_finite_logit_overflows(dtype: torch.dtype, through: str) -> None:
    large = torch.finfo(dtype).max / 4
    x = torch.tensor([[large, -large, 0.0], [-large, -large, -large]], dtype=dtype)
    value, gradient = value_and_grad(
        lambda x: F.binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction="none"), x, through=through
    )
    assert_close(value, x.clamp(min=0) + (x == 0) * 0.6931471805599453)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("through", ["backward", "func"])
def test_the_gradient_at_0_is_that_of_the_formula_whatever_the_sign_of_0(zero: float, through: str) -> None:
    t = 0.25
    for function, expected in (
        (lambda x: F.binary_cross_entropy_with_logits(x, torch.full_like(x, t), reduction="sum"), 0.5 - t),
        (lambda x: CrossEntropy()(x, torch.zeros_like(x, dtype=torch.int64)), 0.5),
        (lambda x: CrossEntropy()(x, torch.ones_like(x, dtype=torch.int64)), -0.5),
    ):
        _, gradient = value_and_grad(function, torch.tensor([zero]), through=through)
        assert_close(gradient.item(), expected, rtol=0, atol=0)


@scripting
def test_the_second_derivative_at_0_is_a_quarter() -> None:
    zero, t = torch.zeros(1, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, t)

    for hessian in (torch.autograd.functional.hessian(loss, zero), torch.func.hessian(loss)(zero)):
        assert_close(hessian.item(), 0.25)


@pytest.mark.parametrize("through", ["backward", "func", "pos_weight", "target"])
@pytest.mark.parametrize(
    ("logit", "label", "loss"), [(INF, 1, 0), (-INF, 0, 0), (INF, 0, INF), (-INF, 1, INF), (INF, 0.5, INF)]
)
def test_an_infinite_logit_gives_the_loss_0_if_right_and_infinity_if_wrong(
    logit: float, label: float, loss: float, through: str
) -> None:
    x, t = torch.tensor([logit, 0.0]), torch.tensor([float(label), 1.0], requires_grad=through == "target")
    factor = torch.tensor(2.0) if through == "pos_weight" else None

    def function(x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, t, reduction="none", pos_weight=factor)

    if through == "func":
        value, gradient = function(x), torch.func.grad(lambda x: function(x).sum())(x)
    else:
        value, gradient = value_and_grad(function, x)
    assert value[0].item() == loss
    assert gradient.isfinite().all()


def test_a_nan_logit_or_target_makes_the_loss_nan() -> None:
    nan = torch.tensor([NAN])
    assert F.binary_cross_entropy_with_logits(nan, torch.ones(1)).isnan()
    assert F.binary_cross_entropy_with_logits(torch.zeros(1), nan).isnan()


def test_the_dtypes_of_input_and_target_promote() -> None:
    x = random_tensor(3, 4, dtype=torch.float32)
    assert F.binary_cross_entropy_with_logits(x.half(), x).dtype == torch.float32


def test_the_meta_device_gives_the_shape_of_the_losses() -> None:
    x = torch.zeros(5, 4, device="meta", requires_grad=True)
    losses = F.binary_cross_entropy_with_logits(x, torch.zeros(5, 4, device="meta"), reduction="none")
    assert losses.shape == (5, 4)


# --- loss_and_grad ---------------------------------------------------------------------------------


def test_integer_labels_take_weights_as_floating_ones_do() -> None:
    x, y = random_tensor(7), random_labels(7, num_classes=2)
    weight = torch.linspace(0.1, 2.0, 7, dtype=torch.float64)
    ours = binary_cross_entropy.loss_and_grad(x, y, weight)
    assert_close(ours, binary_cross_entropy.loss_and_grad(x, y.double(), weight))


@pytest.mark.parametrize("far", [0.0, 20.0, 1e4, INF])
def test_loss_and_grad_are_the_sum_and_its_gradient(far: float) -> None:
    """A power overflows for 1e4 and ∞, so that integer labels take the general form too."""
    x, y = torch.cat([random_tensor(7), torch.tensor([far, -far])]), random_labels(9, num_classes=2)
    x.requires_grad_()
    total = F.binary_cross_entropy_with_logits(x, y.double(), reduction="sum")
    (gradient,) = torch.autograd.grad(total, x)
    for target in (y, y.double()):
        ours = binary_cross_entropy.loss_and_grad(x.detach(), target)
        assert_close(ours, (total.detach(), gradient), rtol=1e-14, atol=0)


# --- errors ----------------------------------------------------------------------------------------

X, LABELS = torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64)
ERRORS: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (
        lambda: F.binary_cross_entropy_with_logits(X[0], X),
        ValueError,
        "expected input and target of one shape, got (10,) and (4, 10)",
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(LABELS.float(), LABELS),
        RuntimeError,
        "target must be of a floating dtype, got torch.int64",
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(X[0], X[0], torch.ones(2, 10)),
        RuntimeError,
        "expected weight to broadcast to input (10,), got (2, 10)",
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(X[0], X[0], pos_weight=torch.ones(3)),
        RuntimeError,
        "expected pos_weight to broadcast to input (10,), got (3,)",
    ),
    (lambda: F.binary_cross_entropy_with_logits(X, X, reduction="avg"), ValueError, "reduction must be one of"),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=[text for _, _, text in ERRORS])
def test_wrong_arguments_are_refused(call: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
