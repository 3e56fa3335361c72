"""The parts of a report that say what a network learned: how it did on the test set, and its first weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.metrics import calibration_error, class_metrics, wilson_interval
from fcnet.report.axes import format_percent
from fcnet.report.charts import reliability_diagram
from fcnet.report.images import image_data_uri, weight_data_uri
from fcnet.report.run_data import find_confident_mistakes, find_uncertain_correct, first_layer_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.charts import Chart
    from fcnet.report.run_data import RunData

_NUM_EXAMPLES = 12
_NUM_UNITS = 48
_MAX_MATRIX_CLASSES = 30
_MAX_CONFUSIONS = 30
_MAX_SHORT_NAME = 3


@dataclass(frozen=True)
class CaptionedImage:
    """A picture, or what stands for it, and the lines under it.

    Attributes:
        uri: a data URI; None where the image is not at hand.
        alt: what it is, for who does not see it.
        lines: what is said under it.
    """

    uri: str | None
    alt: str
    lines: Sequence[str]


@dataclass(frozen=True)
class EvaluationSection:
    """How a network did on the test set.

    Attributes:
        matrix: for each class its name and its cells, count and share of the class; empty where there are too many.
        long_names: whether the classes' names are longer than a column of the matrix.
        confusions: truth, what it was taken for, how often, and the share of the truth; most frequent first.
        per_class: name, images, precision, recall, F1 and the recall's interval.
        calibration: the reliability diagram.
        calibration_error: in per cent.
        mistakes: the most confident ones.
        uncertain_correct: the least certain ones.
    """

    matrix: Sequence[tuple[str, Sequence[tuple[int, float]]]]
    long_names: bool
    confusions: Sequence[Sequence[str]]
    per_class: Sequence[Sequence[str]]
    calibration: Chart
    calibration_error: str
    mistakes: Sequence[CaptionedImage]
    uncertain_correct: Sequence[CaptionedImage]


def evaluation_section(run: RunData) -> EvaluationSection | None:
    """Everything about the test set; None where nobody knows what the network said of it."""
    if run.predictions is None:
        return None
    bins = [
        (each.confidence, each.accuracy, each.count, *wilson_interval(each.num_correct, each.count))
        for each in run.confidence_bins
    ]
    small = len(run.classes) <= _MAX_MATRIX_CLASSES
    return EvaluationSection(
        matrix=_confusion_matrix(run) if small else (),
        long_names=max(map(len, run.classes)) > _MAX_SHORT_NAME,
        confusions=_confusions(run),
        per_class=_per_class(run),
        calibration=reliability_diagram("Reliability: how often it is right, by how sure it is", bins),
        calibration_error=format_percent(calibration_error(run.confidence_bins)),
        mistakes=[_captioned_image(run, place) for place in find_confident_mistakes(run.predictions, _NUM_EXAMPLES)],
        uncertain_correct=[
            _captioned_image(run, place) for place in find_uncertain_correct(run.predictions, _NUM_EXAMPLES)
        ],
    )


def weight_images(run: RunData) -> list[CaptionedImage]:
    """The first layer's weights as pictures, the units that matter most first."""
    if run.classifier is None:
        return []
    numbers, shown = first_layer_weights(run.classifier, run.test, _NUM_UNITS)
    hidden = len(run.classifier.model.dense_layers()) > 1
    names = [f"unit {number}" if hidden else run.classes[_output_class(number, len(run.classes))] for number in numbers]
    return [
        CaptionedImage(weight_data_uri(each), f"weights of {name}", [name])
        for name, each in zip(names, shown, strict=True)
    ]


def _output_class(number: int, num_classes: int) -> int:
    """Whose output node it is: of two classes the one node is the second's."""
    return 1 if num_classes == 2 else number


def _confusion_matrix(run: RunData) -> list[tuple[str, list[tuple[int, float]]]]:
    return [
        (name, [(count, count / max(sum(row), 1)) for count in row])
        for name, row in zip(run.classes, run.confusion, strict=True)
    ]


def _confusions(run: RunData) -> list[tuple[str, ...]]:
    cells = [
        (count, count / sum(row), truth, predicted)
        for truth, row in enumerate(run.confusion)
        for predicted, count in enumerate(row)
        if truth != predicted and count
    ]
    cells.sort(key=lambda cell: (-cell[0], -cell[1], cell[2], cell[3]))
    return [
        (run.classes[truth], run.classes[predicted], f"{count:,}", format_percent(share))
        for count, share, truth, predicted in cells[:_MAX_CONFUSIONS]
    ]


def _per_class(run: RunData) -> list[tuple[str, ...]]:
    rows = []
    for place, (name, row) in enumerate(zip(run.classes, class_metrics(run.confusion), strict=True)):
        low, high = wilson_interval(run.confusion[place][place], row.count)
        figures = ["–" if value is None else format_percent(value) for value in (row.precision, row.recall, row.f1)]
        rows.append((name, f"{row.count:,}", *figures, f"{format_percent(low)} to {format_percent(high)}"))
    return rows


def _captioned_image(run: RunData, place: int) -> CaptionedImage:
    predictions = run.predictions
    assert predictions is not None
    pixels = run.pixels(place)
    truth, predicted = run.classes[int(predictions.labels[place])], run.classes[int(predictions.classes[place, 0])]
    lines = [f"said {predicted}: {predictions.probabilities[place, 0]:.1%}"]
    if truth == predicted:
        next_best = f"{run.classes[int(predictions.classes[place, 1])]}: {predictions.probabilities[place, 1]:.1%}"
        alt, lines = f"test image {place}, {truth}, next {next_best}", [*lines, f"next {next_best}"]
    else:
        alt = f"test image {place}, {truth}, taken for {predicted}"
        lines = [*lines, f"truth {truth}: {predictions.true_probabilities[place]:.1%}"]
    return CaptionedImage(None if pixels is None else image_data_uri(pixels), alt, [*lines, f"image {place}"])
