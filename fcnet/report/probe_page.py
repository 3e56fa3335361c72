"""The HTML page of a probe: what was chosen and how surely, and the test results of the choice."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fcnet.evaluation.prediction_files import MISTAKES_FILE
from fcnet.report.evaluation_sections import evaluation_section
from fcnet.report.interval_charts import Estimate, interval_chart
from fcnet.report.render import render
from fcnet.report.summary_sections import key_figures, run_origin
from fcnet.runtime.formatting import (
    format_count,
    format_interval,
    format_loss,
    format_p_value,
    format_percent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.charts import Chart
    from fcnet.report.run_data import RunData

_NUM_MISTAKES = 30
_ALPHA = 0.05
"""Significance level of the comparisons, by which the probe found the range of equal penalties."""
PENALTY_COLUMNS = (
    *("C", "held-out accuracy", "95% interval", "log loss", "95% interval of the log loss", "p-value", "steps"),
    *("gap", "search"),
)


def render_probe_page(run: RunData) -> str:
    """Renders the page of a finished probe."""
    probe = run.summary["probe"]
    return render(
        "probe.html.j2",
        name=run.name,
        run=run,
        key_figures=probe_figures(run),
        details=_details(run),
        protocol=describe_protocol(run.summary),
        comparison=describe_neighbours(probe),
        charts_of_c=_choice_charts(probe),
        columns=PENALTY_COLUMNS,
        penalties=_penalty_rows(probe),
        chosen=[index for index, each in enumerate(probe["penalties"]) if each["C"] == probe["C"]],
        test=evaluation_section(run),
        mistakes=_mistake_rows(run),
        mistakes_note=_mistakes_note(run),
        few_shot=_few_shot_chart(probe),
        few_shots=_few_shot_rows(probe),
    )


def probe_figures(run: RunData) -> list[tuple[str, str, str]]:
    """Returns the headline figures: label, value and a note."""
    chosen, num = chosen_entry(run.summary["probe"]), len(run.summary["probe"]["penalties"])
    interval = f"95% interval {format_interval(*chosen['accuracy_interval'])}"
    figures = [each for each in key_figures(run) if each[0] != "validation accuracy"]
    place = 2 if run.summary["test_accuracy"] is not None else 0
    figures[place:place] = [
        ("chosen C", f"{chosen['C']:g}", f"of {format_count(num, 'value')}"),
        ("held-out accuracy", format_percent(chosen["accuracy"]), interval),
    ]
    return figures


def chosen_entry(probe: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of the chosen penalty."""
    found: dict[str, Any] = next(each for each in probe["penalties"] if each["C"] == probe["C"])
    return found


def describe_protocol(summary: dict[str, Any]) -> str:
    """Returns how the penalty was chosen, as sentences."""
    probe = summary["probe"]
    held_out = format_count(summary["validation_images"], "held-out example")
    if probe["folds"]:
        how = f"{probe['folds']}-fold cross-validation, {held_out} in all"
    elif probe["validation"] is None:
        how = f"the validation split, {held_out}"
    else:
        how = f"{format_percent(probe['validation'], 0)} of each class, {held_out}"
    return (
        f"C was chosen by {how}: the most correct predictions; of equal ones the lowest log loss, then the strongest "
        f"penalty, the smallest C. The model was then fitted to all {summary['train_images']:,} examples with this C."
    )


def describe_neighbours(probe: dict[str, Any]) -> str:
    """Returns whether other penalties differ from the chosen one beyond chance, as sentences."""
    if len(probe["penalties"]) < 2:
        return "No other C was tried."
    low, high = probe["equal_range"]
    penalties = [each["C"] for each in probe["penalties"]]
    inside = penalties.index(high) - penalties.index(low)
    test = f"McNemar’s test on the held-out examples, at a Holm-adjusted level of {_ALPHA:g}"
    if inside == 0:
        return f"The neighbours of the chosen C differ from it beyond chance: {test}."
    others = "of the values tried" if inside == len(penalties) - 1 else f"of the values from {low:g} to {high:g}"
    return f"None {others} differs from the chosen C beyond chance: {test}. The examples cannot tell them apart."


