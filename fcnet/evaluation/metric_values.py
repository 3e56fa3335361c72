"""The metrics of an evaluation with their confidence intervals, for tables and files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fcnet import metrics
from fcnet.evaluation.scores import TOP_K
from fcnet.runtime.formatting import format_interval, format_loss, format_percent
from fcnet.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fcnet.evaluation.classification import Evaluation
    from fcnet.evaluation.scores import ScoreMetrics

_NUM_RESAMPLES = 1000
_MAX_RESAMPLED_PAIRS = 10_000_000
_MIN_RESAMPLES = 100


@dataclass(frozen=True)
class MetricValue:
    """One metric of a set of images.

    Attributes:
        name: its name in files, such as ``mean_average_precision``.
        label: its name in tables, such as ``mAP``.
        value: the value; None if it is undefined, NaN or infinite.
        interval: its 95% confidence interval; None if there is none.
        is_percentage: whether tables show it as a percentage.
    """

    name: str
    label: str
    value: float | None
    interval: tuple[float, float] | None
    is_percentage: bool = True

    @property
    def value_text(self) -> str:
        """The value as text, ``–`` without one."""
        if self.value is None:
            return "–"
        return format_percent(self.value) if self.is_percentage else format_loss(self.value)

    @property
    def interval_text(self) -> str:
        """The interval as text, empty without one."""
        if self.interval is None:
            return ""
        return format_interval(*self.interval) if self.is_percentage else " to ".join(map(format_loss, self.interval))

    def to_dict(self) -> dict[str, Any]:
        """Returns value and interval for a JSON file.

        Example:
            >>> MetricValue("roc_auc", "ROC AUC", 0.75, (0.5, 0.875), is_percentage=False).to_dict()
            {'value': 0.75, 'interval': [0.5, 0.875]}
        """
        return {"value": self.value, "interval": None if self.interval is None else list(self.interval)}


def metric_values(result: Evaluation, scores: ScoreMetrics, *, seed: int = 0) -> list[MetricValue]:
    """Lists the metrics that follow from an evaluation, besides accuracy and loss.

    Averages of precision, recall and F1, and the mean class accuracy, have intervals by bootstrap, with fewer than
    1,000 resamples if there are more than 10,000 pairs of a true and a predicted class.

    Args:
        result: the evaluation.
        scores: the scores of the same images.
        seed: the seed of the bootstrap.

    Example:
        >>> import torch
        >>> from fcnet.evaluation import ScoreCollector, evaluate
        >>> collector = ScoreCollector()
        >>> result = evaluate(torch.nn.Identity(), (torch.eye(3), [0, 1, 1]), on_batch=collector.update)
        >>> for metric in metric_values(result, collector.compute())[-5:]:
        ...     print(metric.label, metric.value_text)
        mAP 91.67%
        ROC AUC, one vs rest 0.8750
        weighted ROC AUC 0.8333
        log loss 0.8848
        Brier score 0.5123
    """
    confusion, intervals = result.confusion, dict(scores.intervals)
    resamples = min(_NUM_RESAMPLES, max(_MAX_RESAMPLED_PAIRS // len(confusion.counts), _MIN_RESAMPLES))
    generator = np.random.default_rng(derive_seed(seed, "bootstrap"))
    intervals |= metrics.average_intervals(confusion, generator=generator, num_resamples=resamples)
    intervals["weighted_recall"] = result.interval
    values: dict[str, float | None] = {"mean_class_accuracy": metrics.mean_class_accuracy(confusion)}
    for kind in ("macro", "weighted"):
        averages = metrics.average_metrics(confusion, weighted=kind == "weighted")
        values |= {f"{kind}_{name}": value for name, value in vars(averages).items()}
    values |= {"mean_average_precision": scores.mean_average_precision, "roc_auc": scores.roc_auc}
    if confusion.num_classes > 2:
        values["weighted_roc_auc"] = scores.weighted_roc_auc
    if scores.top_k_accuracy is not None:
        values["top_k_accuracy"] = scores.top_k_accuracy
    values |= {"log_loss": scores.log_loss, "brier_score": scores.brier_score}
    return [
        _metric(
            name,
            value if value is not None and math.isfinite(value) else None,
            intervals.get(name),
            num_classes=confusion.num_classes,
        )
        for name, value in values.items()
    ]


def stored_metrics(entries: Mapping[str, Mapping[str, Any]], num_classes: int) -> list[MetricValue]:
    """Returns the metrics from ``test_metrics`` of ``summary.json``; unknown ones are left out.

    Example:
        >>> stored_metrics({"log_loss": {"value": 0.5, "interval": None}}, 10)[0].value_text
        '0.5000'
    """
    return [
        _metric(name, entry["value"], _to_pair(entry["interval"]), num_classes=num_classes)
        for name, entry in entries.items()
        if name in _LABELS
    ]


def metric_notes(result: Evaluation, scores: ScoreMetrics) -> list[str]:
    """Says which metrics are undefined or left out, one line each, where scikit-learn warns.

    Example:
        >>> from fcnet.evaluation import Evaluation, ScoreMetrics
        >>> result = Evaluation(0.5, metrics.Confusion.from_table([[3, 0, 1], [0, 0, 2], [0, 0, 0]]))
        >>> for note in metric_notes(result, ScoreMetrics(6, 0.5, 0.5, None, None, {}, "a logit is NaN")):
        ...     print(note)
        1 class has no images: left out of mAP, ROC AUC and mean class accuracy, 0 in the other averages
        1 class is never predicted: its precision is 0 in the averages
        no mAP and ROC AUC: a logit is NaN
    """
    notes, confusion = list[str](), result.confusion
    if absent := int((confusion.class_counts == 0).sum()):
        left_out = "left out of mAP, ROC AUC and mean class accuracy, 0 in the other averages"
        notes.append(f"{_count_classes(absent)} {'has' if absent == 1 else 'have'} no images: {left_out}")
    if absent := int((confusion.predicted_counts[confusion.class_counts > 0] == 0).sum()):
        verb, whose = ("is", "its") if absent == 1 else ("are", "their")
        notes.append(f"{_count_classes(absent)} {verb} never predicted: {whose} precision is 0 in the averages")
    if scores.no_rankings is not None:
        notes.append(f"no mAP and ROC AUC: {scores.no_rankings}")
    return notes


def metric_lines(values: Sequence[MetricValue]) -> list[str]:
    """Returns a table of some metrics as lines of text.

    Example:
        >>> for line in metric_lines([MetricValue("log_loss", "log loss", 0.5, (0.25, 0.75), is_percentage=False)]):
        ...     print(line)
        metric     value  95% interval
        log loss  0.5000  0.2500 to 0.7500
    """
    rows = [(each.label, each.value_text, each.interval_text) for each in values]
    rows = [("metric", "value", "95% interval"), *rows]
    label, value, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [f"{row[0]:{label}}  {row[1]:>{value}}  {row[2]}".rstrip() for row in rows]


MAIN_METRICS = (
    "mean_class_accuracy",
    "macro_f1",
    "mean_average_precision",
    "roc_auc",
    "top_k_accuracy",
    "log_loss",
    "brier_score",
)
"""The metrics with a line of their own in tables; the table of classes has the other averages."""

_LABELS = {
    "mean_class_accuracy": "mean class accuracy",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "weighted_precision": "weighted precision",
    "weighted_recall": "weighted recall",
    "weighted_f1": "weighted F1",
    "mean_average_precision": "mAP",
    "roc_auc": "ROC AUC",
    "weighted_roc_auc": "weighted ROC AUC",
    "top_k_accuracy": f"top-{TOP_K} accuracy",
    "log_loss": "log loss",
    "brier_score": "Brier score",
}
_NOT_PERCENTAGES = {"roc_auc", "weighted_roc_auc", "log_loss", "brier_score"}


def _metric(name: str, value: float | None, interval: tuple[float, float] | None, *, num_classes: int) -> MetricValue:
    label = _LABELS[name] + (", one vs rest" if name == "roc_auc" and num_classes > 2 else "")
    return MetricValue(name, label, value, interval, is_percentage=name not in _NOT_PERCENTAGES)


def _to_pair(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def _count_classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count:,} classes"


def summary_entries(result: Evaluation, scores: ScoreMetrics, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the entries of ``summary.json`` on the test set."""
    return {
        "test_accuracy": result.accuracy,
        "test_interval": result.interval,
        "test_loss": result.loss,
        "test_metrics": {each.name: each.to_dict() for each in metric_values(result, scores)},
        "class_average_precision": _average_precisions(scores, classes),
    }


def _average_precisions(scores: ScoreMetrics, classes: Sequence[str]) -> dict[str, float | None] | None:
    """Returns the average precision of each class, null without images; None for all if there are no rankings."""
    if scores.rankings is None:
        return None
    return {name: row.average_precision for name, row in zip(classes, scores.rankings, strict=True)}
