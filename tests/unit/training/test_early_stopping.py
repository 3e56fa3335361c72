"""Tests of fcnet.training.early_stopping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fcnet import fit
from fcnet.data.batches import Batches
from fcnet.evaluation.classification import evaluate
from fcnet.runtime.errors import UserError
from fcnet.training.algorithm import GradientDescent
from fcnet.training.early_stopping import EarlyStopping
from fcnet.training.loop import Training
from tests.helpers import assert_identical
from tests.unit.training.helpers import PIXELS, copy_weights, make_labels, make_model, make_sgd


def test_training_stops_after_as_many_epochs_without_improvement_as_the_patience() -> None:
    model = nn.Linear(1, 1)
    stopping = EarlyStopping(2)
    for epoch, (accuracy, stop) in enumerate([(0.5, False), (0.7, False), (0.7, False), (0.6, True)], start=1):
        nn.init.constant_(model.weight, float(epoch))
        stopping.update(epoch, accuracy, model)
        assert stopping.should_stop(epoch) is stop
    assert (stopping.epoch, stopping.accuracy) == (2, 0.7)
    stopping.restore_best(model)
    assert model.weight.item() == 2.0


def test_training_ends_early_with_the_weights_of_the_best_epoch() -> None:
    model, labels = make_model("batch norm"), make_labels()
    algorithm = GradientDescent(make_sgd(model, lr=3.0), epochs=40, patience=3)
    training = Training(model, Batches(PIXELS, labels, batch_size=8), algorithm, validation=Batches(PIXELS, labels))
    records, states = [], []
    for record in training.advance():
        if record is not None:
            records.append(record)
            states.append(copy_weights(model))
    accuracies = [record.validation_accuracy or 0.0 for record in records]
    best = accuracies.index(max(accuracies))
    assert len(records) == best + 1 + 3 < 40
    assert training.best_epoch == best + 1
    assert_identical(copy_weights(model), states[best])
    assert any(not torch.equal(states[-1][name], tensor) for name, tensor in states[best].items())


def test_the_best_epoch_is_kept_also_if_training_does_not_end_early() -> None:
    model, labels = make_model("plain"), make_labels()
    algorithm = GradientDescent(make_sgd(model, lr=3.0), epochs=6, patience=99)
    training = Training(model, Batches(PIXELS, labels, batch_size=8), algorithm, validation=Batches(PIXELS, labels))
    accuracies = [record.validation_accuracy for record in training.advance() if record is not None]
    assert len(accuracies) == 6
    assert evaluate(model, Batches(PIXELS, labels)).accuracy == max(map(float, filter(None, accuracies)))


def test_patience_requires_a_validation_set() -> None:
    model = make_model("plain")
    with pytest.raises(UserError, match="patience must be 0 without a validation set, got 3"):
        fit(model, (PIXELS, make_labels()), GradientDescent(make_sgd(model), epochs=1, patience=3))
