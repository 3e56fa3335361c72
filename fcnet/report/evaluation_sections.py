"""Report sections on the test set: confusion matrix, per-class metrics, calibration, example images, weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.evaluation.prediction_files import MISTAKES_FILE
from fcnet.metrics import calibration_error, class_metrics, wilson_interval
from fcnet.report.charts import reliability_diagram
from fcnet.report.images import image_data_uri, weight_data_uri
from fcnet.report.run_data import find_uncertain_correct, first_layer_weights
from fcnet.runtime.formatting import format_interval, format_percent, shorten_middle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.evaluation.predictions import Predictions
    from fcnet.metrics import Confusion
    from fcnet.report.charts import Chart
    from fcnet.report.run_data import RunData

_NUM_EXAMPLES = 12
_NUM_UNITS = 48
_MAX_MATRIX_CLASSES = 30
_MAX_CONFUSIONS = 30
_MAX_SHORT_NAME = 3
_MAX_SHOWN_PATH = 60


@dataclass(frozen=True)
class CaptionedImage:
    """An image with the lines of its caption.

    Attributes:
        uri: a data URI; None if the image is unavailable.
        alt: the alternative text.
        lines: the caption, one string for each line.
        path: the image's path, which the caption ends with; None if it has none.
    """

    uri: str | None
    alt: str
    lines: Sequence[str]
    path: str | None = None

    @property
    def short_path(self) -> str | None:
        """The path, with ``…`` in place of the middle of a long one."""
        return None if self.path is None else shorten_middle(self.path, _MAX_SHOWN_PATH)


@dataclass(frozen=True)
class EvaluationSection:
    """The results on the test set.

    Attributes:
        matrix: the confusion matrix: for each true class its name and its cells, each a count and the fraction of the
            row; empty if there are more than 30 classes.
        long_names: whether class names are too long for the width of a matrix column.
        confusions: true class, predicted class, count and fraction of the true class; most frequent first.
        per_class: name, number of images, precision, recall, F1 and the interval of the recall.
        calibration: the reliability diagram.
        calibration_error: the expected calibration error, as a percentage.
        mistakes: the most confident mistakes.
        mistakes_note: how many mistakes there are, and where all of them are listed.
        uncertain_correct: the least confident correct predictions.
    """

    matrix: Sequence[tuple[str, Sequence[tuple[int, float]]]]
    long_names: bool
    confusions: Sequence[Sequence[str]]
    per_class: Sequence[Sequence[str]]
    calibration: Chart
    calibration_error: str
    mistakes: Sequence[CaptionedImage]
    mistakes_note: str
    uncertain_correct: Sequence[CaptionedImage]


def evaluation_section(run: RunData) -> EvaluationSection | None:
    """Computes the results on the test set; None if the run has no predictions."""
    if run.predictions is None or run.confusion is None:
        return None
    bins = [
        (each.confidence, each.accuracy, each.count, *wilson_interval(each.num_correct, each.count))
        for each in run.confidence_bins
    ]
    uncertain = find_uncertain_correct(run.predictions, _NUM_EXAMPLES)
    return EvaluationSection(
        matrix=_matrix(run.confusion, run.classes) if len(run.classes) <= _MAX_MATRIX_CLASSES else (),
        long_names=max(map(len, run.classes)) > _MAX_SHORT_NAME,
        confusions=_most_frequent_confusions(run.confusion, run.classes),
        per_class=_per_class_metrics(run.confusion, run.classes),
        calibration=reliability_diagram("Reliability diagram", bins),
        calibration_error=format_percent(calibration_error(run.confidence_bins)),
        mistakes=[_captioned_image(run, mistake.position) for mistake in run.predictions.mistakes(_NUM_EXAMPLES)],
        mistakes_note=_mistakes_note(run, run.predictions),
        uncertain_correct=[_captioned_image(run, position) for position in uncertain],
    )


def weight_images(run: RunData) -> list[CaptionedImage]:
    """Draws the first layer's weights as images, the most influential units first."""
    if run.classifier is None:
        return []
    units, weights = first_layer_weights(run.classifier, run.test, _NUM_UNITS)
    if len(run.classifier.model.dense_layers()) > 1:
        names = [f"unit {unit}" for unit in units]
    elif len(run.classes) == 2:
        names = [run.classes[1]]  # the single output node gives the second class's logit
    else:
        names = [run.classes[unit] for unit in units]
    return [
        CaptionedImage(weight_data_uri(each), f"weights of {name}", [name])
        for name, each in zip(names, weights, strict=True)
    ]


def _matrix(confusion: Confusion, classes: Sequence[str]) -> list[tuple[str, list[tuple[int, float]]]]:
    return [
        (name, [(count, count / max(sum(row), 1)) for count in row])
        for name, row in zip(classes, confusion.table(), strict=True)
    ]


def _most_frequent_confusions(confusion: Confusion, classes: Sequence[str]) -> list[tuple[str, ...]]:
    return [
        (classes[pair.label], classes[pair.prediction], f"{pair.count:,}", format_percent(pair.fraction))
        for pair in confusion.most_confused(_MAX_CONFUSIONS)
    ]


def _per_class_metrics(confusion: Confusion, classes: Sequence[str]) -> list[tuple[str, ...]]:
    rows = []
    for name, row, num_correct in zip(classes, class_metrics(confusion), confusion.correct_counts, strict=True):
        low, high = wilson_interval(int(num_correct), row.count)
        scores = ["–" if value is None else format_percent(value) for value in (row.precision, row.recall, row.f1)]
        rows.append((name, f"{row.count:,}", *scores, format_interval(low, high)))
    return rows


def _mistakes_note(run: RunData, predictions: Predictions) -> str:
    """Says how many mistakes there are, where all of them are listed, and what paths are relative to."""
    count = predictions.num_mistakes
    note = f"{min(count, _NUM_EXAMPLES)} of {count:,} mistakes, most confident first."
    if (run.folder / MISTAKES_FILE).is_file():
        note += f" The file {MISTAKES_FILE} in the run folder lists all of them."
    if predictions.names is not None and run.config.data.path:
        note += f" Paths are relative to {run.config.data.path}."
    return note


def _captioned_image(run: RunData, position: int) -> CaptionedImage:
    """Returns a test image with its predicted class, its true class or the runner-up, and its path or number."""
    predictions = run.predictions
    assert predictions is not None
    pixels, path, number = run.pixels(position), run.image_path(position), run.image_number(position)
    truth, predicted = (run.classes[int(label[position])] for label in (predictions.labels, predictions.classes[:, 0]))
    lines = [f"predicted {predicted}: {format_percent(float(predictions.probabilities[position, 0]), 1)}"]
    if truth == predicted:
        runner_up = run.classes[int(predictions.classes[position, 1])]
        lines.append(f"next {runner_up}: {format_percent(float(predictions.probabilities[position, 1]), 1)}")
        alt = f"{number}, {truth}, predicted correctly, {lines[1]}"
    else:
        lines.append(f"true class {truth}: {format_percent(float(predictions.true_probabilities[position]), 1)}")
        alt = f"{number}, {truth}, predicted as {predicted}"
    if path is None:
        lines.append(number)
    return CaptionedImage(None if pixels is None else image_data_uri(pixels), alt, lines, path)
