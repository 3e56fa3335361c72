"""fcnet.functional.softmax_loss: loss and gradient in one pass are those of the cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.testing import assert_close

import fcnet.functional as F
from fcnet.functional import softmax_loss
from fcnet.functional.softmax_loss import Labels, Probabilities, loss_and_grad, losses_and_grad
from tests.unit.functional.helpers import (
    INF,
    NAN,
    TORCH,
    random_labels,
    random_tensor,
    value_and_grads,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("far", [None, 800.0, INF])
def test_loss_and_grad_are_the_sum_and_its_gradient(soft: bool, smoothing: float, far: float | None) -> None:
    """A power overflows for 800 and ∞, so that the form by odds gives way to the general one."""
    x, y = random_tensor(9, 5), random_labels(9, num_classes=5)
    if far is not None:
        x[0, (y[0] + 1) % 5] = far
    target = torch.softmax(random_tensor(9, 5, seed=2), 1) if soft else y
    loss, gradient = loss_and_grad(x, target, smoothing)
    by_formula = torch.func.vmap(lambda x: F.cross_entropy(x, target, reduction="sum", label_smoothing=smoothing))
    assert_close(loss, by_formula(x[None]).squeeze(0), rtol=1e-13, atol=0)
    t = target if soft else TORCH.one_hot(y, 5).double()
    assert_close(gradient, F.softmax(x, 1) - (1 - smoothing) * t - smoothing / 5, rtol=1e-12, atol=1e-15)


def test_the_form_by_odds_is_the_general_one() -> None:
    x, y = random_tensor(64, 10, dtype=torch.float32), random_labels(64, num_classes=10)
    by_odds, general = torch.empty_like(x), torch.empty_like(x)
    losses = softmax_loss._odds_losses(x, y[:, None], by_odds)
    others, scale = softmax_loss._label_losses(x, Labels(y[:, None], None, None, 0.0, 1), general, by_odds=False)
    assert_close(losses, others, rtol=1e-6, atol=0)
    assert_close(by_odds, general * scale, rtol=2e-6, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_labels_give_the_same_as_their_one_hot_probabilities(weighted: bool) -> None:
    x, y = random_tensor(20, 6), random_labels(20, num_classes=6)
    weight = random_tensor(6, seed=3).abs() if weighted else None
    one_hot = TORCH.one_hot(y, 6).double()
    results = []
    for targets in (Labels(y[:, None], None, weight, 0.0, 1), Probabilities(one_hot, weight, 0.0, 1)):
        gradient = torch.empty_like(x)
        losses, scale = losses_and_grad(x, targets, gradient)
        results.append((losses, gradient * scale))
    assert_close(results[0], results[1], rtol=1e-12, atol=1e-15)


def test_the_gradient_may_overwrite_the_logits() -> None:
    x, y = random_tensor(8, 5), random_labels(8, num_classes=5)
    for smoothing in (0.0, 0.1):
        targets = Labels(y[:, None], None, None, smoothing, 1)
        logits, gradient = x.clone(), torch.empty_like(x)
        losses, scale = losses_and_grad(x, targets, gradient)
        others, other_scale = losses_and_grad(logits, targets, logits)
        assert_close(others, losses, rtol=1e-14, atol=0)
        assert_close(logits * other_scale, gradient * scale, rtol=1e-14, atol=0)


@pytest.mark.parametrize("far", [9.0, 80.0, 800.0, INF, NAN])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 2, 3), (5,)], ids=str)
def test_rows_that_are_far_off_are_computed_again_and_no_others(shape: tuple[int, ...], far: float) -> None:
    dim = min(1, len(shape) - 1)
    x, y = random_tensor(*shape), random_labels(*shape[:dim], *shape[dim + 1 :], num_classes=5).unsqueeze(dim)
    changed = x.clone()
    first = (0,) * dim + (int(y.flatten()[0]) - 1,) + (0,) * (len(shape) - dim - 1)
    changed[first] = far
    targets = Labels(y, None, None, 0.0, dim)
    parts = []
    for logits in (x, changed):
        for by_odds in (True, False):
            gradient = torch.empty_like(x)
            losses, scale = softmax_loss._label_losses(logits, targets, gradient, by_odds=by_odds)
            parts.append((losses, gradient * scale))
    assert_close(parts[2], parts[3], rtol=1e-13, atol=1e-300, equal_nan=True)
    losses, old_losses = parts[2][0].flatten(), parts[0][0].flatten()
    assert not torch.equal(losses[0], old_losses[0])
    assert torch.equal(losses[1:], old_losses[1:])


def test_selected_rows_have_the_losses_of_the_whole() -> None:
    x, y = random_tensor(8, 5), random_labels(8, num_classes=5)
    ignored = torch.arange(8)[:, None] == 3
    soft = torch.softmax(random_tensor(8, 5, seed=2), 1)
    for targets in (Labels(y[:, None], ignored, None, 0.0, 1), Probabilities(soft, None, 0.1, 1)):
        whole, _ = losses_and_grad(x, targets, None)
        rows = slice(2, 6)
        part, _ = losses_and_grad(x[rows], targets.select(rows), None)
        assert_close(part, whole[rows], rtol=0, atol=0)


def test_the_mean_divides_by_the_weights_of_the_labels_or_the_number_of_rows() -> None:
    y, weight = torch.tensor([0, 1, 1, 2]), torch.tensor([1.0, 2.0, 4.0])
    ignored = torch.tensor([False, False, True, False])
    assert int(Labels(y[:, None], ignored[:, None], None, 0.0, 1).total_weight()) == 3
    assert int(Labels(y[:, None], None, None, 0.0, 1).total_weight()) == 4
    assert float(Labels(y[:, None], ignored[:, None], weight, 0.0, 1).total_weight()) == 7.0
    assert Probabilities(torch.ones(4, 3), weight, 0.0, 1).total_weight() == 4


def test_a_nan_logit_makes_its_row_nan_and_no_other() -> None:
    x, y = random_tensor(4, 3), torch.tensor([0, 1, 2, 0])
    expected = loss_and_grad(x[1:], y[1:])[1]
    x[0, 2] = NAN
    loss, gradient = loss_and_grad(x, y)
    assert loss.isnan()
    assert gradient[0].isnan().all()
    assert_close(gradient[1:], expected)


def test_a_label_outside_the_classes_is_an_index_error() -> None:
    with pytest.raises(IndexError, match=r"^target must be in \[0, 3\) or ignore_index: "):
        loss_and_grad(torch.zeros(2, 3), torch.tensor([0, 3]))


@pytest.mark.parametrize("target", ["indices", "smoothed", "soft"])
def test_the_loss_takes_no_more_memory_than_torchs(target: str, program: Callable[[str], Any]) -> None:
    peak_bytes = program("benchmark").losses.peak_bytes
    x = random_tensor(4096, 300, dtype=torch.float32)
    y = torch.softmax(x, 1) if target == "soft" else random_labels(4096, num_classes=300)
    smoothing = 0.1 if target == "smoothed" else 0.0
    ours, theirs = (
        peak_bytes(lambda: value_and_grads(lambda x: module.cross_entropy(x, y, label_smoothing=smoothing), x))  # noqa: B023
        for module in (F, TORCH)
    )
    assert 2 * x.nbytes < ours <= theirs
