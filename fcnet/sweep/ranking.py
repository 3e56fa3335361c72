"""What a sweep came to: each point's accuracy over its seeds, their order, and how sure it is."""

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
_EQUAL = 1e-12
"""Means of the same accuracies may differ by so much, in their last bits."""


@dataclass(frozen=True)
class Result:
    """One finished run of a point.

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
class Standing:
    """One point of a sweep.

    Attributes:
        number: from 1, in the order in which points were begun.
        settings: by dotted key.
        state: whether all its runs are finished, or why not.
        runs: those that are.
        courses: for each seed the validation accuracy after each epoch, so far as it is known.
        why: what went wrong, of a failed point.
    """

    number: int
    settings: Mapping[str, Any]
    state: State
    runs: tuple[Result, ...]
    courses: Mapping[int, Sequence[tuple[int, float]]] = field(default_factory=dict)
    why: str = ""

    @property
    def mean(self) -> float | None:
        """Of the runs' validation accuracies; None where there is no run."""
        return statistics.fmean(run.validation_accuracy for run in self.runs) if self.runs else None

    @property
    def std(self) -> float | None:
        """Their standard deviation, with n − 1 below; None of fewer than two."""
        values = [run.validation_accuracy for run in self.runs]
        return statistics.stdev(values) if len(values) > 1 else None


def ranked(points: Sequence[Standing]) -> list[Standing]:
    """Finished points by their mean validation accuracy, the best first; then the others, likewise.

    Of two that are equal the one that was begun earlier stands first.

    Example:
        >>> points = [
        ...     Standing(number, {}, state, (Result(0, accuracy, 1, 1.0),))
        ...     for number, state, accuracy in [(1, "finished", 0.5), (2, "pruned", 0.9), (3, "finished", 0.7)]
        ... ]
        >>> [point.number for point in ranked(points)]
        [3, 1, 2]
    """
    order = ("finished", "unfinished", "pruned", "failed")

    def place(point: Standing) -> tuple[int, float, int]:
        return order.index(point.state), -(math.inf if point.mean is None else point.mean), point.number

    return sorted(points, key=place)


def chosen(points: Sequence[Standing]) -> Standing | None:
    """The finished point of the best mean validation accuracy; None where none is finished."""
    first = next(iter(ranked(points)), None)
    return first if first is not None and first.state == "finished" else None


def verdict(points: Sequence[Standing]) -> str:
    """How sure it is that the chosen point is the best, in words.

    It is called ahead of the second where their means differ by more than the larger of their two standard
    deviations.

    Example:
        >>> def point(number, *accuracies):
        ...     return Standing(number, {}, "finished", tuple(Result(s, a, 1, 1.0) for s, a in enumerate(accuracies)))
        >>> verdict([point(1, 0.90, 0.92), point(2, 0.80, 0.82)]).split(" by ")[1]
        '10.00 percentage points, more than the spread over seeds (standard deviation 1.41, n = 2)'
        >>> verdict([point(1, 0.90, 0.92), point(2, 0.89, 0.92)]).split(" (")[0]
        'point 1 is ahead of point 2 by 0.50 percentage points, which is within the spread over seeds'
    """
    order = [point for point in ranked(points) if point.state == "finished"]
    if not order:
        return "no point is finished"
    if len(order) == 1:
        return f"point {order[0].number} is the only one that is finished"
    first, second = order[:2]
    assert first.mean is not None
    assert second.mean is not None
    ahead = first.mean - second.mean
    pair = f"point {first.number} is ahead of point {second.number} by {100 * ahead:.2f} percentage points"
    if ahead < _EQUAL:
        return f"points {first.number} and {second.number} are equal; the one begun earlier is taken"
    if first.std is None or second.std is None:
        return f"{pair}; with one seed each nobody knows whether another seed would turn it round"
    spread, runs = max(first.std, second.std), f"n = {min(len(first.runs), len(second.runs))}"
    if ahead > spread:
        return f"{pair}, more than the spread over seeds (standard deviation {100 * spread:.2f}, {runs})"
    return (
        f"{pair}, which is within the spread over seeds (standard deviation {100 * spread:.2f}, {runs}): "
        "it may as well be chance"
    )


