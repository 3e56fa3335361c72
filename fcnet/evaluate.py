"""``python -m fcnet.evaluate``: evaluates a trained model on test images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet import cli
from fcnet.arguments import Parser
from fcnet.data.transforms.corruptions import SEVERITIES
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.corruption_robustness import evaluate_corrupted, example_images
from fcnet.evaluation.dataset_shift import DatasetShift, accuracy_shift, class_shift, pixel_shift
from fcnet.evaluation.prediction_files import write_mistakes
from fcnet.evaluation.predictions import PredictionCollector
from fcnet.experiment.build import own_test_data
from fcnet.experiment.build_data import NotCachedError
from fcnet.experiment.evaluation_data import EvaluationData, OwnData, open_evaluation_data
from fcnet.experiment.image_classifier import load
from fcnet.experiment.run_folder import Run
from fcnet.metrics import MAX_TABLE_CLASSES, class_metrics
from fcnet.runtime import memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import write_bytes, write_text
from fcnet.runtime.formatting import escape_unprintable, format_count, format_percent, shorten_middle
from fcnet.runtime.terminal import shorten_names, terminal_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from fcnet.data.batches import Batches
    from fcnet.evaluation.classification import Evaluation
    from fcnet.evaluation.corruption_robustness import Robustness
    from fcnet.evaluation.predictions import Mistake, Predictions
    from fcnet.experiment.image_classifier import ImageClassifier
    from fcnet.metrics import Confusion

_MAX_CONFUSION_CLASSES = 100
_NO_MATRIX = "confusion matrix too wide: see evaluation.json"
_NUM_MISTAKES = 10
_NUM_CONFUSED = 100
_MAX_NAME = 15
"""The longest class name that is shown whole in the table of mistakes."""


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
        help="judge other images: a folder, an archive or a .npz file; report the distribution shift",
    )
    parser.add_argument(
        "--corruptions", action="store_true", help="also use corrupted images: noise, blur, brightness, …"
    )
    parser.add_device()
    flags = parser.parse(arguments)
    device = cli.choose_device(flags.device)
    classifier = load(flags.run, device=device)
    run = Run(flags.run)
    if not run.started:
        raise UserError(f"{run.config}: no such file; it names the data that the run was trained on")
    test, notes = _open_test_set(run, classifier, flags.data, device)
    collector = PredictionCollector(test)
    with cli.say_if_slow("evaluating"):
        result = evaluate(classifier.model, test, on_batch=collector.update)
    shift = None if flags.data is None else _measure_shift(run, classifier, test, result)
    table = evaluation_table(result, classifier.classes, terminal_columns())
    lines = [f"note: {note}" for note in notes] + table
    lines += shift.describe(classifier.classes) if shift else []
    content = _to_dict(result, classifier.classes, flags.data) | {"notes": notes}
    content["shift"] = shift.to_dict(classifier.classes) if shift else None
    table, content["mistakes"] = _report_mistakes(run, collector.compute(), classifier.classes, flags.data)
    lines += table
    lines.append(_write_json(run.path / "evaluation.json", content))
    if flags.corruptions:
        lines += _evaluate_corruptions(run, classifier, test, flags.data)
    for line in lines:  # at the end, when all files are written: printing may fail
        cli.print_result(line)
    return 0


def _open_test_set(run: Run, classifier: ImageClassifier, path: Path | None, device: torch.device) -> EvaluationData:
    data = run.load_config().data
    if path is not None:
        own = OwnData(data, run.data_fingerprint(), _num_images(run))
        with memory.phase("reading the data"), cli.show_decoding() as progress:
            return open_evaluation_data(own, classifier, path, device=device, progress=progress)
    try:
        return EvaluationData(own_test_data(data, run.data_fingerprint(), classifier, device), ())
    except NotCachedError as error:
        raise UserError(f"{error}; --data PATH decodes them") from None


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
    if summary:
        accuracy = accuracy_shift(result.num_correct, result.count, summary["test_accuracy"], summary["test_images"])
    return DatasetShift(classes, pixel_shift(test, classifier.mean, classifier.std), accuracy)


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


def evaluation_table(result: Evaluation, classes: Sequence[str], columns: int | None = None) -> list[str]:
    """Returns an evaluation as lines of text: overall figures, figures of each class, and the confusion matrix.

    Args:
        result: the evaluation.
        classes: names of the classes.
        columns: width to fit into; None for names in full.
    """
    classes = [escape_unprintable(name) for name in classes]  # before the columns are aligned
    names = classes if columns is None else shorten_names(classes, max(columns - 35, 6))
    width = max(len("class"), *map(len, names))
    accuracy = cli.format_accuracy(result.accuracy, result.interval)
    lines = [
        f"accuracy {accuracy}, loss {result.loss:.4f}, {format_count(result.count, 'image')}",
        "",
        f"{'class':{width}}  images  precision  recall      F1",
    ]
    for name, row in zip(names, class_metrics(result.confusion), strict=True):
        precision, recall, f1 = (
            "–" if value is None else format_percent(value, 1) for value in (row.precision, row.recall, row.f1)
        )
        lines.append(f"{name:{width}}  {row.count:6}  {precision:>9}  {recall:>6}  {f1:>6}")
    return [*lines, "", *confusion_table(result.confusion, classes, columns)]


def confusion_table(confusion: Confusion, classes: Sequence[str], columns: int | None = None) -> list[str]:
    """Returns a confusion matrix as lines of text, or one line that says where it is if it does not fit.

    Args:
        confusion: the counts.
        classes: names of the classes.
        columns: width to fit into; None for any width, but at most 100 classes.
    """
    if len(classes) > _MAX_CONFUSION_CLASSES:
        return [_NO_MATRIX]
    digits = len(str(confusion.counts.max()))
    narrowest = max(digits, len(str(len(classes))) + 1)
    for limit in range(max(6, narrowest), narrowest - 1, -1):
        heads = shorten_names(classes, limit)
        cell = max(digits, *map(len, heads))
        rest = None if columns is None else columns - len(classes) * (cell + 2)
        if rest is None or rest >= max(len("truth"), narrowest):
            break
    if rest is not None and rest < max(len("truth"), narrowest):
        return [_NO_MATRIX]
    names = list(classes) if rest is None else shorten_names(classes, rest)
    width = max(len("truth"), *map(len, names))
    lines = [f"{'truth':{width}}  prediction", " " * width + "".join(f"  {head:>{cell}}" for head in heads)]
    for name, counts in zip(names, confusion.table(), strict=True):
        lines.append(f"{name:{width}}" + "".join(f"  {count:{cell}}" for count in counts))
    return lines


def mistake_table(mistakes: Sequence[Mistake], classes: Sequence[str], count: int) -> list[str]:
    """Returns the most confident mistakes as lines of text with at most 80 columns.

    Args:
        mistakes: the mistakes to show, in the order of the rows.
        classes: the class names.
        count: the number of all mistakes.
    """
    if not mistakes:
        return ["no mistakes: every image is classified correctly"]
    first = "index" if isinstance(mistakes[0].image, int) else "path"
    rows: list[tuple[str, ...]] = [(first, "truth", "prediction", "probability")]
    for each in mistakes:
        names = (str(each.image), classes[each.label], classes[each.prediction])
        # Before the columns are aligned.
        rows.append((*map(escape_unprintable, names), format_percent(each.probability, 1)))
    image, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    truth, prediction, probability = (min(width, _MAX_NAME) for width in others)
    image = min(image, 80 - truth - prediction - probability - 3 * len("  "))
    lines = [f"most confident mistakes, {len(mistakes)} of {count:,}"]
    for *cells, figure in rows:
        widths = (image, truth, prediction)
        cells = [f"{shorten_middle(cell, width):{width}}" for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*cells, f"{figure:>{probability}}"]))
    return lines


def _report_mistakes(
    run: Run, predictions: Predictions, classes: Sequence[str], data: Path | None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Writes all mistakes to the run folder; returns lines of text, and the first mistakes for a JSON file."""
    first = [_name_below(data, each) for each in predictions.mistakes(_NUM_MISTAKES)]
    lines = ["", *mistake_table(first, classes, predictions.num_mistakes)]
    if first and predictions.names is not None and data is None:
        lines.append(f"paths are relative to {run.load_config().data.path}")
    file = run.path / "evaluation-mistakes.csv"
    write_mistakes(file, (_name_below(data, each) for each in predictions.iter_mistakes()), classes)
    return [*lines, f"written to {file}"], [mistake.to_dict(classes) for mistake in first]


