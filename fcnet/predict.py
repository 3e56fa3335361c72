"""``python -m fcnet.predict``: what a finished network says of images.

An answer is printed as soon as its batch is done. A picture that cannot be read, or is not of the network's
size, costs the others nothing: it is a line on standard error, and at the end the exit code is 2.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet import cli
from fcnet.data.sources.image_paths import iter_images
from fcnet.experiment.image_classifier import load
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from fcnet.data.sources.image_paths import ImageEntry
    from fcnet.experiment.image_classifier import ImageClassifier, Prediction

    Predictions = Iterator[tuple[str, Prediction]]


def main(arguments: list[str]) -> int:
    """Parses the flags, predicts, prints; returns the exit code."""
    flags = _parse_flags(arguments)
    network = load(flags.run, device=cli.choose_device(flags.device))
    if not 1 <= flags.top <= len(network.classes):
        raise UserError(f"--top must be from 1 to the network's {len(network.classes)} classes, got {flags.top}")
    if flags.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {flags.batch_size}")
    predictor = ImagePredictor(network, flags.batch_size)
    formatter = {"csv": format_csv, "json": format_json, "text": format_text}[flags.form]
    options = OutputOptions(network.classes, flags.top, all_probabilities=flags.probabilities)
    for line in formatter(predictor.predict(flags.images), options):
        cli.print_result(line)
    if predictor.num_failed > 1:
        cli.print_error(
            f"{predictor.num_failed:,} of {predictor.num_failed + predictor.num_predicted:,} could not be predicted"
        )
    return 2 if predictor.num_failed else 0


def _parse_flags(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("predict", "Say which class each image is of, and how probable that is.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, folders or tar archives of them")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", dest="form", action="store_const", const="json", help="print one JSON list")
    forms.add_argument("--csv", dest="form", action="store_const", const="csv", help="print CSV with a line of names")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="the K most probable classes (default: 1)")
    parser.add_argument("--probabilities", action="store_true", help="the probability of every class besides")
    parser.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="images looked at together (default: 256)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or another of torch's (default: auto)")
    parser.set_defaults(form="text")
    return parser.parse_args(arguments)


class ImagePredictor:
    """The answers for pictures, while each that gets none is told on standard error.

    Attributes:
        num_predicted: how many answers there were.
        num_failed: how many pictures, folders and archives got none.
    """

    def __init__(self, network: ImageClassifier, batch_size: int) -> None:
        self.num_predicted = self.num_failed = 0
        self._network, self._batch_size = network, batch_size

    def predict(self, images: list[str]) -> Predictions:
        """Each picture's name, and what is said of it."""
        names: deque[str] = deque()

        def recorded() -> Iterator[ImageEntry]:
            for entry in iter_images(images):
                names.append(entry.name)
                yield entry

        for each in self._network.iter_predictions(recorded(), batch_size=self._batch_size):
            name = names.popleft()
            if isinstance(each, UserError):
                self.num_failed += 1
                cli.print_error(str(each))
            else:
                self.num_predicted += 1
                yield name, each


@dataclass(frozen=True)
class OutputOptions:
    """What of a prediction is shown.

    Attributes:
        classes: the network's.
        top: of how many classes, the most probable first.
        all_probabilities: whether the probability of each class follows.
    """

    classes: tuple[str, ...]
    top: int
    all_probabilities: bool

    def top_classes(self, prediction: Prediction) -> list[tuple[str, float]]:
        """The most probable classes; of equally probable ones the first."""
        rows = sorted(self.class_probabilities(prediction), key=lambda row: -row[1])
        return rows[: self.top]

    def class_probabilities(self, prediction: Prediction) -> list[tuple[str, float]]:
        """Every class, in the network's order."""
        return list(zip(self.classes, prediction.probabilities, strict=True))


def format_text(predictions: Predictions, options: OutputOptions) -> Iterator[str]:
    """For people: ``path: class (probability)``, then what else was asked for."""
    for path, prediction in predictions:
        best = ", ".join(f"{name} ({probability:.1%})" for name, probability in options.top_classes(prediction))
        every = ", ".join(f"{name} {probability:.1%}" for name, probability in options.class_probabilities(prediction))
        yield f"{path}: {best}" + (f"; {every}" if options.all_probabilities else "")


def format_json(predictions: Predictions, options: OutputOptions) -> Iterator[str]:
    """One list, an object a line: path, class and probability, then what else was asked for."""
    yield "["
    pending = None
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
    """A line of names and a line an answer: ``path,class,probability,class_2,probability_2,…,p_CLASS,…``."""
    ranks = [f"{name}_{rank}" for rank in range(2, options.top + 1) for name in ("class", "probability")]
    every = [f"p_{name}" for name in options.classes] if options.all_probabilities else []
    yield _csv_line(["path", "class", "probability", *ranks, *every])
    for path, prediction in predictions:
        best = itertools.chain.from_iterable(options.top_classes(prediction))
        yield _csv_line([path, *best, *(prediction.probabilities if options.all_probabilities else ())])


def _csv_line(values: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


if __name__ == "__main__":
    cli.run_command(main)
