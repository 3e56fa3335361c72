"""Report sections on the test set: classification report, confusion matrix and calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.evaluation.metric_values import MAIN_METRICS, stored_metrics
from fcnet.metrics import ConfidenceBin, average_metrics, calibration_error, class_metrics, wilson_interval
from fcnet.metrics.confusion import MAX_TABLE_CLASSES
from fcnet.report.charts import reliability_diagram
from fcnet.report.heat_map import confusion_heat_map
from fcnet.runtime.formatting import format_interval, format_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.metrics import Confusion
    from fcnet.report.charts import Chart
    from fcnet.report.run_data import RunData

_MAX_MATRIX_CLASSES = 30
_MAX_CLASS_ROWS = 100
_NUM_WORST_CLASSES = 40
_MAX_CONFUSIONS = 20
_MAX_SHORT_NAME = 3


@dataclass(frozen=True)
class Calibration:
    """How well confidence fits accuracy.

    Attributes:
        title: which probabilities these are; empty if there are no others.
        error: the expected calibration error, as a percentage.
        chart: the reliability diagram.
    """

    title: str
    error: str
    chart: Chart


@dataclass(frozen=True)
class EvaluationSection:
    """The results on the test set.

    Attributes:
        metrics: label, value and interval of mAP, ROC AUC and the like; empty if the run has not stored them.
        per_class_columns: the headings of the next.
        per_class: name, number of images, precision, recall, F1, average precision if the run has stored it, and the
            interval of the recall of each class, or of the classes with the lowest F1 if there are more than 100.
        per_class_note: which classes these are; empty if all.
        averages: the same columns of the averages over all classes.
        matrix: the confusion matrix: for each true class its name and its cells, each a count and the fraction of the
            row; empty if there are more than 30 classes.
        long_names: whether class names are too long for the width of a matrix column.
        heat_map: the matrix as a drawing; None with up to 30 classes, or more than a few hundred.
        confusions: true class, predicted class, count and fraction of the true class; most frequent first.
        confusions_note: how many such pairs there are.
        calibrations: the reliability diagram, or several of different probabilities.
    """

    metrics: Sequence[Sequence[str]]
    per_class_columns: Sequence[str]
    per_class: Sequence[Sequence[str]]
    per_class_note: str
    averages: Sequence[Sequence[str]]
    matrix: Sequence[tuple[str, Sequence[tuple[int, float]]]]
    long_names: bool
    heat_map: Chart | None
    confusions: Sequence[Sequence[str]]
    confusions_note: str
    calibrations: Sequence[Calibration]


def evaluation_section(run: RunData) -> EvaluationSection | None:
    """Computes the results on the test set; None if the run has no predictions."""
    if run.predictions is None or run.confusion is None:
        return None
    confusion, classes = run.confusion, run.classes
    num_pairs = int((confusion.labels != confusion.predictions).sum())
    has_table = len(classes) <= _MAX_MATRIX_CLASSES
    has_heat_map = not has_table and len(classes) <= MAX_TABLE_CLASSES
    return EvaluationSection(
        metrics=_stored_metrics(run),
        per_class_columns=_per_class_columns(run),
        per_class=_per_class_metrics(run, confusion),
        per_class_note=_per_class_note(len(classes)),
        averages=_averages(run, confusion),
        matrix=_matrix(confusion, classes) if has_table else (),
        long_names=max(map(len, classes)) > _MAX_SHORT_NAME,
        heat_map=confusion_heat_map(confusion, classes) if has_heat_map else None,
        confusions=_most_confused_pairs(confusion, classes),
        confusions_note=f"The {_MAX_CONFUSIONS} most frequent of {num_pairs:,}." if num_pairs > _MAX_CONFUSIONS else "",
        calibrations=_calibrations(run),
    )


def _stored_average_precisions(run: RunData) -> dict[str, float | None]:
    return run.summary.get("class_average_precision") or {}


def _per_class_columns(run: RunData) -> list[str]:
    average_precision = ["average precision"] if _stored_average_precisions(run) else []
    return ["class", "images", "precision", "recall", "F1", *average_precision, "95% interval of recall"]


def _per_class_metrics(run: RunData, confusion: Confusion) -> list[tuple[str, ...]]:
    classes, average_precisions = run.classes, _stored_average_precisions(run)
    metrics, num_correct = class_metrics(confusion), confusion.correct_counts.tolist()
    order = list(range(len(classes)))
    if len(classes) > _MAX_CLASS_ROWS:
        # A class without images and without predictions has no F1, and nothing to tell.
        known = [label for label in order if metrics[label].f1 is not None]
        order = sorted(known, key=lambda label: (metrics[label].f1 or 0.0, -metrics[label].count))[:_NUM_WORST_CLASSES]
    rows = []
    for label in order:
        row = metrics[label]
        values = [row.precision, row.recall, row.f1]
        if average_precisions:
            values.append(average_precisions.get(classes[label]))
        scores = ["–" if value is None else format_percent(value) for value in values]
        interval = format_interval(*wilson_interval(num_correct[label], row.count))
        rows.append((classes[label], f"{row.count:,}", *scores, interval))
    return rows


def _per_class_note(num_classes: int) -> str:
    if num_classes <= _MAX_CLASS_ROWS:
        return ""
    return f"The {_NUM_WORST_CLASSES} of {num_classes:,} classes with the lowest F1, lowest first."


def _averages(run: RunData, confusion: Confusion) -> list[tuple[str, ...]]:
    """Returns the last rows of scikit-learn's classification report; the macro average of average precisions is mAP."""
    average_precisions = _stored_average_precisions(run)
    known = [value for value in average_precisions.values() if value is not None]
    mean = format_percent(sum(known) / len(known)) if known else "–"
    empty, macro = ([""], [mean]) if average_precisions else ([], [])
    count = f"{confusion.count:,}"
    interval = format_interval(*wilson_interval(confusion.num_correct, confusion.count))
    rows: list[tuple[str, ...]] = [("accuracy", count, "", format_percent(confusion.accuracy), "", *empty, interval)]
    for name, weighted, last in (("macro average", False, macro), ("weighted average", True, empty)):
        average = average_metrics(confusion, weighted=weighted)
        scores = map(format_percent, (average.precision, average.recall, average.f1))
        rows.append((name, count, *scores, *last, ""))
    return rows


