"""Tests of fcnet.evaluate: its table of corruptions. The command itself is tested in tests/workflow."""

from __future__ import annotations

from fcnet.evaluate import corruption_table
from fcnet.evaluation.classification import Evaluation
from fcnet.evaluation.corruption_robustness import Robustness
from fcnet.metrics import Confusion


def test_corruptions_are_a_row_for_each_kind_with_means() -> None:
    clean = Evaluation(loss=0.1, confusion=Confusion.from_table([[10, 0], [0, 10]]))
    noise = tuple(Evaluation(0.5, Confusion.from_table([[10, 0], [wrong, 10 - wrong]])) for wrong in range(2, 7))
    lines = corruption_table(Robustness(clean, {"noise": noise, "blur": (clean,) * 5}, seed=0))
    assert [line.split() for line in lines] == [
        ["accuracy", "at", "1", "2", "3", "4", "5", "mean"],
        ["noise", "90.0%", "85.0%", "80.0%", "75.0%", "70.0%", "80.0%"],
        ["blur", *["100.0%"] * 6],
        ["all", "90.0%"],
        ["clean", "100.0%"],
    ]
    assert len({len(line) for line in lines}) == 1
