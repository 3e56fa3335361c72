"""The page of a sweep: its table, where each point lies, and the course of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fcnet.report.charts import Series, line_chart, spread
from fcnet.report.render import render
from fcnet.sweep.ranking import chosen, figure, ranked, said, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fcnet.report.charts import Chart
    from fcnet.sweep.ranking import Standing

_DRAWN = 60


def sweep_page(name: str, points: Sequence[Standing], facts: Mapping[str, Any]) -> str:
    """The page, which holds all it shows.

    Args:
        name: of the sweep.
        points: what is known of each.
        facts: as `fcnet.sweep.ranking.as_facts` gives them.
    """
    order = ranked(points)
    header, rows = table(points)
    best = chosen(points)
    drawn = [point for point in order if point.runs][:_DRAWN]
    return render(
        "sweep.html.j2",
        name=name,
        header=header,
        rows=rows,
        marked=[0] if best is not None else [],
        best=best,
        best_settings=_settings(best) if best is not None else "",
        best_figure=figure(best.mean, best.std) if best is not None else "",
        tested=_tested(facts["chosen"]),
        verdict=facts["verdict"],
        tried=[(key, said(value)) for key, value in facts["plan"].items() if key.startswith("--")],
        settings=[(key, said(value)) for key, value in facts["plan"].items() if not key.startswith("--")],
        failed=[point for point in order if point.why],
        by_rank=_by_rank(drawn) if drawn else None,
        courses=_courses(order[:_DRAWN]),
        drawn=_DRAWN,
        left_out=max(0, len(order) - _DRAWN),
        unfinished=[point for point in order if point.state == "unfinished"],
    )


def _by_rank(points: Sequence[Standing]) -> Chart:
    named = [
        (f"point {point.number} ({_settings(point)})", [run.validation_accuracy for run in point.runs])
        for point in points
    ]
    return spread("Validation accuracy of each point", named, x_label="place in the table", x_name="point")


def _courses(points: Sequence[Standing]) -> list[Chart]:
    """Each point's validation accuracy over the epochs, a line a seed, all on one scale."""
    values = [accuracy for point in points for course in point.courses.values() for _, accuracy in course]
    if not values:
        return []
    margin = 0.05 * (max(values) - min(values)) or 0.05
    low, high = max(0.0, min(values) - margin), min(1.0, max(values) + margin)
    return [
        line_chart(
            f"Point {point.number}{'' if point.state == 'finished' else f', {point.state}'}: {_settings(point)}",
            [
                Series(f"seed {seed}", [epoch for epoch, _ in course], [accuracy for _, accuracy in course])
                for seed, course in point.courses.items()
            ],
            x_label="epoch",
            share=True,
            low=low,
            high=high,
        )
        for point in points
        if point.courses
    ]


def _settings(point: Standing) -> str:
    return ", ".join(f"{key} = {said(value)}" for key, value in point.settings.items())


def _tested(best: Mapping[str, Any] | None) -> str:
    """The chosen point's test accuracy in words; empty where it was not read."""
    if best is None or "test_accuracy_mean" not in best:
        return ""
    return f"{figure(best['test_accuracy_mean'], best['test_accuracy_std'])} (n = {best['seeds']})"
