"""The parts of a report that say what a network learned: how it did on the test set, and its first weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.metrics import calibration_error, class_figures, wilson_interval
from fcnet.report.axes import percent
from fcnet.report.charts import reliability
from fcnet.report.images import picture, weight_picture
from fcnet.report.run_data import confident_mistakes, first_weights, uncertain_hits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.charts import Chart
    from fcnet.report.run_data import Findings

_PICTURES = 12
_UNITS = 48
_LARGEST_MATRIX = 30
_CONFUSIONS = 30
_SHORT_NAME = 3


@dataclass(frozen=True)
class Shown:
    """A picture, or what stands for it, and the lines under it.

    Attributes:
        uri: a data URI; None where the image is not at hand.
        words: what it is, for who does not see it.
        lines: what is said under it.
    """

    uri: str | None
    words: str
    lines: Sequence[str]


@dataclass(frozen=True)
class OnTestSet:
    """How a network did on the test set.

    Attributes:
        matrix: for each class its name and its cells, count and share of the class; empty where there are too many.
        long_names: whether the classes' names are longer than a column of the matrix.
        confusions: truth, what it was taken for, how often, and the share of the truth; most frequent first.
        per_class: name, images, precision, recall, F1 and the recall's interval.
        calibration: the reliability diagram.
        calibration_error: in per cent.
        mistakes: the most confident ones.
        hits: the least certain ones.
    """

    matrix: Sequence[tuple[str, Sequence[tuple[int, float]]]]
    long_names: bool
    confusions: Sequence[Sequence[str]]
    per_class: Sequence[Sequence[str]]
    calibration: Chart
    calibration_error: str
    mistakes: Sequence[Shown]
    hits: Sequence[Shown]


def on_test_set(run: Findings) -> OnTestSet | None:
    """Everything about the test set; None where nobody knows what the network said of it."""
    if run.predictions is None:
        return None
    bins = [(each.confidence, each.accuracy, each.count, *wilson_interval(each.hits, each.count)) for each in run.bins]
    small = len(run.classes) <= _LARGEST_MATRIX
    return OnTestSet(
        matrix=_matrix(run) if small else (),
        long_names=max(map(len, run.classes)) > _SHORT_NAME,
        confusions=_confusions(run),
        per_class=_per_class(run),
        calibration=reliability("Reliability: how often it is right, by how sure it is", bins),
        calibration_error=percent(calibration_error(run.bins)),
        mistakes=[_shown(run, place) for place in confident_mistakes(run.predictions, _PICTURES)],
        hits=[_shown(run, place) for place in uncertain_hits(run.predictions, _PICTURES)],
    )


def weights(run: Findings) -> list[Shown]:
    """The first layer's weights as pictures, the units that matter most first."""
    if run.network is None:
        return []
    numbers, shown = first_weights(run.network, run.test, _UNITS)
    hidden = len(run.network.model.dense_layers()) > 1
    names = [f"unit {number}" if hidden else run.classes[_class(number, len(run.classes))] for number in numbers]
    return [Shown(weight_picture(each), f"weights of {name}", [name]) for name, each in zip(names, shown, strict=True)]


def _class(number: int, num_classes: int) -> int:
    """Whose output node it is: of two classes the one node is the second's."""
    return 1 if num_classes == 2 else number


def _matrix(run: Findings) -> list[tuple[str, list[tuple[int, float]]]]:
    return [
        (name, [(count, count / max(sum(row), 1)) for count in row])
        for name, row in zip(run.classes, run.confusion, strict=True)
    ]


def _confusions(run: Findings) -> list[tuple[str, ...]]:
    cells = [
        (count, count / sum(row), truth, called)
        for truth, row in enumerate(run.confusion)
        for called, count in enumerate(row)
        if truth != called and count
    ]
    cells.sort(key=lambda cell: (-cell[0], -cell[1], cell[2], cell[3]))
    return [
        (run.classes[truth], run.classes[called], f"{count:,}", percent(share))
        for count, share, truth, called in cells[:_CONFUSIONS]
    ]


def _per_class(run: Findings) -> list[tuple[str, ...]]:
    rows = []
    for place, (name, row) in enumerate(zip(run.classes, class_figures(run.confusion), strict=True)):
        low, high = wilson_interval(run.confusion[place][place], row.count)
        figures = ["–" if value is None else percent(value) for value in (row.precision, row.recall, row.f1)]
        rows.append((name, f"{row.count:,}", *figures, f"{percent(low)} to {percent(high)}"))
    return rows


def _shown(run: Findings, place: int) -> Shown:
    said = run.predictions
    assert said is not None
    pixels = run.pixels(place)
    truth, called = run.classes[int(said.labels[place])], run.classes[int(said.classes[place, 0])]
    lines = [f"said {called}: {said.probabilities[place, 0]:.1%}"]
    if truth == called:
        next_best = f"{run.classes[int(said.classes[place, 1])]}: {said.probabilities[place, 1]:.1%}"
        words, lines = f"test image {place}, {truth}, next {next_best}", [*lines, f"next {next_best}"]
    else:
        words = f"test image {place}, {truth}, taken for {called}"
        lines = [*lines, f"truth {truth}: {said.of_truth[place]:.1%}"]
    return Shown(None if pixels is None else picture(pixels), words, [*lines, f"image {place}"])
