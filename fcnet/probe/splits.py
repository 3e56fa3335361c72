"""Which examples a regression is fitted to, and which are held out to choose by. N examples in C classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fcnet.data.batches import split_validation
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.probe.arguments import Settings
    from fcnet.probe.training_data import TrainingData

MAX_HELD_OUT_SHOTS = 4
"""The most held-out examples of each class that a few-shot fit chooses by."""


class FitSplit(NamedTuple):
    """The examples of one fit.

    Attributes:
        rows: int64, ascending: those to fit.
        held_out: int64, ascending: those to choose by.
    """

    rows: Tensor
    held_out: Tensor


def make_splits(data: TrainingData, settings: Settings) -> list[FitSplit]:
    """Returns the splits to choose by: one, or one for each fold.

    Raises:
        UserError: a class has too few examples, or nothing is held out.
    """
    every = torch.arange(len(data.y))
    if settings.folds is not None:
        return fold_rows(data.y, data.classes, settings.folds, settings.seed)
    if settings.validation is None:
        return [FitSplit(every[: data.num_train], every[data.num_train :])]
    split = FitSplit(*split_validation(data.y, settings.validation, settings.seed))
    if not len(split.held_out):
        raise UserError(f"--validation must hold out one or more examples, got none with {settings.validation:g}")
    return [split]


def fold_rows(y: Tensor, classes: Sequence[str], num_folds: int, seed: int) -> list[FitSplit]:
    """Deals the examples of each class to the folds, one after another, in an order drawn from the seed.

    Sizes of folds differ by at most one, and so do those of a class in two folds.

    Args:
        y: int64 (N,), class indices.
        classes: the class names.
        num_folds: the number of folds.
        seed: the seed.

    Raises:
        UserError: there are fewer examples than folds, or a class has a single one.

    Example:
        >>> splits = fold_rows(torch.tensor([0, 0, 0, 1, 1, 1]), ["a", "b"], 3, seed=0)
        >>> [len(split.held_out) for split in splits]
        [2, 2, 2]
    """
    counts = y.bincount(minlength=len(classes))
    if num_folds > len(y):
        raise UserError(f"--folds must be at most the number of examples, {len(y):,}, got {num_folds:,}")
    if int(counts.min()) < 2:
        name = classes[int(counts.argmin())]
        raise UserError(f"--folds needs 2 or more examples of each class, found {int(counts.min())} of {name}")
    shuffled = torch.randperm(len(y), generator=generator(seed, "folds"))
    by_class = shuffled[y[shuffled].sort(stable=True).indices]
    fold = torch.empty_like(y)
    fold[by_class] = torch.arange(len(y)) % num_folds
    return [
        FitSplit((fold != number).nonzero().squeeze(1), (fold == number).nonzero().squeeze(1))
        for number in range(num_folds)
    ]


def few_shot_rows(data: TrainingData, shots: int, repeat: int, seed: int) -> FitSplit:
    """Draws a few examples of each class to fit, and at most four others to choose by.

    The latter come from the validation split if there is one. The draws of one repeat are nested: those with more shots
    contain those with fewer.

    Args:
        data: the examples.
        shots: the number of examples of each class.
        repeat: the number of the draw, from 0.
        seed: the seed.

    Raises:
        UserError: a class has too few examples.
    """
    num_held_out = min(shots, MAX_HELD_OUT_SHOTS)
    has_own = data.num_train < len(data.y)
    needed = shots if has_own else shots + num_held_out
    counts = data.y[: data.num_train].bincount(minlength=len(data.classes))
    if int(counts.min()) < needed:
        name = data.classes[int(counts.argmin())]
        purpose = "" if has_own else f", {shots} to fit and {num_held_out} to choose by"
        raise UserError(
            f"--shots {shots} needs {needed} training examples of each class{purpose}, "
            f"found {int(counts.min())} of {name}"
        )
    draws = generator(seed, "shots", repeat)
    shuffled = torch.randperm(data.num_train, generator=draws)
    own = data.num_train + torch.randperm(len(data.y) - data.num_train, generator=draws)
    fitted, held_out = [], []
    for label in range(len(data.classes)):
        rows = shuffled[data.y[shuffled] == label]
        fitted.append(rows[:shots])
        held_out.append(own[data.y[own] == label][:num_held_out] if has_own else rows[len(rows) - num_held_out :])
    return FitSplit(torch.cat(fitted).sort().values, torch.cat(held_out).sort().values)
