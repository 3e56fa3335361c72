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
from fcnet.data.sources.image_paths import gather
from fcnet.experiment.network import load
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from fcnet.data.sources.image_paths import Picture
    from fcnet.experiment.network import Network, Prediction

    Answers = Iterator[tuple[str, Prediction]]


def main(arguments: list[str]) -> int:
    """Parses the flags, predicts, prints; returns the exit code."""
    flags = _flags(arguments)
    network = load(flags.run, device=cli.choose_device(flags.device))
    if not 1 <= flags.top <= len(network.classes):
        raise UserError(f"--top must be from 1 to the network's {len(network.classes)} classes, got {flags.top}")
    if flags.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {flags.batch_size}")
    answering = Answering(network, flags.batch_size)
    form = {"csv": as_csv, "json": as_json, "text": as_text}[flags.form]
    shown = Wanted(network.classes, flags.top, every=flags.probabilities)
    for line in form(answering.answers(flags.images), shown):
        cli.tell(line)
    if answering.refused > 1:
        cli.refuse(f"{answering.refused:,} of {answering.refused + answering.answered:,} could not be predicted")
    return 2 if answering.refused else 0


def _flags(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("predict", "Say which class each image is of, and how probable that is.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files, folders or tar archives of them, - for standard input"
    )
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


class Answering:
    """The answers for pictures, while each that gets none is told on standard error.

    Attributes:
        answered: how many answers there were.
        refused: how many pictures, folders and archives got none.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        self.answered = self.refused = 0
        self._network, self._batch_size = network, batch_size

    def answers(self, images: list[str]) -> Answers:
        """Each picture's name, and what is said of it."""
        names: deque[str] = deque()

        def noted() -> Iterator[Picture]:
            for picture in gather(images):
                names.append(picture.name)
                yield picture

        for each in self._network.predict_each(noted(), batch_size=self._batch_size):
            name = names.popleft()
            if isinstance(each, UserError):
                self.refused += 1
                cli.refuse(str(each))
            else:
                self.answered += 1
                yield name, each


@dataclass(frozen=True)
class Wanted:
    """What of a prediction is shown.

    Attributes:
        classes: the network's.
        top: of how many classes, the most probable first.
        every: whether the probability of each class follows.
    """

    classes: tuple[str, ...]
    top: int
    every: bool

    def best(self, said: Prediction) -> list[tuple[str, float]]:
        """The most probable classes; of equally probable ones the first."""
        rows = sorted(self.all(said), key=lambda row: -row[1])
        return rows[: self.top]

    def all(self, said: Prediction) -> list[tuple[str, float]]:
        """Every class, in the network's order."""
        return list(zip(self.classes, said.probabilities, strict=True))


def as_text(answers: Answers, shown: Wanted) -> Iterator[str]:
    """For people: ``path: class (probability)``, then what else was asked for."""
    for path, said in answers:
        best = ", ".join(f"{name} ({probability:.1%})" for name, probability in shown.best(said))
        every = ", ".join(f"{name} {probability:.1%}" for name, probability in shown.all(said))
        yield f"{path}: {best}" + (f"; {every}" if shown.every else "")


def as_json(answers: Answers, shown: Wanted) -> Iterator[str]:
    """One list, an object a line: path, class and probability, then what else was asked for."""
    yield "["
    held = None
    for path, said in answers:
        row: dict[str, Any] = {"path": path, "class": said.class_name, "probability": said.probability}
        if shown.top > 1:
            row["top"] = [{"class": name, "probability": probability} for name, probability in shown.best(said)]
        if shown.every:
            row["probabilities"] = dict(shown.all(said))
        if held is not None:
            yield f"{held},"
        held = json.dumps(row)
    if held is not None:
        yield held
    yield "]"


def as_csv(answers: Answers, shown: Wanted) -> Iterator[str]:
    """A line of names and a line an answer: ``path,class,probability,class_2,probability_2,…,p_CLASS,…``."""
    ranks = [f"{name}_{rank}" for rank in range(2, shown.top + 1) for name in ("class", "probability")]
    every = [f"p_{name}" for name in shown.classes] if shown.every else []
    yield _separated(["path", "class", "probability", *ranks, *every])
    for path, said in answers:
        best = itertools.chain.from_iterable(shown.best(said))
        yield _separated([path, *best, *(said.probabilities if shown.every else ())])


def _separated(values: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


if __name__ == "__main__":
    cli.command(main)
