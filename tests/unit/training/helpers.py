"""Models, batches and trainings that the tests of `fcnet.training` share."""

from __future__ import annotations

import dataclasses
import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet.data.batches import Augmentation, Batches
from fcnet.data.transforms.augment import Flip, Shift
from fcnet.functional import binary_cross_entropy, softmax_loss
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import Muon, parameter_groups
from fcnet.optim.schedules import add_warmup, cosine
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training
from tests.helpers import random_images, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from torch.utils.hooks import RemovableHandle

    from fcnet.training.records import EpochRecord

    MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

# The optimizers of the configuration, fused as `fcnet.experiment` builds them.
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "sgd without momentum": partial(torch.optim.SGD, lr=0.1, fused=True),
    "adam": partial(torch.optim.Adam, lr=0.01, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01, betas=(0.8, 0.95), fused=True),
    "muon": partial(Muon, lr=0.01),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "logistic regression": {"hidden": ()},
    "plain": {"hidden": (6, 6), "activation": "sigmoid"},
    "residual": {"hidden": (6, 6), "activation": "relu", "residual": True},
    "batch norm": {"hidden": (6, 6), "activation": "relu", "normalization": "batch"},
    "layer norm": {"hidden": (6, 6), "activation": "gelu", "normalization": "layer"},
    "all": {"hidden": (6, 6), "activation": "relu", "normalization": "batch", "dropout": 0.3, "residual": True},
}
HOOKS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
    "register_hook",
    "register_post_accumulate_grad_hook",
)
"""The methods of a module and of a parameter that register a hook."""
PIXELS = random_images(37, (1, 4, 5), seed=0)


def make_model(name: str, num_classes: int = 3, seed: int = 1) -> MLP:
    return MLP(20, num_classes=num_classes, generator=seeded(seed), **NETWORKS[name])


def make_labels(num_classes: int = 3, size: int = 37) -> Tensor:
    return torch.randint(num_classes, (size,), generator=seeded(2))


def float64_images(size: int = 37) -> Tensor:
    """Returns images in float64, for which two orders of the same sum differ in the last digits alone."""
    return torch.randn(size, 20, dtype=torch.float64, generator=seeded(3))


def make_sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


def make_training(
    name: str = "all",
    optimizer: str = "adamw",
    *,
    epochs: int = 3,
    seed: int = 5,
    num_classes: int = 3,
    **settings: Any,
) -> Training:
    """Returns a new training with everything that a step can change: 5 steps an epoch, the last on 5 images."""
    labels = make_labels(num_classes)
    batches = Batches(PIXELS, labels, batch_size=8, augmentation=Augmentation((Flip(), Shift(1))))
    model = make_model(name, num_classes)
    algorithm = GradientDescent(
        OPTIMIZERS[optimizer](parameter_groups(model, 0.05)),
        epochs=epochs,
        schedule=add_warmup(cosine(5 * epochs), 3),
        loss=CrossEntropy(0.1),
        **settings,
    )
    return Training(model, batches, algorithm, validation=Batches(PIXELS, labels, batch_size=10), seed=seed)


def record_without_timings(record: EpochRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    figures = dataclasses.asdict(record)
    return {key: value for key, value in figures.items() if key not in {"seconds", "images_per_second"}}


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def register_hook(layer: nn.Module, register: str, hook: Callable[..., None]) -> RemovableHandle:
    """Registers a hook on a layer, or on its weight where the method is a tensor's."""
    owner = layer if hasattr(layer, register) else layer.weight
    handle: RemovableHandle = getattr(owner, register)(hook)
    return handle


def avoid_free_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the losses avoid host syncs on a CPU too, as on a GPU."""
    # `fcnet.functional` has a function of the module's name.
    cross_entropy = importlib.import_module("fcnet.functional.cross_entropy")
    for module in (binary_cross_entropy, cross_entropy, softmax_loss):
        monkeypatch.setattr(module, "can_read_without_sync", lambda tensor: False)
