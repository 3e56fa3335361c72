"""What looking into a network costs, as scripts/diagnostics_cost.py measures it, on few epochs."""

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
    assert 2 <= int(row) <= 101


def test_the_share_is_that_of_all_looks_in_all_epochs(program: Callable[[str], Any]) -> None:
    cost = program("diagnostics_cost").SnapshotCost(
        epochs=100, epoch_seconds=0.05, snapshot_seconds=0.01, num_snapshots=6
    )
    assert cost.overhead == pytest.approx(0.06 / 5.0)
