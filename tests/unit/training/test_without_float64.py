"""Training on a device without float64, such as Apple's GPUs: the sums are on the CPU, and nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fcnet.data.batches import Augmentation, Batch
from fcnet.data.transforms import augment
from fcnet.data.transforms.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.data.transforms.whitening import fit_whitening
from fcnet.diagnostics.matrix_rank import singular_values
from fcnet.evaluation.full_evaluation import evaluate_fully
from fcnet.evaluation.temperature import divide_logits
from fcnet.experiment.snapshots import Snapshots
from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import Muon
from fcnet.runtime import hardware
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training
from fcnet.training.records import MetricAccumulator
from tests.device_stand_in import DEVICE, stand_in_device
from tests.unit.training.on_a_device import make_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    "muon": lambda parameters: Muon([p for p in parameters if p.ndim == 2], lr=1e-3),
}


class _NoFloat64(TorchDispatchMode):
    """Refuses float64 on the stand-in device."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.device == DEVICE and value.dtype == torch.float64:
                raise AssertionError(f"float64 on the device: {func}")
        return result


@pytest.fixture
def _without_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (hardware, augment):
        monkeypatch.setattr(module, "has_float64", lambda device: device != DEVICE)
    with stand_in_device() as stand_in, stand_in.permit(), _NoFloat64():  # type: ignore[no-untyped-call]
        yield


@pytest.mark.usefixtures("_without_float64")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("num_classes", [2, 10])
def test_a_training_its_saves_and_its_evaluation_need_no_float64(optimizer: str, num_classes: int) -> None:
    transforms = (Flip(), Shift(1), Affine(15.0, 0.2), ColorJitter(0.4), Cutout(3))
    batches = make_batches(
        num_classes=num_classes, augmentation=Augmentation(transforms, MixupCutmix(0.4, 1.0)), balance="weights"
    )
    model = MLP(192, (16, 8), num_classes, normalization="batch", dropout=0.3).to(DEVICE)
    made = OPTIMIZERS[optimizer](list(model.parameters()))
    algorithm = GradientDescent(made, epochs=2, clip_norm=0.5, ema_decay=0.9, patience=1)
    training = Training(model, batches, algorithm, validation=make_batches(num_classes=num_classes))
    for event in training.advance():
        if event is None:
            training.restore(*training.state())
    assert training.step == 6
    assert evaluate_fully(model, make_batches(num_classes=num_classes))[0].count == 40
    assert Snapshots(training, 1).take()["layers"]


@pytest.mark.usefixtures("_without_float64")
def test_whitening_ranks_and_temperatures_need_no_float64() -> None:
    assert fit_whitening([torch.rand(8, 3, 4, 4).to(DEVICE)], 5).weight.device == DEVICE
    assert singular_values(torch.rand(4, 3).to(DEVICE)).dtype == torch.float64
    divide_logits(MLP(4, 3, 2).to(DEVICE), 2.0)


def test_the_sums_are_those_of_a_device_with_float64_bit_for_bit() -> None:
    """The tensors are on the CPU, but the sums do not know that."""
    here, there = (MetricAccumulator(torch.device(kind)) for kind in ("cpu", "mps"))
    draws = torch.Generator().manual_seed(0)
    for size in (5, 5, 3):
        logits, labels = torch.randn(size, 4, generator=draws), torch.randint(4, (size,), generator=draws)
        batch = Batch(torch.empty(0), labels, labels, size)
        for metrics in (here, there):
            metrics.update(logits.square().sum(), logits, batch)
    assert there._pending
    assert_close(there.sums(), here.sums(), rtol=0, atol=0)


def test_brightness_differs_by_rounding_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(256, (20, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    jitter = ColorJitter(0.5)
    draws = jitter.draw(20, torch.Generator().manual_seed(1))
    expected = jitter.apply(images, draws)
    monkeypatch.setattr(augment, "has_float64", lambda _: False)
    assert int((jitter.apply(images, draws).int() - expected.int()).abs().max()) <= 1
