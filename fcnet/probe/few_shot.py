"""Fits to a few examples of each class, as few-shot protocols have them. N examples of D features in C classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import torch

from fcnet.data.sources.source import iter_slices
from fcnet.data.transforms.pipeline import l2_normalize
from fcnet.probe.selection import choose, evaluate_path
from fcnet.probe.splits import few_shot_rows
from fcnet.probe.work import path_from_tensors, path_to_tensors, pick
from fcnet.runtime.distributed import all_gather, rank_slice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fcnet.data.features.joined_rows import JoinedRows
    from fcnet.linear_model import LogisticPath
    from fcnet.probe.arguments import Settings
    from fcnet.probe.training_data import TrainingData
    from fcnet.probe.work import Work


@dataclass(frozen=True, eq=False)
class FewShotFit:
    """A regression that was fitted to a few examples of each class.

    Attributes:
        shots: the number of these examples.
        repeat: the number of the draw, from 1.
        path: the regression with the chosen penalty.
        validation_accuracy: its accuracy on the held-out examples.
        num_unconverged: the number of penalties, of all that were tried, whose fit is no minimum.
    """

    shots: int
    repeat: int
    path: LogisticPath
    validation_accuracy: float
    num_unconverged: int


def fit_few_shots(
    work: Work, data: TrainingData, x: JoinedRows, settings: Settings, shots: int, repeat: int
) -> FewShotFit:
    """Fits all penalties to one draw, and keeps the one that is best on the held-out examples of the draw.

    Args:
        work: does the fit.
        data: the examples.
        x: (N, D), their features.
        settings: the settings.
        shots: the number of examples of each class.
        repeat: the number of the draw, from 1.
    """
    split, stage = few_shot_rows(data, shots, repeat - 1, settings.seed), f"shots-{shots}-{repeat}"

    def compute() -> dict[str, Tensor]:
        path = work.fit(stage, x, data.y, settings.Cs, rows=split.rows)
        held_out = evaluate_path(path, x, data.y, split.held_out, work.device)
        best = choose(held_out)
        figures = {
            "accuracy": torch.tensor(held_out.accuracy(best), dtype=torch.float64),
            "num_unconverged": (~path.converged).sum(),
        }
        return path_to_tensors(pick(path, best)) | figures

    tensors = work.stage(stage, compute)
    return FewShotFit(
        shots, repeat, path_from_tensors(tensors), float(tensors["accuracy"]), int(tensors["num_unconverged"])
    )


@torch.no_grad()
def test_accuracies(fits: Sequence[FewShotFit], x: Tensor, y: Tensor, *, normalize: bool) -> list[float]:
    """Returns the accuracy of each fit on labelled features, which are read once; collective.

    Args:
        fits: the fits, of the same classes.
        x: floating (N, D).
        y: int64 (N,), class indices.
        normalize: whether to scale each row to unit norm.
    """
    counts = [0] * len(fits)
    own = rank_slice(len(x))
    x_own, y_own = x[own], y[own]
    for rows in iter_slices(len(x_own), x.shape[1] * 8):
        block = l2_normalize(x_own[rows]) if normalize else x_own[rows]
        labels = y_own[rows].numpy()
        for number, fit in enumerate(fits):
            counts[number] += int((fit.path.predict(block)[0] == labels).sum())
    return [sum(each) / len(x) for each in zip(*all_gather(counts), strict=True)]


def summarize(values: Sequence[float]) -> tuple[float, float | None, tuple[float, float] | None]:
    """Returns mean, sample standard deviation and Student's 95% interval of accuracies; None for one of them.

    Example:
        >>> mean, std, interval = summarize([0.5, 0.6, 0.7])
        >>> round(mean, 3), round(std, 3), [round(end, 3) for end in interval]
        (0.6, 0.1, [0.352, 0.848])
    """
    mean = fmean(values)
    if len(values) < 2:
        return mean, None, None
    from scipy.special import stdtrit  # slow to import

    std = stdev(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * std / math.sqrt(len(values))
    return mean, std, (max(mean - half, 0.0), min(mean + half, 1.0))
