"""Tests of fcnet.experiment.run_schema."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fcnet.experiment.run_schema import EpochLine, SnapshotLine, Summary, check_lines, check_object
from fcnet.runtime.errors import UserError
from tests.helpers import make_record, make_snapshot, make_summary

if TYPE_CHECKING:
    from pydantic import BaseModel

FILE = Path("run/x.json")
MADE: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (EpochLine, make_record(1, validation_loss=0.5, validation_accuracy=0.5)),
    (SnapshotLine, make_snapshot(1)),
    (Summary, make_summary()),
]


def refusal(schema: type[BaseModel], content: object) -> str:
    with pytest.raises(UserError) as error:
        check_object(schema, content, FILE)
    message = str(error.value)
    assert message.startswith("run/x.json is damaged: ")
    assert "\n" not in message
    return message.removeprefix("run/x.json is damaged: ")


@pytest.mark.parametrize(("schema", "content"), MADE)
def test_what_fcnet_writes_is_accepted(schema: type[BaseModel], content: dict[str, Any]) -> None:
    check_object(schema, content, FILE)


@pytest.mark.parametrize(("schema", "content"), MADE)
def test_a_key_that_is_missing_or_of_another_type_is_refused_by_name(
    schema: type[BaseModel], content: dict[str, Any]
) -> None:
    for key in content:
        if key != "class_images":
            assert refusal(schema, {name: value for name, value in content.items() if name != key}) == (
                f"{key}: field required"
            )
        wrong: list[object] = [[[]], True, math.nan, math.inf, 3 if isinstance(content[key], str) else "3"]
        for value in wrong:
            assert refusal(schema, content | {key: value}).startswith(key)


@pytest.mark.parametrize("content", [None, [], 3, "x", True])
@pytest.mark.parametrize(("schema", "_"), MADE)
def test_what_is_no_object_is_refused(schema: type[BaseModel], _: object, content: object) -> None:
    assert refusal(schema, content).startswith("input should be")


@pytest.mark.parametrize(
    ("schema", "changed", "key"),
    [
        (EpochLine, make_record(1, train_accuracy=1.5), "train_accuracy"),
        (EpochLine, make_record(0), "epoch"),
        (EpochLine, make_record(1, more=1), "more"),
        (SnapshotLine, make_snapshot(0, layers=[]), "layers"),
        (SnapshotLine, make_snapshot(0, layers=[{"layer": 1}]), "layers.0.units"),
        (Summary, make_summary(test_accuracy=-0.1), "test_accuracy"),
        (Summary, make_summary(test_interval=[0.5]), "test_interval"),
        (Summary, make_summary(test_interval=[0.5, 2]), "test_interval.1"),
        (Summary, make_summary(warnings=["a", None]), "warnings.1"),
        (Summary, make_summary(class_images={"a": -1}), "class_images.a"),
    ],
)
def test_figures_that_cannot_be_are_refused(schema: type[BaseModel], changed: dict[str, Any], key: str) -> None:
    assert refusal(schema, changed).startswith(f"{key}: ")


def test_a_long_key_is_cut() -> None:
    assert len(refusal(EpochLine, make_record(1) | {"x" * 10_000: 1})) < 120


@pytest.mark.parametrize(
    ("schema", "lines", "problem"),
    [
        (EpochLine, {}, "expected a list of lines, got dict"),
        (EpochLine, [make_record(2)], "line 1 must not be that of epoch 2"),
        (EpochLine, [make_record(1), make_record(1)], "line 2 must not be that of epoch 1"),
        (EpochLine, [make_record(1), make_record(3)], "line 2 must not be that of epoch 3"),
        (SnapshotLine, [make_snapshot(5), make_snapshot(5)], "line 2 must not be that of epoch 5"),
        (SnapshotLine, [make_snapshot(5), {}], "epoch: field required"),
    ],
)
def test_lines_have_each_epoch_once_and_in_order(schema: type[BaseModel], lines: object, problem: str) -> None:
    check_lines(EpochLine, [make_record(1), make_record(2)], FILE)
    check_lines(SnapshotLine, [make_snapshot(0), make_snapshot(5)], FILE)
    with pytest.raises(UserError) as error:
        check_lines(schema, lines, FILE)
    assert str(error.value) == f"run/x.json is damaged: {problem}"


def test_only_a_probe_may_lack_all_test_figures() -> None:
    none = {"test_accuracy": None, "test_interval": None, "test_images": 0}
    rule = "value error, a run needs test figures, unless it is a probe of data without a test split"
    assert refusal(Summary, make_summary() | none) == rule
    probe: dict[str, Any] = {"C": 1.0, "validation": 0.1, "folds": None, "l2_normalize": False, "standardize": True}
    probe |= {"class_weight": None, "tol": 1e-6, "max_iter": 100, "equal_range": [1.0, 1.0], "few_shot": []}
    end = {"C": 1.0, "iterations": 3, "converged": True, "objective": 2.0, "gap": None}
    figures = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "log_loss": None, "log_loss_interval": None}
    probe |= {"refit": end, "penalties": [{**end, **figures, "p_value": 1.0}]}
    check_object(Summary, make_summary(probe=probe) | none, FILE)
    assert refusal(Summary, make_summary(probe=probe) | none | {"test_images": 3}) == rule
    assert refusal(Summary, make_summary(probe=probe | {"penalties": []})).startswith("probe.penalties")
