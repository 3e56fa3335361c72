"""Rules of fcnet.training.ema, fcnet.training.early_stopping, and of statistics that are found anew."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from fcnet.data.batches import Batches
from fcnet.models.batch_norm import BatchNorm, update_bn
from fcnet.models.mlp import MLP
from fcnet.training import ema
from fcnet.training.early_stopping import EarlyStopping
from fcnet.training.ema import WeightAverage

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 3.0 + 1.0
BATCHES = Batches(X, torch.arange(60) % 3, batch_size=16)


def network() -> MLP:
    return MLP(5, (8, 8), 3, normalization="batch", dropout=0.3, generator=torch.Generator().manual_seed(1))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_average_forgets_by_the_decay_and_its_beginning_faster() -> None:
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


def test_the_model_has_the_averages_while_they_are_in_place_and_itself_again_after() -> None:
    model = network()
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    before = snapshot(model)
    model.train()
    with average.average_parameters(BATCHES, seed=0):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, average.weights[name])
        assert not torch.equal(model.dense_layers()[0].normalization.running_mean, torch.zeros(8))  # type: ignore[union-attr,arg-type]
    assert snapshot(model).keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(model).items())
    assert all(module.training for module in model.modules())


def test_statistics_are_those_of_all_images_where_one_batch_holds_all() -> None:
    norm = BatchNorm(5)
    model = nn.Sequential(norm, nn.Dropout(0.5))
    norm.running_mean.fill_(7.0)
    update_bn(model, Batches(X, torch.zeros(60, dtype=torch.int64), batch_size=60))
    assert_close(norm.running_mean, X.mean(0))
    assert_close(norm.running_var, X.var(0))
    assert norm.momentum == 0.1
    assert norm.training


def test_each_batch_counts_by_its_size() -> None:
    norm = BatchNorm(5)
    update_bn(norm, Batches(X[:40], torch.zeros(40, dtype=torch.int64), batch_size=16))
    parts = X[:40].split(16)
    assert_close(norm.running_mean, X[:40].mean(0))
    assert_close(norm.running_var, sum(len(part) / 40 * part.var(0) for part in parts))


def test_statistics_come_from_a_random_part_of_a_large_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ema, "_NUM_BN_IMAGES", 20)
    norm = BatchNorm(5)
    WeightAverage(norm, 0.5).copy_to(BATCHES, seed=4)
    seen = torch.cat([batch.images for batch, _ in zip(BATCHES.epoch(4, 0), range(2), strict=False)])
    assert_close(norm.running_mean, seen.mean(0))


def test_patience_is_lost_after_so_many_epochs_without_a_better_one() -> None:
    model = nn.Linear(1, 1)
    stopping = EarlyStopping(2)
    for epoch, (accuracy, lost) in enumerate([(0.5, False), (0.7, False), (0.7, False), (0.6, True)], start=1):
        nn.init.constant_(model.weight, float(epoch))
        stopping.update(epoch, accuracy, model)
        assert stopping.should_stop(epoch) is lost
    assert (stopping.epoch, stopping.accuracy) == (2, 0.7)
    stopping.restore_best(model)
    assert model.weight.item() == 2.0
