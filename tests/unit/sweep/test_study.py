"""Tests of fcnet.sweep.study."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from fcnet.runtime.errors import UserError
from fcnet.sweep.search_space import parse_space
from fcnet.sweep.study import (
    SweepPlan,
    end_trial,
    list_trials,
    open_study,
    quiet_optuna,
    rank_started,
    report_damage,
    report_values,
    resume_trial,
    should_prune,
    start_trial,
    suggest_settings,
)

if TYPE_CHECKING:
    from pathlib import Path

optuna = pytest.importorskip("optuna")


def make_plan(
    folder: Path,
    *axes: str,
    trials: int = 0,
    seeds: int = 1,
    pruning: str = "none",
    select: str = "validation_accuracy",
) -> SweepPlan:
    file = folder / "mine.toml"
    file.write_text("[train]\nepochs = 3\n[data]\npath = '/data'\n")
    space = parse_space(file, ["seed=5", f"train.select={select}"], axes, search=bool(trials))
    return SweepPlan(space, seeds, trials or space.num_trials(), pruning, "images")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with quiet_optuna():
        yield


def test_a_plan_has_everything_but_the_path_of_the_data(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=[0.1, 0.2]", seeds=3)
    assert plan.seeds == [5, 6, 7]
    content = plan.to_dict()
    assert "data.path" not in content
    assert (content["data"], content["train.epochs"]) == ("images", 3)
    assert (content["--grid"], content["--seeds"], content["--prune"]) == (["optimizer.lr=[0.1, 0.2]"], 3, "none")


def test_a_grid_gives_each_combination_once_and_then_no_trial(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=[0.1, 0.2]", "model.hidden=[[], [4]]")
    study = open_study(plan, tmp_path, "")
    settings = []
    while (trial := start_trial(study, plan)) is not None:
        settings.append(suggest_settings(trial, plan))
        end_trial(trial, "finished", 0.5)
    expected = [{"optimizer.lr": lr, "model.hidden": hidden} for lr in (0.1, 0.2) for hidden in ([], [4])]
    assert sorted(settings, key=str) == sorted(expected, key=str)
    assert len(list_trials(study)) == 4


def test_a_resumed_study_suggests_the_same_settings(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=1e-4..1e-1", "train.batch_size=8..64", trials=4)
    folders = [tmp_path / name for name in ("one", "two")]
    suggested: list[list[dict[str, Any]]] = []
    for folder in folders:
        folder.mkdir()
        settings = []
        for _ in range(3):
            study = open_study(plan, folder, "")  # as a new process does
            trial = start_trial(study, plan)
            assert trial is not None
            settings.append(suggest_settings(trial, plan))
            end_trial(trial, "finished", 0.5)
        suggested.append(settings)
    assert suggested[0] == suggested[1]
    assert all(
        isinstance(each["train.batch_size"], int) and 8 <= each["train.batch_size"] <= 64 for each in suggested[0]
    )


def test_a_started_trial_keeps_its_settings_and_can_be_resumed_until_it_ends(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=1e-4..1e-1", trials=2)
    study = open_study(plan, tmp_path, "")
    trial = start_trial(study, plan)
    assert trial is not None
    settings = suggest_settings(trial, plan)
    resumed = resume_trial(open_study(plan, tmp_path, ""), 0)
    assert resumed is not None
    assert suggest_settings(resumed, plan) == settings
    end_trial(resumed, "pruned")
    assert resume_trial(study, 0) is None


@pytest.mark.parametrize("select", ["validation_accuracy", "validation_loss"])
def test_the_study_looks_for_the_better_figure(select: str, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=[1, 2, 3, 4, 5, 6, 7, 8]", pruning="median", select=select)
    study = open_study(plan, tmp_path, "")
    falls = select == "validation_loss"
    assert study.direction.name == ("MINIMIZE" if falls else "MAXIMIZE")
    for value in (0.3, 0.4, 0.5, 0.6, 0.7):
        trial = start_trial(study, plan)
        assert trial is not None
        suggest_settings(trial, plan)
        report_values(trial, {1: value, 2: value})
        trial.set_user_attr("runs", [{"seed": 5, select: value, "epochs": 2, "seconds": 1.0}])
        end_trial(trial, "finished", value)
    cases: list[tuple[float | None, bool]] = [(0.35, not falls), (0.65, falls), (None, True)]
    for figure, is_pruned in cases:
        trial = start_trial(study, plan)
        assert trial is not None
        suggest_settings(trial, plan)
        report_values(trial, {1: figure})
        assert should_prune(trial) is is_pruned
        end_trial(trial, "pruned")
    assert rank_started(study, plan)[-1].learning_curves == {5: [(1, None)]}


def test_a_plan_from_before_a_setting_is_one_with_its_default(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=[0.1]")
    study = open_study(plan, tmp_path, "")
    stored = plan.to_dict()
    del stored["train.select"]
    study.set_user_attr("plan", stored)
    open_study(plan, tmp_path, "")
    with pytest.raises(UserError, match=r'^train.select must be "validation_accuracy" as in the sweep in'):
        open_study(make_plan(tmp_path, "optimizer.lr=[0.1]", select="validation_loss"), tmp_path, "")


def test_another_plan_is_refused_with_a_line_for_each_difference(tmp_path: Path) -> None:
    open_study(make_plan(tmp_path, "optimizer.lr=[0.1]"), tmp_path, "")
    with pytest.raises(UserError) as error:
        open_study(make_plan(tmp_path, "optimizer.lr=1e-3..1e-1", trials=2, seeds=2), tmp_path, "")
    place = f"as in the sweep in {tmp_path}"
    assert sorted(str(error.value).split("\n")) == sorted(
        [
            f"--grid must be optimizer.lr=[0.1] {place}, got absent; use --out DIR for another sweep",
            f"--search must be absent {place}, got optimizer.lr=0.001..0.1:log; use --out DIR for another sweep",
            f"--seeds must be 1 {place}, got 2; use --out DIR for another sweep",
        ]
    )


def test_a_surplus_trial_is_taken_back(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=[0.1]")
    study = open_study(plan, tmp_path, "")
    trial = study.ask()  # another process, between the check and the start
    end_trial(trial, "surplus")
    assert list_trials(study) == []
    assert start_trial(study, plan) is not None
    assert start_trial(study, plan) is None


def test_values_are_reported_once_and_converted_to_learning_curves(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=[0.1]", seeds=2)
    study = open_study(plan, tmp_path, "")
    trial = start_trial(study, plan)
    assert trial is not None
    suggest_settings(trial, plan)
    report_values(trial, {1: 0.1, 2: 0.2, 3: 0.3})
    report_values(trial, {3: 0.9, 4: 0.4})  # step 4 is epoch 1 of the second seed
    (ranked,) = rank_started(study, plan)
    assert ranked.learning_curves == {5: [(1, 0.1), (2, 0.2), (3, 0.3)], 6: [(1, 0.4)]}
    assert (ranked.number, ranked.state, ranked.settings) == (1, "unfinished", {"optimizer.lr": 0.1})


def test_a_pruned_trial_with_an_error_is_failed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=[0.1, 0.2]")
    study = open_study(plan, tmp_path, "")
    for error in ("", "NaN"):
        trial = start_trial(study, plan)
        assert trial is not None
        suggest_settings(trial, plan)
        if error:
            trial.set_user_attr("error", error)
        end_trial(trial, "pruned")
    assert [trial.state for trial in rank_started(study, plan)] == ["pruned", "failed"]


@pytest.mark.parametrize("change", [
    "UPDATE trials SET state = 'COMPLETE'",
    "UPDATE trials SET state = 'FAIL'",
    "DELETE FROM trial_user_attributes",
    "UPDATE trial_user_attributes SET value_json = '{\"optimizer.ls\": 0.1}'",
    "UPDATE trial_user_attributes SET value_json = '{'",
    "UPDATE trials SET state = 'PRUNEF'",
])  # fmt: skip
def test_a_damaged_database_is_refused_when_it_is_opened(change: str, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=[0.1, 0.2]")
    trial = start_trial(open_study(plan, tmp_path, ""), plan)
    assert trial is not None
    suggest_settings(trial, plan)
    end_trial(trial, "pruned")
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database:
        database.execute(change)
        database.commit()
    with pytest.raises(UserError, match=r"^the database of the sweep is damaged: ."), report_damage():
        rank_started(open_study(plan, tmp_path, ""), plan)


def test_a_database_whose_indices_do_not_fit_its_tables_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "optimizer.lr=[0.1, 0.2]")
    open_study(plan, tmp_path, "")
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database:
        database.execute("PRAGMA writable_schema = 1")
        database.execute("UPDATE sqlite_master SET rootpage = 1 + rootpage WHERE name = 'ix_studies_study_name'")
        database.commit()
    with pytest.raises(UserError, match=r"^cannot open the database of the sweep, .*study\.db: ."):
        open_study(plan, tmp_path, "")


@pytest.mark.parametrize("url", ["nonsense", "sqlite"])
def test_a_storage_that_is_not_a_url_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--storage must be a database URL such as postgresql://USER@HOST/NAME$"):
        open_study(make_plan(tmp_path, "optimizer.lr=[0.1]"), tmp_path, url)


def test_optuna_is_quiet_only_within_the_block() -> None:
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
