"""Tests of fcnet.training.early_stopping."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fcnet import fit
from fcnet.data.batches import Batches
from fcnet.evaluation.classification import evaluate
from fcnet.runtime.errors import UserError
from fcnet.training.algorithm import GradientDescent
from fcnet.training.early_stopping import EarlyStopping
from fcnet.training.loop import Training
from tests.helpers import assert_identical, random_images, seeded
from tests.unit.training.helpers import PIXELS, copy_weights, make_labels, make_model, make_sgd

if TYPE_CHECKING:
    from fcnet.config.selection import Selection


def test_training_stops_after_as_many_epochs_without_improvement_as_the_patience() -> None:
    model = nn.Linear(1, 1)
    stopping = EarlyStopping(2)
    for epoch, (accuracy, stop) in enumerate([(0.5, False), (0.7, False), (0.7, False), (0.6, True)], start=1):
        nn.init.constant_(model.weight, float(epoch))
        stopping.update(epoch, accuracy, model)
        assert stopping.should_stop(epoch) is stop
    assert (stopping.epoch, stopping.value) == (2, 0.7)
    stopping.restore_best(model)
    assert model.weight.item() == 2.0


@given(
    st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.75, math.nan, math.inf]), min_size=1, max_size=12),
    st.sampled_from(["validation_accuracy", "validation_loss"]),
)
def test_the_best_epoch_is_the_first_of_the_best_finite_figures(values: list[float], select: Selection) -> None:
    model, stopping = nn.Linear(1, 1), EarlyStopping(99, select)
    for epoch, value in enumerate(values, start=1):
        nn.init.constant_(model.weight, float(epoch))
        stopping.update(epoch, value, model)
    finite = [value for value in values if math.isfinite(value)]
    best = None if not finite else min(finite) if select == "validation_loss" else max(finite)
    expected = 1 if best is None else values.index(best) + 1
    assert (stopping.epoch, stopping.value) == (expected, best)
    stopping.restore_best(model)
    assert model.weight.item() == expected


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


def test_the_epoch_with_the_lowest_validation_loss_is_kept_if_that_is_the_figure() -> None:
    pixels = random_images(37, (1, 4, 5), seed=8)
    labels, held_out = make_labels(), torch.randint(3, (37,), generator=seeded(6))
    model = make_model("plain")
    algorithm = GradientDescent(make_sgd(model, lr=5.0), epochs=60, patience=4, select="validation_loss")
    training = Training(model, Batches(PIXELS, labels, batch_size=8), algorithm, validation=Batches(pixels, held_out))
    records = [record for record in training.advance() if record is not None]
    losses = [record.validation_loss or 0.0 for record in records]
    accuracies = [record.validation_accuracy or 0.0 for record in records]
    best = losses.index(min(losses))
    assert best != accuracies.index(max(accuracies))  # or the test could not tell the two figures apart
    assert (training.best_epoch, len(records)) == (best + 1, best + 1 + 4)
    assert evaluate(model, Batches(pixels, held_out)).loss == losses[best]


def test_a_figure_other_than_the_default_requires_a_validation_set() -> None:
    model = make_model("plain")
    algorithm = GradientDescent(make_sgd(model), epochs=1, select="validation_loss")
    with pytest.raises(UserError, match="select must be validation_accuracy without a validation set, got validation_"):
        fit(model, (PIXELS, make_labels()), algorithm)


def test_patience_requires_a_validation_set() -> None:
    model = make_model("plain")
    with pytest.raises(UserError, match="patience must be 0 without a validation set, got 3"):
        fit(model, (PIXELS, make_labels()), GradientDescent(make_sgd(model), epochs=1, patience=3))
