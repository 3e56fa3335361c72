"""Tests of fcnet.sweep.ranking."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.config.selection import CRITERIA
from fcnet.sweep.ranking import RankedTrial, RunResult, best_trial, rank_trials, ranking_table, to_csv, to_dict, verdict


def trial(number: int, *accuracies: float, state: str = "finished", error: str = "") -> RankedTrial:
    runs = tuple(RunResult(seed, accuracy, 3, 1.5) for seed, accuracy in enumerate(accuracies))
    return RankedTrial(number, {"optimizer.lr": 0.1 * number}, state, runs, error=error)  # type: ignore[arg-type]


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=9))
def test_mean_and_standard_deviation_agree_with_numpy(accuracies: list[float]) -> None:
    ranked = trial(1, *accuracies)
    assert ranked.mean == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert ranked.std == pytest.approx(np.std(accuracies, ddof=1), abs=1e-9)


def test_one_run_has_no_standard_deviation_and_no_run_has_no_mean() -> None:
    assert (trial(1, 0.5).mean, trial(1, 0.5).std) == (0.5, None)
    assert (trial(1).mean, trial(1).std) == (None, None)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9))
def test_the_best_trial_has_the_best_mean(means: list[float]) -> None:
    best = best_trial([trial(number, mean) for number, mean in enumerate(means, 1)])
    assert best is not None
    assert best.mean == max(means)
    assert best.number == means.index(max(means)) + 1


def test_only_a_finished_trial_can_be_the_best() -> None:
    trials = [
        trial(1, 0.99, state="pruned"),
        trial(2, 0.98, state="unfinished"),
        trial(3, 0.1),
        trial(4, state="failed"),
    ]
    assert [each.number for each in rank_trials(trials)] == [3, 2, 1, 4]
    assert best_trial(trials) == trials[2]
    assert best_trial(trials[:2]) is None


@pytest.mark.parametrize(
    ("trials", "sentence"),
    [
        ([], "no trial is finished"),
        ([trial(4, 0.5)], "trial 4 is the only finished one"),
        (
            [trial(1, 0.5), trial(2, 0.75)],
            (
                "trial 2 is ahead of trial 1 by 25.00 percentage points; "
                "a single seed cannot show whether that is chance: use --seeds"
            ),
        ),
        (
            [trial(1, 0.90, 0.92), trial(2, 0.80, 0.82)],
            (
                "trial 1 is ahead of trial 2 by 10.00 percentage points, "
                "more than the spread over seeds (standard deviation 1.41, n = 2)"
            ),
        ),
        (
            [trial(1, 0.90, 0.92), trial(2, 0.70, 0.99)],
            (
                "trial 1 is ahead of trial 2 by 6.50 percentage points, which is within the spread over seeds "
                "(standard deviation 20.51, n = 2): it may be chance"
            ),
        ),
        (
            [trial(1, 0.70, 0.99, 0.8), trial(2, 0.60, 0.61)],
            (
                "trial 1 is ahead of trial 2 by 22.50 percentage points, "
                "more than the spread over seeds (standard deviation 14.73, n = 2)"
            ),
        ),
        (
            [trial(1, 0.9, 0.7), trial(2, 0.7, 0.9)],
            "trials 1 and 2 are equal; the earlier one is chosen",
        ),
    ],
)
def test_the_verdict_compares_the_lead_with_the_spread_over_seeds(trials: list[RankedTrial], sentence: str) -> None:
    assert verdict(trials) == sentence


def test_the_table_has_a_row_for_each_trial_and_ranks_finished_ones() -> None:
    header, rows = ranking_table(
        [trial(1, 0.5, 0.75), trial(2, 0.9, state="pruned"), trial(3, state="failed"), trial(4, 0.9)]
    )
    assert header == ["rank", "trial", "optimizer.lr", "validation accuracy", "n", "state"]
    assert rows == [
        ["1", "4", "0.4", "90.00%", "1", "finished"],
        ["2", "1", "0.1", "62.50% ± 17.68", "2", "finished"],
        ["–", "2", "0.2", "90.00%", "1", "pruned"],
        ["–", "3", "0.3", "–", "0", "failed"],
    ]


def test_json_and_csv_have_the_same_figures_as_the_table() -> None:
    trials = [trial(1, 0.5, 0.75), trial(2, 0.9, 0.9), trial(3, state="failed", error="NaN")]
    content = json.loads(json.dumps(to_dict(trials, {"--seeds": 2}, (0.8, 0.1))))
    assert content["selected_by"] == "validation accuracy, mean over seeds"
    tested = {"test_accuracy_mean": 0.8, "test_accuracy_std": 0.1}
    assert content["best"] == {"trial": 2, "settings": {"optimizer.lr": 0.2}, "num_seeds": 2} | tested
    assert [(each["rank"], each["trial"], each["num_runs"], each["error"]) for each in content["trials"]] == [
        (1, 2, 2, ""), (2, 1, 2, ""), (None, 3, 0, "NaN")]  # fmt: skip
    assert "test_accuracy_mean" not in to_dict(trials, {}, None)["best"]
    lines = list(csv.DictReader(io.StringIO(to_csv(trials))))
    assert [(line["trial"], line["seed"], line["validation_accuracy"], line["run"]) for line in lines] == [
        ("2", "0", "0.9", "trial-002/seed-0"), ("2", "1", "0.9", "trial-002/seed-1"),
        ("1", "0", "0.5", "trial-001/seed-0"), ("1", "1", "0.75", "trial-001/seed-1"),
    ]  # fmt: skip


def test_by_a_loss_the_lowest_mean_is_the_best_and_files_name_it() -> None:
    trials = [
        dataclasses.replace(each, criterion=CRITERIA["validation_loss"])
        for each in (trial(1, 0.5, 0.75), trial(2, 0.25, 0.3), trial(3, state="failed"), trial(4, 1.5))
    ]
    assert [each.number for each in rank_trials(trials)] == [2, 1, 4, 3]
    header, rows = ranking_table(trials)
    assert header[3] == "validation loss"
    assert [row[3] for row in rows] == ["0.2750 ± 0.0354", "0.6250 ± 0.1768", "1.5000", "–"]
    assert verdict(trials[:2]) == (
        "trial 2 is ahead of trial 1 by 0.3500, more than the spread over seeds (standard deviation 0.1768, n = 2)"
    )
    content = to_dict(trials, {}, None)
    assert (content["selected_by"], content["best"]["trial"]) == ("validation loss, mean over seeds", 2)
    first = content["trials"][0]
    assert (first["validation_loss_mean"], [run["validation_loss"] for run in first["runs"]]) == (0.275, [0.25, 0.3])
    assert "validation_accuracy_mean" not in first
    assert [line["validation_loss"] for line in csv.DictReader(io.StringIO(to_csv(trials)))][:2] == ["0.25", "0.3"]


def test_csv_holds_no_formulas() -> None:
    line = to_csv([RankedTrial(1, {"data.path": "=1+1"}, "finished", (RunResult(0, 0.5, 3, 1.5),))]).splitlines()[1]
    assert line == "1,finished,'=1+1,0,0.5,3,1.5,trial-001/seed-0"
