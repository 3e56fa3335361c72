"""Tests of scripts/diagnostics_cost.py, on few epochs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROW = r"\| `digits` \| 100 \| \d+\.\d ms \| \d+\.\d ms \| (\d+) \| \d+\.\d\d% \|"


@pytest.mark.usefixtures("isolated_cache")
def test_the_table_has_a_row_for_each_configuration(program: Callable[[str], Any], capsys: Any) -> None:
    assert program("diagnostics_cost").main(["digits", "--epochs", "2"]) == 0
    (row,) = re.findall(ROW, capsys.readouterr().out)
    assert int(row) == 1 + 100 / 10  # train.diagnostics_every is 10


def test_the_overhead_is_of_all_snapshots_in_all_epochs(program: Callable[[str], Any]) -> None:
    cost = program("diagnostics_cost").SnapshotCost(
        epochs=100, epoch_seconds=0.05, snapshot_seconds=0.01, num_snapshots=6
    )
    assert cost.overhead == pytest.approx(0.06 / 5.0)
