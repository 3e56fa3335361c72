"""``python -m fcnet.evaluate``: evaluates a trained model on test images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet import cli
from fcnet.arguments import Parser
from fcnet.data.transforms.corruptions import SEVERITIES
from fcnet.evaluation.corruption_robustness import evaluate_corrupted, example_images
from fcnet.evaluation.dataset_shift import DatasetShift, accuracy_shift, class_shift, pixel_shift
from fcnet.evaluation.full_evaluation import evaluate_fully
from fcnet.evaluation.metric_values import MAIN_METRICS, metric_lines, metric_notes, metric_values
from fcnet.evaluation.prediction_files import write_mistakes
from fcnet.evaluation.tables import MAX_CLASS_ROWS, class_table, confusion_table, mistake_table
from fcnet.experiment.build import own_test_data
from fcnet.experiment.build_data import NotCachedError
from fcnet.experiment.evaluation_data import EvaluationData, OwnData, open_evaluation_data
from fcnet.experiment.image_classifier import load
from fcnet.experiment.run_folder import Run
from fcnet.experiment.verification import verify_results
from fcnet.metrics import MAX_TABLE_CLASSES, class_metrics
from fcnet.runtime import memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import atomic_write, write_bytes, write_text
from fcnet.runtime.formatting import escape_unprintable, format_count, format_percent, write_csv
from fcnet.runtime.terminal import terminal_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from fcnet.data.batches import Batches
    from fcnet.evaluation.classification import Evaluation
    from fcnet.evaluation.corruption_robustness import Robustness
    from fcnet.evaluation.predictions import Mistake, Predictions
    from fcnet.evaluation.scores import ScoreMetrics
    from fcnet.experiment.image_classifier import ImageClassifier

_NUM_MISTAKES = 10
_NUM_CONFUSED = 100
_MAX_JSON_CLASSES = 1000


def main(arguments: list[str]) -> int:
    """Parses the arguments, evaluates and prints tables; returns the exit code."""
    parser = Parser(
        "evaluate",
        "Evaluate a trained model on the test images of its data, or on other data.",
        ["runs/digits", "runs/digits --data other/images"],
    )
    parser.add_run()
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="judge other images or features: a folder, an archive or a file; report the distribution shift",
    )
    parser.add_argument(
        "--corruptions", action="store_true", help="also use corrupted images: noise, blur, brightness, …"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="only make the stored predictions and test scores again; exit code 1 if they differ",
    )
    parser.add_device()
    flags = parser.parse(arguments)
    if flags.verify and (flags.data is not None or flags.corruptions):
        other = "--corruptions" if flags.data is None else "--data"
        raise UserError(f"--verify must be without {other}: it makes the results on the run's own test images again")
    device = cli.choose_device(flags.device)
    classifier = load(flags.run, device=device)
    run = Run(flags.run)
    if not run.started:
        raise UserError(f"{run.config}: no such file; it names the data that the run was trained on")
    if flags.corruptions and classifier.takes_features:
        raise UserError(f"--corruptions needs a model of images, and {flags.run} takes features")
    if flags.verify:
        return _verify(run, classifier, device)
    test, notes = _open_test_set(run, classifier, flags.data, device)
    with cli.say_if_slow("evaluating"):
        result, predictions, scores = evaluate_fully(classifier.model, test)
        report = _Report(run, classifier.classes, result, scores)
    lines = [f"note: {note}" for note in (*notes, *report.notes)]
    lines += report.lines(terminal_columns())
    shift = None if flags.data is None else _measure_shift(run, classifier, test, result)
    lines += shift.describe(classifier.classes) if shift else []
    table, mistakes = _report_mistakes(run, predictions, classifier, flags.data)
    lines += [*table, *report.write_classes()]
    content = {"data": None if flags.data is None else str(flags.data), **report.to_dict(), "notes": notes}
    content |= {"shift": shift.to_dict(classifier.classes) if shift else None, "mistakes": mistakes}
    lines.append(_write_json(run.path / "evaluation.json", content))
    if flags.corruptions:
        lines += _evaluate_corruptions(run, classifier, test, flags.data)
    for line in lines:  # at the end, when all files are written: printing may fail
        cli.print_result(line)
    return 0


def _verify(run: Run, classifier: ImageClassifier, device: torch.device) -> int:
    """Makes the stored results again and prints how they differ."""
    test, _ = _open_test_set(run, classifier, None, device)
    with cli.say_if_slow("evaluating"):
        checks = verify_results(run, classifier, test)
    for check in checks:
        cli.print_result(check.line)
    return 0 if all(check.is_equal for check in checks) else 1


class _Report:
    """What the command says of an evaluation."""

    def __init__(self, run: Run, classes: Sequence[str], result: Evaluation, scores: ScoreMetrics) -> None:
        self._run, self._classes, self._result, self._scores = run, classes, result, scores
        self._metrics = metric_values(result, scores)

    @property
    def notes(self) -> list[str]:
        """What is undefined or left out."""
        return metric_notes(self._result, self._scores)

    def lines(self, columns: int | None) -> list[str]:
        """Returns the tables."""
        result, shown = self._result, [each for each in self._metrics if each.name in MAIN_METRICS]
        accuracy = cli.format_accuracy(result.accuracy, result.interval)
        return [
            f"accuracy {accuracy}, loss {result.loss:.4f}, {format_count(result.count, 'image')}",
            "",
            *metric_lines(shown),
            "",
            *class_table(result, self._scores.rankings, self._metrics, self._classes, columns),
            "",
            *confusion_table(result.confusion, [escape_unprintable(name) for name in self._classes], columns),
        ]

    def write_classes(self) -> list[str]:
        """Writes the metrics of all classes as CSV, if the tables do not show all of them; returns lines of text."""
        if len(self._classes) <= MAX_CLASS_ROWS:
            return []
        file, rows = self._run.path / "evaluation-classes.csv", self._class_rows()
        with atomic_write(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
            write_csv(out, [list(rows[0]), *([_round(value) for value in row.values()] for row in rows)])
        return [f"written to {file}"]

    def _class_rows(self) -> list[dict[str, Any]]:
        """Returns the metrics of each class, with its name."""
        rankings = self._scores.rankings or [None] * len(self._classes)
        return [
            {
                "class": name,
                **vars(row),
                "average_precision": None if ranking is None else ranking.average_precision,
                "roc_auc": None if ranking is None else ranking.roc_auc,
            }
            for name, row, ranking in zip(self._classes, class_metrics(self._result.confusion), rankings, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of ``evaluation.json``."""
        result, classes = self._result, self._classes
        return {
            "images": result.count,
            "accuracy": result.accuracy,
            "interval": result.interval,
            "loss": result.loss if math.isfinite(result.loss) else None,  # JSON has no infinity
            "metrics": {each.name: each.to_dict() for each in self._metrics},
            "undefined": self.notes,
            "classes": self._class_rows() if len(classes) <= _MAX_JSON_CLASSES else None,
            "confusion": result.confusion.table() if len(classes) <= MAX_TABLE_CLASSES else None,
            "most_confused": [
                {"class": classes[pair.label], "predicted_class": classes[pair.prediction], "images": pair.count}
                for pair in result.confusion.most_confused(_NUM_CONFUSED)
            ],
        }


