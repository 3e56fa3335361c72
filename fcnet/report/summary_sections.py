"""Report sections on what a run is: key figures, origin, data, model and machine, and the parameters of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from fcnet.config.selection import CRITERIA
from fcnet.models.layer_table import summary
from fcnet.runtime.formatting import (
    format_count,
    format_duration,
    format_interval,
    format_loss,
    format_number,
    format_percent,
    format_time,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.run_data import RunData

_SHORT_COMMIT = 12


@dataclass(frozen=True)
class ParametersSection:
    """The layers of a model.

    Attributes:
        rows: for each layer its number, its kind, the shape of its output and its number of parameters.
        total: the number of all parameters.
    """

    rows: Sequence[tuple[str, ...]]
    total: str


def key_figures(run: RunData) -> list[tuple[str, str, str]]:
    """Returns the headline figures: label, value and a note."""
    results = run.summary
    if not results:
        return [("epochs", f"{len(run.records):,} of {run.config.train.epochs:,}", "the run is not finished")]
    figures, noun = [], "example" if run.config.data.source == "features" else "image"
    if results["test_accuracy"] is not None:
        interval = f"95% interval {format_interval(*results['test_interval'][:2])}"
        figures += [
            ("test accuracy", format_percent(results["test_accuracy"]), interval),
            ("test loss", format_loss(results["test_loss"]), format_count(results["test_images"], noun)),
        ]
    if results["validation_accuracy"] is not None:
        count = format_count(results["validation_images"], noun)
        figures.append(("validation accuracy", format_percent(results["validation_accuracy"]), count))
    length = f"{format_count(results['epochs'], 'epoch')}, {format_count(results['steps'], 'step')}"
    if results.get("probe"):
        length = "of all fits"
    return [
        *figures,
        ("training time", format_duration(results["train_seconds"]), length),
        ("parameters", f"{results['parameters']:,}", ""),
    ]


def run_details(run: RunData) -> list[tuple[str, str]]:
    """Returns label and value of what was trained: the run's origin, data, model, training, machine and software."""
    data = run.config.data
    source = f"{data.source}{f', {PurePath(data.path).name}' if data.path else ''}"
    if not run.summary or run.classifier is None:
        return [*run_origin(run), ("data", source)]
    results = run.summary
    splits = (
        f"{results['train_images']:,} training, {results['validation_images']:,} validation "
        f"and {results['test_images']:,} test images"
    )
    if run.is_probe:  # the held-out examples are training examples in the end
        splits = f"{results['train_images']:,} examples to fit and to choose by, {results['test_images']:,} to test,"
    shape = " × ".join(map(str, run.classifier.shape))
    ranks = f", {results['ranks']:,} processes" if results["ranks"] > 1 else ""
    device = results["processor"] if results["device"] == "cpu" else results["device"]
    return [
        *run_origin(run),
        ("data", f"{source}: {splits} of shape {shape} in {len(run.classes):,} classes"),
        ("model", _describe_model(run)),
        ("training", _describe_training(run)),
        ("machine", f"{device}, {format_count(results['threads'], 'thread')}{ranks}; {results['platform']}"),
        ("software", f"fcnet {results['fcnet']}, torch {results['torch']}, Python {results['python']}"),
    ]


def parameters_section(run: RunData) -> ParametersSection | None:
    """Returns the parameters of each layer; None if the run has no trained model yet."""
    if run.classifier is None:
        return None
    table = summary(run.classifier.model)
    rows = [
        (str(number), row.kind, row.output_shape, f"{row.num_parameters:,}")
        for number, row in enumerate(table.layers, 1)
    ]
    return ParametersSection(rows, f"{table.num_parameters:,}")


def run_origin(run: RunData) -> list[tuple[str, str]]:
    """Returns where the run lies, and when, how and from which commit it was started and resumed."""
    lines = [("run", str(run.folder.absolute()))]
    if not run.commands:
        return lines
    first, *later = run.commands
    lines += [("started", format_time(first["time"])), ("command", first["command"])]
    if (git := first["git"]) is not None:
        changes = ", with uncommitted changes" if git["modified"] else ""
        lines.append(("git commit", f"{git['commit'][:_SHORT_COMMIT]}{changes}"))
    if later:
        moments = ", ".join(format_time(command["time"]) for command in later)
        lines.append(("resumed", f"{moments}, last with {later[-1]['command']}"))
    return lines


def _describe_model(run: RunData) -> str:
    model, whiten = run.config.model, run.config.data.whiten
    assert run.classifier is not None
    layers = "-".join(map(str, run.classifier.model.widths))
    kind = [model.activation, *([f"{model.normalization} norm"] if model.normalization != "none" else [])]
    if model.kind != "mlp" or not model.hidden:
        kind = ["logistic regression"]
    whitened = f", on {format_count(whiten, 'whitened component')}" if whiten else ""
    return f"layers {layers}, {', '.join(kind)}{whitened}"


def _describe_training(run: RunData) -> str:
    results, optimizer, batch_size = run.summary, run.config.optimizer, run.config.train.batch_size
    if probe := results.get("probe"):
        penalties = format_count(len(probe["penalties"]), "value")
        return f"linear probe, C = {probe['C']:g} of {penalties}, {format_duration(results['train_seconds'])}"
    size = f"{batch_size:,}" if isinstance(batch_size, int) else batch_size
    figure = CRITERIA[run.config.train.select].label
    best = f"; best epoch {results['best_epoch']:,} by {figure}" if results["best_epoch"] < results["epochs"] else ""
    return (
        f"{format_count(results['epochs'], 'epoch')} in {format_duration(results['train_seconds'])}, "
        f"batch size {size}, {optimizer.name}, learning rate {format_number(optimizer.lr)}, "
        f"{optimizer.schedule} schedule{best}"
    )
