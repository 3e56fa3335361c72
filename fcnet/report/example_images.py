"""Images in a report: the test images with the highest loss, the least confident ones, and first-layer weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.evaluation.prediction_files import MISTAKES_FILE
from fcnet.report.images import image_data_uri, weight_data_uri
from fcnet.report.run_data import find_uncertain_correct, first_layer_weights
from fcnet.runtime.formatting import format_number, format_percent, shorten_middle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.evaluation.predictions import Predictions
    from fcnet.report.run_data import RunData

_NUM_EXAMPLES = 12
_NUM_UNITS = 48
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
class ExamplesSection:
    """Test images that tell most about the model.

    Attributes:
        top_losses: the misclassified images with the highest loss.
        note: how many mistakes there are, and where all of them are listed.
        uncertain_correct: the least confident correct predictions.
    """

    top_losses: Sequence[CaptionedImage]
    note: str
    uncertain_correct: Sequence[CaptionedImage]


def examples_section(run: RunData) -> ExamplesSection | None:
    """Selects the test images to show; None if the run has no predictions."""
    if run.predictions is None:
        return None
    return ExamplesSection(
        [_captioned_image(run, position) for position in find_top_losses(run.predictions, _NUM_EXAMPLES)],
        _mistakes_note(run, run.predictions),
        [_captioned_image(run, position) for position in find_uncertain_correct(run.predictions, _NUM_EXAMPLES)],
    )


def find_top_losses(predictions: Predictions, count: int) -> list[int]:
    """Returns the positions of misclassified images, highest loss first; of equal ones, the most confident first."""
    positions = (~predictions.is_correct).nonzero().squeeze(1)
    order = predictions.probabilities[positions, 0].sort(descending=True, stable=True).indices
    order = order[predictions.true_probabilities[positions[order]].sort(stable=True).indices]
    selected: list[int] = positions[order][:count].tolist()
    return selected


def weight_images(run: RunData) -> list[CaptionedImage]:
    """Draws the first layer's weights as images, the most influential units first; none for a model of features."""
    if run.classifier is None or run.classifier.takes_features:
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


def _mistakes_note(run: RunData, predictions: Predictions) -> str:
    """Says how many mistakes there are, where all of them are listed, and what paths are relative to."""
    count = predictions.num_mistakes
    note = f"{min(count, _NUM_EXAMPLES)} of {count:,} mistakes, highest loss first."
    if (run.folder / MISTAKES_FILE).is_file():
        note += f" The file {MISTAKES_FILE} in the run folder lists all of them, most confident first."
    if predictions.names is not None and run.config.data.path and run.config.data.source != "features":
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
        lines.append(f"loss {_format_loss(float(predictions.true_probabilities[position]))}")
        alt = f"{number}, {truth}, predicted as {predicted}"
    if path is None:
        lines.append(number)
    return CaptionedImage(None if pixels is None else image_data_uri(pixels), alt, lines, path)


def _format_loss(probability: float) -> str:
    """Returns the loss of an image from the probability of its true class in float32, which may round to 0."""
    return format_number(-math.log(probability), 3) if probability > 0.0 else "above 100"
