"""Several runs beside each other: where their configurations differ, and whether one network is really better."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.config.toml import leaves
from fcnet.metrics import holm, mcnemar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.run_data import Findings


@dataclass(frozen=True)
class Pair:
    """Two networks on the same test images.

    Attributes:
        first: the place of the one, from 0.
        second: that of the other.
        only_first: how many images the first alone gets right.
        only_second: how many the second alone gets right.
        p: of `fcnet.metrics.mcnemar`.
        adjusted: p among all pairs, by `fcnet.metrics.holm`.
    """

    first: int
    second: int
    only_first: int
    only_second: int
    p: float
    adjusted: float


def pairs(runs: Sequence[Findings]) -> list[Pair]:
    """Every two runs whose predictions are of the same images and classes.

    Returns:
        The pairs, in the order of the runs.
    """
    found = []
    for first, second in itertools.combinations(range(len(runs)), 2):
        one, other = runs[first].predictions, runs[second].predictions
        if one is not None and other is not None and _same_images(runs[first], runs[second]):
            only_first = int((one.hits & ~other.hits).sum())
            only_second = int((other.hits & ~one.hits).sum())
            found.append((first, second, only_first, only_second, mcnemar(only_first, only_second)))
    adjusted = holm([row[-1] for row in found])
    return [Pair(*row, value) for row, value in zip(found, adjusted, strict=True)]


def settings(runs: Sequence[Findings]) -> list[tuple[str, list[str], bool]]:
    """Every setting: its key, each run's value, and whether they differ.

    Returns:
        In the order of the configuration.
    """
    columns = [{key: shown(value) for key, value in leaves(run.config.model_dump())} for run in runs]
    rows = [(key, [column[key] for column in columns]) for key in columns[0]]
    return [(key, values, len(set(values)) > 1) for key, values in rows]


def shown(value: object) -> str:
    """A setting's value as a configuration has it.

    Example:
        >>> [shown(value) for value in (True, "relu", (512, 256), 0.01, "")]
        ['true', 'relu', '[512, 256]', '0.01', '""']
    """
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(shown, value))}]" if isinstance(value, tuple | list) else str(value) or '""'


def _same_images(one: Findings, other: Findings) -> bool:
    """Whether two runs were tested on the same images, in the same order."""
    assert one.predictions is not None
    assert other.predictions is not None
    labels = one.predictions.labels, other.predictions.labels
    same = one.summary["data"] == other.summary["data"] and one.classes == other.classes
    return same and labels[0].equal(labels[1])
