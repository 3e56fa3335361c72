"""``python -m fcnet.evaluate``: how good a finished network is on test images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet import cli
from fcnet.config.toml import load_config
from fcnet.data.transforms.corruptions import STRENGTHS
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.corruption_robustness import evaluate_damaged, sample
from fcnet.evaluation.dataset_shift import Shift, accuracy_shift, class_shift, pixel_shift
from fcnet.experiment.build import test_data
from fcnet.experiment.network import load
from fcnet.experiment.run_folder import Run
from fcnet.metrics import class_figures
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import write_bytes, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.data.batches import Batches
    from fcnet.evaluation.classification import Evaluation
    from fcnet.evaluation.corruption_robustness import Robustness
    from fcnet.experiment.network import Network


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
    with cli.decoding() as progress:
        test = test_data(data, network, path=flags.data, device=device, progress=progress)
    result = evaluate(network.model, test)
    shift = None if flags.data is None else _shift(run, network, test, result)
    for line in table(result, network.classes):
        cli.say(line)
    for line in shift.words(network.classes) if shift else []:
        cli.say(line)
    facts = _facts(result, network.classes, flags.data)
    facts["shift"] = shift.facts(network.classes) if shift else None
    _write(run.path / "evaluation.json", facts)
    if flags.corruptions:
        _damage(run, network, test, flags.data)
    return 0


def _shift(run: Run, network: Network, test: Batches, result: Evaluation) -> Shift:
    """How the images differ from the run's, as far as the run says what those were."""
    summary = run.summary() if run.finished else {}
    counts = summary.get("class_images")
    classes = accuracy = None
    if counts is not None:
        classes = class_shift([counts[name] for name in network.classes], list(map(sum, result.confusion)))
    if summary:
        accuracy = accuracy_shift(result.hits, result.count, summary["test_accuracy"], summary["test_images"])
    return Shift(classes, pixel_shift(test, network.mean, network.std), accuracy)


def _damage(run: Run, network: Network, test: Batches, data: Path | None) -> None:
    """Evaluates on damaged images; prints a table, and leaves it and its figure in the run's folder."""
    from fcnet.figures.corruption import Panel, damage  # matplotlib takes long to import
    from fcnet.figures.style import THEMES, saved, themed

    seen = evaluate_damaged(network, test)
    cli.say("")
    for line in damage_table(seen):
        cli.say(line)
    _write(run.path / "corruptions.json", {"data": None if data is None else str(data), **seen.facts()})
    panels = [
        Panel(
            kind,
            sample(test, kind, seed=seen.seed),
            [each.accuracy for each in (seen.clean, *row)],
            [each.interval for each in (seen.clean, *row)],
        )
        for kind, row in seen.damaged.items()
    ]
    for theme in THEMES:
        with themed(theme):
            files = saved(damage(panels, 1.0 / len(network.classes)))
        for form, content in files.items():
            file = run.path / f"corruptions-{theme.name}.{form}"
            write_bytes(file, content)
            cli.say(f"written to {file}")


def damage_table(seen: Robustness) -> list[str]:
    """Accuracies on damaged images for a terminal: a row a kind, a column a strength."""
    width = max(map(len, (*seen.damaged, "as they are")))
    heads = "".join(f"{strength:>8}" for strength in STRENGTHS)
    lines = [f"{'accuracy at':{width}}{heads}    mean"]
    for kind, row in seen.damaged.items():
        cells = "".join(f"{each.accuracy:>8.1%}" for each in row)
        lines.append(f"{kind:{width}}{cells}{seen.mean(kind):>8.1%}")
    blank = " " * 8 * len(STRENGTHS)
    lines.append(f"{'all':{width}}{blank}{seen.mean_accuracy:>8.1%}")
    lines.append(f"{'as they are':{width}}{blank}{seen.clean.accuracy:>8.1%}")
    return lines


def _write(file: Path, facts: dict[str, Any]) -> None:
    write_text(file, json.dumps(facts, indent=2) + "\n")
    cli.say(f"written to {file}")


def table(result: Evaluation, classes: Sequence[str]) -> list[str]:
    """The evaluation for a terminal: overall, by class, and who is taken for whom."""
    width = max(len("class"), *map(len, classes))
    lines = [
        f"accuracy {cli.percent(result.accuracy, result.interval)}, loss {result.loss:.4f}, {result.count:,} images",
        "",
        f"{'class':{width}}  images  precision  recall     F1",
    ]
    for name, row in zip(classes, class_figures(result.confusion), strict=True):
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


def _facts(result: Evaluation, classes: Sequence[str], data: Path | None) -> dict[str, Any]:
    rows = class_figures(result.confusion)
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
    cli.command(main)
