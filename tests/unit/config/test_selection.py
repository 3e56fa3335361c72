from __future__ import annotations

import math
from typing import get_args

import pytest

from fcnet.config.selection import CRITERIA, DEFAULT_SELECTION, Selection

FALLING = {"validation_loss", "brier_score"}
WORSE = [None, math.nan, math.inf, -math.inf]


def test_every_value_of_the_setting_is_a_criterion() -> None:
    assert tuple(CRITERIA) == get_args(Selection)
    assert all(criterion.name == name for name, criterion in CRITERIA.items())
    assert DEFAULT_SELECTION in CRITERIA


@pytest.mark.parametrize("name", get_args(Selection))
def test_losses_are_better_when_they_fall_and_all_others_when_they_rise(name: str) -> None:
    criterion = CRITERIA[name]
    low, high = (0.25, 0.5) if name in FALLING else (0.5, 0.25)
    assert criterion.lower_is_better == (name in FALLING)
    assert criterion.is_better(low, than=high)
    assert not criterion.is_better(high, than=low)
    assert not criterion.is_better(low, than=low)
    assert sorted([high, math.nan, low], key=criterion.sort_key)[:2] == [low, high]
    assert math.isnan(sorted([math.nan, high, low], key=criterion.sort_key)[2])


@pytest.mark.parametrize("name", get_args(Selection))
@pytest.mark.parametrize("worse", WORSE)
def test_a_value_that_is_no_number_never_wins(name: str, worse: float | None) -> None:
    criterion = CRITERIA[name]
    assert criterion.is_better(0.5, than=worse)
    assert not criterion.is_better(worse, than=0.5)
    assert not criterion.is_better(worse, than=worse)


def test_a_figure_without_a_column_of_its_own_is_the_validation_score() -> None:
    record = {"validation_accuracy": 0.75, "validation_loss": 0.5, "validation_score": 0.625}
    found = {name: criterion.find(record) for name, criterion in CRITERIA.items()}
    assert found == dict.fromkeys(CRITERIA, 0.625) | {"validation_accuracy": 0.75, "validation_loss": 0.5}
    assert CRITERIA["macro_f1"].find({"validation_accuracy": 0.75}) is None


def test_fractions_are_percentages_and_losses_are_not() -> None:
    written = {name: criterion.format(0.31254, std=0.0125) for name, criterion in CRITERIA.items()}
    assert written == {name: "0.3125 ± 0.0125" if name in FALLING else "31.25% ± 1.25" for name in CRITERIA}
