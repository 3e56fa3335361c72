"""Tests of fcnet.report.quantize: the fused layers compute the model, and the bytes hold the fused layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.layers import ACTIVATIONS
from fcnet.models.mlp import LogisticRegression, logits_to_probabilities
from fcnet.report.quantize import FusedLayer, PackedWeights, choose_dtype, fuse_layers
from tests.helpers import random_classifier, random_images

SHAPE = (3, 4, 2)


def compute_probabilities(layers: list[FusedLayer], classifier: ImageClassifier, images: Tensor) -> Tensor:
    a = ((images.double() / 255 - classifier.mean[:, None, None]) / classifier.std[:, None, None]).float().flatten(1)
    for layer in layers:
        a = layer(a)
    return logits_to_probabilities(a.squeeze(1) if len(classifier.classes) == 2 else a)


def read_tensor(content: bytes | bytearray, metadata: dict[str, Any]) -> Tensor:
    """Reads a packed tensor with NumPy alone."""
    count = metadata["rows"] * metadata["columns"]
    values = np.frombuffer(content, np.dtype(metadata["dtype"]), count, metadata["offset"]).astype(np.float32)
    values = values.reshape(metadata["rows"], metadata["columns"])
    if "scales" in metadata:
        values = values * np.frombuffer(content, np.float32, metadata["rows"], metadata["scales"])[:, None]
    return torch.from_numpy(values)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
@pytest.mark.parametrize(
    "options", [{}, {"residual": True}, {"num_classes": 2}, {"whiten": 8, "residual": True}, {"bias": False}]
)
def test_fused_layers_compute_the_models_probabilities(
    activation: Any, normalization: Any, options: dict[str, Any]
) -> None:
    classifier = random_classifier(SHAPE, activation=activation, normalization=normalization, **options)
    images = random_images(20, SHAPE)
    probabilities = compute_probabilities(fuse_layers(classifier), classifier, images)
    torch.testing.assert_close(probabilities, classifier.predict_proba(images))


def test_logistic_regression_is_one_layer() -> None:
    half = torch.full((3,), 0.5)
    classifier = ImageClassifier(LogisticRegression(24), classes=("a", "b"), shape=SHAPE, mean=half, std=half)
    assert [layer.name for layer in fuse_layers(classifier)] == ["Layer 1"]


@pytest.mark.parametrize("dtype_name", ["float32", "float16", "int8"])
def test_the_bytes_hold_the_weights_of_the_packed_layers(dtype_name: str) -> None:
    pack = PackedWeights(dtype_name)
    layers = fuse_layers(random_classifier(SHAPE, normalization="layer", hidden=(7, 5)))
    for layer in layers:
        metadata = pack.add(layer)
        for name in ("weight", "gain", "shift"):
            expected = getattr(pack.layers[-1], name)
            if expected is None:
                assert metadata[name] is None
            else:
                torch.testing.assert_close(
                    read_tensor(pack.content, metadata[name]).view_as(expected), expected, rtol=0, atol=0
                )
    assert pack.num_bytes == sum(layer.weight.numel() for layer in layers) * np.dtype(dtype_name).itemsize


@pytest.mark.parametrize(("dtype_name", "half_step"), [("float32", 0.0), ("float16", 2.0**-11), ("int8", 0.5 / 127)])
def test_no_weight_is_rounded_by_more_than_half_a_step(dtype_name: str, half_step: float) -> None:
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    pack = PackedWeights(dtype_name)
    pack.add(FusedLayer("", weight))
    largest = weight.abs().amax(1, keepdim=True)
    assert ((pack.layers[0].weight - weight).abs() <= largest * half_step * (1 + 1e-5)).all()


def test_the_dtype_is_the_most_precise_one_that_fits() -> None:
    sizes = {375_000: "float32", 375_001: "float16", 1_300_000: "float16", 1_300_001: "int8", 4_000_000: "int8"}
    assert {size: choose_dtype([FusedLayer("", torch.ones(1, size))]) for size in sizes} == sizes
    assert choose_dtype([FusedLayer("", torch.ones(1, 2_000_001)), FusedLayer("", torch.ones(1, 2_000_000))]) is None


def test_weights_beyond_the_range_of_float16_become_int8() -> None:
    assert choose_dtype([FusedLayer("", torch.full((2, 500_000), 1e6))]) == "int8"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_a_non_finite_value_is_not_packed(value: float) -> None:
    assert choose_dtype([FusedLayer("", torch.ones(2, 2), torch.tensor([0.0, value]))]) is None
