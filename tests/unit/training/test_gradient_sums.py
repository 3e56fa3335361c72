"""Tests of fcnet.training.gradient_sums. Two ranks stand in one process: a sum doubles what is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from fcnet.data.batches import Batch
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP
from fcnet.runtime import distributed
from fcnet.training import gradient_sums
from fcnet.training.backpropagation import accumulate_gradients, make_gradient_fn
from fcnet.training.gradient_sums import GradientSums

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What was sent, while two ranks with equal gradients seem to train."""
    sent = list[Tensor]()

    def start(flat: Tensor) -> Callable[[], None]:
        sent.append(flat.clone())

        def wait() -> None:
            flat.mul_(2.0)

        return wait

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "start_all_reduce", start)
    return sent


def make_parameters(*values: float, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Returns parameters of two values, each with a gradient of one value twice."""
    parameters = list[Tensor]()
    for value in values:
        parameters.append(nn.Parameter(torch.zeros(2, dtype=dtype)))
        parameters[-1].grad = torch.full((2,), value, dtype=dtype)
    return parameters


def values(messages: list[Tensor]) -> list[list[float]]:
    return [message.tolist() for message in messages]


def test_a_small_network_sends_one_message(messages: list[Tensor]) -> None:
    parameters = make_parameters(1.0, 2.0, 3.0)
    sums, loss = GradientSums(parameters), torch.tensor(0.5)
    for parameter in reversed(parameters):
        sums.add(parameter)
    assert messages == []
    assert sums.finish(loss).item() == 1.0
    assert loss.item() == 0.5
    assert values(messages) == [[3.0, 3.0, 2.0, 2.0, 1.0, 1.0, 0.5]]
    assert [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None] == [
        [2.0, 2.0],
        [4.0, 4.0],
        [6.0, 6.0],
    ]


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (0, 1, 2, 3), (2, 3, 0, 1), (), (3,)])
def test_buckets_are_sent_in_one_order_as_soon_as_they_are_complete(
    order: tuple[int, ...], messages: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient_sums, "_BUCKET_BYTES", 16)
    parameters = make_parameters(1.0, 2.0, 3.0, 4.0)
    sums, num_sent = GradientSums(parameters), []
    for number in order:
        sums.add(parameters[number])
        num_sent.append(len(messages))
    expected: dict[tuple[int, ...], list[int]] = {
        (3, 2, 1, 0): [0, 1, 1, 1],
        (0, 1, 2, 3): [0, 0, 0, 1],
        (2, 3, 0, 1): [0, 1, 1, 1],
    }
    assert num_sent == expected.get(order, [0] * len(order))
    assert sums.finish(torch.tensor(0.5)).item() == 1.0
    assert values(messages) == [[4.0, 4.0, 3.0, 3.0], [2.0, 2.0, 1.0, 1.0, 0.5]]
    assert [p.grad.tolist() for p in parameters if p.grad is not None] == [[2.0 * n] * 2 for n in (1, 2, 3, 4)]


def test_parameters_without_a_gradient_hold_nothing_up(messages: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_sums, "_BUCKET_BYTES", 8)
    parameters = make_parameters(1.0, 2.0, 3.0)
    parameters[2].requires_grad_(False).grad = None  # frozen
    parameters[0].grad = None  # unused
    sums = GradientSums(parameters)
    sums.add(parameters[1])
    sums.add(nn.Parameter(torch.zeros(1)))  # not of the optimizer
    assert values(messages) == [[2.0, 2.0]]
    sums.finish(torch.tensor(0.5))
    assert values(messages) == [[2.0, 2.0], [0.5]]
    assert parameters[0].grad is None


def test_every_dtype_has_its_own_messages(messages: list[Tensor]) -> None:
    parameters = [*make_parameters(1.0, dtype=torch.float64), *make_parameters(2.0)]
    assert GradientSums(parameters).finish(torch.tensor(0.5)).item() == 1.0
    assert values(messages) == [[2.0, 2.0], [1.0, 1.0], [0.5]]
    assert GradientSums([]).finish(torch.tensor(0.5)).item() == 1.0


def test_a_single_process_sends_nothing() -> None:
    (parameter,), loss = make_parameters(1.0), torch.tensor(2.0)
    sums = GradientSums([parameter])
    sums.add(parameter)
    assert sums.finish(loss) is loss
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normalization", ["none", "layer"])
@pytest.mark.parametrize("chunked", [False, True])
def test_buckets_leave_during_the_backward_pass(
    normalization: str,
    precision: torch.dtype,
    messages: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
    *,
    chunked: bool,
) -> None:
    monkeypatch.setattr(gradient_sums, "_BUCKET_BYTES", 1)
    if chunked:
        monkeypatch.setattr("fcnet.training.backpropagation.takes_chunks", lambda *_: True)
    draws = torch.Generator().manual_seed(0)
    model = MLP(4, (5, 6), 3, normalization=normalization, generator=draws)  # type: ignore[arg-type]
    batch = Batch(torch.randn(8, 4, generator=draws), labels := torch.arange(8) % 3, labels, 16)
    parameters = list(model.parameters())
    compute_gradients = make_gradient_fn(model, CrossEntropy(), precision)
    accumulate_gradients(compute_gradients, [batch], parameters)
    alone = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    for parameter in parameters:
        parameter.grad = None
    sums = GradientSums(parameters)
    loss, _ = accumulate_gradients(compute_gradients, [batch], parameters, sums.add)
    assert len(messages) == len(parameters) - 1  # all but the last, which takes the loss along
    sums.finish(loss)
    assert [len(message) for message in messages[:-1]] == [p.numel() for p in parameters[:0:-1]]
    assert_close([parameter.grad for parameter in parameters], [2.0 * grad for grad in alone], rtol=0, atol=0)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in parameters)


def test_the_gradients_of_micro_batches_leave_at_the_end(
    messages: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient_sums, "_BUCKET_BYTES", 1)
    model = MLP(4, (5,), 3, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.ones(8, 4), labels := torch.arange(8) % 3, labels, 16)
    parameters = list(model.parameters())
    sums = GradientSums(parameters)
    compute_gradients = make_gradient_fn(model, CrossEntropy(), torch.float32)
    loss, _ = accumulate_gradients(compute_gradients, batch.split(2), parameters, sums.add)
    assert messages == []
    sums.finish(loss)
    assert len(messages) == len(parameters)
