"""``python -m fcnet.predict``: predicts the classes of images, or of vectors of features, with a trained model.

Predictions are printed batch by batch. An image that cannot be read or has the wrong size is one line on standard
error; the other images are predicted, and the exit code is 2. Files that are no images are counted in one line on
standard error.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet import cli
from fcnet.arguments import Parser
from fcnet.data.features.rows import read_feature_rows
from fcnet.data.sources.image_paths import iter_images
from fcnet.data.sources.unused import UnusedItems
from fcnet.experiment.image_classifier import load
from fcnet.runtime import memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import csv_path, csv_text, format_percent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from fcnet.data.sources.image_paths import ImageEntry
    from fcnet.experiment.image_classifier import ImageClassifier, Prediction

    Predictions = Iterator[tuple[str, Prediction]]


def main(arguments: list[str]) -> int:
    """Parses the arguments, predicts and prints; returns the exit code."""
    flags = _parse_flags(arguments)
    classifier = load(flags.run, device=cli.choose_device(flags.device))
    if not 1 <= flags.top <= len(classifier.classes):
        raise UserError(f"--top must be from 1 to {len(classifier.classes)}, the number of classes, got {flags.top}")
    if flags.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {flags.batch_size}")
    predictor = (FeaturePredictor if classifier.takes_features else ImagePredictor)(classifier, flags.batch_size)
    formatter = {"csv": format_csv, "json": format_json, "text": format_text}[flags.form]
    options = OutputOptions(classifier.classes, flags.top, all_probabilities=flags.probabilities)
    with memory.phase("predicting"):
        for line in formatter(predictor.predict(flags.images), options):
            cli.print_result(line)
    for note in predictor.unused.notes():
        cli.print_error(f"note: {note}")
    if predictor.num_failed > 1:
        total = predictor.num_failed + predictor.num_predicted
        cli.print_error(f"{predictor.num_failed:,} of {total:,} could not be predicted")
    return 2 if predictor.num_failed else 0


def _parse_flags(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        "predict",
        "Predict the class of each image, with its probability.",
        ["runs/digits digit.png", "runs/digits images --csv --top 3"],
    )
    parser.add_run()
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image file, folder, or tar or zip archive; for a model of features, .npy, .npz or .safetensors file",
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", dest="form", action="store_const", const="json", help="print one JSON list")
    forms.add_argument("--csv", dest="form", action="store_const", const="csv", help="print CSV with a header")
    parser.add_argument(
        "--top", type=int, default=1, metavar="K", help="print the K most probable classes (default: 1)"
    )
    parser.add_argument("--probabilities", action="store_true", help="also print the probability of every class")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="images in a batch (default: 256)")
    parser.add_device()
    parser.set_defaults(form="text")
    return parser.parse(arguments)


class ImagePredictor:
    """Predicts images and reports those that fail on standard error.

    Args:
        classifier: the trained model.
        batch_size: images in a batch.

    Attributes:
        num_predicted: number of predictions so far.
        num_failed: number of images, folders and archives that failed so far.
        unused: what was left out so far.
    """

    def __init__(self, classifier: ImageClassifier, batch_size: int) -> None:
        self.num_predicted = self.num_failed = 0
        self.unused = UnusedItems()
        self._classifier, self._batch_size = classifier, batch_size

    def predict(self, images: list[str]) -> Predictions:
        """Yields the name of each image and its prediction, in order."""
        # The classifier reads ahead by a batch: the names wait here for their predictions.
        names: deque[str] = deque()

        def record_names() -> Iterator[ImageEntry]:
            for entry in iter_images(images, self.unused):
                names.append(entry.name)
                yield entry

        for prediction in self._classifier.iter_predictions(record_names(), batch_size=self._batch_size):
            name = names.popleft()
            if isinstance(prediction, UserError):
                self.num_failed += 1
                cli.print_error(str(prediction))
            else:
                self.num_predicted += 1
                yield name, prediction


class FeaturePredictor(ImagePredictor):
    """Predicts the vectors in files of features, and reports those that fail on standard error."""

    def predict(self, images: list[str]) -> Predictions:
        """Yields the name of each vector, from the file or ``FILE[row]``, and its prediction, in order."""
        files = [(file, *read_feature_rows(Path(file), self._classifier.shape[0])) for file in images]
        for file, x, names in files:
            for row, prediction in enumerate(self._classifier.iter_feature_predictions(x, batch_size=self._batch_size)):
                if isinstance(prediction, UserError):
                    self.num_failed += 1
                    cli.print_error(f"{file}: {prediction}")
                else:
                    self.num_predicted += 1
                    yield f"{file}[{row}]" if names is None else names[row], prediction


@dataclass(frozen=True)
class OutputOptions:
    """Parts of a prediction to print.

    Attributes:
        classes: names of the classes.
        top: number of the most probable classes to print.
        all_probabilities: also print the probability of every class.
    """

    classes: tuple[str, ...]
    top: int
    all_probabilities: bool

    def top_classes(self, prediction: Prediction) -> list[tuple[str, float]]:
        """Returns the most probable classes with their probabilities; ties keep the order of the classes."""
        rows = sorted(self.class_probabilities(prediction), key=lambda row: -row[1])
        return rows[: self.top]

    def class_probabilities(self, prediction: Prediction) -> list[tuple[str, float]]:
        """Returns every class with its probability, in order of the classes."""
        return list(zip(self.classes, prediction.probabilities, strict=True))


def format_text(predictions: Predictions, options: OutputOptions) -> Iterator[str]:
    """Yields a line for each prediction: ``path: class (probability)``, then further classes."""
    for path, prediction in predictions:
        best = ", ".join(f"{name} ({format_percent(p, 1)})" for name, p in options.top_classes(prediction))
        line = f"{path}: {best}"
        if options.all_probabilities:
            every = ", ".join(f"{name} {format_percent(p, 1)}" for name, p in options.class_probabilities(prediction))
            line += f"; {every}"
        yield line


def format_json(predictions: Predictions, options: OutputOptions) -> Iterator[str]:
    """Yields the lines of one JSON list with an object for each prediction: path, class and probability."""
    yield "["
    pending = None  # the last object has no comma, so each waits for the next
    for path, prediction in predictions:
        row: dict[str, Any] = {"path": path, "class": prediction.class_name, "probability": prediction.probability}
        if options.top > 1:
            row["top"] = [
                {"class": name, "probability": probability} for name, probability in options.top_classes(prediction)
            ]
        if options.all_probabilities:
            row["probabilities"] = dict(options.class_probabilities(prediction))
        if pending is not None:
            yield f"{pending},"
        pending = json.dumps(row)
    if pending is not None:
        yield pending
    yield "]"


def format_csv(predictions: Predictions, options: OutputOptions) -> Iterator[str]:
    """Yields a header and a line for each prediction: ``path,class,probability,class_2,probability_2,…,p_CLASS,…``."""
    ranks = [f"{name}_{rank}" for rank in range(2, options.top + 1) for name in ("class", "probability")]
    every = [f"p_{name}" for name in options.classes] if options.all_probabilities else []
    yield _csv_line(["path", "class", "probability", *ranks, *every])
    for path, prediction in predictions:
        best = itertools.chain.from_iterable(options.top_classes(prediction))
        yield _csv_line([csv_path(path), *best, *(prediction.probabilities if options.all_probabilities else ())])


def _csv_line(values: list[object]) -> str:
    return csv_text([values]).rstrip("\n")


if __name__ == "__main__":
    cli.run_command(main)
