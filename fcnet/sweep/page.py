"""The HTML page of a sweep: the best trial, the ranking, which settings mattered, and each trial's learning curves."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fcnet.config.values import format_value
from fcnet.report.render import render
from fcnet.runtime.formatting import format_count
from fcnet.sweep.charts import (
    coordinates_chart,
    describe_trials,
    importance_chart,
    learning_curve_charts,
    ranking_chart,
)
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

    from fcnet.sweep.ranking import RankedTrial

_MAX_CHARTS = 60


def sweep_page(
    name: str,
    trials: Sequence[RankedTrial],
    results: Mapping[str, Any],
    reports: Mapping[tuple[int, int], str] | None = None,
    importances: Mapping[str, float] | str = "",
) -> str:
    """Renders the page of a sweep, finished or not.

    Args:
        name: the sweep's name.
        trials: the trials so far, in any order.
        results: the sweep's results, as `fcnet.sweep.ranking.to_dict` returns them.
        reports: the report of each run that has one, by trial and seed, relative to the page.
        importances: the importance of each setting, or why it is unknown; empty before all trials have ended.
    """
    ranked, criterion = rank_trials(trials), ranking_criterion(trials)
    header, rows = ranking_table(trials)
    best = best_trial(trials)
    with_runs = [trial for trial in ranked if trial.runs][:_MAX_CHARTS]
    states = Counter[str](trial.state for trial in ranked)
    names = describe_trials(ranked)
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
        header=[*header, "report of seed"] if reports else header,
        rows=[_row(trial, row, reports or {}) for trial, row in zip(ranked, rows, strict=True)],
        highlighted=[0] if best is not None else [],
        best=best,
        best_settings=format_settings(best.settings) if best is not None else "",
        best_reports=_links(best, reports or {}) if best is not None else "",
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
        counts=_describe_states(states),
        failed=[trial for trial in ranked if trial.error],
        ranking_chart=ranking_chart(with_runs, names) if with_runs else None,
        coordinates=coordinates_chart(ranked, names, results["plan"]),
        importances=importance_chart(importances) if not isinstance(importances, str) else None,
        no_importances=importances if isinstance(importances, str) else "",
        num_finished=states["finished"],
        learning_curves=learning_curve_charts(ranked[:_MAX_CHARTS], names),
        max_charts=_MAX_CHARTS,
        left_out=max(0, len(ranked) - _MAX_CHARTS),
        unfinished=f"Not finished yet: {format_count(states['unfinished'], 'trial')}" if states["unfinished"] else "",
    )


def _row(trial: RankedTrial, row: Sequence[str], reports: Mapping[tuple[int, int], str]) -> list[str]:
    """Returns a row of the ranking, with how long a pruned trial lasted, and with links to reports if there are any."""
    *cells, state = row
    if trial.state == "pruned" and trial.learning_curves:
        num_epochs = sum(map(len, trial.learning_curves.values()))
        state = f"pruned after {format_count(num_epochs, 'epoch')}"
    return [*cells, state, *([_links(trial, reports)] if reports else [])]


def _links(trial: RankedTrial, reports: Mapping[tuple[int, int], str]) -> Markup:
    links = [
        Markup('<a href="{}">{}</a>').format(file, seed) for (number, seed), file in reports.items()
        if number == trial.number
    ]  # fmt: skip
    return Markup(", ").join(links) or Markup("–")


def _describe_states(states: Mapping[str, int]) -> str:
    """Returns how many trials there are and what became of them.

    Example:
        >>> _describe_states(Counter({"finished": 6, "pruned": 2}))
        '8 trials: 6 finished, 2 pruned, 0 failed'
    """
    known = ("finished", "pruned", "failed", *(["unfinished"] if states["unfinished"] else []))
    parts = ", ".join(f"{states[state]:,} {state}" for state in known)
    return f"{format_count(sum(states.values()), 'trial')}: {parts}"