def _stored_metrics(run: RunData) -> list[tuple[str, str, str]]:
    values = stored_metrics(run.summary.get("test_metrics") or {}, len(run.classes))
    return [(each.label, each.value_text, each.interval_text) for each in values if each.name in MAIN_METRICS]


def _matrix(confusion: Confusion, classes: Sequence[str]) -> list[tuple[str, list[tuple[int, float]]]]:
    return [
        (name, [(count, count / max(sum(row), 1)) for count in row])
        for name, row in zip(classes, confusion.table(), strict=True)
    ]


def _most_confused_pairs(confusion: Confusion, classes: Sequence[str]) -> list[tuple[str, ...]]:
    return [
        (classes[pair.label], classes[pair.prediction], f"{pair.count:,}", format_percent(pair.fraction))
        for pair in confusion.most_confused(_MAX_CONFUSIONS)
    ]


def _calibrations(run: RunData) -> list[Calibration]:
    """Returns the calibration of the model, after that of its training if a temperature changed it."""
    change = run.summary.get("calibration")
    if change is None or change["reason"] is not None:
        return [_calibration("", run.confidence_bins)]
    before = [
        ConfidenceBin(int(count), mean, int(correct)) for count, mean, correct in change["test"]["before"]["bins"]
    ]
    after = f"After it, with T = {change['temperature']:.4g}"
    return [_calibration("Before temperature scaling", before), _calibration(after, run.confidence_bins)]


def _calibration(title: str, bins: Sequence[ConfidenceBin]) -> Calibration:
    points = [
        (each.confidence, each.accuracy, each.count, *wilson_interval(each.num_correct, each.count)) for each in bins
    ]
    return Calibration(
        title, format_percent(calibration_error(bins)), reliability_diagram("Reliability diagram", points)
    )
