"""Points are ranked by validation accuracy, and the words say no more than the figures."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.sweep.ranking import Result, Standing, as_csv, as_facts, chosen, ranked, table, verdict


def point(number: int, *accuracies: float, state: str = "finished", why: str = "") -> Standing:
    runs = tuple(Result(seed, accuracy, 3, 1.5) for seed, accuracy in enumerate(accuracies))
    return Standing(number, {"optimizer.lr": 0.1 * number}, state, runs, why=why)  # type: ignore[arg-type]


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=9))
def test_mean_and_deviation_are_those_of_numpy(accuracies: list[float]) -> None:
    seen = point(1, *accuracies)
    assert seen.mean == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert seen.std == pytest.approx(np.std(accuracies, ddof=1), abs=1e-9)


def test_one_run_has_no_deviation_and_none_has_no_mean() -> None:
    assert (point(1, 0.5).mean, point(1, 0.5).std) == (0.5, None)
    assert (point(1).mean, point(1).std) == (None, None)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9))
def test_no_finished_point_is_better_than_the_chosen_one(means: list[float]) -> None:
    best = chosen([point(number, mean) for number, mean in enumerate(means, 1)])
    assert best is not None
    assert best.mean == max(means)
    assert best.number == means.index(max(means)) + 1


def test_what_is_not_finished_is_never_chosen_however_good_it_looks() -> None:
    points = [
        point(1, 0.99, state="pruned"),
        point(2, 0.98, state="unfinished"),
        point(3, 0.1),
        point(4, state="failed"),
    ]
    assert [each.number for each in ranked(points)] == [3, 2, 1, 4]
    assert chosen(points) == points[2]
    assert chosen(points[:2]) is None


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([], "no point is finished"),
        ([point(4, 0.5)], "point 4 is the only one that is finished"),
        (
            [point(1, 0.5), point(2, 0.75)],
            (
                "point 2 is ahead of point 1 by 25.00 percentage points; "
                "with one seed each nobody knows whether another seed would turn it round"
            ),
        ),
        (
            [point(1, 0.90, 0.92), point(2, 0.80, 0.82)],
            (
                "point 1 is ahead of point 2 by 10.00 percentage points, "
                "more than the spread over seeds (standard deviation 1.41, n = 2)"
            ),
        ),
        (
            [point(1, 0.90, 0.92), point(2, 0.70, 0.99)],
            (
                "point 1 is ahead of point 2 by 6.50 percentage points, which is within the spread over seeds "
                "(standard deviation 20.51, n = 2): it may as well be chance"
            ),
        ),
        (
            [point(1, 0.70, 0.99, 0.8), point(2, 0.60, 0.61)],
            (
                "point 1 is ahead of point 2 by 22.50 percentage points, "
                "more than the spread over seeds (standard deviation 14.73, n = 2)"
            ),
        ),
        (
            [point(1, 0.9, 0.7), point(2, 0.7, 0.9)],
            "points 1 and 2 are equal; the one begun earlier is taken",
        ),
    ],
)
def test_the_best_is_called_ahead_only_beyond_the_spread(points: list[Standing], said: str) -> None:
    assert verdict(points) == said


def test_the_table_has_a_row_a_point_and_no_rank_for_what_is_not_finished() -> None:
    header, rows = table([point(1, 0.5, 0.75), point(2, 0.9, state="pruned"), point(3, state="failed"), point(4, 0.9)])
    assert header == ["rank", "point", "optimizer.lr", "validation accuracy", "n", "state"]
    assert rows == [
        ["1", "4", "0.4", "90.00 %", "1", "finished"],
        ["2", "1", "0.1", "62.50 % ± 17.68", "2", "finished"],
        ["–", "2", "0.2", "90.00 %", "1", "pruned"],
        ["–", "3", "0.3", "–", "0", "failed"],
    ]


def test_programs_get_the_same_as_people() -> None:
    points = [point(1, 0.5, 0.75), point(2, 0.9, 0.9), point(3, state="failed", why="NaN")]
    facts = json.loads(json.dumps(as_facts(points, {"--seeds": 2}, (0.8, 0.1))))
    assert facts["chosen_by"] == "validation accuracy, mean over seeds"
    tested = {"test_accuracy_mean": 0.8, "test_accuracy_std": 0.1}
    assert facts["chosen"] == {"point": 2, "settings": {"optimizer.lr": 0.2}, "seeds": 2} | tested
    assert [(each["rank"], each["point"], each["n"], each["why"]) for each in facts["points"]] == [
        (1, 2, 2, ""), (2, 1, 2, ""), (None, 3, 0, "NaN")]  # fmt: skip
    assert "test_accuracy_mean" not in as_facts(points, {}, None)["chosen"]
    lines = list(csv.DictReader(io.StringIO(as_csv(points))))
    assert [(line["point"], line["seed"], line["validation_accuracy"], line["run"]) for line in lines] == [
        ("2", "0", "0.9", "point-002/seed-0"), ("2", "1", "0.9", "point-002/seed-1"),
        ("1", "0", "0.5", "point-001/seed-0"), ("1", "1", "0.75", "point-001/seed-1"),
    ]  # fmt: skip
