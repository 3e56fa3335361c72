"""The data of the lecture's figures of trained models: small networks, trained on the digits in a second or two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from fcnet import models
from fcnet.data import sources
from fcnet.data.batches import Batches, Preprocessing, normalize
from fcnet.data.store.store import mean_and_std, open_store
from fcnet.evaluation.classification import evaluate
from fcnet.figures.curves import Line
from fcnet.models.mlp import MLP
from fcnet.runtime.seeds import generator
from fcnet.training.algorithm import GradientDescent
from fcnet.training.fit import fit
from fcnet.training.loop import Training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fcnet.data.store.store import Split, Store

_SEED = 0
_SIZES = (10, 20, 40, 80, 160, 320, 640, 1280)
_STEPS = 300
_EVALUATIONS_PER_EPOCH = 10


@dataclass(frozen=True)
class Digits:
    """The digits data set and its normalisation.

    Attributes:
        store: images and labels.
        statistics: mean and standard deviation of the training pixels / 255, (1,) each.
    """

    store: Store
    statistics: tuple[Tensor, Tensor]

    @classmethod
    def load(cls) -> Digits:
        """Opens the data set in the cache; the first call creates it."""
        store = open_store(sources.digits())
        return cls(store, mean_and_std(store.train.moments, store.shape[1] * store.shape[2]))

    def batches(self, split: Split, *, batch_size: int = 1000, rows: Tensor | None = None) -> Batches:
        """Returns batches of a split, or of some of its rows."""
        return Batches(
            split.pixels, split.labels, batch_size=batch_size, rows=rows, preprocessing=Preprocessing(*self.statistics)
        )

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Normalises uint8 images."""
        return normalize(pixels, *self.statistics)


class Generalisation(NamedTuple):
    """The risks of softmax regression for several training set sizes, and the model of the largest."""

    sizes: Sequence[int]
    training: list[float]
    test: list[float]
    model: models.LogisticRegression


def samples(digits: Digits, each: int = 5) -> Tensor:
    """Returns the first training images of each class, (C, each, H, W) from 0 to 1."""
    split = digits.store.train
    rows = [(split.labels == label).nonzero()[:each, 0] for label in range(len(digits.store.classes))]
    return split.pixels[torch.stack(rows)].squeeze(2) / 255


def forward_pass(digits: Digits) -> tuple[Tensor, list[Tensor], int]:
    """Trains a network and returns its activations for the least confident correctly classified test image.

    Returns:
        The image (H, W) from 0 to 1, the activations a[1], …, a[L], (n[l],) each, and the class.
    """
    model = MLP(64, (32, 16), 10, generator=generator(_SEED, "initialisation"))
    batches = digits.batches(digits.store.train, batch_size=32)
    _train(model, batches, GradientDescent(torch.optim.AdamW(model.parameters(), lr=3e-3), epochs=8))
    test = digits.store.test
    with torch.no_grad():
        layers = [layer.a for layer in model.trace(digits.preprocess(test.pixels))]
    confidence, predicted = layers[-1].max(1)
    row = int(confidence.masked_fill(predicted != test.labels, 1.0).argmin())
    return test.pixels[row, 0] / 255, [a[row] for a in layers], int(test.labels[row])


def interpolation(digits: Digits, names: tuple[str, str]) -> dict[str, Tensor]:
    """Trains logistic regression on two classes and evaluates it along a line between two test images.

    The line is x(t) = (1 − t) x₀ + t x₁ for t from −1 to 2, through the first test image of either class.

    Returns:
        ``positions`` t, ``scores`` and ``probabilities``, (N,) each, and ``images`` (K, H, W), which exceed [0, 1]
        outside 0 ≤ t ≤ 1.
    """
    train, test = digits.store.train, digits.store.test
    labels = [digits.store.classes.index(name) for name in names]
    rows = torch.isin(train.labels, torch.tensor(labels)).nonzero().squeeze(1)
    model = _zero_initialized(2)
    second = (train.labels == labels[1]).long()
    batches = Batches(train.pixels, second, rows=rows, batch_size=32, preprocessing=Preprocessing(*digits.statistics))
    _train(model, batches, _sgd(model, 0.1, epochs=20))
    ends = torch.cat([test.pixels[test.labels == label][:1] for label in labels])
    start, end = digits.preprocess(ends)
    positions = torch.linspace(-1.0, 2.0, 301)
    with torch.no_grad():
        x = torch.lerp(start, end, positions[:, None, None, None])
        scores = model(x)
        probabilities = model.predict_proba(x)[:, 1]
    t = torch.linspace(-1.0, 2.0, 7)[:, None, None]
    images = torch.lerp(ends[0, 0] / 255, ends[1, 0] / 255, t)
    return {"images": images, "positions": positions, "scores": scores, "probabilities": probabilities}


def generalisation(digits: Digits) -> Generalisation:
    """Trains softmax regression on the first n training images for several n, with about equal numbers of steps."""
    test = digits.batches(digits.store.test)
    training_risks, test_risks = [], []
    for size in _SIZES:
        model, rows = _zero_initialized(10), torch.arange(size)
        batches = digits.batches(digits.store.train, batch_size=min(size, 64), rows=rows)
        _train(model, batches, _sgd(model, 0.1, epochs=-(-_STEPS // len(batches))))
        training_risks.append(evaluate(model, batches).loss)
        test_risks.append(evaluate(model, test).loss)
    return Generalisation(_SIZES, training_risks, test_risks, model)


def descent(digits: Digits, lr: float, size: int = 300, epochs: int = 8) -> list[Line]:
    """Trains softmax regression with full batches, mini-batches of 32 and single images; returns the training risks."""
    rows = torch.arange(size)
    names = {
        size: f"full batch ({size} images)",
        32: "mini-batch (32 images)",
        1: "stochastic (1 image)",
    }
    whole = digits.batches(digits.store.train, rows=rows)
    curves = []
    for batch_size, name in names.items():
        model = _zero_initialized(10)
        batches = digits.batches(digits.store.train, batch_size=batch_size, rows=rows)
        training = Training(model, batches, _sgd(model, lr, epochs), seed=_SEED)
        every = max(1, len(batches) // _EVALUATIONS_PER_EPOCH)
        risks = {0.0: evaluate(model, whole).loss}
        for _ in training.advance():
            if training.step % every == 0:
                risks[training.step / len(batches)] = evaluate(model, whole).loss
        curves.append(Line(name, torch.tensor(list(risks)), torch.tensor(list(risks.values()))))
    return curves


def _zero_initialized(num_classes: int) -> models.LogisticRegression:
    """Creates a model with zero weights: the risk is convex, so any start will do, and this one is not random."""
    model = models.LogisticRegression(64, num_classes, generator=generator(_SEED, "initialisation"))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def _sgd(model: nn.Module, lr: float, epochs: int) -> GradientDescent:
    return GradientDescent(torch.optim.SGD(model.parameters(), lr=lr), epochs=epochs)


def _train(model: nn.Module, batches: Batches, algorithm: GradientDescent) -> None:
    fit(model, batches, algorithm, seed=_SEED)
