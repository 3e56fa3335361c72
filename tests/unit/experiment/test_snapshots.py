"""Rules of fcnet.experiment.snapshots: when a network under training is looked into, and with what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fcnet.data.batches import Augmentation, Batches, Preprocessing
from fcnet.data.transforms.augment import Flip
from fcnet.diagnostics import diagnose
from fcnet.experiment import snapshots
from fcnet.experiment.snapshots import Snapshots, snapshot_interval
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training

LINE = {"epoch", "step", "images", "dead_inputs", "layers", "warnings"}


def pictures(count: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 1, 4, 5), dtype=torch.uint8, generator=draws), torch.arange(count) % 3


def course(count: int = 300, *, epochs: int = 3, patience: int = 0, **settings: Any) -> Training:
    images, labels = pictures(count)
    rows = torch.arange(count)[count // 10 :]
    statistics = (torch.tensor([0.5]), torch.tensor([0.3]))
    model = MLP(20, (8,), 3, normalization="batch", dropout=0.2, generator=torch.Generator().manual_seed(1))
    algorithm = GradientDescent(
        torch.optim.SGD(model.parameters(), lr=0.05), epochs=epochs, loss=CrossEntropy(0.1), patience=patience
    )
    kept = Batches(images, labels, rows=torch.arange(count // 10), preprocessing=Preprocessing(*statistics))
    batches = Batches(
        images,
        labels,
        rows=rows,
        preprocessing=Preprocessing(*statistics),
        batch_size=64,
        augmentation=Augmentation((Flip(),)),
        **settings,
    )
    return Training(model, batches, algorithm, validation=kept, seed=4)


def test_a_look_is_that_of_the_training_images_as_they_are() -> None:
    training = course(200)  # of which all 180 are looked at
    line = Snapshots(training).take()
    images, labels = pictures(200)
    x = ((images[20:] / 255 - 0.5) / 0.3).flatten(1)
    expected = diagnose(training.model, x, labels[20:], CrossEntropy(0.1)).to_dict()
    assert set(line) == LINE
    assert (line["epoch"], line["step"], line["images"]) == (0, 0, 180)
    for ours, theirs in zip(line["layers"], expected["layers"], strict=True):
        assert ours["dead"] == theirs["dead"]
        for key in ("activation_mean", "activation_std", "weight_norm", "gradient_norm", "effective_rank"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4)


def test_every_look_is_of_the_same_few_training_images_and_never_of_those_kept_aside() -> None:
    training = course(400)
    first, again = Snapshots(training), Snapshots(training)
    assert torch.equal(first.rows, again.rows)
    assert len(set(first.rows.tolist())) == snapshots.IMAGES == 256
    assert int(first.rows.min()) >= 40
    before = first.take()
    assert before == first.take()
    list(training.advance())
    after = first.take()
    assert (after["epoch"], after["step"], after["images"]) == (3, 18, 256)
    assert after["dead_inputs"] == before["dead_inputs"]


def test_looking_changes_nothing_of_the_training() -> None:
    plain, looked_into = course(), course()
    look = Snapshots(looked_into).take
    look()
    expected = [record for record in plain.advance() if record is not None]
    seen = []
    for record in looked_into.advance():
        look()
        if record is not None:
            seen.append(record)
    figures = ("epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    for ours, theirs in zip(seen, expected, strict=True):
        assert [getattr(ours, name) for name in figures] == [getattr(theirs, name) for name in figures]
    for mine, other in zip(plain.model.state_dict().values(), looked_into.model.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_it_is_looked_before_the_first_epoch_between_epochs_and_at_the_end(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "snapshot_interval", lambda *_: every)
    training = course(epochs=5)
    looks, seen = Snapshots(training), [0]
    assert looks.due
    for record in training.advance():
        assert looks.due == (record is not None and (record.epoch % every == 0 or record.epoch == 5))
        if looks.due:
            seen.append(training.epoch)
    assert seen == sorted({*range(0, 6, every), 5})


def test_where_patience_is_lost_the_last_epoch_is_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "snapshot_interval", lambda *_: 1000)
    training = course(30, epochs=1000, patience=1)
    looks = Snapshots(training)
    due = [looks.due for record in training.advance() if record is not None]
    assert 1 < len(due) < 1000
    assert due == [False] * (len(due) - 1) + [True]


def test_the_rarer_the_looks_the_shorter_the_epochs() -> None:
    wide, narrow = [(512, 3072), (10, 512)], [(32, 64), (10, 32)]
    assert snapshot_interval(wide, 50_000, 391, 30) == 1
    assert snapshot_interval(wide, 500, 4, 30) == 30
    rates = [snapshot_interval(narrow, count, count // 64, 100) for count in (300, 1_000, 5_000, 100_000)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1] == 1


@pytest.mark.parametrize("epochs", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("matrices", [[(10, 64)], [(512, 64), (256, 512), (10, 256)], [(4096, 4096)] * 3])
def test_all_looks_of_a_run_are_estimated_at_a_few_hundredths_or_they_are_two(
    epochs: int, matrices: list[tuple[int, int]]
) -> None:
    every = snapshot_interval(matrices, 1294, 21, epochs)
    assert 1 <= every <= epochs
    looks = 1 + -(-epochs // every)
    share = looks * snapshots._snapshot_seconds(matrices, 256) / (epochs * snapshots._epoch_seconds(matrices, 1294, 21))
    assert share <= 0.02 or looks == 2


def test_a_model_of_torchs_is_looked_into_as_well() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 5), nn.ReLU(), nn.Linear(5, 3))
    batches = Batches(*pictures(30))
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=1)
    line = Snapshots(Training(model, batches, algorithm)).take()
    assert [layer["units"] for layer in line["layers"]] == [5, 3]
