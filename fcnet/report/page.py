"""The HTML report of one run, or of several runs side by side."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.report.comparison import paired_tests
from fcnet.report.evaluation_sections import EvaluationSection, evaluation_section
from fcnet.report.example_images import CaptionedImage, ExamplesSection, examples_section, weight_images
from fcnet.report.live_demo import live_sections
from fcnet.report.probe_page import probe_figures, render_probe_page
from fcnet.report.render import render
from fcnet.report.run_data import read_run_data
from fcnet.report.settings_section import list_settings
from fcnet.report.summary_sections import ParametersSection, key_figures, parameters_section, run_details
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
from fcnet.runtime.formatting import format_p_value, format_points

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
        details: label and value: origin, data, model, training, machine and software.
        parameters: the parameters of each layer; None if the run is unfinished.
        learning_curves: loss, accuracy and learning rate by epoch.
        test: the results on the test set; None without predictions.
        examples: the test images to show; None without predictions.
        weight_images: the first layer's weights; empty if the run is unfinished.
        diagnostics: the layer statistics; None without snapshots.
        speed: images per second by epoch; None before the first epoch ends.
    """

    run: RunData
    name: str
    key_figures: Sequence[tuple[str, str, str]]
    details: Sequence[tuple[str, str]]
    parameters: ParametersSection | None
    learning_curves: Sequence[Chart]
    test: EvaluationSection | None
    examples: ExamplesSection | None
    weight_images: Sequence[CaptionedImage]
    diagnostics: DiagnosticsSection | None
    speed: Chart | None

    @property
    def is_probe(self) -> bool:
        """Whether the run is a probe, which has no epochs."""
        return self.run.is_probe


def render_report(runs: Sequence[RunData]) -> str:
    """Renders the HTML report of one or more runs; a single probe has a page of its own."""
    if len(runs) == 1 and runs[0].is_probe:
        return render_probe_page(runs[0])
    several = len(runs) > 1
    names = [run.name for run in runs]
    # Number the runs whose folders have the same name.
    names = [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]
    reports = [
        RunReport(
            run,
            name,
            key_figures=probe_figures(run) if run.is_probe else key_figures(run),
            details=run_details(run),
            parameters=parameters_section(run),
            learning_curves=learning_curves(run),
            test=evaluation_section(run),
            examples=examples_section(run),
            weight_images=weight_images(run),
            diagnostics=diagnostics_section(run),
            speed=speed_chart(run),
        )
        for run, name in zip(runs, names, strict=True)
    ]
    trained = [report for report in reports if not report.is_probe]
    return render(
        "report.html.j2",
        sections=live_sections(runs, names),
        reports=reports,
        title=" and ".join([", ".join(names[:-1]), names[-1]] if several else names),
        comparison_charts=(
            comparison_curves([each.run for each in trained], [each.name for each in trained])
            if len(trained) > 1
            else []
        ),
        tests=_paired_test_rows(runs, names),
        settings=list_settings([each.run for each in trained]),
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
    """Writes a finished run's ``report.html`` if it is missing and the run has predictions or is a probe.

    A report that fails does not fail the run: the error becomes a warning in ``summary.json``.

    Args:
        run: the finished run.
        test: its test set, if it is already open.
    """
    has_content = (run.path / "predictions.json").is_file() or run.summary().get("probe")
    if (run.path / "report.html").is_file() or not has_content:
        return
    try:
        write_report([run.path], run.path / "report.html", test)
    except Exception as error:  # noqa: BLE001 - no error in the report may cost a finished run
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        command = f"python -m fcnet.report {shlex.quote(str(run.path))}"
        summary = run.summary()
        summary["warnings"].append(f"writing the report failed ({reason}); to try again, run {command}")
        run.finish(summary)


def _paired_test_rows(runs: Sequence[RunData], names: Sequence[str]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for pair in paired_tests(runs):
        difference = pair.only_second - pair.only_first
        predictions = runs[pair.first].predictions
        assert predictions is not None
        better = names[pair.second if difference > 0 else pair.first]
        rows.append(
            (
                names[pair.first],
                names[pair.second],
                f"{pair.only_first:,}",
                f"{pair.only_second:,}",
                format_points(difference / len(predictions.labels)),
                format_p_value(pair.p),
                format_p_value(pair.adjusted_p),
                f"{better} is better" if pair.adjusted_p < _ALPHA else "no significant difference",
            )
        )
    return rows
