"""Tests of fcnet.probe.selection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch.testing import assert_close

from fcnet.linear_model import logistic_path
from fcnet.metrics import holm_adjust, mcnemar_test, mean_interval, wilson_interval
from fcnet.probe import selection
from fcnet.probe.selection import HeldOut, choose, compare, equal_range, evaluate_path, merge

CPU = torch.device("cpu")


def make_problem(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(classes)
    y = torch.arange(90) % classes
    return torch.randn(90, 4, generator=draws) + torch.eye(classes, 4)[y], y


@pytest.mark.parametrize("classes", [2, 3])
def test_accuracy_and_log_loss_are_scikit_learns(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_VALUES_AT_ONCE", 50)
    x, y = make_problem(classes)
    path = logistic_path(x[:60], y[:60], [0.01, 1.0, 100.0])
    rows = torch.arange(60, 90)
    held_out = evaluate_path(path, x, y, rows, CPU)
    assert_close(torch.tensor([held_out.accuracy(k) for k in range(3)]).double(), path.score(x[60:], y[60:]))
    probabilities = path.predict_proba(x[60:]).numpy()
    assert held_out.log_loss.numpy() == pytest.approx([log_loss(y[60:], each) for each in probabilities])
    losses = -np.log(np.take_along_axis(probabilities[1], y[60:, None].numpy(), 1))[:, 0]
    assert held_out.log_loss_interval(1) == pytest.approx(mean_interval(losses))
    assert held_out.accuracy_interval(1) == wilson_interval(held_out.num_correct[1], 30)


def test_several_sets_together_are_one() -> None:
    x, y = make_problem(3)
    path = logistic_path(x, y, [0.01, 1.0])
    whole = evaluate_path(path, x, y, torch.arange(90), CPU)
    parts = merge([evaluate_path(path, x, y, rows, CPU) for rows in torch.arange(90).split([50, 1, 39])])
    assert torch.equal(parts.is_correct, whole.is_correct)
    assert_close(parts.log_loss, whole.log_loss)
    assert_close(parts.log_loss_squares, whole.log_loss_squares)


def make_held_out(counts: list[int], losses: list[float], total: int = 30) -> HeldOut:
    is_correct = torch.stack([torch.arange(total) < count for count in counts])
    return HeldOut(is_correct, torch.tensor(losses).double(), torch.zeros(len(counts)).double())


def test_of_equal_accuracies_the_lowest_log_loss_decides_then_the_strongest_penalty() -> None:
    assert choose(make_held_out([5, 7, 6], [0.1, 0.9, 0.1])) == 1
    assert choose(make_held_out([7, 7, 7], [0.2, 0.1, 0.3])) == 1
    assert choose(make_held_out([7, 7, 7], [0.2, 0.1, 0.1])) == 1


def test_other_penalties_are_compared_by_mcnemars_test_adjusted_for_all() -> None:
    found = compare(make_held_out([30, 29, 10], [0.1] * 3), 0)
    expected = holm_adjust([mcnemar_test(1, 0), mcnemar_test(20, 0)])
    assert found == [1.0, *expected]
    assert compare(make_held_out([3], [0.1]), 0) == [1.0]


def test_the_equal_range_ends_at_the_first_difference() -> None:
    assert equal_range([1.0, 0.04, 0.9, 1.0, 0.05, 0.9], 3) == (2, 5)
    assert equal_range([0.01, 1.0, 0.01], 1) == (1, 1)


def test_a_single_example_has_no_interval_of_the_log_loss() -> None:
    assert make_held_out([1], [0.3], total=1).log_loss_interval(0) is None
