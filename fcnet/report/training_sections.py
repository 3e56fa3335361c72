"""Report sections on the training: learning curves, layer statistics and speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcnet.config.selection import CRITERIA
from fcnet.report.charts import Series, histogram, line_chart
from fcnet.runtime.formatting import format_number, format_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.charts import Chart
    from fcnet.report.run_data import RunData

_LAYER_METRICS = {
    "dead": "Dead units (output 0 for every image)",
    "saturated": "Saturated units (output near its limit for every image)",
    "weight_norm": "Weight norm",
    "gradient_norm": "Gradient norm",
    "effective_rank": "Effective rank of the weights",
}
_FRACTION_METRICS = {"dead", "saturated"}
_LOG_METRICS = {"gradient_norm"}


@dataclass(frozen=True)
class DiagnosticsSection:
    """Layer statistics from the diagnostics snapshots.

    Attributes:
        time: when the last snapshot was taken, such as ``after epoch 3``.
        histograms: each layer's activations in the last snapshot, with those before training as an outline.
        over_time: one chart for each statistic, with a line for each layer.
        table: the last snapshot, a row for each layer.
        advice: the warnings and advice of the last snapshot.
    """

    time: str
    histograms: Sequence[Chart]
    over_time: Sequence[Chart]
    table: Sequence[Sequence[str]]
    advice: Sequence[str]


DIAGNOSTICS_HEADER = (
    "layer", "units", "dead units", "saturated units", "activations (mean ± std)", "‖W‖", "‖gradient‖", "effective rank"
)  # fmt: skip
"""The header of `DiagnosticsSection.table`."""


def learning_curves(run: RunData) -> list[Chart]:
    """Draws loss, accuracy, the figure that ``train.select`` names besides, and learning rate by epoch."""
    if not run.records:
        return []
    loss, accuracy = (
        [_column(run, f"train_{metric}", "training"), _column(run, f"validation_{metric}", "validation")]
        for metric in ("loss", "accuracy")
    )
    criterion, score = CRITERIA[run.config.train.select], []
    if any(record.get("validation_score") is not None for record in run.records):
        series, is_fraction = [_column(run, "validation_score", "validation")], criterion.is_fraction
        score.append(line_chart(criterion.title, series, x_label="epoch", as_percent=is_fraction))
    return [
        line_chart("Loss", loss, x_label="epoch", low=0.0),
        line_chart("Accuracy", accuracy, x_label="epoch", as_percent=True),
        *score,
        line_chart("Learning rate", [_column(run, "lr", "learning rate")], x_label="epoch", low=0.0),
    ]


def comparison_curves(runs: Sequence[RunData], names: Sequence[str]) -> list[Chart]:
    """Draws the loss and the accuracy of several runs, each metric in one chart.

    The charts show the validation split if every run has one, else the training split.
    """
    has_validation = all(run.records and run.records[-1].get("validation_loss") is not None for run in runs)
    prefix, title = ("validation", "Validation") if has_validation else ("train", "Training")
    return [
        line_chart(
            f"{title} {metric}",
            [_column(run, f"{prefix}_{metric}", name) for run, name in zip(runs, names, strict=True)],
            x_label="epoch",
            as_percent=metric == "accuracy",
        )
        for metric in ("loss", "accuracy")
    ]


def diagnostics_section(run: RunData) -> DiagnosticsSection | None:
    """Summarises ``diagnostics.jsonl``; None if it has no lines."""
    if not run.snapshots:
        return None
    first, last = run.snapshots[0], run.snapshots[-1]
    has_initial = first["epoch"] == 0 and len(run.snapshots) > 1
    initial_layers = {layer["layer"]: layer for layer in first["layers"]} if has_initial else {}
    time = "before training" if last["epoch"] == 0 else f"after epoch {last['epoch']:,}"
    return DiagnosticsSection(
        "at the end of training" if run.summary else time,
        [
            _activation_histogram(layer, initial_layers.get(layer["layer"]))
            for layer in last["layers"]
            if layer.get("histogram")
        ],
        [chart for key in _LAYER_METRICS if (chart := _metric_chart(run, key))],
        [_layer_row(layer) for layer in last["layers"]],
        last.get("warnings") or (),
    )


def speed_chart(run: RunData) -> Chart | None:
    """Draws the images per second of each epoch; None before the first epoch ends."""
    if not run.records:
        return None
    return line_chart("Images per second", [_column(run, "images_per_second", "training")], x_label="epoch", low=0.0)


def _column(run: RunData, key: str, name: str) -> Series:
    return Series(name, [record["epoch"] for record in run.records], [record.get(key) for record in run.records])


def _activation_histogram(layer: dict[str, Any], initial: dict[str, Any] | None) -> Chart:
    now = layer["histogram"]
    before = initial.get("histogram") if initial else None
    return histogram(
        f"Layer {layer['layer']}",
        _bin_edges(now),
        now["counts"],
        x_label="activation",
        before=before["counts"] if before else None,
        before_edges=_bin_edges(before) if before else None,
    )


def _bin_edges(bins: dict[str, Any]) -> list[float]:
    low, high, num_bins = bins["low"], bins["high"], len(bins["counts"])
    return [low + (high - low) * place / num_bins for place in range(num_bins + 1)]


def _metric_chart(run: RunData, key: str) -> Chart | None:
    """Draws one statistic of every layer by epoch; None if no layer has it."""
    lines = []
    for number in (layer["layer"] for layer in run.snapshots[-1]["layers"]):
        values = [
            next((layer.get(key) for layer in snapshot["layers"] if layer["layer"] == number), None)
            for snapshot in run.snapshots
        ]
        lines.append(Series(f"layer {number}", [snapshot["epoch"] for snapshot in run.snapshots], values))
    if all(value is None for line in lines for value in line.y):
        return None
    return line_chart(
        _LAYER_METRICS[key],
        lines,
        x_label="epoch",
        as_percent=key in _FRACTION_METRICS,
        log=key in _LOG_METRICS,
        low=None if key in _LOG_METRICS else 0.0,
    )


def _layer_row(layer: dict[str, Any]) -> tuple[str, ...]:
    mean, std = layer.get("activation_mean"), layer.get("activation_std")
    activations = "–" if mean is None or std is None else f"{format_number(mean, 3)} ± {format_number(std, 3)}"
    fractions = ["–" if layer.get(key) is None else format_percent(layer[key]) for key in ("dead", "saturated")]
    values = [
        "–" if layer.get(key) is None else format_number(layer[key], 3)
        for key in ("weight_norm", "gradient_norm", "effective_rank")
    ]
    return str(layer["layer"]), f"{layer['units']:,}", *fractions, activations, *values
