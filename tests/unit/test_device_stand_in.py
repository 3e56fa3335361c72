"""The stand-in device of the tests sees each fault that it is there to find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training, train_step
from tests.device_stand_in import DEVICE, DeviceFaultError, stand_in_device
from tests.unit.training.on_a_device import make_batches

if TYPE_CHECKING:
    from collections.abc import Callable


def read_a_value(loss: Tensor) -> Tensor:
    return loss if loss.item() >= 0.0 else -loss


def mix_in_a_tensor_of_the_host(loss: Tensor) -> Tensor:
    return loss + torch.zeros(1).squeeze(0)


def copy_a_scalar_of_the_host(loss: Tensor) -> Tensor:
    return loss * torch.ones(()).to(loss.device)


def make_a_tensor_of_a_number(loss: Tensor) -> Tensor:
    return loss * torch.tensor(1.0, device=loss.device)


def select_by_a_mask(loss: Tensor) -> Tensor:
    losses = loss.expand(3)
    return losses[losses >= 0.0].mean()


def use_fill(loss: Tensor) -> Tensor:
    """Makes a scalar on the device by a kernel, as a step may."""
    return loss * loss.new_full((), 1.0) + torch.zeros((), device=loss.device)


FAULTS: dict[Callable[[Tensor], Tensor], str] = {
    read_a_value: "waits for the device: _local_scalar_dense",
    mix_in_a_tensor_of_the_host: "operands on host and device: add",
    copy_a_scalar_of_the_host: "copies to the device: _to_copy",
    make_a_tensor_of_a_number: "copies to the device: tensor",
    select_by_a_mask: "waits for the device: index",
}


class PlantedLoss:
    """The cross-entropy with one more operation."""

    def __init__(self, plant: Callable[[Tensor], Tensor]) -> None:
        self.plant = plant

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.plant(CrossEntropy()(logits, target))


def take_step(plant: Callable[[Tensor], Tensor]) -> None:
    with stand_in_device() as device:
        with device.permit():
            model = MLP(192, (8,), 10).to(DEVICE)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            training = Training(model, make_batches(), GradientDescent(optimizer, epochs=1, loss=PlantedLoss(plant)))
        for batch in training.batches.epoch(0, 0):
            train_step(training, batch)


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_fault_in_a_step_is_refused_with_its_place(plant: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(DeviceFaultError) as error:
        take_step(plant)
    message, _, place = str(error.value).partition(" at ")
    assert message.startswith(FAULTS[plant])
    assert place.startswith("tests/unit/test_device_stand_in.py:")


def test_a_step_without_a_fault_is_taken() -> None:
    take_step(use_fill)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda x: x.sum().item(), 0.0),
        (lambda x: bool(x.isfinite().all()), True),
        (lambda x: x.tolist(), [0.0, 0.0, 0.0]),
        (lambda x: x.cpu().numpy().shape, (3,)),
        (lambda x: x.nonzero().shape, (0, 1)),
        (lambda x: len(x[x > 0]), 0),
        (lambda x: x.long().bincount(minlength=4).shape, (4,)),
    ],
)
def test_a_wait_is_refused_and_where_it_is_permitted_counted(read: Callable[[Tensor], Any], expected: Any) -> None:
    with stand_in_device() as device:
        x = torch.empty(3, device=DEVICE)
        with pytest.raises(DeviceFaultError, match="waits for the device"):
            read(x)
        assert device.waits == []
        with device.permit():
            assert read(x) == expected
        assert len(device.waits) == 1


def test_mixed_devices_are_refused_even_where_waits_are_permitted() -> None:
    with stand_in_device() as device, device.permit(), pytest.raises(DeviceFaultError, match="host and device"):
        torch.empty(3, device=DEVICE)[torch.tensor([0])] += torch.ones(1)
