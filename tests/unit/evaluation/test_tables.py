"""Tests of fcnet.evaluation.tables."""

from __future__ import annotations

import numpy as np
import pytest

from fcnet.evaluation.classification import Evaluation
from fcnet.evaluation.metric_values import metric_values
from fcnet.evaluation.predictions import Mistake
from fcnet.evaluation.scores import ScoreMetrics
from fcnet.evaluation.tables import class_table, confused_table, confusion_table, mistake_table, worst_classes
from fcnet.metrics import ClassRanking, Confusion

CLASSES = ("cat", "elephant")


def lines_of(
    confusion: Confusion,
    classes: list[str] | tuple[str, ...],
    rankings: tuple[ClassRanking, ...] | None = None,
    columns: int | None = None,
) -> list[str]:
    result = Evaluation(0.4, confusion)
    scores = ScoreMetrics(result.count, 0.4, 0.3, None, rankings, {})
    return class_table(result, rankings, metric_values(result, scores), classes, columns)


def test_classes_are_a_row_each_with_macro_and_weighted_averages() -> None:
    rankings = (ClassRanking(10, 0.912, 0.9), ClassRanking(30, 0.5, 0.9))
    assert lines_of(Confusion.from_table([[8, 2], [3, 27]]), CLASSES, rankings) == [
        "class         images  precision  recall      F1      AP",
        "cat               10      72.7%   80.0%   76.2%   91.2%",
        "elephant          30      93.1%   90.0%   91.5%   50.0%",
        "macro avg         40      82.9%   85.0%   83.9%   70.6%",
        "weighted avg      40      88.0%   87.5%   87.7%",
    ]


def test_undefined_figures_are_dashes_and_count_as_0_in_averages() -> None:
    lines = lines_of(Confusion.from_table([[1, 0], [0, 0]]), CLASSES)
    assert lines[2].split() == ["elephant", "0", "–", "–", "–", "–"]
    assert lines[3].split() == ["macro", "avg", "1", "50.0%", "50.0%", "50.0%", "–"]


def test_names_of_classes_are_escaped_before_columns_are_aligned() -> None:
    lines = lines_of(Confusion.from_table([[8, 2], [1, 9]]), ["a\x1b[2J", "b\n"])
    assert [line.split("  ")[0] for line in lines[1:3]] == [r"a\x1b[2J", r"b\n"]
    assert len({len(line) for line in lines[:4]}) == 1


def make_confusion(num_classes: int, each: int) -> tuple[list[str], Confusion]:
    """Classes with long names; every image is right, but for one of each class that is taken for the next one."""
    names = [f"n0211{number:04}, a breed of dogs with a long name" for number in range(num_classes)]
    labels = np.arange(num_classes).repeat(each)
    predictions = labels.copy()
    predictions[::each] = (labels[::each] + 1) % num_classes
    return names, Confusion.from_labels(labels, predictions, num_classes)


@pytest.mark.parametrize("columns", [50, 80, None])
@pytest.mark.parametrize("count", [2, 10, 100, 1000])
def test_tables_fit_the_terminal_and_names_in_a_column_differ(columns: int | None, count: int) -> None:
    classes, confusion = make_confusion(count, 50)
    table, matrix = lines_of(confusion, classes, columns=columns), confusion_table(confusion, classes, columns)
    rows = table[1:-2] if count <= 100 else table[2:-2]
    assert len({line[: len(line) - 41] for line in rows}) == len(rows) == min(count, 20 if count > 100 else 100)
    if columns is not None:
        assert all(len(line) <= columns for line in (*table, *matrix))
    if (count, columns) in {(2, 50), (2, 80), (10, 80), (2, None), (10, None), (100, None)}:
        heads = matrix[1].split()
        assert len(set(heads)) == len(heads) == count
        assert len({line.rsplit(maxsplit=count)[0] for line in matrix[2:]}) == len(matrix[2:]) == count
    else:
        assert matrix == confused_table(confusion, classes, columns)
        assert matrix[0] == f"most confused classes, 10 of {count:,}"


def test_ten_classes_of_cifar_fit_into_80_columns_with_their_names() -> None:
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    labels = np.arange(10).repeat(1000)
    assert confusion_table(Confusion.from_labels(labels, labels, 10), classes, 80)[1:3] == [
        "            airp…  auto…   bird    cat   deer    dog   frog  horse   ship  truck",
        "airplane     1000      0      0      0      0      0      0      0      0      0",
    ]


def test_more_than_a_hundred_classes_show_the_twenty_worst() -> None:
    classes = [f"class {number}" for number in range(101)]
    labels = np.arange(101).repeat(10)
    predictions = labels.copy()
    for label in range(5, 30):
        predictions[10 * label : 10 * label + label - 4 if label < 12 else 10 * label + 8] = 100
    confusion = Confusion.from_labels(labels, predictions, 101)
    lines = lines_of(confusion, classes)
    assert lines[0] == "the 20 classes with the lowest F1, of 101"
    assert len(lines) == 2 + 20 + 2
    f1 = [float(line.split()[-2].rstrip("%")) for line in lines[2:-2]]
    assert f1 == sorted(f1)
    expected = worst_classes(confusion, 20)
    assert [line.split("  ")[0] for line in lines[2:-2]] == [classes[label] for label in expected]
    assert set(expected) >= set(range(12, 30))


def test_confused_classes_are_listed_by_images() -> None:
    assert confused_table(Confusion.from_table([[8, 2, 0], [5, 10, 0], [0, 0, 3]]), ["ant", "bee", "cat"], 80) == [
        "most confused classes, 2 of 2",
        "truth  prediction  images  of truth",
        "bee    ant              5     33.3%",
        "ant    bee              2     20.0%",
    ]
    assert confused_table(Confusion.from_table([[1, 0], [0, 2]]), CLASSES) == ["no class is confused with another"]


def test_mistakes_are_a_row_each_with_a_percentage() -> None:
    mistakes = [Mistake(4, "test/cat/4.png", 0, 1, 0.98765, 0.01), Mistake(2, "test/elephant/1.png", 1, 0, 0.5, 0.4)]
    assert mistake_table(mistakes, CLASSES, 1234) == [
        "most confident mistakes, 2 of 1,234",
        "path                 truth     prediction  probability",
        "test/cat/4.png       cat       elephant          98.8%",
        "test/elephant/1.png  elephant  cat               50.0%",
    ]
    assert mistake_table([mistakes[0]._replace(image=7)], CLASSES, 1) == [
        "most confident mistakes, 1 of 1",
        "index  truth  prediction  probability",
        "7      cat    elephant          98.8%",
    ]


def test_without_mistakes_a_line_says_so() -> None:
    assert mistake_table([], CLASSES, 0) == ["no mistakes: every image is classified correctly"]


def test_a_table_of_mistakes_has_at_most_80_columns() -> None:
    path, classes = f"a/{'b' * 300}/{'c' * 20}.png", ["x" * 200, "y" * 99 + "\x1b"]
    lines = mistake_table([Mistake(0, path, 0, 1, 0.5, 0.4), Mistake(1, "\n" * 50, 1, 0, 1.0, 0.0)], classes, 2)
    assert [len(line) for line in lines[1:]] == [80, 80, 80]
    shown, *names, _ = lines[2].split()
    assert shown.startswith("a/bbb")
    assert shown.endswith("bcccccccccccccccccccc.png"[-12:])
    assert [len(name) for name in names] == [15, 15]
    assert all("…" in cell for cell in (shown, *names))
