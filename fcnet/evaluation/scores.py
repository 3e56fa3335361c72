"""Figures that follow from the logits of a set: rankings, top-k accuracy, log loss and Brier score.

N images, C classes. Log loss, Brier score and rankings are computed in float64 from the logits: probabilities near 0
and 1 would round, and ties would appear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fcnet import metrics
from fcnet.functional.softmax import propagate_nan_, sub_max
from fcnet.runtime import distributed
from fcnet.runtime.hardware import to_float64

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from fcnet.metrics import ClassRanking

TOP_K = 5
"""k of the top-k accuracy."""
MAX_SCORES = 1 << 26
"""The largest number of logits, N · C, that is kept for rankings: 256 MiB as float32."""

_VALUES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class ScoreMetrics:
    """The figures of a set.

    Attributes:
        count: N.
        log_loss: the mean of −log p̂ of the true class, the cross-entropy; NaN if a logit is NaN.
        brier_score: the mean of Σ_c (p̂_c − y_c)², from 0 to 2; for two classes half of it, from 0 to 1. NaN if a logit
            is NaN.
        top_k_accuracy: the fraction of images with the true class among the five most probable ones; None unless there
            are more than five classes.
        rankings: average precision and ROC AUC of each class; None if ``no_rankings`` says why.
        intervals: the 95% confidence intervals of the figures by name, such as ``intervals["log_loss"]``, where there
            are some: normal ones of means, Wilson's of the top-k accuracy, and from the influence of each image for
            ``mean_average_precision`` and ``roc_auc``. With fewer than some hundred images a class, an average
            precision tends to be above that of many images, which its interval does not include.
        no_rankings: the reason for which there are no rankings; None if there are.
    """

    count: int
    log_loss: float
    brier_score: float
    top_k_accuracy: float | None
    rankings: tuple[ClassRanking, ...] | None
    intervals: Mapping[str, tuple[float, float]]
    no_rankings: str | None = None

    @property
    def mean_average_precision(self) -> float | None:
        """The mean of the average precisions of the classes with images; None without rankings."""
        return None if self.rankings is None else metrics.mean_average_precision(self.rankings)

    @property
    def roc_auc(self) -> float | None:
        """The ROC AUC of the second of two classes, or the mean over classes, each against all others.

        Classes without images, or with all of them, are left out; None without rankings.
        """
        return None if self.rankings is None else metrics.mean_roc_auc(self.rankings)

    @property
    def weighted_roc_auc(self) -> float | None:
        """The mean ROC AUC over classes, weighted by their numbers of images; None without rankings."""
        return None if self.rankings is None else metrics.mean_roc_auc(self.rankings, weighted=True)


class _Rows(NamedTuple):
    """What is kept of each image.

    Attributes:
        logits: (n, C), in their own dtype; for two classes float64 (n,), the difference of second and first. None if
            they are too many.
        labels: int64 (n,), the true classes.
        log_loss: float64 (n,), −log p̂ of the true class.
        brier_score: float64 (n,), Σ_c (p̂_c − y_c)².
        ranks: int64 (n,), the number of classes that are ranked before the true one.
        tops: float64 (n,), the largest logit.
        log_sums: float64 (n,), −log p̂ of its class.
    """

    logits: Tensor | None
    labels: Tensor
    log_loss: Tensor
    brier_score: Tensor
    ranks: Tensor
    tops: Tensor
    log_sums: Tensor


class ScoreCollector:
    """Collects what the figures of a set need, batch by batch; for ``on_batch`` of `fcnet.evaluation.evaluate`.

    Logits are kept up to `MAX_SCORES` values. Beyond it the rankings are left out, and the other figures stay.

    Example:
        >>> collector = ScoreCollector()
        >>> collector.update(torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [0.0, 1.0, 1.5]]), torch.tensor([0, 1, 1]))
        >>> result = collector.compute()
        >>> round(result.log_loss, 4), round(result.brier_score, 4), result.mean_average_precision
        (0.5356, 0.3176, 1.0)
    """

    def __init__(self) -> None:
        self._batches: list[_Rows] = []
        self._num_classes = 2
        self._num_scores = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds the logits of a batch, (B,) for two classes or (B, C), and its labels, int64 (B,)."""
        logits = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
        self._num_classes = logits.shape[1]
        self._num_scores += logits.numel()
        keeps_logits = self._num_scores * distributed.world_size() <= MAX_SCORES
        if not keeps_logits:
            self._batches = [rows._replace(logits=None) for rows in self._batches]
        at_once = max(_VALUES_AT_ONCE // self._num_classes, 1)  # float64 takes much memory
        parts = zip(logits.split(at_once), labels.split(at_once), strict=True)
        self._batches.append(_join([_measure(*part, keeps_logits=keeps_logits) for part in parts]))

    def compute(self) -> ScoreMetrics:
        """Returns the figures over all images of all ranks; collective, every rank must call it."""
        ranks = distributed.all_gather(self._batches)
        rows = _join([part for batch in zip(*ranks, strict=True) for part in batch])  # a rank has a slice of each batch
        count, reason = len(rows.labels), None
        if rows.logits is None:
            reason = f"{count:,} images × {self._num_classes:,} classes are more than {MAX_SCORES:,} scores"
        elif rows.log_loss.isnan().any() or rows.logits.isnan().any():
            reason = "a logit is NaN"
        scale = 0.5 if self._num_classes == 2 else 1.0
        rows = rows._replace(brier_score=rows.brier_score * scale)
        hits = int((rows.ranks < TOP_K).sum()) if self._num_classes > TOP_K else None
        rankings = None if reason else _Rankings(rows)
        return ScoreMetrics(
            count,
            log_loss=rows.log_loss.mean().item(),
            brier_score=rows.brier_score.mean().item(),
            top_k_accuracy=None if hits is None else hits / count,
            rankings=None if rankings is None else tuple(rankings.classes),
            intervals=_intervals(rows, hits) | ({} if rankings is None else rankings.intervals()),
            no_rankings=reason,
        )


def _measure(logits: Tensor, labels: Tensor, *, keeps_logits: bool) -> _Rows:
    """Computes the values of some images, on the CPU."""
    x = to_float64(logits)
    labels = labels.to(x.device)
    own = labels[:, None]
    top, k = x.max(1, keepdim=True)
    differences = sub_max(x, top)
    # As in `fcnet.functional.log_softmax`, the largest logit's power, 1, is left out of the sum R to keep its digits.
    powers = differences.exp().scatter_(1, k, 0.0)
    others = propagate_nan_(powers.sum(1, keepdim=True), top)
    log_sums = others.log1p()
    probabilities = powers.scatter_(1, k, 1.0).div_(1.0 + others)
    errors = probabilities.scatter_(1, own, 0.0)  # 1 − p̂ of the true class is the sum of the others
    brier_score = errors.square().sum(1) + errors.sum(1).square()
    kept = (differences[:, 1] - differences[:, 0] if x.shape[1] == 2 else logits) if keeps_logits else None
    columns = (
        labels,
        (log_sums - differences.gather(1, own))[:, 0],
        brier_score,
        _rank(x, own),
        top[:, 0],
        log_sums[:, 0],
    )
    return _Rows(None if kept is None else kept.cpu(), *(column.cpu() for column in columns))


def _rank(x: Tensor, own: Tensor) -> Tensor:
    """Counts the classes before the true one; the last of equal logits is first, as in scikit-learn."""
    score = x.gather(1, own)
    is_after = torch.arange(x.shape[1], device=x.device) > own
    ranks = ((x > score) | ((x == score) & is_after)).sum(1)
    return ranks.masked_fill_(x.isnan().any(1), x.shape[1])


def _join(parts: Sequence[_Rows]) -> _Rows:
    logits, *columns = zip(*parts, strict=True)
    kept = None if any(part is None for part in logits) else torch.cat(logits)
    return _Rows(kept, *map(torch.cat, columns))


def _intervals(rows: _Rows, hits: int | None) -> dict[str, tuple[float, float]]:
    """Returns the intervals of the figures that need no rankings."""
    intervals = {} if hits is None else {"top_k_accuracy": metrics.wilson_interval(hits, len(rows.ranks))}
    for name, values in (("log_loss", rows.log_loss), ("brier_score", rows.brier_score)):
        if values.isfinite().all() and len(values) > 1:
            low, high = metrics.mean_interval(values)
            intervals[name] = max(low, 0.0), high
    return intervals


class _Rankings:
    """The rankings of all classes, and how much each image changes their means."""

    def __init__(self, rows: _Rows) -> None:
        self.classes: list[ClassRanking] = []
        self._influences = {name: np.zeros(len(rows.labels)) for name in ("mean_average_precision", "roc_auc")}
        for label, scores in enumerate(_class_scores(rows)):
            found = metrics.rank_class_with_influences(rows.labels.numpy() == label, scores)
            self.classes.append(found.ranking)
            self._influences["mean_average_precision"] += found.average_precision
            self._influences["roc_auc"] += found.roc_auc

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Returns the intervals of the means over classes, where there are some."""
        values = {
            "mean_average_precision": [row.average_precision for row in self.classes],
            "roc_auc": [row.roc_auc for row in self.classes],
        }
        intervals = {}
        for name, of_classes in values.items():
            defined = [value for value in of_classes if value is not None]
            if defined:
                influences = self._influences[name] / len(defined)
                intervals[name] = metrics.influence_interval(float(np.mean(defined)), influences)
        return {name: interval for name, interval in intervals.items() if interval is not None}


def _class_scores(rows: _Rows) -> Iterator[npt.NDArray[np.float64]]:
    """Yields the log-probability of each class for all images, or what ranks as it does, one class at a time."""
    assert rows.logits is not None
    if rows.logits.ndim == 1:  # the log-odds of two classes
        yield -rows.logits.numpy()
        yield rows.logits.numpy()
        return
    for label in range(rows.logits.shape[1]):
        yield (sub_max(rows.logits[:, label].double(), rows.tops) - rows.log_sums).numpy()
