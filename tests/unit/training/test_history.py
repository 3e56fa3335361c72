"""Tests of fcnet.training.history."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fcnet.training.history import History
from fcnet.training.records import EpochRecord

RECORDS = [EpochRecord(n, 8 * n, 0.1, 1 / n, 0.5 + n / 10, 2 / n, 0.25, 0.5, 100.0) for n in (1, 2, 3)]


def test_a_history_is_a_sequence_of_records() -> None:
    history = History(iter(RECORDS))
    assert isinstance(history, Sequence)
    assert (len(history), list(history), history[-1]) == (3, RECORDS, RECORDS[2])
    assert RECORDS[1] in history
    part = history[1:]
    assert isinstance(part, History)
    assert list(part) == RECORDS[1:]


def test_its_columns_are_the_fields_of_the_records() -> None:
    columns = History(RECORDS).to_dict()
    assert list(columns) == [name for name in EpochRecord.__dataclass_fields__ if name != "validation_score"]
    assert (columns["epoch"], columns["train_loss"]) == ([1, 2, 3], [1.0, 0.5, 1 / 3])


def test_a_selected_figure_is_a_column_where_there_is_one() -> None:
    scored = [dataclasses.replace(record, validation_score=0.125 * record.epoch) for record in RECORDS]
    columns = History(scored).to_dict()
    assert list(columns) == list(EpochRecord.__dataclass_fields__)
    assert columns["validation_score"] == [0.125, 0.25, 0.375]
    assert repr(History(scored)).endswith("validation_accuracy=25.0%, validation_score=0.3750)")


def test_its_repr_is_short() -> None:
    figures = "train_loss=0.3333, train_accuracy=80.0%, validation_loss=0.6667, validation_accuracy=25.0%"
    assert repr(History(RECORDS)) == f"History(3 epochs, {figures})"
    assert repr(History([])) == "History(0 epochs)"