def table(points: Sequence[Standing]) -> tuple[list[str], list[list[str]]]:
    """What people read: a header, and a row for each point in order of rank.

    Example:
        >>> runs = tuple(Result(seed, accuracy, 1, 1.0) for seed, accuracy in enumerate((0.5, 0.75)))
        >>> table([Standing(1, {"optimizer.lr": 0.001}, "finished", runs)])[1]
        [['1', '1', '0.001', '62.50 % ± 17.68', '2', 'finished']]
    """
    keys = list(dict.fromkeys(key for point in points for key in point.settings))
    rows = []
    for place, point in enumerate(ranked(points), 1):
        rank = str(place) if point.state == "finished" else "–"
        settings = [said(point.settings.get(key)) for key in keys]
        rows.append(
            [rank, str(point.number), *settings, figure(point.mean, point.std), str(len(point.runs)), point.state]
        )
    return ["rank", "point", *keys, "validation accuracy", "n", "state"], rows


def figure(mean: float | None, std: float | None) -> str:
    """A mean accuracy with its standard deviation, in per cent.

    Example:
        >>> figure(0.98765, 0.0012), figure(0.5, None), figure(None, None)
        ('98.77 % ± 0.12', '50.00 %', '–')
    """
    if mean is None:
        return "–"
    return f"{100 * mean:.2f} %" + ("" if std is None else f" ± {100 * std:.2f}")


def said(value: object) -> str:
    """A setting's value, short enough for a table.

    Example:
        >>> [said(value) for value in (0.000123456, [512, 256], "relu", True)]
        ['0.0001235', '[512, 256]', 'relu', 'true']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(said, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {said(inner)}' for key, inner in value.items())}}}"
    return str(value)


def as_facts(
    points: Sequence[Standing], plan: Mapping[str, Any], tested: tuple[float, float | None] | None
) -> dict[str, Any]:
    """All that is known, for programs; what JSON can hold.

    Args:
        points: of the sweep.
        plan: what was to be done.
        tested: mean and standard deviation of the chosen point's test accuracies; None where they were not read.
    """
    best = chosen(points)
    first = None if best is None else {"point": best.number, "settings": best.settings, "seeds": len(best.runs)}
    if first is not None and tested is not None:
        first |= {"test_accuracy_mean": tested[0], "test_accuracy_std": tested[1]}
    return {
        "chosen_by": "validation accuracy, mean over seeds",
        "chosen": first,
        "verdict": verdict(points),
        "points": [
            {
                "rank": place if point.state == "finished" else None,
                "point": point.number,
                "settings": point.settings,
                "state": point.state,
                "n": len(point.runs),
                "validation_accuracy_mean": point.mean,
                "validation_accuracy_std": point.std,
                "runs": [{"run": run_name(point.number, run.seed), **asdict(run)} for run in point.runs],
                "why": point.why,
            }
            for place, point in enumerate(ranked(points), 1)
        ],
        "plan": plan,
    }


def as_csv(points: Sequence[Standing]) -> str:
    """A line for each finished run, for spreadsheets.

    Example:
        >>> print(as_csv([Standing(1, {"optimizer.lr": 0.1}, "finished", (Result(0, 0.5, 3, 1.5),))]))
        point,state,optimizer.lr,seed,validation_accuracy,epochs,seconds,run
        1,finished,0.1,0,0.5,3,1.5,point-001/seed-0
        <BLANKLINE>
    """
    keys = list(dict.fromkeys(key for point in points for key in point.settings))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["point", "state", *keys, *(each.name for each in fields(Result)), "run"])
    for point in ranked(points):
        settings = [point.settings.get(key) for key in keys]
        for run in point.runs:
            writer.writerow([point.number, point.state, *settings, *astuple(run), run_name(point.number, run.seed)])
    return text.getvalue()


def run_name(point: int, seed: int) -> str:
    """Where a run lies within the sweep's folder.

    Example:
        >>> run_name(3, 0)
        'point-003/seed-0'
    """
    return f"point-{point:03d}/seed-{seed}"
