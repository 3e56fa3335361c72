"""Weights in few bytes: what is packed is the network, and what is read from the bytes is what was packed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fcnet.data.transforms.whitening import Whitening
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.models.batch_norm import BatchNorm
from fcnet.models.layers import ACTIVATIONS
from fcnet.models.mlp import MLP, LogisticRegression, logits_to_probabilities
from fcnet.report.quantize import FusedLayer, PackedWeights, choose_dtype, fuse_layers

SHAPE = (3, 4, 2)


def random_classifier(seed: int = 0, *, whiten: int = 0, classes: int = 3, **arguments: Any) -> ImageClassifier:
    """A network in which nothing is left as it began."""
    generator = torch.Generator().manual_seed(seed)
    hidden = arguments.pop("hidden", (8, 8))
    model = MLP(whiten or 24, hidden, classes, generator=generator, **arguments)
    for values in [*model.parameters(), *model.buffers()]:
        values.data.add_(torch.randn(values.shape, generator=generator) * 0.3)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.running_var.abs_().add_(0.1)
    whitening = None
    if whiten:
        whitening = Whitening(whiten, 24)
        whitening.weight.copy_(torch.randn(whiten, 24, generator=generator) / 3)
        whitening.bias.copy_(torch.randn(whiten, generator=generator))
    mean, std = torch.rand(3, generator=generator), torch.rand(3, generator=generator) + 0.2
    names = [f"class {place}" for place in range(classes)]
    return ImageClassifier(model, classes=names, shape=SHAPE, mean=mean, std=std, whitening=whitening).eval()


def random_images(count: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def computed(steps: list[FusedLayer], classifier: ImageClassifier, images: Tensor) -> Tensor:
    a = ((images.double() / 255 - classifier.mean[:, None, None]) / classifier.std[:, None, None]).float().flatten(1)
    for step in steps:
        a = step(a)
    return logits_to_probabilities(a.squeeze(1) if len(classifier.classes) == 2 else a)


def read(content: bytes | bytearray, metadata: dict[str, Any]) -> Tensor:
    """A tensor from its place in the bytes, by NumPy alone."""
    count = metadata["rows"] * metadata["columns"]
    values = np.frombuffer(content, np.dtype(metadata["dtype"]), count, metadata["offset"]).astype(np.float32)
    values = values.reshape(metadata["rows"], metadata["columns"])
    if "scales" in metadata:
        values = values * np.frombuffer(content, np.float32, metadata["rows"], metadata["scales"])[:, None]
    return torch.from_numpy(values)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
@pytest.mark.parametrize(
    "others", [{}, {"residual": True}, {"classes": 2}, {"whiten": 8, "residual": True}, {"bias": False}]
)
def test_the_steps_compute_what_the_network_does(activation: Any, normalization: Any, others: dict[str, Any]) -> None:
    classifier, images = (
        random_classifier(activation=activation, normalization=normalization, **others),
        random_images(20),
    )
    torch.testing.assert_close(computed(fuse_layers(classifier), classifier, images), classifier.predict_proba(images))


def test_logistic_regression_is_one_step() -> None:
    half = torch.full((3,), 0.5)
    classifier = ImageClassifier(LogisticRegression(24), classes=("a", "b"), shape=SHAPE, mean=half, std=half)
    assert [step.name for step in fuse_layers(classifier)] == ["Layer 1"]


@pytest.mark.parametrize("form", ["float32", "float16", "int8"])
def test_the_bytes_hold_the_weights_that_the_pack_says(form: str) -> None:
    pack = PackedWeights(form)
    steps = fuse_layers(random_classifier(normalization="layer", hidden=(7, 5)))
    for step in steps:
        metadata = pack.add(step)
        for name in ("weight", "gain", "shift"):
            expected = getattr(pack.layers[-1], name)
            if expected is None:
                assert metadata[name] is None
            else:
                torch.testing.assert_close(
                    read(pack.content, metadata[name]).view_as(expected), expected, rtol=0, atol=0
                )
    assert pack.num_bytes == sum(step.weight.numel() for step in steps) * np.dtype(form).itemsize


@pytest.mark.parametrize(("form", "share"), [("float32", 0.0), ("float16", 2.0**-11), ("int8", 0.5 / 127)])
def test_no_weight_is_rounded_by_more_than_half_a_level(form: str, share: float) -> None:
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    pack = PackedWeights(form)
    pack.add(FusedLayer("", weight))
    largest = weight.abs().amax(1, keepdim=True)
    assert ((pack.layers[0].weight - weight).abs() <= largest * share * (1 + 1e-5)).all()


def test_the_form_is_the_most_exact_that_is_small_enough() -> None:
    sizes = {375_000: "float32", 375_001: "float16", 2_000_000: "float16", 2_000_001: "int8", 4_000_000: "int8"}
    assert {size: choose_dtype([FusedLayer("", torch.ones(1, size))]) for size in sizes} == sizes
    assert choose_dtype([FusedLayer("", torch.ones(1, 2_000_001)), FusedLayer("", torch.ones(1, 2_000_000))]) is None


def test_weights_beyond_float16_are_carried_as_int8() -> None:
    assert choose_dtype([FusedLayer("", torch.full((2, 500_000), 1e6))]) == "int8"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_is_not_finite_is_not_carried(value: float) -> None:
    assert choose_dtype([FusedLayer("", torch.ones(2, 2), torch.tensor([0.0, value]))]) is None
