"""The parts of a report that say how a training went: its curves, layer by layer, and its speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcnet.models.flops import step_cost
from fcnet.report.axes import format_percent
from fcnet.report.charts import Series, histogram, line_chart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.charts import Chart
    from fcnet.report.run_data import RunData

_LAYER_METRICS = {
    "dead": "Dead units: 0 for every image",
    "saturated": "Saturated units: flat for every image",
    "weight_norm": "Norm of the weights",
    "gradient_norm": "Norm of the gradient",
    "effective_rank": "Effective rank of the weights",
}
_FRACTION_METRICS = {"dead", "saturated"}
_LOG_METRICS = {"gradient_norm"}


@dataclass(frozen=True)
class DiagnosticsSection:
    """What was seen inside a network.

    Attributes:
        histograms: of each layer's activations at the end, and before the training.
        over_time: a chart a figure, a line a layer.
        table: the layers at the end.
        warnings: in words, those of the last look.
    """

    histograms: Sequence[Chart]
    over_time: Sequence[Chart]
    table: Sequence[Sequence[str]]
    warnings: Sequence[str]


DIAGNOSTICS_HEADER = ("layer", "units", "dead", "saturated", "activations", "‖W‖", "‖gradient‖", "effective rank")


def learning_curves(run: RunData) -> list[Chart]:
    """Loss, accuracy and learning rate over the epochs."""
    if not run.records:
        return []
    rate = [_column(run, "lr", "learning rate")]
    return [
        line_chart("Loss", _train_and_validation(run, "loss"), x_label="epoch", low=0.0),
        line_chart("Accuracy", _train_and_validation(run, "accuracy"), x_label="epoch", as_percent=True),
        line_chart("Learning rate", rate, x_label="epoch", low=0.0),
    ]


def comparison_curves(runs: Sequence[RunData], names: Sequence[str]) -> list[Chart]:
    """The same figure of several runs in one chart each; of validation where it was kept aside, else of training."""
    kept = all(run.records and run.records[-1].get("validation_loss") is not None for run in runs)
    part, word = ("validation", "Validation") if kept else ("train", "Training")
    return [
        line_chart(
            f"{word} {figure}",
            [_column(run, f"{part}_{figure}", name) for run, name in zip(runs, names, strict=True)],
            x_label="epoch",
            as_percent=figure == "accuracy",
        )
        for figure in ("loss", "accuracy")
    ]


def diagnostics_section(run: RunData) -> DiagnosticsSection | None:
    """What the lines of ``diagnostics.jsonl`` show; None where there are none."""
    if not run.snapshots:
        return None
    last = run.snapshots[-1]
    return DiagnosticsSection(
        [
            _activation_histogram(layer, _initial_layer(run, layer))
            for layer in last["layers"]
            if layer.get("histogram")
        ],
        [chart for key in _LAYER_METRICS if (chart := _metric_chart(run, key))],
        [_layer_row(layer) for layer in last["layers"]],
        last.get("warnings") or (),
    )


def speed_section(run: RunData) -> tuple[Chart, list[tuple[str, str]]] | None:
    """Images per second; None before the first epoch is done."""
    reached = run.images_per_second
    if reached is None:
        return None
    lines = [_column(run, "images_per_second", "training")]
    rows = [("images a second, median epoch", f"{reached:,.0f}")]
    if run.classifier is not None:
        flops = step_cost(run.classifier.model.widths, 1).flops * reached
        rows.append(("operations a second in matrix products", f"{flops / 1e9:,.1f} · 10⁹"))
    return line_chart("Images a second", lines, x_label="epoch", low=0.0), rows


def _column(run: RunData, key: str, name: str) -> Series:
    return Series(name, [record["epoch"] for record in run.records], [record.get(key) for record in run.records])


def _train_and_validation(run: RunData, figure: str) -> list[Series]:
    return [_column(run, f"train_{figure}", "training"), _column(run, f"validation_{figure}", "validation")]


def _initial_layer(run: RunData, layer: dict[str, Any]) -> dict[str, Any] | None:
    """The same layer before the training, where it was looked at then and later again."""
    first = run.snapshots[0]
    if first["epoch"] != 0 or len(run.snapshots) < 2:
        return None
    return next((each for each in first["layers"] if each["layer"] == layer["layer"]), None)


def _activation_histogram(layer: dict[str, Any], before: dict[str, Any] | None) -> Chart:
    name = f"Layer {layer['layer']}"
    counts, edges = layer["histogram"]["counts"], _bin_edges(layer["histogram"])
    if not before or not before.get("histogram"):
        return histogram(name, edges, counts, x_label="activation")
    then = before["histogram"]
    return histogram(name, edges, counts, x_label="activation", before=then["counts"], before_edges=_bin_edges(then))


def _bin_edges(counted: dict[str, Any]) -> list[float]:
    low, high, parts = counted["low"], counted["high"], len(counted["counts"])
    return [low + (high - low) * place / parts for place in range(parts + 1)]


def _metric_chart(run: RunData, key: str) -> Chart | None:
    """A figure of every layer that has it over the epochs; None where none has."""
    numbers = [layer["layer"] for layer in run.snapshots[-1]["layers"]]
    lines = []
    for number in numbers:
        values = [
            next((layer.get(key) for layer in line["layers"] if layer["layer"] == number), None)
            for line in run.snapshots
        ]
        lines.append(Series(f"layer {number}", [line["epoch"] for line in run.snapshots], values))
    if all(value is None for line in lines for value in line.y):
        return None
    as_percent = key in _FRACTION_METRICS
    return line_chart(
        _LAYER_METRICS[key],
        lines,
        x_label="epoch",
        as_percent=as_percent,
        log=key in _LOG_METRICS,
        low=None if key in _LOG_METRICS else 0.0,
    )


def _layer_row(layer: dict[str, Any]) -> tuple[str, ...]:
    mean, spread = layer.get("activation_mean"), layer.get("activation_std")
    activations = "–" if mean is None or spread is None else f"{mean:.3g} ± {spread:.3g}"
    shares = ["–" if layer.get(key) is None else format_percent(layer[key]) for key in ("dead", "saturated")]
    sizes = [
        "–" if layer.get(key) is None else f"{layer[key]:.3g}"
        for key in ("weight_norm", "gradient_norm", "effective_rank")
    ]
    return str(layer["layer"]), f"{layer['units']:,}", *shares, activations, *sizes
