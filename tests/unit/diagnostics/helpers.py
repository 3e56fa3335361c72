"""Helpers of the tests of fcnet.diagnostics: small models and their inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fcnet.models.mlp import MLP


def make_model(**arguments: Any) -> MLP:
    settings: dict[str, Any] = {"hidden": (6, 6), "num_classes": 3} | arguments
    return MLP(20, generator=torch.Generator().manual_seed(1), **settings)


def get_layer(model: MLP, number: int) -> Any:
    """Layer ``number``, from 1; Any, since mypy takes its bias for optional."""
    return model.dense_layers()[number - 1]


def make_images(size: int = 37) -> Tensor:
    return torch.randn(size, 20, generator=torch.Generator().manual_seed(3))


def make_labels(size: int = 37) -> Tensor:
    return torch.arange(size) % 3


def make_sequential(activation: type[nn.Module] = nn.ReLU) -> Any:
    """A network of torch's modules, in training mode."""
    return nn.Sequential(
        nn.Linear(20, 8),
        nn.BatchNorm1d(8),
        activation(),
        nn.Dropout(0.5),
        nn.Linear(8, 8),
        activation(),
        nn.Linear(8, 3),
    )
