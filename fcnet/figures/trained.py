"""What the lecture's figures of images show: small networks, trained on the digits in a second or two."""

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
from fcnet.training.loop import Training, fit

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
    """The digits, normalised by all of their training images.

    Attributes:
        store: images and labels.
        statistics: mean and standard deviation (1,) each, of pixels / 255.
    """

    store: Store
    statistics: tuple[Tensor, Tensor]

    @classmethod
    def load(cls) -> Digits:
        """From the cache, where they are put the first time."""
        store = open_store(sources.digits())
        return cls(store, mean_and_std(store.train.moments, store.shape[1] * store.shape[2]))

    def batches(self, split: Split, *, batch_size: int = 1000, rows: Tensor | None = None) -> Batches:
        """Some of a split's images, or all."""
        return Batches(
            split.pixels, split.labels, batch_size=batch_size, rows=rows, preprocessing=Preprocessing(*self.statistics)
        )

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Images as a network is given them."""
        return normalize(pixels, *self.statistics)


class Generalisation(NamedTuple):
    """Risks of softmax regression over the number of training samples, and the model of the most."""

    sizes: Sequence[int]
    training: list[float]
    test: list[float]
    model: models.LogisticRegression


def samples(digits: Digits, each: int = 5) -> Tensor:
    """The first training images of each class, (C, each, H, W) from 0 to 1."""
    split = digits.store.train
    rows = [(split.labels == label).nonzero()[:each, 0] for label in range(len(digits.store.classes))]
    return split.pixels[torch.stack(rows)].squeeze(2) / 255


def forward_pass(digits: Digits) -> tuple[Tensor, list[Tensor], int]:
    """One image in a trained network: of those it gets right, the test image that it is least sure of.

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
    """Along x(t) = (1 − t) x₀ + t x₁, t from −1 to 2, through the first test images of two classes.

    Returns:
        Of logistic regression on the two: ``positions`` t, ``scores`` and ``probabilities`` (N,), and ``images``
        (K, H, W), from 0 to 1 but for what lies beyond x₀ and x₁.
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
        on_the_line = torch.lerp(start, end, positions[:, None, None, None])
        scores = model(on_the_line)
        probabilities = model.predict_proba(on_the_line)[:, 1]
    shown = torch.linspace(-1.0, 2.0, 7)[:, None, None]
    images = torch.lerp(ends[0, 0] / 255, ends[1, 0] / 255, shown)
    return {"images": images, "positions": positions, "scores": scores, "probabilities": probabilities}


def generalisation(digits: Digits) -> Generalisation:
    """Softmax regression, trained for as many steps on the first n training images, for several n."""
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
    """The risk of softmax regression on so many training images, with all, 32 or one of them in a step."""
    rows = torch.arange(size)
    names = {
        size: f"full batch, {size} images a step",
        32: "mini-batch, 32 images a step",
        1: "stochastic, 1 image a step",
    }
    whole = digits.batches(digits.store.train, rows=rows)
    curves = []
    for batch_size, name in names.items():
        model = _zero_initialized(10)
        batches = digits.batches(digits.store.train, batch_size=batch_size, rows=rows)
        training = Training(model, batches, _sgd(model, lr, epochs), seed=_SEED)
        every = max(1, len(batches) // _EVALUATIONS_PER_EPOCH)
        seen = {0.0: evaluate(model, whole).loss}
        for _ in training.advance():
            if training.step % every == 0:
                seen[training.step / len(batches)] = evaluate(model, whole).loss
        curves.append(Line(name, torch.tensor(list(seen)), torch.tensor(list(seen.values()))))
    return curves


def _zero_initialized(num_classes: int) -> models.LogisticRegression:
    """The risk is convex, so that any beginning does, and this one has no noise."""
    model = models.LogisticRegression(64, num_classes, generator=generator(_SEED, "initialisation"))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def _sgd(model: nn.Module, lr: float, epochs: int) -> GradientDescent:
    return GradientDescent(torch.optim.SGD(model.parameters(), lr=lr), epochs=epochs)


def _train(model: nn.Module, batches: Batches, algorithm: GradientDescent) -> None:
    for _ in fit(model, batches, algorithm, seed=_SEED):
        pass
