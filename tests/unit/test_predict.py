"""Tests of fcnet.predict: the forms of its output. The command itself is tested in tests/workflow."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest

from fcnet.experiment.image_classifier import Prediction
from fcnet.predict import OutputOptions, format_csv, format_json, format_text

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES = ("cat", "dog", 'a "b", c')


def predictions() -> Iterator[tuple[str, Prediction]]:
    yield "x/1.png", Prediction("dog", 0.5, (0.25, 0.5, 0.25))
    yield "naïve,2.png", Prediction('a "b", c', 0.75, (0.125, 0.125, 0.75))


def options(top: int = 1, *, all_probabilities: bool = False) -> OutputOptions:
    return OutputOptions(CLASSES, top, all_probabilities=all_probabilities)


@pytest.mark.parametrize(
    ("chosen", "lines"),
    [
        (options(), ["x/1.png: dog (50.0%)", 'naïve,2.png: a "b", c (75.0%)']),
        (options(2), ["x/1.png: dog (50.0%), cat (25.0%)", 'naïve,2.png: a "b", c (75.0%), cat (12.5%)']),
        (
            options(all_probabilities=True),
            [
                'x/1.png: dog (50.0%); cat 25.0%, dog 50.0%, a "b", c 25.0%',
                'naïve,2.png: a "b", c (75.0%); cat 12.5%, dog 12.5%, a "b", c 75.0%',
            ],
        ),
    ],
)
def test_text_has_the_most_probable_classes_then_all(chosen: OutputOptions, lines: list[str]) -> None:
    assert list(format_text(predictions(), chosen)) == lines


def test_json_is_one_list_with_an_object_for_each_prediction() -> None:
    rows = json.loads("\n".join(format_json(predictions(), options(2, all_probabilities=True))))
    assert [(row["path"], row["class"], row["probability"]) for row in rows] == [
        ("x/1.png", "dog", 0.5), ("naïve,2.png", 'a "b", c', 0.75)]  # fmt: skip
    assert rows[0]["top"] == [{"class": "dog", "probability": 0.5}, {"class": "cat", "probability": 0.25}]
    assert rows[1]["probabilities"] == {"cat": 0.125, "dog": 0.125, 'a "b", c': 0.75}
    assert json.loads("\n".join(format_json(iter(()), options()))) == []
    assert "top" not in json.loads("\n".join(format_json(predictions(), options())))[0]


def test_csv_has_a_header_and_a_line_for_each_prediction() -> None:
    header, *rows = csv.reader(format_csv(predictions(), options(2, all_probabilities=True)))
    assert header == [
        "path", "class", "probability", "class_2", "probability_2", "p_cat", "p_dog", 'p_a "b", c']  # fmt: skip
    assert rows == [
        ["x/1.png", "dog", "0.5", "cat", "0.25", "0.25", "0.5", "0.25"],
        ["naïve,2.png", 'a "b", c', "0.75", "cat", "0.125", "0.125", "0.125", "0.75"],
    ]


def test_equally_probable_classes_keep_their_order() -> None:
    prediction = Prediction("cat", 0.25, (0.375, 0.25, 0.375))
    assert [name for name, _ in options(3).top_classes(prediction)] == ["cat", 'a "b", c', "dog"]


def test_csv_holds_no_formulas_and_no_control_characters() -> None:
    named = iter(
        [("=1+1.png", Prediction("-x", 0.5, (0.5, 0.5))), ("a\nb\x1b.png", Prediction("@y\t", 0.5, (0.5, 0.5)))]
    )
    chosen = OutputOptions(("-x", "@y\t"), 1, all_probabilities=True)
    assert list(format_csv(named, chosen)) == [
        r"path,class,probability,p_-x,p_@y\t",
        "./=1+1.png,'-x,0.5,0.5,0.5",
        r"a\nb\x1b.png,'-x,0.5,0.5,0.5",
    ]
