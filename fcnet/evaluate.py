"""``python -m fcnet.evaluate``: how good a finished network is on test images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet import cli
from fcnet.config.toml import load_config
from fcnet.data.transforms.corruptions import SEVERITIES
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.corruption_robustness import evaluate_corrupted, example_images
from fcnet.evaluation.dataset_shift import DatasetShift, accuracy_shift, class_shift, pixel_shift
from fcnet.experiment.build import test_data
from fcnet.experiment.image_classifier import load
from fcnet.experiment.run_folder import Run
from fcnet.metrics import class_metrics
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import write_bytes, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.data.batches import Batches
    from fcnet.evaluation.classification import Evaluation
    from fcnet.evaluation.corruption_robustness import Robustness
    from fcnet.experiment.image_classifier import ImageClassifier


def main(arguments: list[str]) -> int:
    """Parses the flags, evaluates, prints; returns the exit code."""
    parser = cli.Parser("evaluate", "Evaluate a finished network on the test split of its data, or of other data.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="other data of the same classes, whose difference is said in words"
    )
    parser.add_argument(
        "--corruptions", action="store_true", help="damage the images too: noise, blur, light, place, at five strengths"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or another of torch's (default: auto)")
    flags = parser.parse_args(arguments)
    device = cli.choose_device(flags.device)
    network = load(flags.run, device=device)
    run = Run(flags.run)
    if not run.started:
        raise UserError(f"{run.path} does not say what it was trained on: {run.config.name} is missing")
    data = load_config(run.config).data
    with cli.show_decoding() as progress:
        test = test_data(data, network, path=flags.data, device=device, progress=progress)
    result = evaluate(network.model, test)
    shift = None if flags.data is None else _compute_shift(run, network, test, result)
    for line in evaluation_table(result, network.classes):
        cli.print_status(line)
    for line in shift.describe(network.classes) if shift else []:
        cli.print_status(line)
    content = _to_dict(result, network.classes, flags.data)
    content["shift"] = shift.to_dict(network.classes) if shift else None
    _write_json(run.path / "evaluation.json", content)
    if flags.corruptions:
        _evaluate_corruptions(run, network, test, flags.data)
    return 0


def _compute_shift(run: Run, network: ImageClassifier, test: Batches, result: Evaluation) -> DatasetShift:
    """How the images differ from the run's, as far as the run says what those were."""
    summary = run.summary() if run.finished else {}
    counts = summary.get("class_images")
    classes = accuracy = None
    if counts is not None:
        classes = class_shift([counts[name] for name in network.classes], list(map(sum, result.confusion)))
    if summary:
        accuracy = accuracy_shift(result.num_correct, result.count, summary["test_accuracy"], summary["test_images"])
    return DatasetShift(classes, pixel_shift(test, network.mean, network.std), accuracy)


def _evaluate_corruptions(run: Run, network: ImageClassifier, test: Batches, data: Path | None) -> None:
    """Evaluates on damaged images; prints a table, and leaves it and its figure in the run's folder."""
    from fcnet.figures.corruption import Panel, plot_corruptions  # matplotlib takes long to import
    from fcnet.figures.style import THEMES, figure_bytes, use_theme

    robustness = evaluate_corrupted(network, test)
    cli.print_status("")
    for line in corruption_table(robustness):
        cli.print_status(line)
    _write_json(run.path / "corruptions.json", {"data": None if data is None else str(data), **robustness.to_dict()})
    panels = [
        Panel(
            kind,
            example_images(test, kind, seed=robustness.seed),
            [each.accuracy for each in (robustness.clean, *row)],
            [each.interval for each in (robustness.clean, *row)],
        )
        for kind, row in robustness.corrupted.items()
    ]
    for theme in THEMES:
        with use_theme(theme):
            files = figure_bytes(plot_corruptions(panels, 1.0 / len(network.classes)))
        for form, content in files.items():
            file = run.path / f"corruptions-{theme.name}.{form}"
            write_bytes(file, content)
            cli.print_status(f"written to {file}")


def corruption_table(robustness: Robustness) -> list[str]:
    """Accuracies on damaged images for a terminal: a row a kind, a column a strength."""
    width = max(map(len, (*robustness.corrupted, "as they are")))
    heads = "".join(f"{strength:>8}" for strength in SEVERITIES)
    lines = [f"{'accuracy at':{width}}{heads}    mean"]
    for kind, row in robustness.corrupted.items():
        cells = "".join(f"{each.accuracy:>8.1%}" for each in row)
        lines.append(f"{kind:{width}}{cells}{robustness.mean(kind):>8.1%}")
    blank = " " * 8 * len(SEVERITIES)
    lines.append(f"{'all':{width}}{blank}{robustness.mean_accuracy:>8.1%}")
    lines.append(f"{'as they are':{width}}{blank}{robustness.clean.accuracy:>8.1%}")
    return lines


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_text(file, json.dumps(content, indent=2) + "\n")
    cli.print_status(f"written to {file}")


def evaluation_table(result: Evaluation, classes: Sequence[str]) -> list[str]:
    """The evaluation for a terminal: overall, by class, and who is taken for whom."""
    width = max(len("class"), *map(len, classes))
    lines = [
        f"accuracy {cli.format_accuracy(result.accuracy, result.interval)}, loss {result.loss:.4f}, {result.count:,} images",
        "",
        f"{'class':{width}}  images  precision  recall     F1",
    ]
    for name, row in zip(classes, class_metrics(result.confusion), strict=True):
        shown = [
            f"{'–' if value is None else format(value, '.1%'):>{size}}"
            for value, size in ((row.precision, 9), (row.recall, 6), (row.f1, 6))
        ]
        lines.append(f"{name:{width}}  {row.count:6}  {shown[0]}  {shown[1]}  {shown[2]}")
    cell = max(len(str(result.count)), *(min(len(name), 6) for name in classes))
    lines += ["", f"{'truth':{width}}  taken for"]
    lines.append(" " * width + "".join(f"  {name[:cell]:>{cell}}" for name in classes))
    for name, counts in zip(classes, result.confusion, strict=True):
        lines.append(f"{name:{width}}" + "".join(f"  {count:{cell}}" for count in counts))
    return lines


def _to_dict(result: Evaluation, classes: Sequence[str], data: Path | None) -> dict[str, Any]:
    rows = class_metrics(result.confusion)
    return {
        "data": None if data is None else str(data),
        "images": result.count,
        "accuracy": result.accuracy,
        "interval": result.interval,
        "loss": result.loss if result.loss * 0 == 0 else None,
        "classes": [{"class": name, **vars(row)} for name, row in zip(classes, rows, strict=True)],
        "confusion": result.confusion,
    }


if __name__ == "__main__":
    cli.run_command(main)
