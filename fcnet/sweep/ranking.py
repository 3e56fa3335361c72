"""What a sweep came to: each trial's accuracy over its seeds, their order, and how sure it is."""

from __future__ import annotations

import csv
import io
import math
import statistics
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

State = Literal["finished", "pruned", "failed", "unfinished"]
_TOLERANCE = 1e-12
"""Means of the same accuracies may differ by so much, in their last bits."""


@dataclass(frozen=True)
class RunResult:
    """One finished run of a trial.

    Attributes:
        seed: the run's.
        validation_accuracy: of the finished network, a fraction.
        epochs: how many were trained.
        seconds: of training alone.
    """

    seed: int
    validation_accuracy: float
    epochs: int
    seconds: float


@dataclass(frozen=True)
class RankedTrial:
    """One trial of a sweep.

    Attributes:
        number: from 1, in the order in which trials were begun.
        settings: by dotted key.
        state: whether all its runs are finished, or why not.
        runs: those that are.
        learning_curves: for each seed the validation accuracy after each epoch, so far as it is known.
        error: what went wrong, of a failed trial.
    """

    number: int
    settings: Mapping[str, Any]
    state: State
    runs: tuple[RunResult, ...]
    learning_curves: Mapping[int, Sequence[tuple[int, float]]] = field(default_factory=dict)
    error: str = ""

    @property
    def mean(self) -> float | None:
        """Of the runs' validation accuracies; None where there is no run."""
        return statistics.fmean(run.validation_accuracy for run in self.runs) if self.runs else None

    @property
    def std(self) -> float | None:
        """Their standard deviation, with n − 1 below; None of fewer than two."""
        values = [run.validation_accuracy for run in self.runs]
        return statistics.stdev(values) if len(values) > 1 else None


def rank_trials(trials: Sequence[RankedTrial]) -> list[RankedTrial]:
    """Finished trials by their mean validation accuracy, the best first; then the others, likewise.

    Of two that are equal the one that was begun earlier stands first.

    Example:
        >>> trials = [
        ...     RankedTrial(number, {}, state, (RunResult(0, accuracy, 1, 1.0),))
        ...     for number, state, accuracy in [(1, "finished", 0.5), (2, "pruned", 0.9), (3, "finished", 0.7)]
        ... ]
        >>> [trial.number for trial in rank_trials(trials)]
        [3, 1, 2]
    """
    order = ("finished", "unfinished", "pruned", "failed")

    def sort_key(trial: RankedTrial) -> tuple[int, float, int]:
        return order.index(trial.state), -(math.inf if trial.mean is None else trial.mean), trial.number

    return sorted(trials, key=sort_key)


def best_trial(trials: Sequence[RankedTrial]) -> RankedTrial | None:
    """The finished trial of the best mean validation accuracy; None where none is finished."""
    first = next(iter(rank_trials(trials)), None)
    return first if first is not None and first.state == "finished" else None


def verdict(trials: Sequence[RankedTrial]) -> str:
    """How sure it is that the chosen trial is the best, in words.

    It is called ahead of the second where their means differ by more than the larger of their two standard
    deviations.

    Example:
        >>> def trial(number, *accuracies):
        ...     return RankedTrial(number, {}, "finished", tuple(RunResult(s, a, 1, 1.0) for s, a in enumerate(accuracies)))
        >>> verdict([trial(1, 0.90, 0.92), trial(2, 0.80, 0.82)]).split(" by ")[1]
        '10.00 percentage points, more than the spread over seeds (standard deviation 1.41, n = 2)'
        >>> verdict([trial(1, 0.90, 0.92), trial(2, 0.89, 0.92)]).split(" (")[0]
        'trial 1 is ahead of trial 2 by 0.50 percentage points, which is within the spread over seeds'
    """
    order = [trial for trial in rank_trials(trials) if trial.state == "finished"]
    if not order:
        return "no trial is finished"
    if len(order) == 1:
        return f"trial {order[0].number} is the only one that is finished"
    first, second = order[:2]
    assert first.mean is not None
    assert second.mean is not None
    ahead = first.mean - second.mean
    pair = f"trial {first.number} is ahead of trial {second.number} by {100 * ahead:.2f} percentage points"
    if ahead < _TOLERANCE:
        return f"trials {first.number} and {second.number} are equal; the one begun earlier is taken"
    if first.std is None or second.std is None:
        return f"{pair}; with one seed each nobody knows whether another seed would turn it round"
    spread, runs = max(first.std, second.std), f"n = {min(len(first.runs), len(second.runs))}"
    if ahead > spread:
        return f"{pair}, more than the spread over seeds (standard deviation {100 * spread:.2f}, {runs})"
    return (
        f"{pair}, which is within the spread over seeds (standard deviation {100 * spread:.2f}, {runs}): "
        "it may as well be chance"
    )