def _round(value: object) -> object:
    """Returns a value for a CSV file, a float with six digits."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _open_test_set(run: Run, classifier: ImageClassifier, path: Path | None, device: torch.device) -> EvaluationData:
    data = run.load_config().data
    if path is not None:
        own = OwnData(data, run.data_fingerprint(), _num_images(run))
        with memory.phase("reading the data"), cli.show_decoding() as progress:
            return open_evaluation_data(own, classifier, path, device=device, progress=progress)
    try:
        return EvaluationData(own_test_data(data, run.data_fingerprint(), classifier, device), ())
    except NotCachedError as error:
        verb = "names" if classifier.takes_features else "decodes"
        raise UserError(f"{error}; --data PATH {verb} them") from None


def _num_images(run: Run) -> int | None:
    """Returns the number of images of a finished run, in all splits."""
    if not run.finished:
        return None
    counts: list[int] = [run.summary().get(f"{split}_images", 0) for split in ("train", "validation", "test")]
    return sum(counts)


def _measure_shift(run: Run, classifier: ImageClassifier, test: Batches, result: Evaluation) -> DatasetShift:
    """Compares the images with those of the run. Classes and accuracy are compared only if the run is finished."""
    summary = run.summary() if run.finished else {}
    counts = summary.get("class_images")
    if counts is not None and not counts.keys() >= set(classifier.classes):
        raise UserError(f"{run.path}/summary.json is damaged: class_images must have the classes of the model")
    classes = accuracy = None
    if counts is not None:
        classes = class_shift([counts[name] for name in classifier.classes], result.confusion.class_counts.tolist())
    if summary and summary["test_accuracy"] is not None:
        accuracy = accuracy_shift(result.num_correct, result.count, summary["test_accuracy"], summary["test_images"])
    pixels = None if classifier.takes_features else pixel_shift(test, classifier.mean, classifier.std)
    return DatasetShift(classes, pixels, accuracy)


def _evaluate_corruptions(run: Run, classifier: ImageClassifier, test: Batches, data: Path | None) -> list[str]:
    """Evaluates on corrupted images; writes a table and a figure to the run folder, and returns lines of text."""
    from fcnet.figures.corruption import Panel, plot_corruptions  # matplotlib takes long to import
    from fcnet.figures.style import THEMES, figure_bytes, use_theme

    robustness = evaluate_corrupted(classifier, test)
    content = {"data": None if data is None else str(data), **robustness.to_dict()}
    lines = ["", *corruption_table(robustness), _write_json(run.path / "corruptions.json", content)]
    panels = [
        Panel(
            kind,
            example_images(test, kind, seed=robustness.seed),
            [result.accuracy for result in (robustness.clean, *row)],
            [result.interval for result in (robustness.clean, *row)],
        )
        for kind, row in robustness.corrupted.items()
    ]
    for theme in THEMES:
        with use_theme(theme):
            files = figure_bytes(plot_corruptions(panels, 1.0 / len(classifier.classes)))
        for form, image in files.items():
            file = run.path / f"corruptions-{theme.name}.{form}"
            write_bytes(file, image)
            lines.append(f"written to {file}")
    return lines


def corruption_table(robustness: Robustness) -> list[str]:
    """Returns the accuracy on corrupted images as lines of text: a row for each kind, a column for each severity."""
    width = max(map(len, (*robustness.corrupted, "accuracy at")))
    heads = "".join(f"{severity:>8}" for severity in SEVERITIES)
    lines = [f"{'accuracy at':{width}}{heads}    mean"]
    for kind, row in robustness.corrupted.items():
        cells = "".join(f"{format_percent(result.accuracy, 1):>8}" for result in row)
        lines.append(f"{kind:{width}}{cells}{format_percent(robustness.mean(kind), 1):>8}")
    blank = " " * 8 * len(SEVERITIES)
    lines.append(f"{'all':{width}}{blank}{format_percent(robustness.mean_accuracy, 1):>8}")
    lines.append(f"{'clean':{width}}{blank}{format_percent(robustness.clean.accuracy, 1):>8}")
    return lines


def _report_mistakes(
    run: Run, predictions: Predictions, classifier: ImageClassifier, data: Path | None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Writes all mistakes to the run folder; returns lines of text, and the first mistakes for a JSON file."""
    classes = classifier.classes
    if classifier.takes_features:  # no image lies below a file of features, whatever its names
        data = None
    first = [_name_below(data, each) for each in predictions.mistakes(_NUM_MISTAKES)]
    lines = ["", *mistake_table(first, classes, predictions.num_mistakes)]
    if first and predictions.names is not None and data is None and not classifier.takes_features:
        lines.append(f"paths are relative to {run.load_config().data.path}")
    file = run.path / "evaluation-mistakes.csv"
    write_mistakes(file, (_name_below(data, each) for each in predictions.iter_mistakes()), classes)
    return [*lines, f"written to {file}"], [mistake.to_dict(classes) for mistake in first]


def _name_below(data: Path | None, mistake: Mistake) -> Mistake:
    """Returns a mistake with the path of its image below ``data``, if that was given, so that the user can open it."""
    is_path = data is not None and isinstance(mistake.image, str)
    return mistake._replace(image=f"{data}/{mistake.image}") if is_path else mistake


def _write_json(file: Path, content: dict[str, Any]) -> str:
    write_text(file, json.dumps(content, indent=2) + "\n")
    return f"written to {file}"


if __name__ == "__main__":
    cli.run_command(main)
