"""The charts of a sweep's page: the ranking, parallel coordinates, importances, and learning curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from fcnet.config.values import format_value
from fcnet.report.charts import Chart, Series, line_chart
from fcnet.report.row_charts import bar_chart, error_bar_chart
from fcnet.sweep.parallel_coordinates import Coordinate, parallel_coordinates
from fcnet.sweep.ranking import best_trial, format_settings, ranking_criterion

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fcnet.sweep.ranking import RankedTrial

_MAX_LINES = 16
"""The number of lines of a chart that differ in colour or in dash pattern."""


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Returns the last part of each dotted key, or the whole key where two would have the same name.

    Example:
        >>> short_names(["optimizer.lr", "model.hidden"])
        {'optimizer.lr': 'lr', 'model.hidden': 'hidden'}
        >>> short_names(["data.size", "model.size"])
        {'data.size': 'data.size', 'model.size': 'model.size'}
    """
    names = {key: key.rpartition(".")[2] for key in keys}
    return {key: name if list(names.values()).count(name) == 1 else key for key, name in names.items()}


def describe_trials(trials: Sequence[RankedTrial]) -> dict[int, str]:
    """Returns a short name of each trial by its number, with the settings in which the trials differ."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    differing = [key for key in keys if len({format_value(trial.settings.get(key)) for trial in trials}) > 1]
    names = short_names(differing or keys)
    found = {}
    for trial in trials:
        settings = {name: trial.settings[key] for key, name in names.items() if key in trial.settings}
        found[trial.number] = f"trial {trial.number}: {format_settings(settings)}"
    return found


def ranking_chart(trials: Sequence[RankedTrial], names: Mapping[int, str]) -> Chart:
    """Draws mean, standard deviation and seeds of each trial, the best on top.

    Args:
        trials: trials with a run, in order of rank.
        names: what to call each trial.
    """
    criterion = ranking_criterion(trials)
    groups = [(names[trial.number], [run.value for run in trial.runs]) for trial in trials]
    return error_bar_chart(
        f"{criterion.label[0].upper()}{criterion.label[1:]} by rank",
        groups,
        value_label=criterion.label,
        group_name="trial",
        as_percent=criterion.is_fraction,
    )


def coordinates_chart(trials: Sequence[RankedTrial], names: Mapping[int, str], plan: Mapping[str, Any]) -> Chart | None:
    """Draws a line for each trial through its settings to its result; None with fewer than two trials.

    Args:
        trials: the trials in order of rank.
        names: what to call each trial.
        plan: the plan of the sweep, as `fcnet.sweep.study.SweepPlan.to_dict` returns it.
    """
    if len(trials) < 2:
        return None
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    criterion, best, labels = ranking_criterion(trials), best_trial(trials), short_names(keys)
    ranges = {text.partition("=")[0]: text.rpartition(":")[2] for text in plan.get("--search", ())}
    coordinates = []
    for key in keys:
        scale: Literal["linear", "log", "categories"] = "categories"
        if ranges.get(key) in ("linear", "log"):
            scale = "log" if ranges[key] == "log" else "linear"
        values = [trial.settings.get(key) for trial in trials]
        coordinates.append(Coordinate(labels[key], values, scale))
    results = [trial.mean if trial.state == "finished" else None for trial in trials]
    coordinates.append(
        Coordinate(
            criterion.short_label,
            results,
            low_is_up=criterion.lower_is_better,
            as_percent=criterion.is_fraction,
        )
    )
    return parallel_coordinates(
        "Settings and result of each trial",
        coordinates,
        [names[trial.number] for trial in trials],
        None if best is None else [trial.number for trial in trials].index(best.number),
    )


def importance_chart(importances: Mapping[str, float]) -> Chart:
    """Draws the importance of each setting, the largest first."""
    bars = sorted(importances.items(), key=lambda item: -item[1])
    return bar_chart("Importance of each setting", bars, value_label="share of the variance", group_name="setting")


def learning_curve_charts(trials: Sequence[RankedTrial], names: Mapping[int, str]) -> list[Chart]:
    """Draws each trial's validation figure by epoch, one line for each seed; the charts share one scale.

    Pruned trials share a chart, with a line for each, since they are short.
    """
    points = [point for trial in trials for curve in trial.learning_curves.values() for point in curve]
    values = [value for _, value in points if value is not None]
    if not values:
        return []
    margin = 0.05 * (max(values) - min(values)) or 0.05
    is_fraction = ranking_criterion(trials).is_fraction
    low, high = max(0.0, min(values) - margin), min(1.0 if is_fraction else math.inf, max(values) + margin)

    def draw(title: str, lines: list[Series]) -> Chart:
        return line_chart(title, lines, x_label="epoch", as_percent=is_fraction, low=low, high=high)

    drawn = [trial for trial in trials if trial.learning_curves]
    pruned = [trial for trial in drawn if trial.state == "pruned"]
    together = pruned[:_MAX_LINES] if len(pruned) > 1 else []
    charts = []
    for trial in drawn:
        if trial in pruned and together:
            continue
        title = names[trial.number][0].upper() + names[trial.number][1:]
        title += "" if trial.state == "finished" else f" ({trial.state})"
        charts.append(draw(title, [_line(f"seed {seed}", curve) for seed, curve in trial.learning_curves.items()]))
    if together:
        shown = "" if len(pruned) == len(together) else f", {len(together)} of {len(pruned):,}"
        lines = [
            _line(f"trial {trial.number}" + (f", seed {seed}" if len(trial.learning_curves) > 1 else ""), curve)
            for trial in together
            for seed, curve in trial.learning_curves.items()
        ]
        charts.append(draw(f"Pruned trials{shown}", lines))
    return charts


def _line(name: str, curve: Sequence[tuple[int, float | None]]) -> Series:
    return Series(name, [epoch for epoch, _ in curve], [value for _, value in curve])
