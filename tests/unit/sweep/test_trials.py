"""Tests of fcnet.sweep.trials."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import statistics
from typing import TYPE_CHECKING

import pytest

from fcnet.config.toml import load_config
from fcnet.experiment.run_folder import Run
from fcnet.runtime.errors import UserError
from fcnet.sweep.search_space import parse_space
from fcnet.sweep.study import SweepPlan, quiet_optuna
from fcnet.sweep.trials import NoFigureError, Sweep
from tests.helpers import flip_bit, make_record, make_summary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fcnet.sweep.trials import SweepTrial

pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_optuna():
        yield


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    """Two trials with two seeds each."""
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nepochs = 1\n")
    return SweepPlan(parse_space(file, [], ["optimizer.lr=[0.1, 0.2]"], search=False), 2, 2, "none", "images")


def finish_run(run: Run, accuracy: float) -> None:
    """Writes the files that a sweep reads of a finished run."""
    run.write_records([make_record(1, validation_accuracy=accuracy)])
    run.finish(make_summary(validation_accuracy=accuracy, test_accuracy=accuracy / 2))


def finish_trial(trial: SweepTrial, *accuracies: float) -> None:
    for seed, accuracy in enumerate(accuracies):
        run = trial.run(seed)
        finish_run(run, accuracy)
        trial.record_result(run, seed)
    trial.finish()


def test_each_trial_comes_once_and_the_best_mean_wins(plan: SweepPlan, tmp_path: Path) -> None:
    sweep = Sweep(plan, tmp_path / "sweep")
    for trial in sweep.trials():
        finish_trial(trial, trial.settings["optimizer.lr"], 0.5)
    outcome = sweep.write()
    assert [trial.number for trial in outcome.trials] == [1, 2]
    assert outcome.best is not None
    assert outcome.best.settings == {"optimizer.lr": 0.2}
    assert outcome.best.mean == pytest.approx(0.35)
    assert outcome.num_unfinished == 0
    assert outcome.test_accuracy is not None
    assert outcome.test_accuracy == pytest.approx((0.175, statistics.stdev([0.1, 0.25])))
    assert list(sweep.trials()) == []
    content = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert content["best"]["test_accuracy_mean"] == pytest.approx(0.175)
    assert (tmp_path / "sweep" / "sweep.csv").read_text().count("\n") == 5
    assert "trial 2" in (tmp_path / "sweep" / "sweep.html").read_text()


def test_the_test_accuracy_stays_hidden_while_trials_are_left(plan: SweepPlan, tmp_path: Path) -> None:
    sweep = Sweep(plan, tmp_path / "sweep")
    finish_trial(next(sweep.trials()), 0.5, 0.6)
    outcome = sweep.write()
    assert (outcome.num_unfinished, outcome.test_accuracy) == (1, None)
    assert "test_accuracy_mean" not in json.loads((tmp_path / "sweep" / "sweep.json").read_text())["best"]


def test_two_workers_get_different_trials(plan: SweepPlan, tmp_path: Path) -> None:
    workers = [Sweep(plan, tmp_path / "sweep").trials() for _ in range(2)]
    trials = [next(worker) for worker in workers]
    assert {trial.number for trial in trials} == {1, 2}
    third = Sweep(plan, tmp_path / "sweep").trials()
    assert next(third, None) is None
    for worker in workers:
        worker.close()  # type: ignore[attr-defined]


def test_an_abandoned_trial_is_resumed_before_a_new_one_starts(plan: SweepPlan, tmp_path: Path) -> None:
    first = Sweep(plan, tmp_path / "sweep").trials()
    abandoned = next(first)
    first.close()  # type: ignore[attr-defined]  # as if its process had ended
    resumed = next(Sweep(plan, tmp_path / "sweep").trials())
    assert (resumed.number, resumed.settings) == (abandoned.number, abandoned.settings)


def test_failed_and_pruned_trials_are_never_the_best(plan: SweepPlan, tmp_path: Path) -> None:
    sweep = Sweep(plan, tmp_path / "sweep")
    for trial, end in zip(sweep.trials(), ("failed", "pruned"), strict=False):
        trial.fail("NaN in step 1") if end == "failed" else trial.prune()
    outcome = sweep.write()
    assert [(trial.state, trial.error) for trial in outcome.trials] == [("failed", "NaN in step 1"), ("pruned", "")]
    assert (outcome.best, outcome.num_unfinished) == (None, 0)


def test_a_run_has_its_own_folder_seed_and_settings(plan: SweepPlan, tmp_path: Path) -> None:
    trial = next(Sweep(plan, tmp_path / "sweep").trials())
    run = trial.run(1)
    assert run.path == tmp_path / "sweep" / "trial-001" / "seed-1"
    config = load_config(run.config)
    assert (config.seed, config.optimizer.lr) == (1, trial.settings["optimizer.lr"])
    assert config == trial.config(1)


def test_a_folder_with_another_run_is_refused(plan: SweepPlan, tmp_path: Path) -> None:
    trial = next(Sweep(plan, tmp_path / "sweep").trials())
    run = trial.run(0)
    changed = run.config.read_text().replace("epochs = 1", "epochs = 7", 1)
    shutil.rmtree(run.path)
    Run.create(run.path, "", changed)
    with pytest.raises(UserError, match=r"^train\.epochs \(.*mine\.toml\) must be 7 as in .*config\.toml, got 1$"):
        trial.run(0)


def test_a_result_replaces_an_earlier_one_of_the_same_seed(plan: SweepPlan, tmp_path: Path) -> None:
    sweep = Sweep(plan, tmp_path / "sweep")
    trial = next(sweep.trials())
    run = trial.run(0)
    for accuracy in (0.4, 0.5):
        finish_run(run, accuracy)
        trial.record_result(run, 0)
    (ranked,) = sweep.write().trials
    assert [result.value for result in ranked.runs] == [0.5]


def test_a_result_that_differs_from_the_summary_of_its_run_is_refused(plan: SweepPlan, tmp_path: Path) -> None:
    sweep = Sweep(plan, tmp_path / "sweep")
    for trial in sweep.trials():
        finish_trial(trial, 0.5, 0.6)
    sweep.write()
    run = Run(tmp_path / "sweep" / "trial-002" / "seed-1")
    run.finish(make_summary(validation_accuracy=0.7))
    with pytest.raises(UserError) as error:
        sweep.write()
    assert str(error.value) == (
        f"the database of the sweep is damaged: it has another result than {run.path} "
        "(validation accuracy 0.6, not 0.7)"
    )
    flip_bit(run.path / "summary.json")
    with pytest.raises(UserError) as error:
        sweep.write()
    assert str(error.value).startswith(f"{run.path / 'summary.json'} is damaged: ")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE trial_user_attributes SET value_json = replace(value_json, '0.1', '0.7')", "optimizer.lr = 0.7, not "),
        ("UPDATE trial_intermediate_values SET intermediate_value = 0.25", "another learning curve than "),
        ("DELETE FROM trial_intermediate_values", "another learning curve than "),
    ],
)
def test_settings_and_curves_that_differ_from_those_of_the_runs_are_refused_at_once(
    change: str, what: str, plan: SweepPlan, tmp_path: Path
) -> None:
    for trial in Sweep(plan, tmp_path / "sweep").trials():
        finish_trial(trial, 0.5, 0.6)
    with contextlib.closing(sqlite3.connect(tmp_path / "sweep" / "study.db")) as database:
        database.execute(change)
        database.commit()
    with pytest.raises(UserError, match=f"^the database of the sweep is damaged: it has {what}"):
        Sweep(plan, tmp_path / "sweep")


def test_a_sweep_by_loss_chooses_the_lowest_and_reads_its_results_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nepochs = 1\nselect = 'validation_loss'\n")
    space = parse_space(file, [], ["optimizer.lr=[0.1, 0.2, 0.3]"], search=False)
    plan = SweepPlan(space, 1, 3, "none", "images")
    sweep = Sweep(plan, tmp_path / "sweep")
    for trial, loss in zip(sweep.trials(), (0.5, 0.25, None), strict=True):
        run = trial.run(0)
        run.write_records([make_record(1, validation_accuracy=0.5, validation_loss=loss)])
        run.finish(make_summary(validation_accuracy=0.5, validation_loss=loss))
        if loss is None:
            with pytest.raises(NoFigureError, match=r"^the validation loss of .*trial-003/seed-0 is not finite$"):
                trial.record_result(run, 0)
            trial.fail("the validation loss is not finite")
        else:
            assert trial.record_result(run, 0).value == loss
            trial.finish()
    outcome = Sweep(plan, tmp_path / "sweep").write()
    assert outcome.best is not None
    assert (outcome.best.number, outcome.best.mean) == (2, 0.25)
    assert [each.state for each in outcome.trials] == ["finished", "finished", "failed"]


def test_a_run_without_a_validation_accuracy_is_refused(plan: SweepPlan, tmp_path: Path) -> None:
    trial = next(Sweep(plan, tmp_path / "sweep").trials())
    run = trial.run(0)
    run.write_records([make_record(1, validation_accuracy=0.5)])
    run.finish(make_summary(validation_accuracy=None))
    with pytest.raises(UserError, match=r"seed-0 must have a validation accuracy to be ranked"):
        trial.record_result(run, 0)


def test_one_process_at_a_time_trains_a_run_of_a_sweep(plan: SweepPlan, tmp_path: Path) -> None:
    trial = next(Sweep(plan, tmp_path / "sweep").trials())
    run = trial.run(0)
    with run.lock(), pytest.raises(UserError, match=r"seed-0 is in training: process \d+ on "), trial.lock(0):
        pass
    with trial.lock(0), pytest.raises(UserError, match="is in training"), run.lock():
        pass


def test_the_identifier_of_a_folder_is_checked(plan: SweepPlan, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    file = tmp_path / "sweep" / ".folder_id"
    Sweep(plan, tmp_path / "sweep", storage)
    first = file.read_text()
    Sweep(plan, tmp_path / "sweep", storage)
    assert file.read_text() == first
    flip_bit(file)
    with pytest.raises(
        UserError, match=r"\.folder_id is damaged: its bytes do not match the checksum in checksums\.json"
    ):
        Sweep(plan, tmp_path / "sweep", storage)
    (tmp_path / "sweep" / "checksums.json").unlink()
    with pytest.raises(UserError, match=r"checksums\.json: no such file"):
        Sweep(plan, tmp_path / "sweep", storage)
