"""Turns the figures of a training and of its layers into warnings: what went wrong, and what to try.

Each function takes plain figures and returns a list of lines ``problem; remedy``, which is empty if nothing is wrong.
The lines become the ``warnings`` of ``summary.json``, of ``diagnostics.jsonl``, and of `fcnet.diagnostics.diagnose`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeGuard

from fcnet.runtime.formatting import format_percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fcnet.metrics import Confusion

    Records = Sequence[Mapping[str, Any]]
    Layers = Sequence[Mapping[str, Any]]

# Below these counts a loss curve or a confusion matrix is mostly noise.
_MIN_STEPS = 50
_MIN_IMAGES_PER_CLASS = 5
# Changes of the loss, as fractions of the loss of guessing by class frequency.
_NO_CHANGE = 0.02
_INCREASE = 0.1
_ACCURACY_GAP = 0.2
_VALIDATION_LOSS_INCREASE = 0.05  # relative to the lowest validation loss
# One threshold for dead and saturated units. A healthy layer has next to none of them (docs/inside.md), so 30% is never
# normal, and it leaves time to act; by 50% a training has usually been lost for many epochs.
_IDLE_FRACTION = 0.3
# Borders and backgrounds make up to half of ordinary images (of the digits, for example).
_CONSTANT_INPUT_FRACTION = 0.5
_VANISHING_GRADIENT, _EXPLODING_GRADIENT = 1e-3, 1e3
# In a narrow layer a rank of one or two is normal.
_LOW_RANK_FRACTION, _MIN_RANK_WIDTH = 0.05, 32
_MAX_NAMED_CLASSES = 5


def class_frequency_loss(counts: Sequence[int], label_smoothing: float = 0.0) -> float:
    """Computes −Σ q log q, the lowest mean cross-entropy of a model that ignores its input.

    q is the frequency of each of the C classes; with label smoothing, (1 − ε) · frequency + ε / C.

    Args:
        counts: the number of images of each class.
        label_smoothing: ε, from 0 to 1.

    Example:
        >>> class_frequency_loss([50, 50]) == math.log(2)
        True
    """
    total = sum(counts)
    targets = ((1.0 - label_smoothing) * count / total + label_smoothing / len(counts) for count in counts)
    return -sum(target * math.log(target) for target in targets if target)


def loss_advice(records: Records, baseline: float, lr: float | None) -> list[str]:
    """Checks that the training loss fell, and stayed low.

    Args:
        records: one per epoch, as in ``metrics.jsonl``.
        baseline: the loss of guessing by class frequency; see `class_frequency_loss`.
        lr: the learning rate before the schedule; None if the optimizer has none, as L-BFGS.

    Example:
        >>> records = [{"step": 100 * epoch, "train_loss": 2.2 + epoch} for epoch in (1, 2, 3)]
        >>> print(*loss_advice(records, baseline=2.3, lr=1.0))
        the training loss rose to 5.2, above that of guessing by class frequency (2.3); try optimizer.lr = 0.1 (now 1)
    """
    if not records or records[-1]["step"] < _MIN_STEPS or baseline == 0.0:
        return []
    losses = [record["train_loss"] if _is_finite(record["train_loss"]) else math.inf for record in records]
    first, last, lowest = losses[0], losses[-1], min(losses)
    # Augmentation makes the training loss noisy. The validation loss is not, so it shows best that nothing moves.
    validation: list[float] = [loss for record in records if _is_finite(loss := record.get("validation_loss"))]
    curves = [losses, validation] if len(validation) == len(losses) else [losses]
    spread = min(max(curve) - min(curve) for curve in curves)
    guessing = f"that of guessing by class frequency ({baseline:.2g})"
    if abs(last - baseline) <= _NO_CHANGE * baseline:
        problem = f"the training loss, {last:.3g}, is {guessing}: nothing was learned"
        remedy = f"{_other_lr(lr, 0.1, 10.0)}, and check that the labels match the images"
    elif len(losses) > 1 and spread <= _NO_CHANGE * baseline and last > (1.0 - 2.0 * _NO_CHANGE) * baseline:
        problem = f"the training loss changed by only {spread:.2g} in {len(losses)} epochs, and is close to {guessing}"
        remedy = _other_lr(lr, 10.0)
    elif len(losses) > 1 and last > (1.0 + _NO_CHANGE) * baseline and last > first - _NO_CHANGE * baseline:
        problem = f"the training loss rose to {last:.2g}, above {guessing}"
        remedy = _other_lr(lr, 0.1)
    elif last - lowest > _INCREASE * baseline:
        epoch = losses.index(lowest) + 1
        problem = f"the training loss rose again, from {lowest:.2g} in epoch {epoch} to {last:.2g}"
        remedy = _other_lr(lr, 0.1)
    else:
        return []
    return [f"{problem}; try {remedy}"]


def _other_lr(lr: float | None, *factors: float) -> str:
    """Returns the setting to try: another learning rate, or another optimizer in place of one without."""
    if lr is None:
        return 'optimizer.name = "adamw"'
    return f"optimizer.lr = {' or '.join(f'{lr * factor:.2g}' for factor in factors)} (now {lr:g})"


def validation_advice(records: Records, lr: float | None, *, has_hidden_layers: bool = True) -> list[str]:
    """Checks for overfitting (an accuracy gap and a rising validation loss), and for a validation loss of NaN or inf.

    Args:
        records: one per epoch, as in ``metrics.jsonl``.
        lr: the learning rate before the schedule; None if the optimizer has none, as L-BFGS.
        has_hidden_layers: whether the network has hidden layers, to which alone dropout applies.

    Example:
        >>> losses = [1.0, 0.8, 0.9, 1.1]
        >>> figures = {"step": 100, "train_accuracy": 0.99, "validation_accuracy": 0.7}
        >>> print(validation_advice([figures | {"validation_loss": loss} for loss in losses], 1.0)[0].split(";")[0])
        overfitting: training accuracy 99.0%, validation accuracy 70.0%, and the validation loss rises since epoch 2
    """
    if not records or records[-1]["step"] < _MIN_STEPS or records[-1]["validation_accuracy"] is None:
        return []
    losses = [record["validation_loss"] if _is_finite(record["validation_loss"]) else math.inf for record in records]
    if math.isinf(losses[-1]):
        return [f"the validation loss is NaN or inf; try {_other_lr(lr, 0.1)}"]
    train_accuracy, accuracy = records[-1]["train_accuracy"], records[-1]["validation_accuracy"]
    best = min(range(len(losses)), key=losses.__getitem__)
    is_gap_wide = train_accuracy - accuracy > _ACCURACY_GAP
    is_rising = best < len(losses) - 2 and losses[-1] > (1.0 + _VALIDATION_LOSS_INCREASE) * losses[best]
    if not (is_gap_wide and is_rising):
        return []
    accuracies = (
        f"training accuracy {format_percent(train_accuracy, 1)}, validation accuracy {format_percent(accuracy, 1)}"
    )
    problem = f"overfitting: {accuracies}, and the validation loss rises since epoch {best + 1}"
    dropout = ", model.dropout" if has_hidden_layers else ""
    return [f"{problem}; try data.augment, optimizer.weight_decay{dropout} or fewer train.epochs"]


def class_advice(confusion: Confusion, classes: Sequence[str], *, steps: int) -> list[str]:
    """Lists the classes that the model never predicts.

    Args:
        confusion: the predictions for images that were not trained on.
        classes: the C class names.
        steps: the number of training steps.

    Example:
        >>> from fcnet.metrics import Confusion
        >>> print(*class_advice(Confusion.from_table([[9, 0], [7, 0]]), ["cat", "dog"], steps=100))
        no image is classified as dog; check its training images and their number
    """
    if steps < _MIN_STEPS:
        return []
    is_absent = (confusion.class_counts >= _MIN_IMAGES_PER_CLASS) & (confusion.predicted_counts == 0)
    absent = [classes[label] for label in is_absent.nonzero()[0].tolist()]
    if not absent:
        return []
    more = len(absent) - _MAX_NAMED_CLASSES
    names = ", ".join(absent[:_MAX_NAMED_CLASSES]) + (f" and {more} more classes" if more > 0 else "")
    whose = "its" if len(absent) == 1 else "their"
    return [f"no image is classified as {names}; check {whose} training images and their number"]


def score_advice(loss: str) -> list[str]:
    """Warns that a model's outputs are not probabilities, if its loss does not make them so.

    Args:
        loss: ``"logistic"``, ``"hinge"`` or ``"quadratic"``.

    Example:
        >>> print(*score_advice("hinge"))
        the hinge loss does not yield probabilities: use the predicted class, not its probability
        >>> score_advice("logistic")
        []
    """
    if loss == "logistic":
        return []
    return [f"the {loss} loss does not yield probabilities: use the predicted class, not its probability"]


def cuda_graph_advice(reason: str | None) -> list[str]:
    """Warns that the steps of a training on a GPU were not replayed as a CUDA graph.

    Args:
        reason: why not; None if they were.

    Example:
        >>> print(*cuda_graph_advice("the images are not on the device"))
        steps were launched one by one, not replayed as a CUDA graph: the images are not on the device
    """
    return [] if reason is None else [f"steps were launched one by one, not replayed as a CUDA graph: {reason}"]


def snapshot_advice(interval: int | None, every: int) -> list[str]:
    """Says that a run took fewer diagnostics snapshots than configured, because they took too long.

    Args:
        interval: the number of epochs between the snapshots that were taken; None if it is that of the configuration.
        every: ``train.diagnostics_every``.

    Example:
        >>> print(*snapshot_advice(40, 10))
        diagnostics snapshots were taken every 40 epochs, not every 10, to take at most about 2% of the training time
    """
    if interval is None:
        return []
    taken = f"diagnostics snapshots were taken every {interval:,} epochs, not every {every:,}"
    return [f"{taken}, to take at most about 2% of the training time"]


def layer_advice(layers: Layers) -> list[str]:
    """Checks the activations, idle units, weights and gradients of each layer.

    Args:
        layers: the figures of layers 1 to L, as in ``diagnostics.jsonl``; see
            `fcnet.diagnostics.layers.LayerDiagnosis`. Figures that are missing or None are not checked.

    Example:
        >>> print(*layer_advice([{"layer": 1, "dead": 0.02}, {"layer": 2, "dead": 0.41}, {"layer": 3, "dead": None}]))
        layer 2: 41% of the units are dead; try leaky_relu or a smaller learning rate
    """
    finite = [layer for layer in layers if _is_finite(layer.get("activation_mean", 0.0) or 0.0)]
    return [
        *(
            f"layer {layer['layer']}: activations contain NaN or inf; try a smaller learning rate"
            for layer in layers
            if layer not in finite
        ),
        *idle_unit_advice(finite),
        *_rank_advice(finite),
        *gradient_advice([layer.get("gradient_norm") for layer in layers]),
    ]


def idle_unit_advice(
    layers: Layers, *, lr: float | None = None, has_lr: bool = True, steps: int | None = None
) -> list[str]:
    """Lists the layers with many dead or saturated units.

    Args:
        layers: for each layer its number ``layer``, and the fractions ``dead`` and ``saturated`` of its units; a
            fraction that is missing or None is not checked.
        lr: the learning rate before the schedule, if it is known.
        has_lr: whether the optimizer has a learning rate, unlike L-BFGS.
        steps: the number of training steps, if it is known; nothing is reported for fewer than 50.

    Source:
        The lecture's dead nodes of ReLU and saturation of the sigmoid.

    Example:
        >>> print(*idle_unit_advice([{"layer": 1, "dead": 0.1}, {"layer": 2, "dead": 0.8}], lr=1.0))
        layer 2: 80% of the units are dead; try leaky_relu or optimizer.lr = 0.1 (now 1)
    """
    if steps is not None and steps < _MIN_STEPS:
        return []
    smaller_lr = "a smaller learning rate" if lr is None else _other_lr(lr, 0.1)
    alternative = f" or {smaller_lr}" if has_lr else ""
    advice = []
    for state, other in (("dead", "leaky_relu"), ("saturated", "relu, gelu")):
        found = [(layer["layer"], share) for layer in layers if (share := layer.get(state) or 0.0) > _IDLE_FRACTION]
        if found:
            numbers = ", ".join(str(number) for number, _ in found)
            shares = ", ".join(format_percent(share, 0) for _, share in found)
            name = "layer" if len(found) == 1 else "layers"
            advice.append(f"{name} {numbers}: {shares} of the units are {state}; try {other}{alternative}")
    return advice


def _rank_advice(layers: Layers) -> Iterator[str]:
    for layer in layers:
        rank, max_rank = layer.get("effective_rank"), layer.get("max_rank")
        if rank is None or max_rank is None or max_rank < _MIN_RANK_WIDTH:
            continue
        if rank < _LOW_RANK_FRACTION * max_rank:
            yield (
                f"layer {layer['layer']}: the effective rank of the weights is {rank:.3g} of at most {max_rank}; "
                "try less weight decay, a smaller learning rate or fewer units"
            )


def gradient_advice(norms: Sequence[float | None]) -> list[str]:
    """Checks for vanishing and exploding gradients.

    Args:
        norms: ‖∂R/∂W[l]‖ of layers 1 to L; None for weights that are not trained.

    Returns:
        At most one line for the smallest gradient and one for the largest, both relative to the last layer's.

    Source:
        The lecture's vanishing and exploding gradients.

    Example:
        >>> print(*gradient_advice([2e-6, 1e-3, 1.0]))
        layer 1: the gradient vanishes, 2e-06 times that of layer 3; try relu or gelu, normalization or residual layers
        >>> gradient_advice([0.3, 1.0])
        []
    """
    last = norms[-1] if norms else None
    if not _is_finite(last) or last == 0.0:
        return []
    ratios = [(norm / last, number) for number, norm in enumerate(norms[:-1], 1) if _is_finite(norm)]
    ratios = [(ratio, number) for ratio, number in ratios if math.isfinite(ratio)]
    if not any(ratio for ratio, _ in ratios):
        return []  # no gradient passes the last layer: it starts from zeros, or all units before it are dead
    advice = []
    if (smallest := min(ratios))[0] < _VANISHING_GRADIENT:
        advice.append(
            f"layer {smallest[1]}: the gradient vanishes, {smallest[0]:.2g} times that of layer {len(norms)}; "
            "try relu or gelu, normalization or residual layers"
        )
    if (largest := max(ratios))[0] > _EXPLODING_GRADIENT:
        advice.append(
            f"layer {largest[1]}: the gradient explodes, {largest[0]:.2g} times that of layer {len(norms)}; "
            "try normalization, smaller initial weights or gradient clipping"
        )
    return advice


def input_advice(constant: float | None) -> list[str]:
    """Checks that most input values vary.

    Args:
        constant: the fraction of the input values that are the same in every image; None if it is unknown.

    Example:
        >>> print(*input_advice(0.62))
        62% of the inputs are the same in every image; check the images, or crop them
    """
    if constant is None or constant <= _CONSTANT_INPUT_FRACTION:
        return []
    return [f"{format_percent(constant, 0)} of the inputs are the same in every image; check the images, or crop them"]


def _is_finite(value: float | None) -> TypeGuard[float]:
    """Returns whether a figure is known and finite; a run folder stores NaN and inf as null."""
    return value is not None and math.isfinite(value)
