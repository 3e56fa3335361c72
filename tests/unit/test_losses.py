"""Rules of fcnet.losses; the oracle is torch in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from fcnet.losses import CrossEntropy

SMOOTHINGS = [0.0, 0.1, 0.5]


def example(num_outputs: int, size: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float64 logits of one output node, shape (B,), or of several; and labels."""
    random = torch.Generator().manual_seed(seed)
    shape = (size,) if num_outputs == 1 else (size, num_outputs)
    logits = 3.0 * torch.randn(shape, dtype=torch.float64, generator=random)
    return logits, torch.randint(max(num_outputs, 2), (size,), generator=random)


def torchs_sum(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    if logits.ndim == 1:
        target = labels.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("num_outputs", [1, 2, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_loss_is_torchs_summed_over_the_batch(num_outputs: int, smoothing: float) -> None:
    logits, labels = example(num_outputs)
    assert_close(CrossEntropy(smoothing)(logits, labels), torchs_sum(logits, labels, smoothing))


@given(st.integers(0, 100), st.sampled_from(SMOOTHINGS))
def test_one_node_is_two_nodes_of_which_the_first_is_zero(seed: int, smoothing: float) -> None:
    logits, labels = example(1, seed=seed)
    both = torch.stack([torch.zeros_like(logits), logits], dim=1)
    assert_close(CrossEntropy(smoothing)(logits, labels), CrossEntropy(smoothing)(both, labels))


@pytest.mark.parametrize("num_outputs", [1, 2, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_batch_costs_what_its_rows_cost_alone(num_outputs: int, smoothing: float) -> None:
    loss, (logits, labels) = CrossEntropy(smoothing), example(num_outputs)
    rows = [loss(logits[row : row + 1], labels[row : row + 1]) for row in range(len(labels))]
    assert_close(loss(logits, labels), torch.stack(rows).sum())


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_batch_without_rows_costs_nothing_and_has_a_gradient(num_outputs: int, smoothing: float) -> None:
    logits, labels = example(num_outputs, size=0)
    loss = CrossEntropy(smoothing)(logits.requires_grad_(), labels)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("num_outputs", [1, 2, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_slope_is_the_derivative_that_torch_finds(num_outputs: int, smoothing: float) -> None:
    logits, labels = example(num_outputs)
    loss, slope = CrossEntropy(smoothing).with_slope(logits.clone(), labels)
    truth = torchs_sum(logits.requires_grad_(), labels, smoothing)
    (derivative,) = torch.autograd.grad(truth, logits)
    assert_close(loss, truth.detach())
    assert_close(slope, derivative)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_the_slope_leaves_the_logits_as_they_are(num_outputs: int) -> None:
    logits, labels = example(num_outputs)
    before = logits.clone()
    CrossEntropy(0.1).with_slope(logits, labels)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_a_sure_and_right_row_keeps_its_digits(num_outputs: int) -> None:
    logits = torch.tensor([20.0]) if num_outputs == 1 else torch.tensor([[-20.0, 0.0, -40.0]])
    truth = torch.tensor(-20.0, dtype=torch.float64).exp().log1p().float()
    loss, slope = CrossEntropy().with_slope(logits, torch.tensor([1]))
    # one rounding of e⁻²⁰ in float32, then two of what is made of it
    assert_close(loss, truth, rtol=1e-6, atol=0.0)
    assert_close(CrossEntropy()(logits, torch.tensor([1])), truth, rtol=1e-6, atol=0.0)
    assert_close(slope.reshape(-1)[1 if num_outputs > 1 else 0], -truth, rtol=1e-6, atol=0.0)
