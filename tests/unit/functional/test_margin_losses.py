"""fcnet.functional.margin_losses: the lecture's losses of a score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import fcnet.functional as F
from fcnet.models.mlp import logits_to_classes
from tests.unit.functional.helpers import CONFIDENT_LOSS, INF, UNLIKELY, random_tensor, value_and_grad, value_and_grads

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_of_a_score_are_their_formulas(reduction: str) -> None:
    h, y = random_tensor(40), torch.tensor([-1.0, 1.0] * 20, dtype=torch.float64)
    for function, formula in (
        (F.logistic_loss, torch.log1p(torch.exp(-y * h))),
        (F.hinge_loss, torch.maximum(1 - y * h, torch.zeros(()))),
    ):
        expected = formula if reduction == "none" else getattr(formula, reduction)()
        assert_close(function(h, y, reduction), expected)
        assert_close(function(h, y.long(), reduction), expected)
    a, b = random_tensor(5, 3), random_tensor(5, 3, seed=1)
    losses = (a - b).norm(dim=1) ** 2
    assert_close(F.quadratic_loss(a, b, reduction), losses if reduction == "none" else getattr(losses, reduction)())


def test_the_logistic_loss_is_the_cross_entropy_for_labels_0_and_1() -> None:
    h, y = random_tensor(50, scale=30.0, dtype=torch.float32), torch.tensor([-1.0, 1.0] * 25)
    ours = value_and_grads(lambda h: F.logistic_loss(h, y, "none"), h)
    theirs = value_and_grads(lambda h: F.binary_cross_entropy_with_logits(h, (y + 1) / 2, reduction="none"), h)
    assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_the_logistic_loss_keeps_the_digits_of_a_confident_score() -> None:
    value, gradient = value_and_grad(lambda h: F.logistic_loss(h, torch.ones(1), "sum"), torch.tensor([20.0]))
    assert_close(value.item(), CONFIDENT_LOSS, rtol=1e-6, atol=0)
    assert_close(gradient.item(), -UNLIKELY, rtol=1e-6, atol=0)


def test_the_derivative_of_the_hinge_loss_at_its_corner_is_minus_y() -> None:
    for y in (-1.0, 1.0):
        _, gradient = value_and_grad(lambda h: F.hinge_loss(h, torch.tensor([y]), "sum"), torch.tensor([y]))  # noqa: B023
        assert gradient.item() == -y


def test_the_sign_of_a_score_is_its_class_and_0_is_neither() -> None:
    scores = torch.tensor([-INF, -1e-45, -0.0, 0.0, 1e-45, 3.0])
    assert F.sgn(scores).tolist() == [-1, -1, 0, 0, 1, 1]
    assert F.sgn(torch.tensor([-7, 0, 7])).tolist() == [-1, 0, 1]
    assert logits_to_classes(scores).tolist() == [0, 0, 0, 0, 1, 1]  # a model predicts the first class at 0


def test_the_gradient_of_the_sign_is_0() -> None:
    _, gradient = value_and_grads(F.sgn, torch.tensor([-1.0, 0.0, 1.0]))
    assert gradient.tolist() == [0, 0, 0]


X, LABELS = torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64)
ERRORS: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (lambda: F.logistic_loss(LABELS, LABELS), NotImplementedError, "score must be of a floating dtype"),
    (lambda: F.sgn(X.bool()), NotImplementedError, "score must be of a real dtype, got torch.bool"),
    (lambda: F.hinge_loss(X, LABELS), ValueError, "expected score and target of one shape, got (4, 10) and (4,)"),
    (lambda: F.hinge_loss(X, X.bool()), NotImplementedError, "target must be of a real dtype, got torch.bool"),
    (lambda: F.quadratic_loss(X[0, 0], X[0, 0]), ValueError, "expected prediction (…, K) and target (…, K), got ()"),
    (lambda: F.quadratic_loss(X, X, "avg"), ValueError, "reduction must be one of none, mean, sum, got 'avg'"),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=[text for _, _, text in ERRORS])
def test_wrong_arguments_are_refused(call: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
