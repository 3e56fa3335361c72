"""Tests of fcnet.training.ema."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fcnet.data.batches import Batches
from fcnet.evaluation.classification import evaluate
from fcnet.models.batch_norm import BatchNorm
from fcnet.models.mlp import MLP
from fcnet.training import ema
from fcnet.training.algorithm import GradientDescent
from fcnet.training.ema import WeightAverage
from fcnet.training.loop import Training
from tests.helpers import assert_identical
from tests.unit.training.helpers import PIXELS, copy_weights, make_labels, make_model, make_sgd

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 3.0 + 1.0
BATCHES = Batches(X, torch.arange(60) % 3, batch_size=16)


def test_the_average_decays_by_beta_and_faster_at_first() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average, expected = WeightAverage(model, 0.6), 0.0
    for step, decay in enumerate([2 / 11, 3 / 12, 4 / 13, 5 / 14], start=1):
        nn.init.constant_(model.weight, float(step))
        average.update(average.weight(step))
        expected = decay * expected + (1 - decay) * step
        assert average.weights["weight"].item() == pytest.approx(expected)
    average.update(average.weight(1000))
    assert average.weights["weight"].item() == pytest.approx(0.6 * expected + 0.4 * 4)


def test_the_model_has_the_average_within_the_block_and_its_own_weights_after() -> None:
    model = MLP(5, (8, 8), 3, normalization="batch", dropout=0.3, generator=torch.Generator().manual_seed(1))
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    before = copy_weights(model)
    model.train()
    with average.average_parameters(BATCHES, seed=0):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, average.weights[name])
        assert not torch.equal(model.dense_layers()[0].normalization.running_mean, torch.zeros(8))  # type: ignore[union-attr,arg-type]
    assert_identical(copy_weights(model), before)
    assert all(module.training for module in model.modules())


def test_the_statistics_of_a_large_set_come_from_its_first_random_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ema, "_NUM_BN_IMAGES", 20)
    norm = BatchNorm(5)
    WeightAverage(norm, 0.5).copy_to(BATCHES, seed=4)
    images = torch.cat([batch.images for batch, _ in zip(BATCHES.epoch(4, 0), range(2), strict=False)])
    assert_close(norm.running_mean, images.mean(0))


def test_validation_and_the_trained_model_use_the_average() -> None:
    model, labels, figures = make_model("batch norm"), make_labels(), []
    algorithm = GradientDescent(make_sgd(model, lr=0.5), epochs=2, ema_decay=0.7)
    training = Training(model, Batches(PIXELS, labels, batch_size=8), algorithm, validation=Batches(PIXELS, labels))
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for record in training.advance():
        if record is None:
            decay = min(0.7, (1 + training.step) / (10 + training.step))
            for name, parameter in model.named_parameters():
                average[name].mul_(decay).add_(parameter.detach(), alpha=1 - decay)
        else:
            figures.append((record.validation_loss, record.validation_accuracy))
            assert not torch.equal(model.dense_layers()[0].weight, average["layers.0.weight"])
    assert_close(dict(model.named_parameters()), average, rtol=1e-5, atol=1e-6)
    evaluation = evaluate(model, Batches(PIXELS, labels))
    assert figures[-1] == (evaluation.loss, evaluation.accuracy)
    assert figures[0] != figures[1]
