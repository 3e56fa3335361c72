"""The report of one run, or of several side by side, as one page."""

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
    speed_section,
)
from fcnet.runtime.files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fcnet.data.batches import Batches
    from fcnet.experiment.run_folder import Run
    from fcnet.report.charts import Chart
    from fcnet.report.run_data import RunData

_ALPHA = 0.05


@dataclass(frozen=True)
class RunReport:
    """One run's share of a report.

    Attributes:
        run: what was found.
        name: what it is called beside the others.
        key_figures: the main ones: what, how much, and what to know of it.
        training_details: what was trained, on what, how long, on which machine, a line each.
        learning_curves: over the epochs.
        test: how it did on the test set.
        weight_images: of the first layer.
        diagnostics: layer by layer.
        speed: a chart and rows.
    """

    run: RunData
    name: str
    key_figures: Sequence[tuple[str, str, str]]
    training_details: Sequence[tuple[str, str]]
    learning_curves: Sequence[Chart]
    test: EvaluationSection | None
    weight_images: Sequence[CaptionedImage]
    diagnostics: DiagnosticsSection | None
    speed: tuple[Chart, list[tuple[str, str]]] | None


def render_report(runs: Sequence[RunData]) -> str:
    """The page.

    Args:
        runs: one or more, as `fcnet.report.run_data.read_run_data` gives them.
    """
    names = _unique_names(runs)
    reports = [_run_report(run, name) for run, name in zip(runs, names, strict=True)]
    several = len(runs) > 1
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
    """Makes the report of some runs, whole or not at all.

    Args:
        folders: the runs'.
        file: where the page goes.
        test: the test set of one run, where it is open already.

    Raises:
        UserError: a folder holds no run, or a damaged one.
    """
    write_text(file, render_report([read_run_data(folder, test) for folder in folders]))


def ensure_report(run: Run, test: Batches | None = None) -> None:
    """Writes a finished run's ``report.html`` if it is missing and the run has predictions.

    A report that fails does not fail the run: the error becomes a remark in ``summary.json``.

    Args:
        run: the finished run.
        test: its test set, if it is open already.
    """
    if (run.path / "report.html").is_file() or not (run.path / "predictions.json").is_file():
        return
    try:
        write_report([run.path], run.path / "report.html", test)
    except Exception as error:  # noqa: BLE001 - a run is worth more than its report
        why = " ".join(f"{type(error).__name__}: {error}".split())
        again = f"python -m fcnet.report {shlex.quote(str(run.path))}"
        summary = run.summary()
        summary["warnings"].append(f"the report could not be made ({why}); try again: {again}")
        run.finish(summary)


def _run_report(run: RunData, name: str) -> RunReport:
    return RunReport(
        run,
        name,
        _key_figures(run),
        _training_details(run),
        learning_curves(run),
        evaluation_section(run),
        weight_images(run),
        diagnostics_section(run),
        speed_section(run),
    )


def _unique_names(runs: Sequence[RunData]) -> list[str]:
    """The folders' names, numbered where two are the same."""
    names = [run.name for run in runs]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]


def _key_figures(run: RunData) -> list[tuple[str, str, str]]:
    summary = run.summary
    if not summary:
        done = f"{len(run.records)} of {run.config.train.epochs}"
        return [("epochs done", done, "the run is not finished")]
    low, high = summary["test_interval"]
    loss = "–" if summary["test_loss"] is None else f"{summary['test_loss']:.4f}"
    kept = summary["validation_accuracy"]
    return [
        ("test accuracy", f"{summary['test_accuracy']:.2%}", f"95 % interval {low:.2%} to {high:.2%}"),
        ("test loss", loss, f"{summary['test_images']:,} images"),
        *(
            [("validation accuracy", f"{kept:.2%}", f"{summary['validation_images']:,} images")]
            if kept is not None
            else []
        ),
        (
            "training",
            format_duration(summary["train_seconds"]),
            f"{summary['epochs']:,} epochs, {summary['steps']:,} steps",
        ),
        ("parameters", f"{summary['parameters']:,}", ""),
    ]


def _training_details(run: RunData) -> list[tuple[str, str]]:
    """What was trained, on what, how long, on which machine."""
    data, model, optimizer, train = run.config.data, run.config.model, run.config.optimizer, run.config.train
    rows = [("images", f"{data.source}{f', {PurePath(data.path).name}' if data.path else ''}")]
    if not run.summary or run.classifier is None:
        return rows
    summary = run.summary
    shape = " × ".join(map(str, run.classifier.shape))
    images = f"{summary['train_images']:,} training, {summary['validation_images']:,} validation and {summary['test_images']:,}"
    rows[0] = ("images", f"{rows[0][1]}: {images} test images of {shape} in {len(run.classes)} classes")
    layers = "-".join(map(str, run.classifier.model.widths))
    extras = [model.activation, f"{model.normalization} norm" if model.normalization != "none" else ""]
    extras = [extra for extra in extras if extra] if model.kind == "mlp" and model.hidden else ["logistic regression"]
    white = f", on {data.whiten} whitened components" if data.whiten else ""
    rows.append(("network", f"layers {layers}, {', '.join(extras)}{white}"))
    kept = f"; the best epoch, {summary['best_epoch']}, is kept" if summary["best_epoch"] < summary["epochs"] else ""
    how = f"{optimizer.name}, learning rate {optimizer.lr:g}, {optimizer.schedule} schedule{kept}"
    length = (
        f"{summary['epochs']:,} epochs in {format_duration(summary['train_seconds'])}, batches of {train.batch_size}"
    )
    rows.append(("training", f"{length}, {how}"))
    ranks = f", {summary['ranks']} processes" if summary["ranks"] > 1 else ""
    device = summary["processor"] if summary["device"] == "cpu" else summary["device"]
    rows.append(("machine", f"{device}, {_pluralize(summary['threads'], 'thread')}{ranks}; {summary['platform']}"))
    rows.append(("software", f"fcnet {summary['fcnet']}, torch {summary['torch']}, Python {summary['python']}"))
    return rows


def _paired_test_rows(runs: Sequence[RunData], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Every pair of runs: what one alone gets right, and whether the difference is real."""
    found = paired_tests(runs)
    rows = []
    for pair in found:
        more = pair.only_second - pair.only_first
        images = len(runs[pair.first].predictions.labels)  # type: ignore[union-attr]
        better = names[pair.second if more > 0 else pair.first]
        verdict = f"{better} is better" if pair.adjusted_p < _ALPHA else "no difference beyond chance"
        cells = [names[pair.first], names[pair.second], f"{pair.only_first:,}", f"{pair.only_second:,}"]
        rows.append(
            (
                *cells,
                f"{100 * more / images:+.2f} points".replace("-", "−"),
                _format_p(pair.p),
                _format_p(pair.adjusted_p),
                verdict,
            )
        )
    return rows


def _format_p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _pluralize(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def format_duration(seconds: float) -> str:
    """A time as people read it.

    Example:
        >>> [format_duration(seconds) for seconds in (0.854, 75.0, 7322.0)]
        ['0.9 s', '1 min 15 s', '2 h 2 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
