"""Ranking of a sweep's trials by a validation figure over seeds, as sentences, tables, JSON and CSV."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fcnet.config.selection import CRITERIA, DEFAULT_SELECTION, Criterion
from fcnet.config.values import format_value
from fcnet.runtime.formatting import csv_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

State = Literal["finished", "pruned", "failed", "unfinished"]
VALUE_DIGITS = 4
"""Significant digits of a setting in tables."""
_TOLERANCE = 1e-12
"""Largest difference of two means that may be rounding alone: the order of the seeds changes the last bits."""


@dataclass(frozen=True)
class RunResult:
    """Result of one finished run.

    Attributes:
        seed: seed of the run.
        value: validation figure of the final model by which trials are ranked; see `Criterion`.
        epochs: number of trained epochs.
        seconds: training time.
    """

    seed: int
    value: float
    epochs: int
    seconds: float

    def to_dict(self, criterion: Criterion) -> dict[str, Any]:
        """Returns the result with the name of its figure, as the study and the files of the sweep hold it."""
        return {"seed": self.seed, criterion.name: self.value, "epochs": self.epochs, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], criterion: Criterion) -> RunResult:
        """Returns the result that `to_dict` wrote."""
        return cls(stored["seed"], stored[criterion.name], stored["epochs"], stored["seconds"])


@dataclass(frozen=True)
class RankedTrial:
    """One trial of a sweep with its results.

    Attributes:
        number: number of the trial, from 1, in order of start.
        settings: settings by dotted key.
        state: ``finished`` if all its runs are.
        runs: results of its finished runs.
        learning_curves: for each seed, pairs of an epoch and the figure after it, None if it is not finite.
        error: error message of a failed trial, else empty.
        criterion: validation figure by which the trials of the sweep are ranked.
    """

    number: int
    settings: Mapping[str, Any]
    state: State
    runs: tuple[RunResult, ...]
    learning_curves: Mapping[int, Sequence[tuple[int, float | None]]] = field(default_factory=dict)
    error: str = ""
    criterion: Criterion = CRITERIA[DEFAULT_SELECTION]

    @property
    def mean(self) -> float | None:
        """Mean figure of the runs, or None without a run."""
        return statistics.fmean(run.value for run in self.runs) if self.runs else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n − 1) of the figures, or None for fewer than two runs."""
        values = [run.value for run in self.runs]
        return statistics.stdev(values) if len(values) > 1 else None