def _name_below(data: Path | None, mistake: Mistake) -> Mistake:
    """Returns a mistake with the path of its image below ``data``, if that was given, so that the user can open it."""
    is_path = data is not None and isinstance(mistake.image, str)
    return mistake._replace(image=f"{data}/{mistake.image}") if is_path else mistake


def _to_dict(result: Evaluation, classes: Sequence[str], data: Path | None) -> dict[str, Any]:
    rows = class_metrics(result.confusion)
    return {
        "data": None if data is None else str(data),
        "images": result.count,
        "accuracy": result.accuracy,
        "interval": result.interval,
        "loss": result.loss if math.isfinite(result.loss) else None,  # JSON has no infinity
        "classes": [{"class": name, **vars(row)} for name, row in zip(classes, rows, strict=True)],
        "confusion": result.confusion.table() if len(classes) <= MAX_TABLE_CLASSES else None,
        "most_confused": [
            {"class": classes[pair.label], "predicted_class": classes[pair.prediction], "images": pair.count}
            for pair in result.confusion.most_confused(_NUM_CONFUSED)
        ],
    }


def _write_json(file: Path, content: dict[str, Any]) -> str:
    write_text(file, json.dumps(content, indent=2) + "\n")
    return f"written to {file}"


if __name__ == "__main__":
    cli.run_command(main)
