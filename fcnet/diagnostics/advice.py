"""What a finished training's figures say of it, in words: what went wrong, by what sign, and what to try.

C classes. All are pure functions of figures; none that judges a training says anything of one of fewer than 50 steps,
or of fewer than five images of a class.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Records = Sequence[Mapping[str, Any]]

_MIN_STEPS = 50
_MIN_IMAGES = 5
_FLAT = 0.02
_INCREASE = 0.1
_ACCURACY_GAP = 0.2
_VALIDATION_INCREASE = 0.05


def class_frequency_loss(counts: Sequence[int], label_smoothing: float = 0.0) -> float:
    """−Σ q log q: the least mean cross-entropy of a network that says the same of every image.

    q is the classes' frequency, and where labels are smoothed (1 − ε) · frequency + ε / C.

    Args:
        counts: how many images each class has.
        label_smoothing: ε.

    Example:
        >>> class_frequency_loss([50, 50]) == math.log(2)
        True
    """
    total = sum(counts)
    shares = ((1.0 - label_smoothing) * count / total + label_smoothing / len(counts) for count in counts)
    return -sum(share * math.log(share) for share in shares if share)


def loss_advice(records: Records, baseline: float, lr: float) -> list[str]:
    """Whether the training loss moved as it should.

    Args:
        records: of the epochs, as a run folder holds them.
        baseline: as `class_frequency_loss` gives it.
        lr: the learning rate that the schedule scales.

    Example:
        >>> records = [{"step": 100 * epoch, "train_loss": 2.2 + epoch} for epoch in (1, 2, 3)]
        >>> print(*loss_advice(records, baseline=2.3, lr=1.0))
        the training loss rose to 5.2, above the 2.3 of guessing by class frequency; try optimizer.lr = 0.1 (now 1)
    """
    if not records or records[-1]["step"] < _MIN_STEPS or baseline == 0.0:
        return []
    losses = [record["train_loss"] if _is_number(record["train_loss"]) else math.inf for record in records]
    first, last, least = losses[0], losses[-1], min(losses)
    of_guessing = f"the {baseline:.2g} of guessing by class frequency"
    kept: list[float] = [loss for record in records if _is_number(loss := record.get("validation_loss"))]
    rows = [losses, kept] if len(kept) == len(losses) else [losses]  # a validation set has no augmentation's noise
    spread = min(max(row) - min(row) for row in rows)
    if abs(last - baseline) <= _FLAT * baseline:
        return [
            (
                f"the training loss, {last:.3g}, is {of_guessing}: nothing was learned; "
                f"try optimizer.lr = {lr / 10:.2g} or {lr * 10:.2g} (now {lr:g}), and see that images and labels fit"
            )
        ]
    if len(losses) > 1 and spread <= _FLAT * baseline and last > (1.0 - 2.0 * _FLAT) * baseline:
        return [
            (
                f"the training loss moved by {spread:.2g} in {len(losses)} epochs and is {last:.3g}, "
                f"near {of_guessing}; try optimizer.lr = {lr * 10:.2g} (now {lr:g})"
            )
        ]
    smaller = f"try optimizer.lr = {lr / 10:.2g} (now {lr:g})"
    if len(losses) > 1 and last > (1.0 + _FLAT) * baseline and last > first - _FLAT * baseline:
        return [f"the training loss rose to {last:.2g}, above {of_guessing}; {smaller}"]
    if last - least > _INCREASE * baseline:
        best = losses.index(least) + 1
        return [f"the training loss rose again, from {least:.2g} in epoch {best} to {last:.2g}; {smaller}"]
    return []


def validation_advice(records: Records, lr: float) -> list[str]:
    """Whether the network knows its training images by heart: a wide gap, and a validation loss that rises.

    Also whether the validation loss is a number at all.

    Example:
        >>> losses = [1.0, 0.8, 0.9, 1.1]
        >>> seen = {"step": 100, "train_accuracy": 0.99, "validation_accuracy": 0.7}
        >>> print(validation_advice([seen | {"validation_loss": loss} for loss in losses], 1.0)[0].split(";")[0])
        training accuracy 99.0% is far above validation accuracy 70.0%, and the validation loss rises since epoch 2
    """
    if not records or records[-1]["step"] < _MIN_STEPS or records[-1]["validation_accuracy"] is None:
        return []
    losses = [record["validation_loss"] if _is_number(record["validation_loss"]) else math.inf for record in records]
    if math.isinf(losses[-1]):
        return [f"the validation loss is not a number; try optimizer.lr = {lr / 10:.2g} (now {lr:g})"]
    known, seen = records[-1]["train_accuracy"], records[-1]["validation_accuracy"]
    best = min(range(len(losses)), key=losses.__getitem__)
    if (
        known - seen <= _ACCURACY_GAP
        or best >= len(losses) - 2
        or losses[-1] <= (1.0 + _VALIDATION_INCREASE) * losses[best]
    ):
        return []
    return [
        (
            f"training accuracy {known:.1%} is far above validation accuracy {seen:.1%}, and the validation loss rises "
            f"since epoch {best + 1}; try data.augment, optimizer.weight_decay, model.dropout or fewer train.epochs"
        )
    ]


def class_advice(confusion: Sequence[Sequence[int]], classes: Sequence[str], *, steps: int) -> list[str]:
    """Which classes no image was taken for.

    Args:
        confusion: counts, ``confusion[truth][prediction]``, (C, C), of images the network was not trained on.
        classes: their names.
        steps: of the training.

    Example:
        >>> print(*class_advice([[9, 0], [7, 0]], ["cat", "dog"], steps=100))
        no image is ever taken for dog; look at its training images, and how many there are
    """
    if steps < _MIN_STEPS:
        return []
    absent = [
        name
        for label, name in enumerate(classes)
        if sum(confusion[label]) >= _MIN_IMAGES and not any(row[label] for row in confusion)
    ]
    if not absent:
        return []
    names = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more classes" if len(absent) > 5 else "")
    whose = "its" if len(absent) == 1 else "their"
    return [f"no image is ever taken for {names}; look at {whose} training images, and how many there are"]


def idle_unit_advice(idle: Iterable[tuple[int, int, int]], activation: str, lr: float, *, steps: int) -> list[str]:
    """Which hidden layers have more idle units than others.

    Args:
        idle: for each hidden layer its number, how many units it has, and how many of them are idle.
        activation: g of the hidden layers.
        lr: the learning rate that the schedule scales.
        steps: of the training.

    Example:
        >>> print(*idle_unit_advice([(1, 10, 1), (2, 10, 8)], "relu", lr=1.0, steps=100))
        in layer 2, 80% of the units are dead: 0 for every image; try optimizer.lr = 0.1 (now 1), or leaky_relu or gelu
    """
    found = [(layer, count / units) for layer, units, count in idle if steps >= _MIN_STEPS and 2 * count > units]
    if not found:
        return []
    layers = "layer " + str(found[0][0]) if len(found) == 1 else "layers " + ", ".join(str(layer) for layer, _ in found)
    shares = ", ".join(f"{share:.0%}" for _, share in found)
    what = "dead: 0 for every image" if activation == "relu" else "saturated: 0 or 1 for every image"
    other = "leaky_relu or gelu" if activation == "relu" else "relu or gelu"
    return [f"in {layers}, {shares} of the units are {what}; try optimizer.lr = {lr / 10:.2g} (now {lr:g}), or {other}"]


def score_advice(loss: str) -> list[str]:
    """Whether what the network gives as a probability is one, by the loss of the score that it was trained with.

    Args:
        loss: ``"logistic"``, ``"hinge"`` or ``"quadratic"``.

    Example:
        >>> print(*score_advice("hinge"))
        the hinge loss makes scores that are no probabilities: trust the class, not the probability beside it
        >>> score_advice("logistic")
        []
    """
    if loss == "logistic":
        return []
    return [f"the {loss} loss makes scores that are no probabilities: trust the class, not the probability beside it"]


def cuda_graph_advice(why: str | None) -> list[str]:
    """Whether a device that could have repeated its steps from a recording did not.

    Args:
        why: what was in the way; None: nothing.

    Example:
        >>> print(*cuda_graph_advice("the images are not on the device"))
        steps were launched one by one and not replayed as a CUDA graph: the images are not on the device
    """
    return [] if why is None else [f"steps were launched one by one and not replayed as a CUDA graph: {why}"]


def _is_number(figure: float | None) -> TypeGuard[float]:
    """Whether a record's figure is one; a run folder holds null for what is none."""
    return figure is not None and math.isfinite(figure)
