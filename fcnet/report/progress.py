"""The progress of a run in training, read from its files alone, and the page that shows it."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from fcnet.config.selection import CRITERIA
from fcnet.experiment.run_folder import Run, describe_no_run
from fcnet.report.render import STATIC, PageSection, render
from fcnet.report.run_data import RunData
from fcnet.report.training_sections import DIAGNOSTICS_HEADER, diagnostics_section, learning_curves, speed_chart
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count, format_duration, format_loss, format_percent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fcnet.config.selection import Criterion

RELOAD_SECONDS = 5
"""Seconds after which an open page is loaded again."""
_WATCHED_FILES = ("config.toml", "metrics.jsonl", "diagnostics.jsonl", "summary.json", "checksums.json", "report.html")
_RECENT_EPOCHS = 10
_MAX_POINTS = 500
"""Points of a curve, at most: a page that is written and loaded again and again must stay small."""

State = Literal["training", "evaluating", "stopped", "finished"]


@dataclass(frozen=True)
class RunProgress:
    """What the files of a run say at one moment.

    Attributes:
        run: the configuration, the records, the snapshots, and the summary of a finished run; no model, no images.
        state: ``training`` while a process trains; ``evaluating`` from the last epoch until the results and the report
            are written; ``stopped`` if no process trains and the run is unfinished; ``finished``.
        trainer: the process that trains, such as ``process 12 on ada``; None if there is none.
        saved_step: the step of the newest checkpoint; None without checkpoints.
    """

    run: RunData
    state: State
    trainer: str | None
    saved_step: int | None


def read_progress(folder: Path) -> RunProgress:
    """Reads the progress of a run. Locks nothing and writes nothing, so the process that trains does not notice.

    Args:
        folder: the run folder. It may change meanwhile: each file is read whole, as it was at one moment.

    Raises:
        UserError: the folder contains no run, or a file of the run is damaged.
        OSError: a file went away while it was read.
    """
    run = Run(folder)
    if run.is_probe:
        raise UserError(f"RUN must be a run of train, got {folder}, a probe, which has no epochs to watch")
    if not run.started:
        reason = describe_no_run(folder)
        hint = "; a training makes it once the data are prepared" if reason == "no such folder" else ""
        raise UserError(f"RUN must be a run folder, got {folder}: {reason}{hint}")
    # Asked first: a process that ends meanwhile has written everything before.
    trainer = run.trainer()
    config, records, snapshots = run.load_config(), run.records(), run.snapshots()
    state: State = "training" if trainer else "stopped"
    summary: dict[str, Any] = {}
    if run.finished:
        summary = run.summary()
        # The report follows the results.
        state = "evaluating" if trainer and not (folder / "report.html").is_file() else "finished"
    elif trainer and len(records) >= config.train.epochs:
        state = "evaluating"
    data = RunData(folder.resolve().name, folder, config, records, summary, snapshots)
    return RunProgress(data, state, trainer, run.checkpoints.saved_step)


def file_versions(folder: Path) -> tuple[object, ...]:
    """Returns values that differ whenever a file of the run has changed: files change by being replaced."""
    versions: list[object] = [Run(folder).trainer()]
    for name in _WATCHED_FILES:
        try:
            status = (folder / name).stat()
        except OSError:
            versions.append(None)
        else:
            versions.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(versions)


def describe_state(progress: RunProgress) -> str:
    """Returns what the run does at the moment, as a phrase."""
    epochs, done = progress.run.config.train.epochs, len(progress.run.records)
    if progress.state == "training":
        return f"in training, epoch {done + 1:,} of {epochs:,} ({progress.trainer})"
    if progress.state == "evaluating":
        return f"trained for {format_count(done, 'epoch')}; the test set is evaluated and the report is written"
    if progress.state == "stopped":
        saved = "" if progress.saved_step is None else f", with a checkpoint of step {progress.saved_step:,}"
        return f"stopped after epoch {done:,} of {epochs:,}{saved}"
    accuracy = format_percent(progress.run.summary["test_accuracy"])
    return f"finished after {format_count(done, 'epoch')}, test accuracy {accuracy}"


def progress_page(progress: RunProgress, *, ended: str = "", report: str | None = None) -> str:
    """Renders the page of a run in training.

    While it is watched the page loads itself again, with a script that keeps the place and waits for the reader, or
    without scripts by a meta element.

    Args:
        progress: the progress.
        ended: why the page does not change any more; empty while the run is watched.
        report: a link to the report of the finished run; None: no link.
    """
    run, step = progress.run, _thinning(progress.run.records)
    drawn = dataclasses.replace(
        run,
        records=_thin(run.records, step),
        snapshots=_thin(run.snapshots, _thinning(run.snapshots)),
    )
    return render(
        "watch.html.j2",
        sections=[PageSection(Markup(""), (STATIC / "watch.js").read_text(encoding="utf-8"))],
        progress=progress,
        name=run.name,
        state=describe_state(progress),
        key_figures=key_figures(progress),
        learning_curves=learning_curves(drawn),
        speed=speed_chart(drawn),
        thinning=step,
        diagnostics=diagnostics_section(drawn),
        diagnostics_header=DIAGNOSTICS_HEADER,
        ended=ended,
        report=report,
        reload_seconds=0 if ended else RELOAD_SECONDS,
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
        written_seconds=round(time.time()),
    )


def key_figures(progress: RunProgress) -> list[tuple[str, str, str]]:
    """Returns the headline figures: label, value and a note."""
    records, epochs = progress.run.records, progress.run.config.train.epochs
    figures = [("epochs", f"{len(records):,} of {epochs:,}", "")]
    if not records:
        return figures
    last = records[-1]
    note = f"after epoch {last['epoch']}"
    figures.append(("training loss", format_loss(last["train_loss"]), note))
    if last["validation_loss"] is not None:
        figures.append(("validation loss", format_loss(last["validation_loss"]), note))
    if last["validation_accuracy"] is not None:
        best = max(records, key=lambda record: _or_zero(record["validation_accuracy"]))
        highest = f"highest: {format_percent(best['validation_accuracy'])} in epoch {best['epoch']}"
        figures.append(("validation accuracy", format_percent(last["validation_accuracy"]), highest))
    figures += _score_figure(records, CRITERIA[progress.run.config.train.select])
    if progress.state == "training" and (left := epochs - len(records)):
        seconds = fmean(record["seconds"] for record in records[-_RECENT_EPOCHS:])
        at_most = "at most " if progress.run.config.train.patience else "about "
        each = f"{format_count(left, 'epoch')} of {format_duration(seconds)}"
        figures.append(("training left", f"{at_most}{format_duration(left * seconds)}", each))
    return figures


def _score_figure(records: Sequence[dict[str, Any]], criterion: Criterion) -> list[tuple[str, str, str]]:
    """Returns the figure that ``train.select`` names, if the records have it besides the loss and the accuracy."""
    scored = [record for record in records if record.get("validation_score") is not None]
    if not scored or scored[-1] is not records[-1]:
        return []
    best = min(scored, key=lambda record: criterion.sort_key(record["validation_score"]))
    note = f"best: {criterion.format(best['validation_score'])} in epoch {best['epoch']}"
    return [(criterion.label, criterion.format(records[-1]["validation_score"]), note)]


def common_epochs(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> int:
    """Returns how many records of earlier are still there: a run that resumes goes back to its checkpoint.

    Example:
        >>> common_epochs([{"epoch": 1}, {"epoch": 2}], [{"epoch": 1}])
        1
    """
    same = (index for index, (old, new) in enumerate(zip(before, now, strict=False)) if old != new)
    return next(same, min(len(before), len(now)))


def _thinning(lines: Sequence[dict[str, Any]]) -> int:
    """Returns n such that every n-th line gives at most `_MAX_POINTS` points."""
    return -(-len(lines) // _MAX_POINTS) or 1


def _thin(lines: Sequence[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """Returns every ``step``-th line, counted from the last, so that the last is among them."""
    return list(lines[::-1][::step][::-1])


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None else value
