"""Tests of fcnet.sweep.page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fcnet.config.selection import CRITERIA
from fcnet.sweep import page
from fcnet.sweep.page import sweep_page
from fcnet.sweep.ranking import RankedTrial, RunResult, format_mean_std, to_dict

if TYPE_CHECKING:
    import pytest

PLAN = {"--seeds": 2, "--grid": ["optimizer.lr=[0.1,0.01]"], "seed": 0, "model.hidden": [16]}


def make_trial(number: int, *accuracies: float, state: Any = "finished", **changes: Any) -> RankedTrial:
    """A trial with one run for each accuracy, whose accuracy doubles from epoch 1 to epoch 2."""
    runs = tuple(RunResult(seed, accuracy, 2, 1.0) for seed, accuracy in enumerate(accuracies))
    curves = {run.seed: [(1, run.value / 2), (2, run.value)] for run in runs}
    settings = {"optimizer.lr": 10.0**-number}
    return RankedTrial(number, changes.pop("settings", settings), state, runs, **{"learning_curves": curves} | changes)


def render_page(trials: list[RankedTrial], test_accuracy: tuple[float, float | None] | None = None, *more: Any) -> str:
    return sweep_page("my sweep", trials, to_dict(trials, PLAN, test_accuracy), *more)


def test_the_page_names_the_best_trial_and_its_accuracies() -> None:
    html = render_page([make_trial(1, 0.5, 0.6), make_trial(2, 0.8, 0.9)], (0.75, 0.05))
    assert "<h1>my sweep: hyperparameter sweep</h1>" in html
    assert "trial 2<small>optimizer.lr = 0.01</small>" in html
    assert f"{format_mean_std(0.85, 0.0707106781)}<small>mean ± standard deviation over 2 seeds</small>" in html
    assert f"{format_mean_std(0.75, 0.05)} (n = 2)" in html
    assert html.count('<tr class="highlight">') == 1


def test_by_a_loss_the_page_ranks_the_lowest_first_and_names_it() -> None:
    loss = CRITERIA["validation_loss"]
    curves = {0: [(1, None), (2, 1.5)]}
    trials = [make_trial(1, 1.5, criterion=loss, learning_curves=curves), make_trial(2, 0.25, criterion=loss)]
    html = render_page(trials)
    assert "<dt>validation loss</dt><dd>0.2500<small>" in html
    assert "<p>By validation loss, trial 2 is ahead of trial 1 by 1.2500; " in html
    assert "<figcaption>Validation loss by rank</figcaption>" in html
    assert "Validation loss after each epoch" in html
    assert "accuracy" not in re.sub(r"never by test accuracy|its test accuracy", "", html.split("</head>")[1])


def test_a_single_seed_has_no_standard_deviation_and_no_test_accuracy_without_a_test() -> None:
    html = render_page([make_trial(1, 0.5)])
    assert "<small>mean over 1 seed</small>" in html
    assert "test accuracy</dt>" not in html


def test_a_sweep_without_a_finished_trial_has_no_best_trial() -> None:
    html = render_page([make_trial(1, state="unfinished", learning_curves={})])
    assert "best trial</dt>" not in html
    assert "Not finished yet: 1 trial." in html
    assert "No epoch has finished yet." in html
    assert "Validation accuracy by rank" not in html
    two = [make_trial(number, state="unfinished") for number in (1, 2)]
    assert "Not finished yet: 2 trials." in render_page(two)


def test_a_failed_trial_has_its_escaped_error() -> None:
    html = render_page([make_trial(1, 0.5), make_trial(2, state="failed", error="<b>out of memory")])
    assert "Trial 2 failed: &lt;b&gt;out of memory" in html


def test_options_and_base_configuration_are_listed_separately() -> None:
    html = render_page([make_trial(1, 0.5)])
    options, settings = html.split("<summary>Base configuration")
    assert "<dt>--seeds</dt><dd>2</dd>" in options
    assert '<th scope="row">model.hidden</th><td>[16]</td>' in settings
    assert "--seeds" not in settings


def test_each_trial_has_its_learning_curves_on_a_common_scale() -> None:
    html = render_page([make_trial(1, 0.2, 0.4), make_trial(2, 0.9, state="pruned")])
    assert "<figcaption>Trial 1: lr = 0.1</figcaption>" in html
    assert "<figcaption>Trial 2: lr = 0.01 (pruned)</figcaption>" in html
    charts = re.findall(r"<figcaption>Trial.*?</figure>", html, re.DOTALL)
    ticks = [re.findall(r'text-anchor="end">([\d.]+%)<', chart) for chart in charts]
    assert ticks[0] == ticks[1] != []


def test_at_most_sixty_trials_have_a_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_MAX_CHARTS", 2)
    html = render_page([make_trial(number, 0.5) for number in (1, 2, 3)])
    assert html.count("<figure") == 2 + 2
    assert "The chart shows the first 2 trials." in html
    assert "Only the first 2 trials of the table have a chart." in html


def test_runs_with_a_report_are_linked_relative_to_the_page() -> None:
    trials = [make_trial(1, 0.5, 0.6), make_trial(2, 0.8)]
    html = render_page(trials, None, {(1, 0): "trial-001/seed-0/report.html", (1, 1): "trial-001/seed-1/report.html"})
    links = re.findall(r'<a href="([^#"]+)">(\d)</a>', html)
    assert links == [("trial-001/seed-0/report.html", "0"), ("trial-001/seed-1/report.html", "1")]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html.split('id="trials"')[1], re.DOTALL)
    assert "report of seed" in rows[0]
    assert rows[1].endswith("<td>–</td>")  # trial 2, which is the best, has none
    assert "report of seed" not in render_page(trials)


def test_trials_are_counted_by_what_became_of_them() -> None:
    trials = [make_trial(1, 0.5), make_trial(2, state="pruned", learning_curves={0: [(1, 0.1), (2, 0.2)]})]
    html = render_page([*trials, make_trial(3, state="failed", error="no memory")])
    assert "<p>3 trials: 1 finished, 1 pruned, 1 failed.</p>" in html
    assert "<td>pruned after 2 epochs</td>" in html
    assert "1 unfinished" in render_page([*trials, make_trial(4, state="unfinished")])


def test_importances_are_drawn_or_the_reason_is_given() -> None:
    trials = [make_trial(1, 0.5), make_trial(2, 0.8)]
    html = render_page(trials, None, {}, {"optimizer.lr": 0.25, "model.hidden": 0.75})
    assert html.index("model.hidden: 75.0%") < html.index("optimizer.lr: 25.0%")
    assert "between the 2 finished trials" in html
    assert "The sweep varies a single setting." in render_page(trials, None, {}, "The sweep varies a single setting.")
    assert "Importances are computed when all trials have ended." in render_page(trials)


def test_pruned_trials_share_one_chart() -> None:
    curves = {0: [(1, 0.1), (2, 0.2)]}
    pruned = [make_trial(number, state="pruned", learning_curves=curves) for number in range(2, 20)]
    html = render_page([make_trial(1, 0.5), *pruned])
    captions = re.findall(r"<figcaption>(Trial.*?|Pruned.*?)</figcaption>", html)
    assert captions == ["Trial 1: lr = 0.1", "Pruned trials, 16 of 18"]


def test_settings_that_no_trial_changes_are_left_out_of_names() -> None:
    trials = [
        make_trial(number, 0.5, settings={"optimizer.lr": number / 10, "model.hidden": [16]}) for number in (1, 2)
    ]
    html = render_page(trials)
    assert "<figcaption>Trial 1: lr = 0.1</figcaption>" in html
