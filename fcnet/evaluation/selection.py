"""Evaluates a model by the figure that chooses the best epoch; see `fcnet.config.selection`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fcnet import metrics
from fcnet.config.selection import CRITERIA
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.scores import MAX_SCORES, TOP_K, ScoreCollector
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from fcnet.config.selection import Selection
    from fcnet.evaluation.classification import Evaluation
    from fcnet.evaluation.scores import ScoreMetrics


def evaluate_by(model: nn.Module, data: Any, select: Selection) -> tuple[Evaluation, float]:  # noqa: ANN401 - as `evaluate`
    """Evaluates a model as `evaluate` does, and computes one figure besides.

    Collective: every rank must call it. Logits are collected only if the figure needs them.

    Args:
        model: images -> logits (B,) for two classes, or (B, C).
        data: the labelled images, of the kinds that `evaluate` takes.
        select: the name of the figure.

    Returns:
        The evaluation, and the figure, which is NaN if a logit is.

    Raises:
        UserError: as `evaluate` raises, or the figure is not defined on these images.

    Example:
        >>> import torch
        >>> from fcnet import MLP
        >>> x, y = torch.rand(6, 4), [0, 1, 2, 0, 1, 2]
        >>> evaluation, accuracy = evaluate_by(MLP(4, (), 3), (x, y), "mean_class_accuracy")
        >>> accuracy == evaluation.accuracy  # the classes have equally many images
        True
    """
    collector = ScoreCollector() if CRITERIA[select].needs_logits else None
    evaluation = evaluate(model, data, on_batch=None if collector is None else collector.update)
    scores = None if collector is None else collector.compute()
    value = _find_figure(select, evaluation, scores)
    if value is None:
        if scores is not None and scores.no_rankings and math.isnan(scores.log_loss):
            return evaluation, math.nan
        counts = evaluation.confusion.class_counts.tolist()
        reasons = list(undefined_reasons(select, counts)) or ["it is not defined"]
        raise UserError(f"select must be a figure of the validation set, got {select}: {reasons[0]}")
    return evaluation, value


def undefined_reasons(select: Selection, counts: list[int]) -> Iterator[str]:
    """Yields a reason if a figure is not defined on a set, whatever the model.

    Args:
        select: the name of the figure.
        counts: the number of images of each class.

    Example:
        >>> list(undefined_reasons("top_5_accuracy", [7, 7])), list(undefined_reasons("macro_f1", [7, 7]))
        (['it needs more than 5 classes, and there are 2'], [])
    """
    if select == "top_5_accuracy" and len(counts) <= TOP_K:
        yield f"it needs more than {TOP_K} classes, and there are {len(counts)}"
    if select == "roc_auc" and sum(count > 0 for count in counts) < 2:
        yield "it needs images of two classes, and all are of one"
    if select in {"mean_average_precision", "roc_auc"} and sum(counts) * len(counts) > MAX_SCORES:
        yield f"{sum(counts):,} images × {len(counts):,} classes are more than {MAX_SCORES:,} scores"


def _find_figure(select: Selection, evaluation: Evaluation, scores: ScoreMetrics | None) -> float | None:
    if scores is not None:
        value: float | None = getattr(scores, "top_k_accuracy" if select == "top_5_accuracy" else select)
        return value
    match select:
        case "validation_loss":
            return evaluation.loss
        case "mean_class_accuracy":
            return metrics.mean_class_accuracy(evaluation.confusion)
        case "macro_f1":
            return metrics.average_metrics(evaluation.confusion).f1
    return evaluation.accuracy
