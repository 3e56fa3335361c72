"""Tests of fcnet.metrics.confusion: scikit-learn's table of all counts is the oracle."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from fcnet.metrics import MAX_TABLE_CLASSES, ConfusedPair, Confusion
from fcnet.metrics import confusion as module
from fcnet.runtime.errors import UserError

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=60)


def table_of(pairs: list[tuple[int, int]]) -> list[list[int]]:
    truth, predicted = ([pair[side] for pair in pairs] for side in (0, 1))
    return confusion_matrix(truth, predicted, labels=range(5)).tolist() if pairs else [[0] * 5 for _ in range(5)]


@pytest.mark.parametrize("max_cells", [0, 1 << 20])
@given(PAIRS)
def test_the_counts_are_those_of_the_square_table(max_cells: int, pairs: list[tuple[int, int]]) -> None:
    table = table_of(pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_CELLS", max_cells)
        truth, predicted = (torch.tensor([pair[side] for pair in pairs]).long() for side in (0, 1))
        confusion = Confusion.from_labels(truth, predicted, 5)
    assert confusion.table() == tuple(map(tuple, table))
    assert confusion == Confusion.from_table(table)
    assert hash(confusion) == hash(Confusion.from_table(table))
    assert confusion.count == len(pairs)
    assert confusion.num_correct == sum(table[label][label] for label in range(5))
    assert confusion.class_counts.tolist() == [sum(row) for row in table]
    assert confusion.predicted_counts.tolist() == [sum(column) for column in zip(*table, strict=True)]
    assert confusion.correct_counts.tolist() == [table[label][label] for label in range(5)]


@given(PAIRS)
def test_the_most_confused_pairs_come_first(pairs: list[tuple[int, int]]) -> None:
    table = table_of(pairs)
    cells = [
        ConfusedPair(label, prediction, count, count / sum(row))
        for label, row in enumerate(table)
        for prediction, count in enumerate(row)
        if label != prediction and count
    ]
    cells.sort(key=lambda cell: (-cell.count, -cell.fraction, cell.label, cell.prediction))
    confusion = Confusion.from_table(table)
    assert confusion.most_confused() == cells
    assert confusion.most_confused(3) == cells[:3]


def test_confusions_differ_where_a_count_or_the_number_of_classes_does() -> None:
    one = Confusion.from_table([[1, 2], [0, 3]])
    assert one != Confusion.from_table([[1, 2], [0, 4]])
    assert one != Confusion.from_table([[1, 2, 0], [0, 3, 0], [0, 0, 0]])
    assert one != ((1, 2), (0, 3))


def test_a_hundred_thousand_classes_take_little_memory() -> None:
    labels = np.arange(50_000)
    tracemalloc.start()
    confusion = Confusion.from_labels(labels, labels[::-1], num_classes=100_000)
    assert (confusion.count, confusion.num_correct) == (50_000, 0)
    assert confusion.most_confused(1) == [ConfusedPair(0, 49_999, 1, 1.0)]
    assert confusion.class_counts.sum() == confusion.predicted_counts.sum() == 50_000
    assert tracemalloc.get_traced_memory()[1] < 20_000_000  # the table has 10¹⁰ cells
    tracemalloc.stop()


def test_a_square_table_of_many_classes_is_refused() -> None:
    assert len(Confusion.from_labels([0], [1], MAX_TABLE_CLASSES).table()) == MAX_TABLE_CLASSES
    with pytest.raises(UserError, match=r"^num_classes must be at most 300 for a square table, got 301; use most_conf"):
        Confusion.from_labels([0], [1], MAX_TABLE_CLASSES + 1).table()


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 2], [0, 1], r"labels must be from 0 to 1, got 2"),
        ([0, 1], [0, -1], r"predictions must be from 0 to 1, got -1"),
        ([0, 1], [0], r"labels and predictions must have one length, got 2 and 1"),
        ([0, 1], [[0, 1]], r"predictions must be one class an example, \(N,\), got the shape \(1, 2\)"),
        ([0, 0.5], [0, 1], r"labels must be class indices, which are whole numbers, got 0.5"),
        ([0, np.nan], [0, 1], r"labels must be class indices, which are whole numbers, got nan"),
        (["a"], [0], r"labels must be class indices, which are whole numbers, got the dtype <U1"),
    ],
)
def test_what_are_no_labels_is_one_sentence(labels: object, predictions: object, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        Confusion.from_labels(labels, predictions, 2)
