"""The HTML report of one run, or of several runs side by side."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from fcnet.report.comparison import compare_settings, paired_tests
from fcnet.report.evaluation_sections import CaptionedImage, EvaluationSection, evaluation_section, weight_images
from fcnet.report.live_demo import live_sections
from fcnet.report.render import render
from fcnet.report.run_data import read_run_data
from fcnet.report.training_sections import (
    DIAGNOSTICS_HEADER,
    DiagnosticsSection,
    comparison_curves,
    diagnostics_section,
    learning_curves,
    speed_chart,
)
from fcnet.runtime import memory
from fcnet.runtime.files import write_text
from fcnet.runtime.formatting import format_count, format_percent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fcnet.data.batches import Batches
    from fcnet.experiment.run_folder import Run
    from fcnet.report.charts import Chart
    from fcnet.report.run_data import RunData

_ALPHA = 0.05
"""Significance level of the paired tests."""


@dataclass(frozen=True)
class RunReport:
    """One run's part of a report.

    Attributes:
        run: the run's data.
        name: its name, unique among the runs of the report.
        key_figures: the headline figures: label, value and a note.
        training_details: label and value: data, model, training, machine and software.
        learning_curves: loss, accuracy and learning rate by epoch.
        test: the results on the test set; None without predictions.
        weight_images: the first layer's weights; empty if the run is unfinished.
        diagnostics: the layer statistics; None without snapshots.
        speed: images per second by epoch; None before the first epoch ends.
    """

    run: RunData
    name: str
    key_figures: Sequence[tuple[str, str, str]]
    training_details: Sequence[tuple[str, str]]
    learning_curves: Sequence[Chart]
    test: EvaluationSection | None
    weight_images: Sequence[CaptionedImage]
    diagnostics: DiagnosticsSection | None
    speed: Chart | None


def render_report(runs: Sequence[RunData]) -> str:
    """Renders the HTML report of one or more runs."""
    several = len(runs) > 1
    names = [run.name for run in runs]
    # Number the runs whose folders have the same name.
    names = [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]
    reports = [
        RunReport(
            run,
            name,
            key_figures=_key_figures(run),
            training_details=_training_details(run),
            learning_curves=learning_curves(run),
            test=evaluation_section(run),
            weight_images=weight_images(run),
            diagnostics=diagnostics_section(run),
            speed=speed_chart(run),
        )
        for run, name in zip(runs, names, strict=True)
    ]
    return render(
        "report.html.j2",
        sections=live_sections(runs, names),
        reports=reports,
        title=" and ".join([", ".join(names[:-1]), names[-1]] if several else names),
        comparison_charts=comparison_curves(runs, names) if several else [],
        tests=_paired_test_rows(runs, names),
        settings=compare_settings(runs),
        names=names,
        diagnostics_header=DIAGNOSTICS_HEADER,
    )


def write_report(folders: Sequence[Path], file: Path, test: Batches | None = None) -> None:
    """Writes the report of one or more runs, atomically.

    Args:
        folders: the run folders.
        file: the output file.
        test: the test set of a single run, if it is already open.

    Raises:
        UserError: a folder contains no run, or a file of the run is damaged.
    """
    with memory.phase("writing the report"):
        write_text(file, render_report([read_run_data(folder, test) for folder in folders]))


def ensure_report(run: Run, test: Batches | None = None) -> None:
    """Writes a finished run's ``report.html`` if it is missing and the run has predictions.

    A report that fails does not fail the run: the error becomes a warning in ``summary.json``.

    Args:
        run: the finished run.
        test: its test set, if it is already open.
    """
    if (run.path / "report.html").is_file() or not (run.path / "predictions.json").is_file():
        return
    try:
        write_report([run.path], run.path / "report.html", test)
    except Exception as error:  # noqa: BLE001 - no error in the report may cost a finished run
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        command = f"python -m fcnet.report {shlex.quote(str(run.path))}"
        summary = run.summary()
        summary["warnings"].append(f"writing the report failed ({reason}); to try again, run {command}")
        run.finish(summary)


def _key_figures(run: RunData) -> list[tuple[str, str, str]]:
    summary = run.summary
    if not summary:
        return [("epochs", f"{len(run.records)} of {run.config.train.epochs}", "the run is not finished")]
    low, high = summary["test_interval"]
    loss = "–" if summary["test_loss"] is None else f"{summary['test_loss']:.4f}"
    figures = [
        (
            "test accuracy",
            format_percent(summary["test_accuracy"]),
            f"95% interval {format_percent(low)} to {format_percent(high)}",
        ),
        ("test loss", loss, format_count(summary["test_images"], "image")),
    ]
    if summary["validation_accuracy"] is not None:
        images = format_count(summary["validation_images"], "image")
        figures.append(("validation accuracy", format_percent(summary["validation_accuracy"]), images))
    length = f"{format_count(summary['epochs'], 'epoch')}, {format_count(summary['steps'], 'step')}"
    return [
        *figures,
        ("training time", format_duration(summary["train_seconds"]), length),
        ("parameters", f"{summary['parameters']:,}", ""),
    ]


def _training_details(run: RunData) -> list[tuple[str, str]]:
    data, model, optimizer, train = run.config.data, run.config.model, run.config.optimizer, run.config.train
    source = f"{data.source}{f', {PurePath(data.path).name}' if data.path else ''}"
    if not run.summary or run.classifier is None:
        return [("data", source)]
    summary = run.summary
    splits = (
        f"{summary['train_images']:,} training, {summary['validation_images']:,} validation "
        f"and {summary['test_images']:,} test images"
    )
    shape = " × ".join(map(str, run.classifier.shape))
    layers = "-".join(map(str, run.classifier.model.widths))
    kind = [model.activation, *([f"{model.normalization} norm"] if model.normalization != "none" else [])]
    if model.kind != "mlp" or not model.hidden:
        kind = ["logistic regression"]
    whitened = f", on {format_count(data.whiten, 'whitened component')}" if data.whiten else ""
    best = f"; best epoch {summary['best_epoch']}" if summary["best_epoch"] < summary["epochs"] else ""
    ranks = f", {summary['ranks']} processes" if summary["ranks"] > 1 else ""
    device = summary["processor"] if summary["device"] == "cpu" else summary["device"]
    training = (
        f"{format_count(summary['epochs'], 'epoch')} in {format_duration(summary['train_seconds'])}, "
        f"batch size {train.batch_size}, {optimizer.name}, learning rate {optimizer.lr:g}, "
        f"{optimizer.schedule} schedule{best}"
    )
    return [
        ("data", f"{source}: {splits} of shape {shape} in {len(run.classes)} classes"),
        ("model", f"layers {layers}, {', '.join(kind)}{whitened}"),
        ("training", training),
        ("machine", f"{device}, {format_count(summary['threads'], 'thread')}{ranks}; {summary['platform']}"),
        ("software", f"fcnet {summary['fcnet']}, torch {summary['torch']}, Python {summary['python']}"),
    ]


def _paired_test_rows(runs: Sequence[RunData], names: Sequence[str]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for pair in paired_tests(runs):
        difference = pair.only_second - pair.only_first
        predictions = runs[pair.first].predictions
        assert predictions is not None
        points = 100 * difference / len(predictions.labels)
        better = names[pair.second if difference > 0 else pair.first]
        rows.append(
            (
                names[pair.first],
                names[pair.second],
                f"{pair.only_first:,}",
                f"{pair.only_second:,}",
                f"{points:+.2f} points".replace("-", "−"),
                _format_p(pair.p),
                _format_p(pair.adjusted_p),
                f"{better} is better" if pair.adjusted_p < _ALPHA else "no significant difference",
            )
        )
    return rows


def _format_p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def format_duration(seconds: float) -> str:
    """Formats a duration in seconds, minutes or hours.

    Example:
        >>> [format_duration(seconds) for seconds in (0.854, 75.0, 7322.0)]
        ['0.9 s', '1 min 15 s', '2 h 2 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
