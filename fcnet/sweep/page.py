"""HTML page of a sweep: the table of trials, a chart of their accuracies, and their learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fcnet.config.values import format_value
from fcnet.report.charts import Series, error_bar_chart, line_chart
from fcnet.report.render import render
from fcnet.sweep.ranking import (
    VALUE_DIGITS,
    best_trial,
    format_mean_std,
    format_settings,
    rank_trials,
    ranking_table,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fcnet.report.charts import Chart
    from fcnet.sweep.ranking import RankedTrial

_MAX_CHARTS = 60


def sweep_page(name: str, trials: Sequence[RankedTrial], results: Mapping[str, Any]) -> str:
    """Returns the page as self-contained HTML.

    Args:
        name: name of the sweep.
        trials: trials of the sweep.
        results: contents of ``sweep.json``, as `fcnet.sweep.ranking.to_dict` gives them.
    """
    ranked = rank_trials(trials)
    header, rows = ranking_table(trials)
    best = best_trial(trials)
    with_runs = [trial for trial in ranked if trial.runs][:_MAX_CHARTS]
    plan = results["plan"].items()
    return render(
        "sweep.html.j2",
        name=name,
        header=header,
        rows=rows,
        highlighted=[0] if best is not None else [],
        best=best,
        best_settings=format_settings(best.settings) if best is not None else "",
        best_figure=format_mean_std(best.mean, best.std) if best is not None else "",
        test_accuracy=_format_test_accuracy(results["best"]),
        verdict=results["verdict"],
        flags=[(key, " ".join(value) if isinstance(value, list) else value) for key, value in plan if key[:2] == "--"],
        settings=[(key, format_value(value, digits=VALUE_DIGITS)) for key, value in plan if key[:2] != "--"],
        failed=[trial for trial in ranked if trial.error],
        ranking_chart=_ranking_chart(with_runs) if with_runs else None,
        learning_curves=_learning_curve_charts(ranked[:_MAX_CHARTS]),
        max_charts=_MAX_CHARTS,
        left_out=max(0, len(ranked) - _MAX_CHARTS),
        num_unfinished=sum(trial.state == "unfinished" for trial in ranked),
    )


def _ranking_chart(trials: Sequence[RankedTrial]) -> Chart:
    named = [
        (f"trial {trial.number} ({format_settings(trial.settings)})", [run.validation_accuracy for run in trial.runs])
        for trial in trials
    ]
    return error_bar_chart("Validation accuracy of each trial", named, x_label="row of the table", group_name="trial")


def _learning_curve_charts(trials: Sequence[RankedTrial]) -> list[Chart]:
    """Returns a chart for each trial: validation accuracy over epochs, a line for each seed, all on the same scale."""
    values = [accuracy for trial in trials for curve in trial.learning_curves.values() for _, accuracy in curve]
    if not values:
        return []
    margin = 0.05 * (max(values) - min(values)) or 0.05
    low, high = max(0.0, min(values) - margin), min(1.0, max(values) + margin)
    return [
        line_chart(
            f"Trial {trial.number}"
            f"{'' if trial.state == 'finished' else f', {trial.state}'}: {format_settings(trial.settings)}",
            [
                Series(f"seed {seed}", [epoch for epoch, _ in curve], [accuracy for _, accuracy in curve])
                for seed, curve in trial.learning_curves.items()
            ],
            x_label="epoch",
            as_percent=True,
            low=low,
            high=high,
        )
        for trial in trials
        if trial.learning_curves
    ]


def _format_test_accuracy(best: Mapping[str, Any] | None) -> str:
    """Returns the chosen trial's test accuracy as text, or an empty string if it was not computed."""
    if best is None or "test_accuracy_mean" not in best:
        return ""
    return f"{format_mean_std(best['test_accuracy_mean'], best['test_accuracy_std'])} (n = {best['num_seeds']})"
