"""Several runs beside each other: where their configurations differ, and whether one network is really better."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.config.toml import flatten_config
from fcnet.metrics import holm_adjust, mcnemar_test

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.run_data import RunData


@dataclass(frozen=True)
class PairedTest:
    """Two networks on the same test images.

    Attributes:
        first: the place of the one, from 0.
        second: that of the other.
        only_first: how many images the first alone gets right.
        only_second: how many the second alone gets right.
        p: of `fcnet.metrics.mcnemar_test`.
        adjusted_p: p among all pairs, by `fcnet.metrics.holm_adjust`.
    """

    first: int
    second: int
    only_first: int
    only_second: int
    p: float
    adjusted_p: float


def paired_tests(runs: Sequence[RunData]) -> list[PairedTest]:
    """Every two runs whose predictions are of the same images and classes.

    Returns:
        The pairs, in the order of the runs.
    """
    found = []
    for first, second in itertools.combinations(range(len(runs)), 2):
        one, other = runs[first].predictions, runs[second].predictions
        if one is not None and other is not None and _same_images(runs[first], runs[second]):
            only_first = int((one.is_correct & ~other.is_correct).sum())
            only_second = int((other.is_correct & ~one.is_correct).sum())
            found.append((first, second, only_first, only_second, mcnemar_test(only_first, only_second)))
    adjusted = holm_adjust([row[-1] for row in found])
    return [PairedTest(*row, value) for row, value in zip(found, adjusted, strict=True)]


def compare_settings(runs: Sequence[RunData]) -> list[tuple[str, list[str], bool]]:
    """Every setting: its key, each run's value, and whether they differ.

    Returns:
        In the order of the configuration.
    """
    columns = [{key: format_setting(value) for key, value in flatten_config(run.config.model_dump())} for run in runs]
    rows = [(key, [column[key] for column in columns]) for key in columns[0]]
    return [(key, values, len(set(values)) > 1) for key, values in rows]


def format_setting(value: object) -> str:
    """A setting's value as a configuration has it.

    Example:
        >>> [format_setting(value) for value in (True, "relu", (512, 256), 0.01, "")]
        ['true', 'relu', '[512, 256]', '0.01', '""']
    """
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(format_setting, value))}]" if isinstance(value, tuple | list) else str(value) or '""'


def _same_images(one: RunData, other: RunData) -> bool:
    """Whether two runs were tested on the same images, in the same order."""
    assert one.predictions is not None
    assert other.predictions is not None
    labels = one.predictions.labels, other.predictions.labels
    same = one.summary["data"] == other.summary["data"] and one.classes == other.classes
    return same and labels[0].equal(labels[1])
