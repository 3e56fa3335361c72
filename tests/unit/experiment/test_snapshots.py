"""Tests of fcnet.experiment.snapshots."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fcnet.data.batches import Augmentation, Batches, Preprocessing
from fcnet.data.transforms.augment import Flip
from fcnet.diagnostics import diagnose
from fcnet.experiment.snapshots import NUM_IMAGES, Snapshots
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training

KEYS = {"epoch", "step", "images", "dead_inputs", "layers", "warnings"}


def make_images(count: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 1, 4, 5), dtype=torch.uint8, generator=draws), torch.arange(count) % 3


def make_training(count: int = 300, *, epochs: int = 3, patience: int = 0) -> Training:
    """A training on 90% of the images, with augmentation, dropout and label smoothing."""
    images, labels = make_images(count)
    rows = torch.arange(count)
    preprocessing = Preprocessing(torch.tensor([0.5]), torch.tensor([0.3]))
    model = MLP(20, (8,), 3, normalization="batch", dropout=0.2, generator=torch.Generator().manual_seed(1))
    algorithm = GradientDescent(
        torch.optim.SGD(model.parameters(), lr=0.05), epochs=epochs, loss=CrossEntropy(0.1), patience=patience
    )
    held_out = Batches(images, labels, rows=rows[: count // 10], preprocessing=preprocessing)
    batches = Batches(
        images,
        labels,
        rows=rows[count // 10 :],
        preprocessing=preprocessing,
        batch_size=64,
        augmentation=Augmentation((Flip(),)),
    )
    return Training(model, batches, algorithm, validation=held_out, seed=4)


def test_a_snapshot_is_a_diagnosis_of_training_images_without_augmentation() -> None:
    training = make_training(200)  # all 180 training images are used
    line = Snapshots(training, every=1).take()
    images, labels = make_images(200)
    x = ((images[20:] / 255 - 0.5) / 0.3).flatten(1)
    expected = diagnose(training.model, x, labels[20:], CrossEntropy(0.1)).to_dict()
    assert set(line) == KEYS
    assert (line["epoch"], line["step"], line["images"]) == (0, 0, 180)
    for layer, other in zip(line["layers"], expected["layers"], strict=True):
        assert layer["dead"] == other["dead"]
        for key in ("activation_mean", "activation_std", "weight_norm", "gradient_norm", "effective_rank"):
            assert layer[key] == pytest.approx(other[key], rel=1e-4)


def test_all_snapshots_use_the_same_training_images() -> None:
    training = make_training(400)
    snapshots, again = Snapshots(training, every=1), Snapshots(training, every=2)
    assert torch.equal(snapshots.rows, again.rows)
    assert len(set(snapshots.rows.tolist())) == NUM_IMAGES == 256
    assert int(snapshots.rows.min()) >= 40  # no held-out image
    before = snapshots.take()
    assert before == snapshots.take()
    list(training.advance())
    after = snapshots.take()
    assert (after["epoch"], after["step"], after["images"]) == (3, 18, 256)
    assert after["dead_inputs"] == before["dead_inputs"]


def test_snapshots_change_nothing_in_the_training() -> None:
    plain, observed = make_training(), make_training()
    take = Snapshots(observed, every=1).take
    take()
    expected = [record for record in plain.advance() if record is not None]
    records = []
    for record in observed.advance():
        take()
        if record is not None:
            records.append(record)
    fields = ("epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    for record, other in zip(records, expected, strict=True):
        assert [getattr(record, name) for name in fields] == [getattr(other, name) for name in fields]
    for tensor, other_tensor in zip(
        plain.model.state_dict().values(), observed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other_tensor)


@pytest.mark.parametrize("every", [1, 2, 3, 5, 1000])
def test_snapshots_are_due_before_training_every_n_epochs_and_at_the_end(every: int) -> None:
    training = make_training(epochs=5)
    snapshots, epochs = Snapshots(training, every), [0]
    assert snapshots.due
    for record in training.advance():
        assert snapshots.due == (record is not None and (record.epoch % every == 0 or record.epoch == 5))
        if snapshots.due:
            epochs.append(training.epoch)
    assert epochs == sorted({*range(0, 6, every), 5})


def test_no_snapshot_is_due_if_the_interval_is_0() -> None:
    training = make_training()
    snapshots = Snapshots(training, every=0)
    assert not snapshots.due
    assert not any(snapshots.due for _ in training.advance())


def test_a_snapshot_is_due_when_early_stopping_ends_the_training() -> None:
    training = make_training(30, epochs=1000, patience=1)
    snapshots = Snapshots(training, every=1000)
    due = [snapshots.due for record in training.advance() if record is not None]
    assert 1 < len(due) < 1000
    assert due == [False] * (len(due) - 1) + [True]


def test_a_restored_training_is_due_at_the_same_epochs() -> None:
    def due_epochs(training: Training, epochs: list[int]) -> list[int]:
        snapshots = Snapshots(training, every=2)
        return epochs + [training.epoch for record in training.advance() if record is not None and snapshots.due]

    training, restored = make_training(epochs=5), make_training(epochs=5)
    state: tuple[dict[str, Tensor], dict[str, Any]] | None = None
    for record in training.advance():
        if record is not None and record.epoch == 3:
            state = training.state()
            break
    assert state is not None
    restored.restore(*state)
    assert due_epochs(restored, [2]) == due_epochs(make_training(epochs=5), []) == [2, 4, 5]


@pytest.mark.parametrize(("max_share", "expected"), [(math.inf, 2), (0.5, 2), (0.1, 4), (0.02, 12)])
def test_the_interval_grows_until_its_snapshot_takes_at_most_a_share_of_the_training(
    max_share: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot of 0.24 s, after two epochs of 1 s each, is 12% of the training time."""
    training = make_training(epochs=2)
    snapshots = Snapshots(training, 2, max_share=max_share)
    list(training.advance())
    monkeypatch.setattr(type(training), "train_seconds", 2.0)
    monkeypatch.setattr(time, "perf_counter", iter([0.0, 0.24]).__next__)
    line = snapshots.take()
    assert snapshots.interval == expected
    assert line.get("interval", 2) == expected
    assert Snapshots(training, 2, [line]).interval == expected


def test_snapshots_work_with_torch_modules() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 5), nn.ReLU(), nn.Linear(5, 3))
    batches = Batches(*make_images(30))
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.1), epochs=1)
    line = Snapshots(Training(model, batches, algorithm), every=1).take()
    assert [layer["units"] for layer in line["layers"]] == [5, 3]
