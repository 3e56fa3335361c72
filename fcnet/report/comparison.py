"""Comparisons of several runs: McNemar's test on shared test images."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.metrics import holm_adjust, mcnemar_test

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.run_data import RunData


@dataclass(frozen=True)
class PairedTest:
    """McNemar's test of two runs on the same test images.

    Attributes:
        first: the index of the first run, from 0.
        second: the index of the second run.
        only_first: the number of images that only the first run classifies correctly.
        only_second: the number of images that only the second run classifies correctly.
        p: the p-value of `fcnet.metrics.mcnemar_test`.
        adjusted_p: the p-value adjusted for all pairs by `fcnet.metrics.holm_adjust`.
    """

    first: int
    second: int
    only_first: int
    only_second: int
    p: float
    adjusted_p: float


def paired_tests(runs: Sequence[RunData]) -> list[PairedTest]:
    """Tests every pair of runs that predict the same classes on the same images.

    Returns:
        One test for each pair, in the order of the runs.
    """
    found = []
    for first, second in itertools.combinations(range(len(runs)), 2):
        one, other = runs[first].predictions, runs[second].predictions
        if one is None or other is None or runs[first].classes != runs[second].classes:
            continue
        # Equal fingerprints and equal labels: the same images in the same order.
        if runs[first].summary["data"] != runs[second].summary["data"] or not one.labels.equal(other.labels):
            continue
        only_first = int((one.is_correct & ~other.is_correct).sum())
        only_second = int((other.is_correct & ~one.is_correct).sum())
        found.append((first, second, only_first, only_second, mcnemar_test(only_first, only_second)))
    adjusted = holm_adjust([row[-1] for row in found])
    return [PairedTest(*row, value) for row, value in zip(found, adjusted, strict=True)]
