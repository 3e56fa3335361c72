"""Tests of fcnet.diagnostics.advice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fcnet.diagnostics.advice import (
    class_advice,
    class_frequency_loss,
    cuda_graph_advice,
    gradient_advice,
    idle_unit_advice,
    input_advice,
    layer_advice,
    loss_advice,
    score_advice,
    validation_advice,
)
from fcnet.losses import CrossEntropy
from fcnet.metrics import Confusion

NAN = math.nan
LOG_10 = math.log(10)  # the loss of guessing one of ten classes
NOTHING_LEARNED, NO_CHANGE, ROSE, ROSE_AGAIN = "nothing was learned", "changed by only", "loss rose to", "rose again"
LESS_DECAY = "try less weight decay, a smaller learning rate or fewer units"


def make_records(losses: list[float], steps: int = 100) -> list[dict[str, Any]]:
    return [{"step": steps * (epoch + 1), "train_loss": loss} for epoch, loss in enumerate(losses)]


def make_validation_records(
    losses: list[float | None], *, train_accuracy: float = 1.0, accuracy: float | None = 0.7
) -> list[dict[str, Any]]:
    accuracies = {"train_accuracy": train_accuracy, "validation_accuracy": accuracy}
    return [{"step": 100 * (epoch + 1), "validation_loss": loss, **accuracies} for epoch, loss in enumerate(losses)]


# --- the training loss ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "problem"),
    [
        ([LOG_10, LOG_10], NOTHING_LEARNED),
        ([1.01 * LOG_10], NOTHING_LEARNED),
        ([5.0, 2.0, 0.99 * LOG_10], NOTHING_LEARNED),
        ([2.6, 2.59, 2.58], NO_CHANGE),
        ([2.25, 2.24, 2.23], NO_CHANGE),
        ([2.4, 3.0, 2.9], ROSE),
        ([2.9, 40.0, 7.0], ROSE),
        ([2.5, 2.4, math.inf], ROSE),
        ([2.0, 0.5, 0.6, 0.9], ROSE_AGAIN),
        ([1.0, 0.1, 1.5], ROSE_AGAIN),
    ],
)
def test_a_training_loss_that_does_not_fall_gets_another_learning_rate(losses: list[float], problem: str) -> None:
    (line,) = loss_advice(make_records(losses), LOG_10, lr=0.02)
    assert problem in line
    remedy = {NOTHING_LEARNED: "0.002 or 0.2", NO_CHANGE: "0.2", ROSE: "0.002", ROSE_AGAIN: "0.002"}[problem]
    assert f"; try optimizer.lr = {remedy} (now 0.02)" in line
    assert "\n" not in line


def test_a_constant_validation_loss_separates_no_progress_from_noisy_augmentation() -> None:
    noisy = make_records([2.5, 2.7, 2.4, 2.6])
    assert ROSE in loss_advice(noisy, LOG_10, lr=0.02)[0]
    assert NO_CHANGE in loss_advice([record | {"validation_loss": 2.5} for record in noisy], LOG_10, lr=0.02)[0]


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, 1.0, 0.5],
        [2.9, 2.7, 2.5],  # starts above guessing and falls
        [2.6],  # one epoch shows no change
        [0.3, 0.3, 0.3],  # everything was learned in the first epoch
        [1.0, 0.1, 0.15],
        [0.01, 0.001, 0.02],
        [],
    ],
)
def test_a_training_loss_that_falls_or_has_fallen_gets_no_advice(losses: list[float]) -> None:
    assert loss_advice(make_records(losses), LOG_10, lr=0.02) == []


@pytest.mark.parametrize("losses", [[LOG_10, LOG_10], [2.6, 2.59, 2.58], [2.4, 3.0, 2.9], [2.0, 0.5, 0.9]])
def test_a_training_of_few_steps_gets_no_advice(losses: list[float]) -> None:
    assert loss_advice(make_records(losses, steps=10), LOG_10, lr=1.0) == []
    assert class_advice(Confusion.from_table([[9, 0], [9, 0]]), ["cat", "dog"], steps=49) == []
    assert idle_unit_advice([{"layer": 1, "dead": 1.0}], lr=1.0, steps=49) == []
    assert idle_unit_advice([{"layer": 1, "dead": 1.0}], lr=1.0, steps=50) != []
    short = [record | {"step": 49} for record in make_validation_records([0.5, 1.0, 1.0, 1.0])]
    assert validation_advice(short, 1.0) == []


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("counts", [[5, 5], [1, 9], [3, 3, 3, 1]])
def test_the_class_frequency_loss_is_the_minimum_over_constant_logits(counts: list[int], smoothing: float) -> None:
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


def test_a_class_without_images_adds_nothing_to_the_class_frequency_loss() -> None:
    assert class_frequency_loss([7, 0, 7]) == pytest.approx(math.log(2))
    assert loss_advice(make_records([0.0, 0.0]), class_frequency_loss([7, 0]), lr=1.0) == []


# --- validation -------------------------------------------------------------------------------------------------

OVERFITTED = [1.0, 0.8, 0.9, 1.1]


def test_overfitting_is_reported_with_both_accuracies_and_the_epoch() -> None:
    (line,) = validation_advice(make_validation_records([*OVERFITTED]), lr=0.1)
    assert line == (
        "overfitting: training accuracy 100.0%, validation accuracy 70.0%, and the validation loss rises "
        "since epoch 2; try data.augment, optimizer.weight_decay, model.dropout or fewer train.epochs"
    )


@pytest.mark.parametrize(
    "records",
    [
        make_validation_records([*OVERFITTED], accuracy=0.81),
        make_validation_records([1.0, 0.9, 0.8, 0.9]),
        make_validation_records([1.0, 0.8, 0.82, 0.83]),
        make_validation_records([1.0, 0.8, 0.7, 0.6]),
        make_validation_records([None] * 4, accuracy=None),
    ],
)
def test_an_accuracy_gap_alone_or_a_rising_loss_alone_is_not_overfitting(records: list[dict[str, Any]]) -> None:
    assert validation_advice(records, lr=0.1) == []


@pytest.mark.parametrize("last", [None, NAN, math.inf])
def test_a_nonfinite_validation_loss_is_reported_if_it_is_the_last(last: float | None) -> None:
    expected = ["the validation loss is NaN or inf; try optimizer.lr = 0.01 (now 0.1)"]
    assert validation_advice(make_validation_records([1.0, last]), lr=0.1) == expected
    assert validation_advice(make_validation_records([last, 1.0, 0.8]), lr=0.1) == []


# --- classes, scores, CUDA graphs -------------------------------------------------------------------------------


def test_classes_that_are_never_predicted_are_named() -> None:
    confusion = [[5, 0, 1, 0], [3, 0, 2, 0], [0, 0, 5, 0], [1, 0, 3, 0]]
    names = ["cat", "dog", "eel", "fox"]
    expected = ["no image is classified as dog; check its training images and their number"]
    assert (
        class_advice(Confusion.from_table(confusion), names, steps=100) == expected
    )  # four images of foxes are too few to tell
    confusion[3] = [2, 0, 3, 0]
    assert "classified as dog, fox; check their " in class_advice(Confusion.from_table(confusion), names, steps=100)[0]
    confusion[0][1] = 1
    confusion[0][3] = 1
    assert class_advice(Confusion.from_table(confusion), names, steps=100) == []


def test_at_most_five_classes_are_named() -> None:
    confusion = [[9, *[0] * 7] for _ in range(8)]
    (line,) = class_advice(Confusion.from_table(confusion), list("abcdefgh"), steps=100)
    assert "classified as b, c, d, e, f and 2 more classes; " in line


def test_losses_without_probabilities_are_reported() -> None:
    for loss in ("hinge", "quadratic"):
        (line,) = score_advice(loss)
        assert line == f"the {loss} loss does not yield probabilities: use the predicted class, not its probability"
    assert score_advice("logistic") == []


def test_steps_without_a_cuda_graph_are_reported_with_the_reason() -> None:
    assert cuda_graph_advice(None) == []
    assert cuda_graph_advice("no memory") == ["steps were launched one by one, not replayed as a CUDA graph: no memory"]


# --- layers -----------------------------------------------------------------------------------------------------


def make_layer(number: int, **changes: Any) -> dict[str, Any]:
    """The figures of a healthy layer, with changes."""
    healthy = {"dead": 0.0, "saturated": None, "activation_mean": 0.5, "gradient_norm": 1.0, "effective_rank": 40.0}
    return {"layer": number, "max_rank": 50, **healthy, **changes}


def test_a_healthy_network_gets_no_advice() -> None:
    assert layer_advice([make_layer(1), make_layer(2, dead=0.3, saturated=0.3), make_layer(3, dead=None)]) == []
    assert layer_advice([]) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dead": 0.41}, "layer 2: 41% of the units are dead; try leaky_relu or a smaller learning rate"),
        ({"saturated": 1.0}, "layer 2: 100% of the units are saturated; try relu, gelu or a smaller learning rate"),
        ({"effective_rank": 2.31}, f"layer 2: the effective rank of the weights is 2.31 of at most 50; {LESS_DECAY}"),
        ({"activation_mean": math.nan}, "layer 2: activations contain NaN or inf; try a smaller learning rate"),
        ({"activation_mean": math.inf}, "layer 2: activations contain NaN or inf; try a smaller learning rate"),
    ],
)
def test_a_problem_of_a_layer_is_reported_with_its_number_and_a_remedy(changes: dict[str, Any], line: str) -> None:
    assert layer_advice([make_layer(1), make_layer(2, **changes), make_layer(3)]) == [line]


def test_a_layer_with_nonfinite_activations_gets_no_other_advice() -> None:
    (line,) = layer_advice([make_layer(1, activation_mean=NAN, dead=0.9, effective_rank=1.0)])
    assert line.startswith("layer 1: activations contain NaN or inf; ")


def test_a_low_rank_is_normal_in_a_narrow_layer() -> None:
    assert layer_advice([make_layer(1, effective_rank=1.0, max_rank=31)]) == []
    assert layer_advice([make_layer(1, effective_rank=1.0, max_rank=32)]) != []


def test_unknown_figures_get_no_advice() -> None:
    unknown = dict.fromkeys(("dead", "saturated", "activation_mean", "gradient_norm", "effective_rank", "max_rank"))
    assert layer_advice([{"layer": 1, **unknown}, {"layer": 2}]) == []


@pytest.mark.parametrize(
    ("state", "other"), [("dead", "leaky_relu"), ("saturated", "relu, gelu")], ids=["dead", "saturated"]
)
def test_layers_with_many_idle_units_share_a_line(state: str, other: str) -> None:
    layers = [{"layer": 1, state: 0.3}, {"layer": 2, state: 0.6}, {"layer": 3, state: 1.0}]
    assert idle_unit_advice(layers, lr=0.5, steps=100) == [
        f"layers 2, 3: 60%, 100% of the units are {state}; try {other} or optimizer.lr = 0.05 (now 0.5)"
    ]
    assert idle_unit_advice(layers[:1], lr=0.5, steps=100) == []


def test_one_threshold_decides_for_a_snapshot_and_for_a_finished_run() -> None:
    for share in (0.3, 0.31, 0.5):
        of_snapshot = layer_advice([make_layer(1, dead=share)])
        of_run = idle_unit_advice([{"layer": 1, "dead": share}], lr=1.0, steps=100)
        assert len(of_snapshot) == len(of_run) == (share > 0.3)


@pytest.mark.parametrize(
    ("norms", "start"),
    [
        ([0.5, 1.0], ""),
        ([1.1e-3, 1.0], ""),
        ([0.9e-3, 1.0], "layer 1: the gradient vanishes, 0.0009 times that of layer 2; "),
        ([1.0, 1e-9, 1.0], "layer 2: the gradient vanishes, 1e-09 times that of layer 3; "),
        ([0.0, 0.1, 1.0], "layer 1: the gradient vanishes, 0 times that of layer 3; "),
        ([1.1e3, 1.0], "layer 1: the gradient explodes, 1.1e+03 times that of layer 2; "),
        ([None, 1e-9, 1.0], "layer 2: the gradient vanishes, 1e-09 times that of layer 3; "),
        ([math.nan, 1.0], ""),
        ([1.0, math.nan], ""),
        ([1.0, 0.0], ""),
        ([1.0, None], ""),
        ([1.0], ""),
        ([], ""),
    ],
)
def test_gradients_that_vanish_or_explode_are_reported(norms: list[float | None], start: str) -> None:
    lines = gradient_advice(norms)
    assert len(lines) == bool(start)
    assert all(line.startswith(start) for line in lines)


def test_inputs_are_reported_if_most_of_them_are_constant() -> None:
    assert input_advice(0.5) == input_advice(None) == []
    assert input_advice(0.62)[0].startswith("62% of the inputs are the same in every image; ")


def test_advice_names_no_learning_rate_for_an_optimizer_without_one() -> None:
    """L-BFGS ignores optimizer.lr."""
    flat, worse = make_records([LOG_10, LOG_10]), make_records([LOG_10, 2 * LOG_10])
    assert loss_advice(flat, LOG_10, lr=None)[0].endswith(
        '; try optimizer.name = "adamw", and check that the labels match the images'
    )
    assert loss_advice(worse, LOG_10, lr=None)[0].endswith('; try optimizer.name = "adamw"')
    (line,) = idle_unit_advice([{"layer": 1, "dead": 1.0}], has_lr=False, steps=100)
    assert line.endswith("; try leaky_relu")


def test_advice_names_no_dropout_for_a_network_without_hidden_layers() -> None:
    records = make_validation_records([*OVERFITTED])
    with_hidden, without = (validation_advice(records, 0.1, has_hidden_layers=has)[0] for has in (True, False))
    assert with_hidden.endswith("; try data.augment, optimizer.weight_decay, model.dropout or fewer train.epochs")
    assert without == with_hidden.replace(", model.dropout or", " or")
