"""The course of a probe: fit all penalties, choose one on held-out examples, fit it to all examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from fcnet.linear_model import LogisticPath
from fcnet.probe.few_shot import FewShotFit, fit_few_shots
from fcnet.probe.selection import HeldOut, choose, compare, evaluate_path, merge
from fcnet.probe.splits import make_splits
from fcnet.probe.work import path_from_tensors, path_to_tensors, pick
from fcnet.runtime.formatting import format_count, format_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fcnet.data.features.joined_rows import JoinedRows
    from fcnet.probe.arguments import Settings
    from fcnet.probe.training_data import TrainingData
    from fcnet.probe.work import Work


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was fitted and chosen.

    Attributes:
        paths: the regressions of each fold, or of the one split.
        held_out: what these make of their held-out examples.
        pooled: the same on all held-out examples together.
        chosen: the index of the chosen penalty.
        p_values: see `fcnet.probe.selection.compare`.
        refit: the regression with this penalty on all examples.
        few_shots: the few-shot fits.
    """

    paths: Sequence[LogisticPath]
    held_out: Sequence[HeldOut]
    pooled: HeldOut
    chosen: int
    p_values: Sequence[float]
    refit: LogisticPath
    few_shots: Sequence[FewShotFit]


@dataclass(frozen=True)
class Phase:
    """A part of the work.

    Attributes:
        name: what it is, such as ``fold 2/5``.
        size: about how long it takes, in any unit.
    """

    name: str
    size: float


class Reporter(Protocol):
    """Hears of the course of the work."""

    def begin(self, phase: Phase) -> None:
        """Hears that a phase begins."""

    def end(self, phase: Phase, line: str) -> None:
        """Hears that a phase has ended, and what it found."""


def plan(data: TrainingData, settings: Settings) -> list[Phase]:
    """Returns the phases of the work, in order."""
    # A pass over the features takes part of the time; the rest grows with the number of penalties.
    one, all_penalties = 11, 10 + len(settings.Cs)
    folds = settings.folds or 0
    phases = [
        Phase(f"fold {number}/{folds}", len(data.y) * (1 - 1 / folds) * all_penalties) for number in range(1, folds + 1)
    ]
    phases = phases or [Phase("all penalties", data.num_train * all_penalties)]
    phases.append(Phase("chosen penalty", len(data.y) * one))
    return phases + [
        Phase(_name_draw(shots, repeat, settings), shots * len(data.classes) * all_penalties)
        for shots in settings.shots
        for repeat in range(1, settings.repeats + 1)
    ]


def run_phases(work: Work, data: TrainingData, x: JoinedRows, settings: Settings, reporter: Reporter) -> Outcome:
    """Does the work; the phases are those of `plan`.

    Args:
        work: does the fits, or finds them done.
        data: the examples.
        x: (N, D), their features.
        settings: the settings.
        reporter: hears of each phase.
    """
    phases = iter(plan(data, settings))
    splits, paths, held_out = make_splits(data, settings), list[LogisticPath](), list[HeldOut]()
    for number, split in enumerate(splits, 1):
        reporter.begin(phase := next(phases))
        fit = partial(
            work.fit, f"split-{number}", x, data.y, settings.Cs, rows=split.rows, start=paths[-1] if paths else None
        )
        paths.append(_path_of_stage(work, f"split-{number}", fit))
        held_out.append(evaluate_path(paths[-1], x, data.y, split.held_out, work.device))
        reporter.end(phase, _describe_path(paths[-1], held_out[-1], len(split.rows)))
    pooled = merge(held_out)
    chosen = choose(pooled)
    penalty = settings.Cs[chosen : chosen + 1]
    reporter.begin(phase := next(phases))
    fit = partial(work.fit, "refit", x, data.y, penalty, start=pick(paths[-1], chosen))
    refit = _path_of_stage(work, "refit", fit)
    steps = format_count(int(refit.iterations[0]), "step")
    reporter.end(phase, f"C = {penalty[0]:g} on {format_count(len(data.y), 'example')}, {steps}")
    few_shots = []
    for shots in settings.shots:
        for repeat in range(1, settings.repeats + 1):
            reporter.begin(phase := next(phases))
            few_shots.append(found := fit_few_shots(work, data, x, settings, shots, repeat))
            best = f"{float(found.path.Cs[0]):g}"
            reporter.end(phase, f"held-out accuracy {format_percent(found.validation_accuracy)} at C = {best}")
    return Outcome(paths, held_out, pooled, chosen, compare(pooled, chosen), refit, few_shots)


def _path_of_stage(work: Work, stage: str, fit: Callable[[], LogisticPath]) -> LogisticPath:
    return path_from_tensors(work.stage(stage, lambda: path_to_tensors(fit())))


def _name_draw(shots: int, repeat: int, settings: Settings) -> str:
    return f"{format_count(shots, 'shot')}, draw {repeat}/{settings.repeats}"


def _describe_path(path: LogisticPath, held_out: HeldOut, num_examples: int) -> str:
    best = choose(held_out)
    penalties = f"{len(path.Cs)} penalties" if len(path.Cs) > 1 else "1 penalty"
    return (
        f"{penalties} on {format_count(num_examples, 'example')}, best held-out accuracy "
        f"{format_percent(held_out.accuracy(best))} at C = {float(path.Cs[best]):g}"
    )
