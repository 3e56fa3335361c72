"""Tests of scripts/learning.py."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

Program = Any
pytestmark = pytest.mark.usefixtures("isolated_cache")


@pytest.fixture
def learning(program: Callable[[str], Any]) -> Program:
    return program("learning")


def print_tables(
    learning: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: str
) -> list[Any]:
    """Runs the script and returns the cells of its tables, without the rules below the heads."""
    monkeypatch.setattr(sys, "argv", ["learning.py", *flags])
    learning.main()
    lines = capsys.readouterr().out.splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("|") and "---" not in line]


def test_unbounded_scores_are_not_probabilities_on_real_digits(
    learning: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = print_tables(learning, monkeypatch, capsys, "--quick")
    by_loss = {row[0]: row[1:] for row in rows[1:4]}
    assert list(by_loss) == ["logistic", "hinge", "quadratic"]
    for _, outside, largest, _ in by_loss.values():
        assert float(outside.rstrip("%")) > 50.0
        assert float(largest) > 1.0
    gaps = {loss: float(row[-1]) for loss, row in by_loss.items()}
    assert gaps["logistic"] < 0.05
    assert gaps["logistic"] < gaps["hinge"] < gaps["quadratic"]
    assert [len(row) for row in rows[4:]] == [4] * (1 + learning.BINS)


def test_the_gap_between_test_and_training_risk_closes_with_more_images(
    learning: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, few, many = print_tables(learning, monkeypatch, capsys, "--samples", "--quick")
    assert (few[0], many[0]) == ("20", "286")
    gap_of_few, gap_of_many = (float(row[3].split(" ± ")[0]) for row in (few, many))
    assert gap_of_few > 0.03 > gap_of_many
    risk_of_few, risk_of_many = (float(row[2].split(" ± ")[0]) for row in (few, many))
    assert risk_of_many < risk_of_few


def test_bins_count_every_image_once_and_give_the_calibration_error(learning: Program) -> None:
    scores = torch.tensor([-9.0, -9.0, 0.0, 0.0, 9.0, torch.inf])
    bins = learning.reliability_bins(scores, torch.tensor([0, 1, 0, 1, 1, 1]))
    assert [each.num_images for each in bins] == [2, 0, 2, 0, 2]
    assert [each.observed_fraction for each in bins if each.num_images] == [0.5, 0.5, 1.0]
    assert learning.calibration_error(bins) == pytest.approx((2 * (0.5 - 1.2e-4) + 0 + 2 * 0.6e-4) / 6, rel=1e-3)
