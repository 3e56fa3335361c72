"""The report of one run, or of several side by side, as one page."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from fcnet.report.comparison import pairs, settings
from fcnet.report.evaluation_sections import OnTestSet, Shown, on_test_set, weights
from fcnet.report.live_demo import sections
from fcnet.report.render import render
from fcnet.report.run_data import find
from fcnet.report.training_sections import INSIDE_HEADER, Inside, curves, curves_together, inside, speed
from fcnet.runtime.files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fcnet.data.batches import Batches
    from fcnet.experiment.run_folder import Run
    from fcnet.report.charts import Chart
    from fcnet.report.run_data import Findings

_SURE = 0.05


@dataclass(frozen=True)
class Part:
    """One run's share of a report.

    Attributes:
        run: what was found.
        name: what it is called beside the others.
        figures: the main ones: what, how much, and what to know of it.
        trained: what was trained, on what, how long, on which machine, a line each.
        curves: over the epochs.
        test: how it did on the test set.
        weights: of the first layer.
        inside: layer by layer.
        speed: a chart and rows.
    """

    run: Findings
    name: str
    figures: Sequence[tuple[str, str, str]]
    trained: Sequence[tuple[str, str]]
    curves: Sequence[Chart]
    test: OnTestSet | None
    weights: Sequence[Shown]
    inside: Inside | None
    speed: tuple[Chart, list[tuple[str, str]]] | None


def report(runs: Sequence[Findings]) -> str:
    """The page.

    Args:
        runs: one or more, as `fcnet.report.run_data.find` gives them.
    """
    names = _names(runs)
    parts = [_part(run, name) for run, name in zip(runs, names, strict=True)]
    several = len(runs) > 1
    return render(
        "report.html.j2",
        sections=sections(runs, names),
        parts=parts,
        title=" and ".join([", ".join(names[:-1]), names[-1]] if several else names),
        together=curves_together(runs, names) if several else [],
        tests=_tests(runs, names),
        settings=settings(runs),
        names=names,
        inside_header=INSIDE_HEADER,
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
    write_text(file, report([find(folder, test) for folder in folders]))


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
        summary["remarks"].append(f"the report could not be made ({why}); try again: {again}")
        run.finish(summary)


def _part(run: Findings, name: str) -> Part:
    return Part(
        run, name, _figures(run), _trained(run), curves(run), on_test_set(run), weights(run), inside(run), speed(run)
    )


def _names(runs: Sequence[Findings]) -> list[str]:
    """The folders' names, numbered where two are the same."""
    names = [run.name for run in runs]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]


def _figures(run: Findings) -> list[tuple[str, str, str]]:
    said = run.summary
    if not said:
        done = f"{len(run.records)} of {run.config.train.epochs}"
        return [("epochs done", done, "the run is not finished")]
    low, high = said["test_interval"]
    loss = "–" if said["test_loss"] is None else f"{said['test_loss']:.4f}"
    kept = said["validation_accuracy"]
    return [
        ("test accuracy", f"{said['test_accuracy']:.2%}", f"95 % interval {low:.2%} to {high:.2%}"),
        ("test loss", loss, f"{said['test_images']:,} images"),
        *(
            [("validation accuracy", f"{kept:.2%}", f"{said['validation_images']:,} images")]
            if kept is not None
            else []
        ),
        ("training", duration(said["train_seconds"]), f"{said['epochs']:,} epochs, {said['steps']:,} steps"),
        ("parameters", f"{said['parameters']:,}", ""),
    ]


def _trained(run: Findings) -> list[tuple[str, str]]:
    """What was trained, on what, how long, on which machine."""
    data, model, optimizer, train = run.config.data, run.config.model, run.config.optimizer, run.config.train
    rows = [("images", f"{data.source}{f', {PurePath(data.path).name}' if data.path else ''}")]
    if not run.summary or run.network is None:
        return rows
    said = run.summary
    shape = " × ".join(map(str, run.network.shape))
    images = f"{said['train_images']:,} training, {said['validation_images']:,} validation and {said['test_images']:,}"
    rows[0] = ("images", f"{rows[0][1]}: {images} test images of {shape} in {len(run.classes)} classes")
    layers = "-".join(map(str, run.network.model.widths))
    extras = [model.activation, f"{model.normalization} norm" if model.normalization != "none" else ""]
    extras = [extra for extra in extras if extra] if model.kind == "mlp" and model.hidden else ["logistic regression"]
    white = f", on {data.whiten} whitened components" if data.whiten else ""
    rows.append(("network", f"layers {layers}, {', '.join(extras)}{white}"))
    kept = f"; the best epoch, {said['kept_epoch']}, is kept" if said["kept_epoch"] < said["epochs"] else ""
    how = f"{optimizer.name}, learning rate {optimizer.lr:g}, {optimizer.schedule} schedule{kept}"
    length = f"{said['epochs']:,} epochs in {duration(said['train_seconds'])}, batches of {train.batch_size}"
    rows.append(("training", f"{length}, {how}"))
    ranks = f", {said['ranks']} processes" if said["ranks"] > 1 else ""
    device = said["processor"] if said["device"] == "cpu" else said["device"]
    rows.append(("machine", f"{device}, {_count(said['threads'], 'thread')}{ranks}; {said['platform']}"))
    rows.append(("software", f"fcnet {said['fcnet']}, torch {said['torch']}, Python {said['python']}"))
    return rows


def _tests(runs: Sequence[Findings], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Every pair of runs: what one alone gets right, and whether the difference is real."""
    found = pairs(runs)
    rows = []
    for pair in found:
        more = pair.only_second - pair.only_first
        images = len(runs[pair.first].predictions.labels)  # type: ignore[union-attr]
        better = names[pair.second if more > 0 else pair.first]
        verdict = f"{better} is better" if pair.adjusted < _SURE else "no difference beyond chance"
        cells = [names[pair.first], names[pair.second], f"{pair.only_first:,}", f"{pair.only_second:,}"]
        rows.append(
            (*cells, f"{100 * more / images:+.2f} points".replace("-", "−"), _p(pair.p), _p(pair.adjusted), verdict)
        )
    return rows


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """A time as people read it.

    Example:
        >>> [duration(seconds) for seconds in (0.854, 75.0, 7322.0)]
        ['0.9 s', '1 min 15 s', '2 h 2 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