def _details(run: RunData) -> list[tuple[str, str]]:
    results, probe = run.summary, run.summary["probe"]
    assert run.classifier is not None
    shape = format_count(run.classifier.shape[0], "feature")
    scaling = ["standardised" if probe["standardize"] else "as they are"]
    if probe["l2_normalize"]:
        scaling.insert(0, "scaled to unit norm")
    if probe["class_weight"]:
        scaling.append("the same weight of all classes together")
    refit = probe["refit"]
    device = results["processor"] if results["device"] == "cpu" else results["device"]
    ranks = f", {results['ranks']:,} processes" if results["ranks"] > 1 else ""
    return [
        *run_origin(run),
        ("data", f"{PurePath(run.config.data.path).name}: {shape}, {len(run.classes):,} classes"),
        (
            "examples",
            f"{results['train_images']:,} to fit and to choose by, {results['test_images']:,} to test",
        ),
        ("features", ", ".join(scaling)),
        ("last search", f"{format_count(refit['iterations'], 'step')}, {_describe_end(refit)}"),
        ("machine", f"{device}, {format_count(results['threads'], 'thread')}{ranks}; {results['platform']}"),
        ("software", f"fcnet {results['fcnet']}, torch {results['torch']}, Python {results['python']}"),
    ]


def _describe_end(entry: dict[str, Any]) -> str:
    gap = entry["gap"]
    bound = "distance from the minimum unknown" if gap is None else f"at most {gap:.1e} above the minimum"
    return f"{'converged' if entry['converged'] else 'not converged'}, {bound}"


def _choice_charts(probe: dict[str, Any]) -> list[Chart]:
    penalties, chosen = probe["penalties"], probe["C"]
    accuracies = [Estimate(each["C"], each["accuracy"], tuple(each["accuracy_interval"])) for each in penalties]
    losses = [
        Estimate(each["C"], each["log_loss"], each["log_loss_interval"] and tuple(each["log_loss_interval"]))
        for each in penalties
        if each["log_loss"] is not None
    ]
    charts = [
        interval_chart(
            "Accuracy on held-out examples",
            accuracies,
            x_label="C",
            value_label="accuracy",
            as_percent=True,
            chosen=chosen,
        )
    ]
    if losses:
        title = "Log loss on held-out examples"
        charts.append(interval_chart(title, losses, x_label="C", value_label="log loss", chosen=chosen))
    return charts


def _penalty_rows(probe: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for each in probe["penalties"]:
        loss = each["log_loss_interval"]
        rows.append(
            (
                f"{each['C']:g}",
                format_percent(each["accuracy"]),
                format_interval(*each["accuracy_interval"]),
                format_loss(each["log_loss"]),
                "–" if loss is None else f"{format_loss(loss[0])} to {format_loss(loss[1])}",
                "chosen" if each["C"] == probe["C"] else format_p_value(each["p_value"]),
                f"{each['iterations']:,}",
                "–" if each["gap"] is None else f"{each['gap']:.1e}",
                "converged" if each["converged"] else "not converged",
            )
        )
    return rows


def _mistake_rows(run: RunData) -> list[tuple[str, ...]]:
    if run.predictions is None:
        return []
    return [
        (
            run.image_path(each.position) or f"row {each.image}",
            run.classes[each.label],
            run.classes[each.prediction],
            format_percent(each.probability, 1),
            format_percent(each.true_probability, 1),
        )
        for each in run.predictions.mistakes(_NUM_MISTAKES)
    ]


def _mistakes_note(run: RunData) -> str:
    if run.predictions is None or not run.predictions.num_mistakes:
        return ""
    count = run.predictions.num_mistakes
    shown = f"The {_NUM_MISTAKES} surest of {count:,}" if count > _NUM_MISTAKES else f"All {count:,}, the surest first"
    return f"{shown}; {MISTAKES_FILE} lists all of them."


def _few_shot_chart(probe: dict[str, Any]) -> Chart | None:
    if not probe["few_shot"]:
        return None
    estimates = [
        Estimate(each["shots"], each["mean"], each["interval"] and tuple(each["interval"]))
        for each in probe["few_shot"]
    ]
    title = "Test accuracy with few examples of each class"
    return interval_chart(title, estimates, x_label="examples of each class", value_label="accuracy", as_percent=True)


def _few_shot_rows(probe: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    return [
        (
            f"{each['shots']:,}",
            format_percent(each["mean"]),
            "–" if each["std"] is None else format_percent(each["std"]),
            "–" if each["interval"] is None else format_interval(*each["interval"]),
            f"{len(each['accuracies'])}",
            ", ".join(f"{penalty:g}" for penalty in each["Cs"]),
        )
        for each in probe["few_shot"]
    ]
