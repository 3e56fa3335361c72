"""Tests of fcnet.evaluate: its tables. The command itself is tested in tests/workflow."""

from __future__ import annotations

import numpy as np
import pytest

from fcnet.evaluate import corruption_table, evaluation_table, mistake_table
from fcnet.evaluation.classification import Evaluation
from fcnet.evaluation.corruption_robustness import Robustness
from fcnet.evaluation.predictions import Mistake
from fcnet.metrics import Confusion

CLASSES = ("cat", "elephant")


def test_an_evaluation_is_a_line_a_table_by_class_and_the_confusion_matrix() -> None:
    assert evaluation_table(Evaluation(loss=0.4, confusion=Confusion.from_table([[8, 2], [1, 9]])), CLASSES) == [
        "accuracy 85.00% (95% interval 63.96% to 94.76%), loss 0.4000, 20 images",
        "",
        "class     images  precision  recall      F1",
        "cat           10      88.9%   80.0%   84.2%",
        "elephant      10      81.8%   90.0%   85.7%",
        "",
        "truth     prediction",
        "             cat  eleph…",
        "cat            8       2",
        "elephant       1       9",
    ]


def test_undefined_figures_are_dashes() -> None:
    lines = evaluation_table(Evaluation(loss=0.4, confusion=Confusion.from_table([[1, 0], [0, 0]])), CLASSES)
    assert lines[0].endswith(", 1 image")
    assert lines[4].split() == ["elephant", "0", "–", "–", "–"]


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


def test_names_of_classes_are_escaped_before_columns_are_aligned() -> None:
    lines = evaluation_table(
        Evaluation(loss=0.4, confusion=Confusion.from_table([[8, 2], [1, 9]])), ["a\x1b[2J", "b\n"]
    )
    assert lines[3:5] == [
        r"a\x1b[2J      10      88.9%   80.0%   84.2%",
        r"b\n           10      81.8%   90.0%   85.7%",
    ]
    assert lines[7:] == [
        r"          a\x1b…     b\n",
        r"a\x1b[2J       8       2",
        r"b\n            1       9",
    ]


@pytest.mark.parametrize("columns", [50, 80, None])
@pytest.mark.parametrize("count", [2, 10, 100, 1000])
def test_tables_fit_the_terminal_and_names_in_a_column_differ(columns: int | None, count: int) -> None:
    classes = [f"n0211{number:04}, a breed of dogs with a long name" for number in range(count)]
    labels = np.arange(count).repeat(50)
    confusion = Confusion.from_labels(labels, labels, count)
    lines = evaluation_table(Evaluation(loss=0.4, confusion=confusion), classes, columns)
    table, matrix = lines[3 : 3 + count], lines[4 + count :]
    assert len({line[: len(line) - 33] for line in table}) == count
    if columns is not None:
        assert all(len(line) <= columns for line in lines[2:])
    if (count, columns) in {(2, 50), (2, 80), (10, 80), (2, None), (10, None), (100, None)}:
        heads = matrix[1].split()
        assert len(set(heads)) == len(heads) == count
        assert len({line.rsplit(maxsplit=count)[0] for line in matrix[2:]}) == len(matrix[2:]) == count
    else:
        assert matrix == ["confusion matrix too wide: see evaluation.json"]


def test_ten_classes_of_cifar_fit_into_80_columns_with_their_names() -> None:
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    labels = np.arange(10).repeat(1000)
    confusion = Confusion.from_labels(labels, labels, 10)
    lines = evaluation_table(Evaluation(loss=0.4, confusion=confusion), classes, 80)
    assert lines[15:17] == [
        "            airp…  auto…   bird    cat   deer    dog   frog  horse   ship  truck",
        "airplane     1000      0      0      0      0      0      0      0      0      0",
    ]


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
