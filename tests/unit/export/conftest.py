"""A model card for the tests of the card and of its file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fcnet.config.schema import Augment, Config, Data, Model
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.export.model_card import ModelCard
from fcnet.models.mlp import MLP

if TYPE_CHECKING:
    from collections.abc import Callable

SUMMARY: dict[str, Any] = {
    "test_accuracy": 0.925,
    "test_interval": [0.9, 0.95],
    "test_loss": 0.25,
    "validation_accuracy": 0.875,
    "train_images": 1200,
    "validation_images": 100,
    "test_images": 400,
    "epochs": 7,
    "train_seconds": 1.25,
    "parameters": 1234,
    "device": "cpu",
    "fcnet": "0.1.0",
    "torch": "2.14.1",
    "warnings": ["layer 1: 40.00% of the units are dead"],
}


@pytest.fixture
def make_card() -> Callable[..., ModelCard]:
    """Makes a card of a small model; keyword arguments replace fields of the card."""

    def make(**changes: Any) -> ModelCard:
        classes, shape = ("cat", "dog", "eel"), (3, 2, 2)
        classifier = ImageClassifier(
            MLP(12, (5,), len(classes)), classes=classes, shape=shape, mean=torch.zeros(3), std=torch.ones(3)
        )
        data = Data(source="images", path="/home/me/my|pets.tar", augment=Augment(flip=True))
        config = Config(data=data, model=Model(hidden=(5,)))
        return replace(ModelCard("pets", "a1", classifier, config, SUMMARY), **changes)

    return make
