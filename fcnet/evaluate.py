"""``python -m fcnet.evaluate``: how good a finished network is on test images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet import cli
from fcnet.build import test_data
from fcnet.config_file import load_config
from fcnet.errors import UserError
from fcnet.evaluation import evaluate
from fcnet.files import write_text
from fcnet.metrics import class_figures
from fcnet.network import load
from fcnet.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.evaluation import Evaluation


def main(arguments: list[str]) -> int:
    """Parses the flags, evaluates, prints; returns the exit code."""
    parser = cli.Parser("evaluate", "Evaluate a finished network on the test split of its data, or of other data.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("--data", type=Path, metavar="PATH", help="other data of the same kind and classes")
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
    for line in table(result, network.classes):
        cli.say(line)
    file = flags.run / "evaluation.json"
    write_text(file, json.dumps(_facts(result, network.classes, flags.data), indent=2) + "\n")
    cli.say(f"written to {file}")
    return 0


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
