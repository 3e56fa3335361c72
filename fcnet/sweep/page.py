"""The HTML page of a sweep: the best trial, the ranking table, and each trial's learning curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fcnet.config.values import format_value
from fcnet.report.charts import Series, error_bar_chart, line_chart
from fcnet.report.render import render
from fcnet.runtime.formatting import format_count
from fcnet.sweep.ranking import (
    VALUE_DIGITS,
    best_trial,
    format_mean_std,
    format_settings,
    rank_trials,
    ranking_criterion,
    ranking_table,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fcnet.report.charts import Chart
    from fcnet.sweep.ranking import RankedTrial

_MAX_CHARTS = 60


def sweep_page(name: str, trials: Sequence[RankedTrial], results: Mapping[str, Any]) -> str:
    """Renders the page of a sweep, finished or not.

    Args:
        name: the sweep's name.
        trials: the trials so far, in any order.
        results: the sweep's results, as `fcnet.sweep.ranking.to_dict` returns them.
    """
    ranked, criterion = rank_trials(trials), ranking_criterion(trials)
    header, rows = ranking_table(trials)
    best = best_trial(trials)
    with_runs = [trial for trial in ranked if trial.runs][:_MAX_CHARTS]
    num_unfinished = sum(trial.state == "unfinished" for trial in ranked)
    plan = results["plan"].items()
    test = results["best"] or {}
    test_accuracy = ""
    if "test_accuracy_mean" in test:
        test_accuracy = (
            f"{format_mean_std(test['test_accuracy_mean'], test['test_accuracy_std'])} (n = {test['num_seeds']})"
        )
    return render(
        "sweep.html.j2",
        name=name,
        header=header,
        rows=rows,
        highlighted=[0] if best is not None else [],
        best=best,
        best_settings=format_settings(best.settings) if best is not None else "",
        figure=criterion.label,
        best_figure=format_mean_std(best.mean, best.std, criterion) if best is not None else "",
        num_seeds=format_count(len(best.runs), "seed") if best is not None else "",
        test_accuracy=test_accuracy,
        verdict=results["verdict"],
        # The plan holds the sweep's command-line options and, by dotted key, the base configuration.
        options=[
            (key, " ".join(value) if isinstance(value, list) else value) for key, value in plan if key[:2] == "--"
        ],
        settings=[(key, format_value(value, digits=VALUE_DIGITS)) for key, value in plan if key[:2] != "--"],
        failed=[trial for trial in ranked if trial.error],
        ranking_chart=_ranking_chart(with_runs) if with_runs else None,
        learning_curves=_learning_curve_charts(ranked[:_MAX_CHARTS]),
        max_charts=_MAX_CHARTS,
        left_out=max(0, len(ranked) - _MAX_CHARTS),
        unfinished=f"Not finished yet: {format_count(num_unfinished, 'trial')}" if num_unfinished else "",
    )


def _ranking_chart(trials: Sequence[RankedTrial]) -> Chart:
    groups = [
        (f"trial {trial.number} ({format_settings(trial.settings)})", [run.value for run in trial.runs])
        for trial in trials
    ]
    criterion = ranking_criterion(trials)
    title = f"{criterion.label[0].upper()}{criterion.label[1:]} by rank"
    return error_bar_chart(title, groups, x_label="rank", group_name="trial", as_percent=criterion.is_fraction)


def _learning_curve_charts(trials: Sequence[RankedTrial]) -> list[Chart]:
    """Draws each trial's validation figure by epoch, one line for each seed; the charts share one scale."""
    points = [point for trial in trials for curve in trial.learning_curves.values() for point in curve]
    values = [value for _, value in points if value is not None]
    if not values:
        return []
    margin = 0.05 * (max(values) - min(values)) or 0.05
    is_fraction = ranking_criterion(trials).is_fraction
    low, high = max(0.0, min(values) - margin), min(1.0 if is_fraction else math.inf, max(values) + margin)
    return [
        line_chart(
            f"Trial {trial.number}"
            f"{'' if trial.state == 'finished' else f', {trial.state}'}: {format_settings(trial.settings)}",
            [
                Series(f"seed {seed}", [epoch for epoch, _ in curve], [value for _, value in curve])
                for seed, curve in trial.learning_curves.items()
            ],
            x_label="epoch",
            as_percent=is_fraction,
            low=low,
            high=high,
        )
        for trial in trials
        if trial.learning_curves
    ]
