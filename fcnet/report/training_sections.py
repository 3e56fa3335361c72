"""The parts of a report that say how a training went: its curves, layer by layer, and its speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcnet.models.flops import step_cost
from fcnet.report.axes import percent
from fcnet.report.charts import Series, histogram, line_chart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.charts import Chart
    from fcnet.report.run_data import Findings

_OVER_TIME = {
    "dead": "Dead units: 0 for every image",
    "saturated": "Saturated units: flat for every image",
    "weight_norm": "Norm of the weights",
    "gradient_norm": "Norm of the gradient",
    "effective_rank": "Effective rank of the weights",
}
_SHARES = {"dead", "saturated"}
_LOG = {"gradient_norm"}


@dataclass(frozen=True)
class Inside:
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


INSIDE_HEADER = ("layer", "units", "dead", "saturated", "activations", "‖W‖", "‖gradient‖", "effective rank")


def curves(run: Findings) -> list[Chart]:
    """Loss, accuracy and learning rate over the epochs."""
    if not run.records:
        return []
    rate = [_column(run, "lr", "learning rate")]
    return [
        line_chart("Loss", _both(run, "loss"), x_label="epoch", low=0.0),
        line_chart("Accuracy", _both(run, "accuracy"), x_label="epoch", share=True),
        line_chart("Learning rate", rate, x_label="epoch", low=0.0),
    ]


def curves_together(runs: Sequence[Findings], names: Sequence[str]) -> list[Chart]:
    """The same figure of several runs in one chart each; of validation where it was kept aside, else of training."""
    kept = all(run.records and run.records[-1].get("validation_loss") is not None for run in runs)
    part, word = ("validation", "Validation") if kept else ("train", "Training")
    return [
        line_chart(
            f"{word} {figure}",
            [_column(run, f"{part}_{figure}", name) for run, name in zip(runs, names, strict=True)],
            x_label="epoch",
            share=figure == "accuracy",
        )
        for figure in ("loss", "accuracy")
    ]


def inside(run: Findings) -> Inside | None:
    """What the lines of ``diagnostics.jsonl`` show; None where there are none."""
    if not run.layers:
        return None
    last = run.layers[-1]
    return Inside(
        [_activations(layer, _before(run, layer)) for layer in last["layers"] if layer.get("histogram")],
        [chart for key in _OVER_TIME if (chart := _over_time(run, key))],
        [_row(layer) for layer in last["layers"]],
        last.get("warnings") or (),
    )


def speed(run: Findings) -> tuple[Chart, list[tuple[str, str]]] | None:
    """Images a second, beside what the machine could do at its best; None before the first epoch is done."""
    reached = run.images_per_second
    if reached is None:
        return None
    limit = run.summary.get("limit_images_per_second")
    lines = [_column(run, "images_per_second", "training")]
    if limit is not None:
        lines.append(Series("the machine’s limit", lines[0].x, [limit] * len(lines[0].x)))
    rows = [("images a second, median epoch", f"{reached:,.0f}")]
    if run.network is not None:
        flops = step_cost(run.network.model.widths, 1).flops * reached
        rows.append(("operations a second in matrix products", f"{flops / 1e9:,.1f} · 10⁹"))
    if limit is not None:
        rows += [("the machine’s limit, images a second", f"{limit:,.0f}"), ("reached of it", percent(reached / limit))]
    return line_chart("Images a second", lines, x_label="epoch", low=0.0), rows


def _column(run: Findings, key: str, name: str) -> Series:
    return Series(name, [record["epoch"] for record in run.records], [record.get(key) for record in run.records])


def _both(run: Findings, figure: str) -> list[Series]:
    return [_column(run, f"train_{figure}", "training"), _column(run, f"validation_{figure}", "validation")]


def _before(run: Findings, layer: dict[str, Any]) -> dict[str, Any] | None:
    """The same layer before the training, where it was looked at then and later again."""
    first = run.layers[0]
    if first["epoch"] != 0 or len(run.layers) < 2:
        return None
    return next((each for each in first["layers"] if each["layer"] == layer["layer"]), None)


def _activations(layer: dict[str, Any], before: dict[str, Any] | None) -> Chart:
    name = f"Layer {layer['layer']}"
    counts, edges = layer["histogram"]["counts"], _edges(layer["histogram"])
    if not before or not before.get("histogram"):
        return histogram(name, edges, counts, x_label="activation")
    then = before["histogram"]
    return histogram(name, edges, counts, x_label="activation", before=then["counts"], before_edges=_edges(then))


def _edges(counted: dict[str, Any]) -> list[float]:
    low, high, parts = counted["low"], counted["high"], len(counted["counts"])
    return [low + (high - low) * place / parts for place in range(parts + 1)]


def _over_time(run: Findings, key: str) -> Chart | None:
    """A figure of every layer that has it over the epochs; None where none has."""
    numbers = [layer["layer"] for layer in run.layers[-1]["layers"]]
    lines = []
    for number in numbers:
        values = [
            next((layer.get(key) for layer in line["layers"] if layer["layer"] == number), None) for line in run.layers
        ]
        lines.append(Series(f"layer {number}", [line["epoch"] for line in run.layers], values))
    if all(value is None for line in lines for value in line.y):
        return None
    share = key in _SHARES
    return line_chart(
        _OVER_TIME[key], lines, x_label="epoch", share=share, log=key in _LOG, low=None if key in _LOG else 0.0
    )


def _row(layer: dict[str, Any]) -> tuple[str, ...]:
    mean, spread = layer.get("activation_mean"), layer.get("activation_std")
    activations = "–" if mean is None or spread is None else f"{mean:.3g} ± {spread:.3g}"
    shares = ["–" if layer.get(key) is None else percent(layer[key]) for key in ("dead", "saturated")]
    sizes = [
        "–" if layer.get(key) is None else f"{layer[key]:.3g}"
        for key in ("weight_norm", "gradient_norm", "effective_rank")
    ]
    return str(layer["layer"]), f"{layer['units']:,}", *shares, activations, *sizes
