"""Helpers of the tests of fcnet.experiment: small experiments."""

from __future__ import annotations

from typing import Any

import torch

from fcnet.config import schema
from fcnet.experiment import build

CPU = torch.device("cpu")


def make_config(data: dict[str, Any] | None = None, **sections: dict[str, Any]) -> schema.Config:
    """100 training images of 4 classes, 25 each, unless ``data`` changes that."""
    small = {"source": "synthetic", "shape": (1, 6, 5), "train_size": 100, "test_size": 30, "num_classes": 4}
    return schema.Config.model_validate({"data": small | (data or {}), **sections})


def build_experiment(data: dict[str, Any] | None = None, **sections: dict[str, Any]) -> build.Experiment:
    return build.build(make_config(data, **sections), CPU)