def rank_trials(trials: Sequence[RankedTrial]) -> list[RankedTrial]:
    """Sorts trials: finished ones by their mean figure, the best first, then unfinished, pruned and failed ones.

    Of two equal trials the earlier one comes first.

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
        key = -math.inf if trial.mean is None else trial.criterion.sort_key(trial.mean)
        return order.index(trial.state), key, trial.number

    return sorted(trials, key=sort_key)


def best_trial(trials: Sequence[RankedTrial]) -> RankedTrial | None:
    """Returns the finished trial with the best mean figure, or None if no trial is finished."""
    first = next(iter(rank_trials(trials)), None)
    return first if first is not None and first.state == "finished" else None


def verdict(trials: Sequence[RankedTrial]) -> str:
    """Compares the best two finished trials and returns a sentence about the lead.

    A lead larger than both standard deviations over seeds counts as more than chance.

    Example:
        >>> def trial(number, *accuracies):
        ...     runs = tuple(RunResult(seed, accuracy, 1, 1.0) for seed, accuracy in enumerate(accuracies))
        ...     return RankedTrial(number, {}, "finished", runs)
        >>> verdict([trial(1, 0.90, 0.92), trial(2, 0.80, 0.82)]).split(" by ")[1]
        '10.00 percentage points, more than the spread over seeds (standard deviation 1.41, n = 2)'
        >>> verdict([trial(1, 0.90, 0.92), trial(2, 0.89, 0.92)]).split(" (")[0]
        'trial 1 is ahead of trial 2 by 0.50 percentage points, which is within the spread over seeds'
    """
    order = [trial for trial in rank_trials(trials) if trial.state == "finished"]
    if not order:
        return "no trial is finished"
    if len(order) == 1:
        return f"trial {order[0].number} is the only finished one"
    first, second = order[:2]
    assert first.mean is not None
    assert second.mean is not None
    ahead, criterion = abs(first.mean - second.mean), first.criterion
    lead = f"{100 * ahead:.2f} percentage points" if criterion.is_fraction else f"{ahead:.4f}"
    pair = f"trial {first.number} is ahead of trial {second.number} by {lead}"
    if ahead < _TOLERANCE:
        return f"trials {first.number} and {second.number} are equal; the earlier one is chosen"
    if first.std is None or second.std is None:
        return f"{pair}; a single seed cannot show whether that is chance: use --seeds"
    spread, runs = max(first.std, second.std), f"n = {min(len(first.runs), len(second.runs))}"
    deviation = f"{100 * spread:.2f}" if criterion.is_fraction else f"{spread:.4f}"
    if ahead > spread:
        return f"{pair}, more than the spread over seeds (standard deviation {deviation}, {runs})"
    return f"{pair}, which is within the spread over seeds (standard deviation {deviation}, {runs}): it may be chance"


def ranking_table(trials: Sequence[RankedTrial]) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of a table of trials in order of rank, as text.

    Example:
        >>> runs = tuple(RunResult(seed, accuracy, 1, 1.0) for seed, accuracy in enumerate((0.5, 0.75)))
        >>> ranking_table([RankedTrial(1, {"optimizer.lr": 0.001}, "finished", runs)])[1]
        [['1', '1', '0.001', '62.50% ± 17.68', '2', 'finished']]
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    rows = []
    for place, trial in enumerate(rank_trials(trials), 1):
        rank = str(place) if trial.state == "finished" else "–"
        settings = [format_value(trial.settings.get(key), digits=VALUE_DIGITS) for key in keys]
        rows.append(
            [
                rank,
                str(trial.number),
                *settings,
                format_mean_std(trial.mean, trial.std, trial.criterion),
                str(len(trial.runs)),
                trial.state,
            ]
        )
    return ["rank", "trial", *keys, ranking_criterion(trials).label, "n", "state"], rows


def ranking_criterion(trials: Sequence[RankedTrial]) -> Criterion:
    """Returns the figure by which the trials of a sweep are ranked, which is that of each."""
    return trials[0].criterion if trials else CRITERIA[DEFAULT_SELECTION]


def format_mean_std(mean: float | None, std: float | None, criterion: Criterion = CRITERIA[DEFAULT_SELECTION]) -> str:
    """Returns the mean of a figure and its standard deviation, those of an accuracy in percent.

    Example:
        >>> format_mean_std(0.98765, 0.0012), format_mean_std(0.5, None), format_mean_std(None, None)
        ('98.77% ± 0.12', '50.00%', '–')
    """
    return "–" if mean is None else criterion.format(mean, std)


def format_settings(settings: Mapping[str, Any]) -> str:
    """Returns the settings of a trial in one line, floats rounded to four digits.

    Example:
        >>> format_settings({"optimizer.lr": 0.000123456, "model.hidden": [512, 256]})
        'optimizer.lr = 0.0001235, model.hidden = [512, 256]'
    """
    return ", ".join(f"{key} = {format_value(value, digits=VALUE_DIGITS)}" for key, value in settings.items())


def to_dict(
    trials: Sequence[RankedTrial], plan: Mapping[str, Any], test_accuracy: tuple[float, float | None] | None
) -> dict[str, Any]:
    """Returns the contents of ``sweep.json``.

    Args:
        trials: trials of the sweep.
        plan: plan of the sweep, as `fcnet.sweep.study.SweepPlan.to_dict` gives it.
        test_accuracy: mean and standard deviation of the chosen trial's test accuracies, or None if not computed.
    """
    best, criterion = best_trial(trials), ranking_criterion(trials)
    first = None if best is None else {"trial": best.number, "settings": best.settings, "num_seeds": len(best.runs)}
    if first is not None and test_accuracy is not None:
        first |= {"test_accuracy_mean": test_accuracy[0], "test_accuracy_std": test_accuracy[1]}
    return {
        "selected_by": f"{criterion.label}, mean over seeds",
        "best": first,
        "verdict": verdict(trials),
        "trials": [
            {
                "rank": place if trial.state == "finished" else None,
                "trial": trial.number,
                "settings": trial.settings,
                "state": trial.state,
                "num_runs": len(trial.runs),
                f"{criterion.name}_mean": trial.mean,
                f"{criterion.name}_std": trial.std,
                "runs": [{"run": run_name(trial.number, run.seed), **run.to_dict(criterion)} for run in trial.runs],
                "error": trial.error,
            }
            for place, trial in enumerate(rank_trials(trials), 1)
        ],
        "plan": plan,
    }


def to_csv(trials: Sequence[RankedTrial]) -> str:
    """Returns CSV with a header and a line for each finished run.

    Example:
        >>> print(to_csv([RankedTrial(1, {"optimizer.lr": 0.1}, "finished", (RunResult(0, 0.5, 3, 1.5),))]))
        trial,state,optimizer.lr,seed,validation_accuracy,epochs,seconds,run
        1,finished,0.1,0,0.5,3,1.5,trial-001/seed-0
        <BLANKLINE>
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    criterion = ranking_criterion(trials)
    rows: list[list[object]] = [["trial", "state", *keys, "seed", criterion.name, "epochs", "seconds", "run"]]
    for trial in rank_trials(trials):
        settings = [trial.settings.get(key) for key in keys]
        rows += [
            [trial.number, trial.state, *settings, *run.to_dict(criterion).values(), run_name(trial.number, run.seed)]
            for run in trial.runs
        ]
    return csv_text(rows)


def run_name(trial: int, seed: int) -> str:
    """Returns the path of a run's folder within the sweep's folder.

    Example:
        >>> run_name(3, 0)
        'trial-003/seed-0'
    """
    return f"trial-{trial:03d}/seed-{seed}"
