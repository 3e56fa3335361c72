"""The page of a sweep: its table, where each trial lies, and the curve of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fcnet.report.charts import Series, error_bar_chart, line_chart
from fcnet.report.render import render
from fcnet.sweep.ranking import best_trial, format_mean_std, format_value, rank_trials, ranking_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fcnet.report.charts import Chart
    from fcnet.sweep.ranking import RankedTrial

_MAX_CHARTS = 60


def sweep_page(name: str, trials: Sequence[RankedTrial], results: Mapping[str, Any]) -> str:
    """The page, which holds all it shows.

    Args:
        name: of the sweep.
        trials: what is known of each.
        results: as `fcnet.sweep.ranking.to_dict` gives them.
    """
    order = rank_trials(trials)
    header, rows = ranking_table(trials)
    best = best_trial(trials)
    drawn = [trial for trial in order if trial.runs][:_MAX_CHARTS]
    return render(
        "sweep.html.j2",
        name=name,
        header=header,
        rows=rows,
        highlighted=[0] if best is not None else [],
        best=best,
        best_settings=_format_settings(best) if best is not None else "",
        best_figure=format_mean_std(best.mean, best.std) if best is not None else "",
        test_accuracy=_format_test_accuracy(results["best"]),
        verdict=results["verdict"],
        tried=[(key, format_value(value)) for key, value in results["plan"].items() if key.startswith("--")],
        settings=[(key, format_value(value)) for key, value in results["plan"].items() if not key.startswith("--")],
        failed=[trial for trial in order if trial.error],
        ranking_chart=_ranking_chart(drawn) if drawn else None,
        learning_curves=_learning_curve_charts(order[:_MAX_CHARTS]),
        drawn=_MAX_CHARTS,
        left_out=max(0, len(order) - _MAX_CHARTS),
        unfinished=[trial for trial in order if trial.state == "unfinished"],
    )


def _ranking_chart(trials: Sequence[RankedTrial]) -> Chart:
    named = [
        (f"trial {trial.number} ({_format_settings(trial)})", [run.validation_accuracy for run in trial.runs])
        for trial in trials
    ]
    return error_bar_chart("Validation accuracy of each trial", named, x_label="place in the table", group_name="trial")


def _learning_curve_charts(trials: Sequence[RankedTrial]) -> list[Chart]:
    """Each trial's validation accuracy over the epochs, a line a seed, all on one scale."""
    values = [accuracy for trial in trials for curve in trial.learning_curves.values() for _, accuracy in curve]
    if not values:
        return []
    margin = 0.05 * (max(values) - min(values)) or 0.05
    low, high = max(0.0, min(values) - margin), min(1.0, max(values) + margin)
    return [
        line_chart(
            f"Trial {trial.number}{'' if trial.state == 'finished' else f', {trial.state}'}: {_format_settings(trial)}",
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


def _format_settings(trial: RankedTrial) -> str:
    return ", ".join(f"{key} = {format_value(value)}" for key, value in trial.settings.items())


def _format_test_accuracy(best: Mapping[str, Any] | None) -> str:
    """The chosen trial's test accuracy in words; empty where it was not read."""
    if best is None or "test_accuracy_mean" not in best:
        return ""
    return f"{format_mean_std(best['test_accuracy_mean'], best['test_accuracy_std'])} (n = {best['num_seeds']})"
