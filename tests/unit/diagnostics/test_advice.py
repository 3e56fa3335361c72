"""Rules of fcnet.diagnostics.advice: each sign is remarked on, with what to try, and its absence is not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fcnet.diagnostics.advice import (
    class_advice,
    class_frequency_loss,
    idle_unit_advice,
    loss_advice,
    score_advice,
    validation_advice,
)
from fcnet.losses import CrossEntropy

NAN = math.nan
TEN = math.log(10)


def records(losses: list[float], steps: int = 100) -> list[dict[str, Any]]:
    return [{"step": steps * (epoch + 1), "train_loss": loss} for epoch, loss in enumerate(losses)]


def seen(losses: list[float | None], *, known: float = 1.0, accuracy: float | None = 0.7) -> list[dict[str, Any]]:
    figures = {"train_accuracy": known, "validation_accuracy": accuracy}
    return [{"step": 100 * (epoch + 1), "validation_loss": loss, **figures} for epoch, loss in enumerate(losses)]


NOTHING, SLOW, FAST, AGAIN = "nothing was learned", "the training loss moved by ", "the training loss rose to", "again"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([TEN, TEN], NOTHING),
        ([1.01 * TEN], NOTHING),
        ([5.0, 2.0, 0.99 * TEN], NOTHING),
        ([2.6, 2.59, 2.58], SLOW),
        ([2.25, 2.24, 2.23], SLOW),
        ([2.4, 3.0, 2.9], FAST),
        ([2.9, 40.0, 7.0], FAST),
        ([2.5, 2.4, math.inf], FAST),
        ([2.0, 0.5, 0.6, 0.9], AGAIN),
        ([1.0, 0.1, 1.5], AGAIN),
    ],
)
def test_a_loss_that_does_not_fall_is_remarked_on_with_another_rate(losses: list[float], expected: str) -> None:
    (said,) = loss_advice(records(losses), TEN, lr=0.02)
    assert expected in said
    tried = {NOTHING: "0.002 or 0.2", SLOW: "0.2", FAST: "0.002", AGAIN: "0.002"}[expected]
    assert f"; try optimizer.lr = {tried} (now 0.02)" in said
    assert "\n" not in said


def test_a_still_validation_loss_tells_a_still_training_from_augmentations_noise() -> None:
    noisy = records([2.5, 2.7, 2.4, 2.6])
    assert FAST in loss_advice(noisy, TEN, lr=0.02)[0]
    assert SLOW in loss_advice([record | {"validation_loss": 2.5} for record in noisy], TEN, lr=0.02)[0]


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, 1.0, 0.5],
        [2.9, 2.7, 2.5],  # begins above guessing and falls
        [2.6],  # one epoch says nothing of how the loss moves
        [0.3, 0.3, 0.3],  # all there is to learn was learned in the first epoch
        [1.0, 0.1, 0.15],
        [0.01, 0.001, 0.02],
        [],
    ],
)
def test_a_loss_that_falls_or_has_fallen_is_passed_over(losses: list[float]) -> None:
    assert loss_advice(records(losses), TEN, lr=0.02) == []


@pytest.mark.parametrize("losses", [[TEN, TEN], [2.6, 2.59, 2.58], [2.4, 3.0, 2.9], [2.0, 0.5, 0.9]])
def test_a_few_steps_say_nothing(losses: list[float]) -> None:
    assert loss_advice(records(losses, steps=10), TEN, lr=1.0) == []
    assert class_advice([[9, 0], [9, 0]], ["cat", "dog"], steps=49) == []
    assert idle_unit_advice([(1, 8, 8)], "relu", 1.0, steps=49) == []
    few = [record | {"step": 49} for record in seen([0.5, 1.0, 1.0, 1.0])]
    assert validation_advice(few, 1.0) == []


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("counts", [[5, 5], [1, 9], [3, 3, 3, 1]])
def test_guessing_is_the_least_loss_of_one_answer_for_all(counts: list[int], smoothing: float) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    logits = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def mean_loss() -> torch.Tensor:
        optimizer.zero_grad()
        loss = CrossEntropy(smoothing)(logits.expand(len(labels), -1), labels) / len(labels)
        loss.backward()
        return loss

    optimizer.step(mean_loss)
    assert class_frequency_loss(counts, smoothing) == pytest.approx(mean_loss().item(), rel=1e-6)


def test_a_class_without_images_costs_guessing_nothing() -> None:
    assert class_frequency_loss([7, 0, 7]) == pytest.approx(math.log(2))
    assert loss_advice(records([0.0, 0.0]), class_frequency_loss([7, 0]), lr=1.0) == []


OVERFITTED = [1.0, 0.8, 0.9, 1.1]


def test_knowing_the_images_by_heart_is_remarked_on() -> None:
    (said,) = validation_advice(seen([*OVERFITTED]), lr=0.1)
    assert said.startswith("training accuracy 100.0% is far above validation accuracy 70.0%, and the validation loss")
    assert "since epoch 2; try data.augment, optimizer.weight_decay, model.dropout or fewer train.epochs" in said


@pytest.mark.parametrize(
    "figures",
    [
        seen([*OVERFITTED], accuracy=0.81),
        seen([1.0, 0.9, 0.8, 0.9]),
        seen([1.0, 0.8, 0.82, 0.83]),
        seen([1.0, 0.8, 0.7, 0.6]),
        seen([None] * 4, accuracy=None),
    ],
)
def test_a_gap_alone_or_a_rise_alone_is_passed_over(figures: list[dict[str, Any]]) -> None:
    assert validation_advice(figures, lr=0.1) == []


@pytest.mark.parametrize("last", [None, NAN, math.inf])
def test_a_validation_loss_that_is_no_number_is_remarked_on(last: float | None) -> None:
    expected = ["the validation loss is not a number; try optimizer.lr = 0.01 (now 0.1)"]
    assert validation_advice(seen([1.0, last]), lr=0.1) == expected
    assert validation_advice(seen([last, 1.0, 0.8]), lr=0.1) == []


def test_a_class_that_nothing_is_taken_for_is_named() -> None:
    confusion = [[5, 0, 1, 0], [3, 0, 2, 0], [0, 0, 5, 0], [1, 0, 3, 0]]
    names = ["cat", "dog", "eel", "fox"]
    expected = ["no image is ever taken for dog; look at its training images, and how many there are"]
    assert class_advice(confusion, names, steps=100) == expected  # of foxes there are four images: too few to tell
    confusion[3] = [2, 0, 3, 0]
    assert "taken for dog, fox; look at their " in class_advice(confusion, names, steps=100)[0]
    confusion[0][1] = 1
    confusion[0][3] = 1
    assert class_advice(confusion, names, steps=100) == []


def test_many_classes_are_not_all_named() -> None:
    confusion = [[9, *[0] * 7] for _ in range(8)]
    (said,) = class_advice(confusion, list("abcdefgh"), steps=100)
    assert "taken for b, c, d, e, f and 2 more classes; " in said


@pytest.mark.parametrize(
    ("activation", "words"),
    [("relu", "dead: 0 for every image"), ("sigmoid", "saturated: 0 or 1 for every image")],
)
def test_layers_whose_units_are_mostly_idle_are_named(activation: str, words: str) -> None:
    layers = [(1, 10, 5), (2, 10, 6), (3, 4, 4)]
    (said,) = idle_unit_advice(layers, activation, 0.5, steps=100)
    assert said.startswith(f"in layers 2, 3, 60%, 100% of the units are {words}; try optimizer.lr = 0.05 (now 0.5)")
    assert idle_unit_advice(layers[:1], activation, 0.5, steps=100) == []


def test_scores_that_are_no_probabilities_are_remarked_on() -> None:
    for loss in ("hinge", "quadratic"):
        (said,) = score_advice(loss)
        assert said == (
            f"the {loss} loss makes scores that are no probabilities: trust the class, not the probability beside it"
        )
    assert score_advice("logistic") == []