def ranking_table(trials: Sequence[RankedTrial]) -> tuple[list[str], list[list[str]]]:
    """What people read: a header, and a row for each trial in order of rank.

    Example:
        >>> runs = tuple(RunResult(seed, accuracy, 1, 1.0) for seed, accuracy in enumerate((0.5, 0.75)))
        >>> ranking_table([RankedTrial(1, {"optimizer.lr": 0.001}, "finished", runs)])[1]
        [['1', '1', '0.001', '62.50 % ± 17.68', '2', 'finished']]
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    rows = []
    for place, trial in enumerate(rank_trials(trials), 1):
        rank = str(place) if trial.state == "finished" else "–"
        settings = [format_value(trial.settings.get(key)) for key in keys]
        rows.append(
            [
                rank,
                str(trial.number),
                *settings,
                format_mean_std(trial.mean, trial.std),
                str(len(trial.runs)),
                trial.state,
            ]
        )
    return ["rank", "trial", *keys, "validation accuracy", "n", "state"], rows


def format_mean_std(mean: float | None, std: float | None) -> str:
    """A mean accuracy with its standard deviation, in per cent.

    Example:
        >>> format_mean_std(0.98765, 0.0012), format_mean_std(0.5, None), format_mean_std(None, None)
        ('98.77 % ± 0.12', '50.00 %', '–')
    """
    if mean is None:
        return "–"
    return f"{100 * mean:.2f} %" + ("" if std is None else f" ± {100 * std:.2f}")


def format_value(value: object) -> str:
    """A setting's value, short enough for a table.

    Example:
        >>> [format_value(value) for value in (0.000123456, [512, 256], "relu", True)]
        ['0.0001235', '[512, 256]', 'relu', 'true']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {format_value(inner)}' for key, inner in value.items())}}}"
    return str(value)


def to_dict(
    trials: Sequence[RankedTrial], plan: Mapping[str, Any], test_accuracy: tuple[float, float | None] | None
) -> dict[str, Any]:
    """All that is known, for programs; what JSON can hold.

    Args:
        trials: of the sweep.
        plan: what was to be done.
        test_accuracy: mean and standard deviation of the chosen trial's test accuracies; None where they were not read.
    """
    best = best_trial(trials)
    first = None if best is None else {"trial": best.number, "settings": best.settings, "num_seeds": len(best.runs)}
    if first is not None and test_accuracy is not None:
        first |= {"test_accuracy_mean": test_accuracy[0], "test_accuracy_std": test_accuracy[1]}
    return {
        "selected_by": "validation accuracy, mean over seeds",
        "best": first,
        "verdict": verdict(trials),
        "trials": [
            {
                "rank": place if trial.state == "finished" else None,
                "trial": trial.number,
                "settings": trial.settings,
                "state": trial.state,
                "num_runs": len(trial.runs),
                "validation_accuracy_mean": trial.mean,
                "validation_accuracy_std": trial.std,
                "runs": [{"run": run_name(trial.number, run.seed), **asdict(run)} for run in trial.runs],
                "error": trial.error,
            }
            for place, trial in enumerate(rank_trials(trials), 1)
        ],
        "plan": plan,
    }


def to_csv(trials: Sequence[RankedTrial]) -> str:
    """A line for each finished run, for spreadsheets.

    Example:
        >>> print(to_csv([RankedTrial(1, {"optimizer.lr": 0.1}, "finished", (RunResult(0, 0.5, 3, 1.5),))]))
        trial,state,optimizer.lr,seed,validation_accuracy,epochs,seconds,run
        1,finished,0.1,0,0.5,3,1.5,trial-001/seed-0
        <BLANKLINE>
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", *keys, *(each.name for each in fields(RunResult)), "run"])
    for trial in rank_trials(trials):
        settings = [trial.settings.get(key) for key in keys]
        for run in trial.runs:
            writer.writerow([trial.number, trial.state, *settings, *astuple(run), run_name(trial.number, run.seed)])
    return text.getvalue()


def run_name(trial: int, seed: int) -> str:
    """Where a run lies within the sweep's folder.

    Example:
        >>> run_name(3, 0)
        'trial-003/seed-0'
    """
    return f"trial-{trial:03d}/seed-{seed}"
