"""Tests of fcnet.sweep.page."""

from __future__ import annotations

import html
import re

from fcnet.sweep.page import sweep_page
from fcnet.sweep.ranking import RankedTrial, RunResult, to_dict

PLAN = {"optimizer.lr": 0.001, "model.activation": "relu", "--grid": ["optimizer.lr=[0.1, 0.2]"], "--seeds": 2}


def make_trial(number: int, *accuracies: float, state: str = "finished", error: str = "") -> RankedTrial:
    runs = tuple(RunResult(seed, accuracy, 3, 1.5) for seed, accuracy in enumerate(accuracies))
    curves = {seed: [(1, accuracy / 2), (2, accuracy)] for seed, accuracy in enumerate(accuracies)}
    settings = {"optimizer.lr": 0.1 * number}
    return RankedTrial(number, settings, state, runs, curves, error)  # type: ignore[arg-type]


def page_text(trials: list[RankedTrial], test_accuracy: tuple[float, float | None] | None = None) -> str:
    """Returns the page of a sweep without its tags."""
    page = sweep_page("mine", trials, to_dict(trials, PLAN, test_accuracy))
    assert page.lstrip().lower().startswith("<!doctype html>")
    body = re.sub(r"<(style|script|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_page_shows_the_best_trial_the_table_and_the_settings() -> None:
    text = page_text([make_trial(1, 0.5, 0.75), make_trial(2, 0.9, 0.8)], (0.7, 0.02))
    assert "best trial trial 2 optimizer.lr = 0.2" in text
    assert "85.00% ± 7.07" in text
    assert "test accuracy 70.00% ± 2.00 (n = 2)" in text
    assert "By validation accuracy, trial 2 is ahead of trial 1" in text
    assert "--grid optimizer.lr=[0.1, 0.2] --seeds 2" in text
    assert 'optimizer.lr 0.001 model.activation "relu"' in text
    assert "unfinished." not in text


def test_the_page_names_failed_and_unfinished_trials() -> None:
    trials = [
        make_trial(1, 0.5),
        make_trial(2, state="failed", error="NaN in step <3>"),
        make_trial(3, state="unfinished"),
    ]
    text = page_text(trials)
    assert "Trial 2 failed: NaN in step <3>" in text
    assert "1 trial is unfinished." in text
    assert "test accuracy" not in text.partition("By validation accuracy")[0]


def test_a_sweep_without_a_finished_epoch_has_a_page() -> None:
    text = page_text([make_trial(1, state="unfinished")])
    assert "No epoch has finished yet." in text
    assert "By validation accuracy, no trial is finished." in text


def test_charts_are_limited_to_the_first_trials_of_the_table() -> None:
    text = page_text([make_trial(number, number / 100) for number in range(1, 66)])
    assert "The chart shows the first 60 trials." in text
    assert "The charts show the first 60 trials of the table; 5 are left out." in text
