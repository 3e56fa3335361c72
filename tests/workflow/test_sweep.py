"""The command sweep: its trials, its choice by validation accuracy, pruning, several workers, and resuming."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import json
import re
import signal
import statistics
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import optuna
import pytest
import torch
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from fcnet import train
from fcnet.experiment import runner
from fcnet.experiment.run_folder import Run
from fcnet.runtime.errors import UserError
from fcnet.runtime.signals import Interrupted
from fcnet.sweep import __main__ as sweep
from fcnet.sweep import study
from fcnet.sweep.search_space import parse_space
from fcnet.sweep.study import SweepPlan, quiet_optuna
from fcnet.sweep.trials import Sweep
from tests.helpers import read_json_lines, run_python, run_result, wait_until
from tests.processes import call_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fcnet.sweep.trials import SweepOutcome
    from tests.processes import WarmServer

pytestmark = pytest.mark.usefixtures("isolated_cache")
CONFIG = """
[data]
source = "synthetic"
shape = [1, 5, 5]
train_size = 100
test_size = 20
num_classes = 4
validation = 0.3
[model]
hidden = [6]
[train]
epochs = 2
batch_size = 16
threads = 1
"""
GRID = ["--grid", "optimizer.lr=[1e-3, 1e-2]", "--grid", "model.hidden=[[], [6]]", "--seeds", "2"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out reports, which would take half of the time."""
    monkeypatch.setattr("fcnet.sweep.__main__.ensure_report", lambda *_: None)


def results(folder: Path) -> dict[str, Any]:
    """Returns the results of all runs of a sweep, by name."""
    return {str(file.parent.relative_to(folder)): run_result(file.parent) for file in folder.glob("*/*/summary.json")}


def read_sweep_json(folder: Path) -> dict[str, Any]:
    """Returns ``sweep.json`` without measured times."""
    content: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    for trial in content["trials"]:
        for run in trial["runs"]:
            assert run.pop("seconds") > 0.0
    return content


def make_plan(*ranges: str, seeds: int = 1, trials: int = 0, pruning: str = "none", epochs: int = 2) -> SweepPlan:
    space = parse_space(Path("mine.toml"), [f"train.epochs={epochs}"], ranges, search=bool(trials))
    return SweepPlan(space, seeds, trials or space.num_trials(), pruning, "data")  # type: ignore[arg-type]


def run_trials(joined: Sweep) -> SweepOutcome:
    """Runs the trials of a sweep as the command does, until none is left."""
    assert sweep._run_trials(joined, torch.device("cpu"), "") == 0
    return joined.write()


# --- the command ------------------------------------------------------------------------------------------------


def test_a_grid_trains_every_combination_and_each_run_equals_one_of_train(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(["mine.toml", *GRID, "--set", "optimizer.weight_decay=0.1"]) == 0
    folder = here / "sweeps" / "mine"
    content = read_sweep_json(folder)
    settings = [
        (trial["settings"]["optimizer.lr"], tuple(trial["settings"]["model.hidden"])) for trial in content["trials"]
    ]
    assert sorted(settings) == [(1e-3, ()), (1e-3, (6,)), (1e-2, ()), (1e-2, (6,))]
    assert {(trial["state"], trial["num_runs"]) for trial in content["trials"]} == {("finished", 2)}
    assert [[run["seed"] for run in trial["runs"]] for trial in content["trials"]] == [[0, 1]] * 4
    one = next(trial for trial in content["trials"] if trial["settings"] == {"optimizer.lr": 1e-3, "model.hidden": [6]})
    alone = ["--set", "optimizer.lr=1e-3", "--set", "model.hidden=[6]", "--set", "optimizer.weight_decay=0.1"]
    (command,) = read_json_lines(folder / "trial-001/seed-1/commands.jsonl")
    assert command["command"].startswith("python -m fcnet.sweep mine.toml --grid ")
    given = ("optimizer.lr", "optimizer.weight_decay", "seed", "train.epochs")
    assert [command["sources"][key] for key in given] == ["--grid", "--set", "--seeds", "mine.toml"]
    for seed in (0, 1):
        assert train.main(["--config", "mine.toml", *alone, "--set", f"seed={seed}", "--out", f"alone-{seed}"]) == 0
        ours = folder / f"trial-{one['trial']:03d}" / f"seed-{seed}"
        assert run_result(ours) == run_result(here / f"alone-{seed}")
        assert (ours / "report.html").is_file()
    written = capsys.readouterr()
    assert written.err == ""
    assert "4 trials with 2 seeds each, ranked by validation accuracy; sweeps/mine" in written.out
    assert written.out.count("validation accuracy ") >= 8
    assert re.search(r"^rank +trial +optimizer.lr +model.hidden +validation accuracy +n +state$", written.out, re.M)
    assert re.search(r"^test accuracy of trial \d, computed after the choice: .* \(n = 2\)$", written.out, re.M)


def test_figures_are_means_over_the_runs_and_the_best_mean_comes_first(here: Path) -> None:
    assert sweep.main(["mine.toml", *GRID]) == 0
    folder = here / "sweeps" / "mine"
    content = read_sweep_json(folder)
    means = []
    for trial in content["trials"]:
        values = [Run(folder / run["run"]).summary()["validation_accuracy"] for run in trial["runs"]]
        assert [run["validation_accuracy"] for run in trial["runs"]] == values
        assert trial["validation_accuracy_mean"] == pytest.approx(statistics.fmean(values))
        assert trial["validation_accuracy_std"] == pytest.approx(statistics.stdev(values))
        means.append(statistics.fmean(values))
    assert means == sorted(means, reverse=True)
    best = content["trials"][0]
    tests = [Run(folder / run["run"]).summary()["test_accuracy"] for run in best["runs"]]
    assert content["best"]["trial"] == best["trial"]
    assert content["best"]["test_accuracy_mean"] == pytest.approx(statistics.fmean(tests))
    assert content["best"]["test_accuracy_std"] == pytest.approx(statistics.stdev(tests))
    lines = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert len(lines) == 8
    assert [float(line["validation_accuracy"]) for line in lines[:2]] == [
        run["validation_accuracy"] for run in best["runs"]
    ]


def test_the_choice_ignores_the_test_set_and_only_the_best_trial_reports_it(here: Path) -> None:
    assert sweep.main(["mine.toml", *GRID]) == 0
    folder = here / "sweeps" / "mine"
    before = read_sweep_json(folder)
    for trial in before["trials"][1:]:
        for run in trial["runs"]:
            finished = Run(folder / run["run"])
            finished.finish(finished.summary() | {"test_accuracy": 1.0, "test_loss": 0.0, "test_interval": [1.0, 1.0]})
    assert sweep.main(["mine.toml", *GRID]) == 0
    assert read_sweep_json(folder) == before
    for run in before["trials"][0]["runs"]:
        finished = Run(folder / run["run"])
        finished.finish(finished.summary() | {"test_accuracy": 0.0})
    assert sweep.main(["mine.toml", *GRID]) == 0
    after = read_sweep_json(folder)
    assert after["trials"] == before["trials"]
    assert after["best"]["test_accuracy_mean"] == 0.0
    others = {key for trial in after["trials"] for run in trial["runs"] for key in run} | set(after["trials"][0])
    assert not [key for key in others if "test" in key]


def test_the_page_is_self_contained_and_names_its_ranking(here: Path) -> None:
    assert sweep.main(["mine.toml", *GRID]) == 0
    folder = here / "sweeps" / "mine"
    page, content = (folder / "sweep.html").read_text(), read_sweep_json(folder)
    assert not re.findall(r"(?:src|href)=\"(?!#|data:|trial-\d+/seed-\d+/report.html\")[^\"]*", page)
    assert "ranked by mean validation accuracy, never by test accuracy" in page
    assert content["verdict"] in page
    for trial in content["trials"]:
        assert f"{100 * trial['validation_accuracy_mean']:.2f}% ± {100 * trial['validation_accuracy_std']:.2f}" in page
        assert f"Trial {trial['trial']}: lr = " in page
    assert page.count("<figure") == 2 + 4
    assert "Importances need at least 5 finished trials; there are 4." in page


@pytest.mark.usefixtures("no_reports")
def test_a_search_stays_in_its_ranges_and_draws_integers_for_integer_keys(here: Path) -> None:
    ranges = ["optimizer.lr=1e-4..1e-1", "train.batch_size=8..32", "model.activation=['relu', 'elu']"]
    flags = [flag for each in ranges for flag in ("--search", each)]
    assert sweep.main(["mine.toml", *flags, "--trials", "6", "--set", "train.epochs=1"]) == 0
    found = [trial["settings"] for trial in read_sweep_json(here / "sweeps" / "mine")["trials"]]
    assert len({json.dumps(each) for each in found}) == 6
    assert all(1e-4 <= each["optimizer.lr"] <= 1e-1 for each in found)
    assert all(isinstance(each["train.batch_size"], int) and 8 <= each["train.batch_size"] <= 32 for each in found)
    assert {each["model.activation"] for each in found} <= {"relu", "elu"}


@pytest.mark.usefixtures("no_reports")
def test_a_search_can_be_extended_and_keeps_its_earlier_trials(here: Path) -> None:
    flags = ["mine.toml", "--search", "optimizer.lr=1e-4..1e-1", "--set", "train.epochs=1", "--trials"]
    assert sweep.main([*flags, "2"]) == 0
    before = results(here / "sweeps" / "mine")
    assert sweep.main([*flags, "4"]) == 0
    after = results(here / "sweeps" / "mine")
    assert len(before) == 2
    assert len(after) == 4
    assert {name: after[name] for name in before} == before


# --- pruning ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_reports")
def test_median_pruning_stops_exactly_the_trials_below_the_median(here: Path) -> None:
    text = "optimizer.lr=[1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]"
    assert sweep.main(["digits", "--grid", text, "--set", "train.epochs=3", "--set", "model.hidden=[8]",
                       "--prune", "median", "--out", "found"]) == 0  # fmt: skip
    trials = json.loads((here / "found" / "sweep.json").read_text())["trials"]
    states = {trial["trial"]: trial["state"] for trial in trials}
    learning_curves = {
        number: [each["validation_accuracy"] for each in Run(here / f"found/trial-{number:03d}/seed-0").records()]
        for number in states
    }
    assert "pruned" in states.values()
    for number, curve in learning_curves.items():
        done = [learning_curves[other] for other in range(1, number) if states[other] == "finished"]
        worse = [
            len(done) >= 5 and max(curve[: epoch + 1]) < statistics.median(other[epoch] for other in done)
            for epoch in range(min(len(curve), 2))
        ]
        assert worse == ([False] * (len(worse) - 1) + [True] if states[number] == "pruned" else [False] * len(worse))
        assert Run(here / f"found/trial-{number:03d}/seed-0").finished == (states[number] == "finished")
    assert all(trial["rank"] is None for trial in trials if trial["state"] == "pruned")


@pytest.mark.usefixtures("no_reports")
def test_halving_prunes_the_worse_half_after_the_first_epochs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = "optimizer.lr=[1e-6, 1e-4, 1e-3, 1e-2]"
    flags = ["digits", "--grid", rates, "--set", "train.epochs=4", "--set", "model.hidden=[8]", "--out", "found"]
    assert sweep.main([*flags, "--prune", "halving"]) == 0
    trials = read_sweep_json(here / "found")["trials"]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert 1 <= len(pruned) <= 3
    assert trials[0]["settings"] == {"optimizer.lr": 1e-2}
    lengths = {len(Run(here / f"found/trial-{trial['trial']:03d}/seed-0").records()) for trial in pruned}
    assert lengths <= {1, 2}  # the first and the second rung
    assert capsys.readouterr().out.count("  pruned: ") == len(pruned)


# --- several workers, killed workers ----------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_one_worker_at_a_time_holds_a_trial_and_releases_it_when_it_ends(tmp_path: Path) -> None:
    with quiet_optuna():
        plan = make_plan("optimizer.lr=[1e-3, 1e-2, 1e-1]")
        first, second, third = (Sweep(plan, tmp_path / "shared").trials() for _ in range(3))
        taken = [next(first), next(second), next(third)]
        assert sorted(trial.number for trial in taken) == [1, 2, 3]
        assert len({str(trial.settings) for trial in taken}) == 3
        assert next(Sweep(plan, tmp_path / "shared").trials(), None) is None
        second.close()  # type: ignore[attr-defined]
        again = next(Sweep(plan, tmp_path / "shared").trials())
        assert (again.number, again.settings) == (taken[1].number, taken[1].settings)


@pytest.mark.usefixtures("here", "no_reports")
def test_a_trial_that_ended_while_another_worker_read_the_list_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quiet_optuna():
        plan = make_plan("optimizer.lr=[1e-3, 1e-2]")
        mine, other = Sweep(plan, tmp_path / "shared"), Sweep(plan, tmp_path / "shared")
        held = mine.trials()
        next(held)
        seen = study.list_trials(other._study)
        held.close()  # type: ignore[attr-defined]
        run_trials(mine)
        list_trials = study.list_trials
        stale = iter([seen])
        monkeypatch.setattr("fcnet.sweep.study.list_trials", lambda kept: next(stale, None) or list_trials(kept))
        assert list(other.trials()) == []


@pytest.mark.usefixtures("here")
def test_machines_that_share_only_a_database_do_not_take_each_others_trials(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/server.db"
    with quiet_optuna():
        plan = make_plan("optimizer.lr=[1e-3, 1e-2, 1e-1]")
        here, there = (Sweep(plan, tmp_path / machine / "mine", url) for machine in ("a", "b"))
        ours, theirs = here.trials(), there.trials()
        one, other = next(ours), next(theirs)
        assert one.number != other.number
        ours.close()  # type: ignore[attr-defined]
        other.prune()
        assert next(theirs).number == 3
        assert next(Sweep(plan, tmp_path / "b" / "mine", url).trials(), None) is None
        assert next(Sweep(plan, tmp_path / "a" / "mine", url).trials()).number == one.number
        assert not (tmp_path / "a" / "mine" / "study.db").exists()


@pytest.mark.usefixtures("here", "no_reports")
def test_a_surplus_trial_created_in_a_race_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/server.db"
    with quiet_optuna():
        plan = make_plan("optimizer.lr=1e-3..1e-1", trials=2, epochs=1)
        run_trials(Sweep(plan, tmp_path / "a" / "mine", url))
        late = Sweep(plan, tmp_path / "b" / "mine", url)
        list_trials = study.list_trials
        first_call = iter([True])
        monkeypatch.setattr(
            "fcnet.sweep.study.list_trials", lambda kept: [] if next(first_call, False) else list_trials(kept)
        )
        assert study.start_trial(late._study, plan) is None
        assert len(late._study.get_trials()) == 3
        more = dataclasses.replace(plan, num_trials=3)
        assert len(run_trials(Sweep(more, tmp_path / "b" / "mine", url)).trials) == 3


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_after_writes(monkeypatch: pytest.MonkeyPatch, num_writes: int) -> Callable[[], int]:
    """Allows a number of writes to the study, then raises `Killed`; returns a function that counts them."""
    names = ["create_new_trial", "set_trial_param", "set_trial_user_attr", "set_trial_system_attr",
             "set_trial_intermediate_value", "set_trial_state_values"]  # fmt: skip
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > num_writes:
                raise Killed
            return real(*args, **kwargs)

        return call

    for name in names:
        monkeypatch.setattr(RDBStorage, name, counted(getattr(RDBStorage, name)))
    return lambda: count


def comparable(outcome: SweepOutcome) -> list[Any]:
    return [
        (
            trial.number,
            trial.settings,
            trial.state,
            trial.learning_curves,
            [run.value for run in trial.runs],
        )
        for trial in outcome.trials
    ]


@pytest.mark.usefixtures("here", "no_reports")
def test_a_sweep_killed_at_any_write_to_the_study_resumes_to_the_same_result(tmp_path: Path) -> None:
    plan = make_plan("optimizer.lr=[1e-3, 1e-2]", epochs=1)
    with quiet_optuna():
        with pytest.MonkeyPatch.context() as patch:
            count_writes = kill_after_writes(patch, 10**9)
            expected = comparable(run_trials(Sweep(plan, tmp_path / "whole")))
            num_writes = count_writes()
        runs = results(tmp_path / "whole")
        assert len(runs) == 2
        assert num_writes >= 14
        for write in range(num_writes):
            folder = tmp_path / f"killed-{write}"
            with pytest.MonkeyPatch.context() as patch:
                kill_after_writes(patch, write)
                with pytest.raises(Killed):
                    run_trials(Sweep(plan, folder))
            assert comparable(run_trials(Sweep(plan, folder))) == expected, write
            assert results(folder) == runs, write


@pytest.mark.usefixtures("here", "no_reports")
def test_a_trial_is_pruned_even_if_its_worker_was_killed_before_reporting_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("optimizer.lr=[1e-3, 1e-2]", "train.save_seconds=[0]", pruning="halving", epochs=4)
    with quiet_optuna():
        expected = comparable(run_trials(Sweep(plan, tmp_path / "whole")))
        assert [state for _, _, state, _, _ in expected] == ["finished", "pruned"]
        length, real = len(expected[1][3][0]), study.report_values
        assert length < 4

        def kill_before_report(trial: Any, curve: dict[int, float]) -> None:
            if trial.number == 1 and len(curve) == length:
                raise Killed
            real(trial, curve)

        with monkeypatch.context() as patch:
            patch.setattr("fcnet.sweep.study.report_values", kill_before_report)
            with pytest.raises(Killed):
                run_trials(Sweep(plan, tmp_path / "killed"))
        assert comparable(run_trials(Sweep(plan, tmp_path / "killed"))) == expected


@pytest.mark.usefixtures("here", "no_reports")
def test_a_stopped_search_resumes_with_the_trials_of_an_uninterrupted_one(tmp_path: Path) -> None:
    plan = make_plan("optimizer.lr=1e-4..1e-1", "model.dropout=0..0.5", trials=13, epochs=1)
    with quiet_optuna():
        expected = comparable(run_trials(Sweep(plan, tmp_path / "whole")))
        for stop in (3, 12):
            run_trials(Sweep(dataclasses.replace(plan, num_trials=stop), tmp_path / "stopped"))
        assert comparable(run_trials(Sweep(plan, tmp_path / "stopped"))) == expected
        assert len(expected) == 13


@pytest.mark.usefixtures("here", "no_reports")
def test_an_interrupted_run_resumes_from_its_checkpoint_and_finished_runs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("optimizer.lr=[1e-3, 1e-2]", seeds=2, epochs=3)
    started: list[tuple[str, int]] = []
    real = runner.run_experiment

    def recorded(experiment: Any, run: Run, **options: Any) -> Iterator[Any]:
        events = real(experiment, run, **options | {"save_seconds": 0.0})
        started.append((run.path.parent.name + "/" + run.path.name, experiment.training.step))
        for event in events:
            yield event
            if len(started) == 2 and experiment.training.step == 9:
                raise Killed

    monkeypatch.setattr("fcnet.sweep.trials.run_experiment", recorded)
    with quiet_optuna():
        with pytest.raises(Killed):
            run_trials(Sweep(plan, tmp_path / "shared"))
        before = (tmp_path / "shared/trial-001/seed-0/model.safetensors").stat()
        run_trials(Sweep(plan, tmp_path / "shared"))
        whole = run_trials(Sweep(plan, tmp_path / "whole"))
    assert whole.num_unfinished == 0
    for trial in whole.trials:
        for seed in (0, 1):
            records = Run(tmp_path / f"whole/trial-{trial.number:03d}/seed-{seed}").records()
            assert trial.learning_curves[seed] == [(each["epoch"], each["validation_accuracy"]) for each in records]
            assert len(records) == 3
    assert started[:5] == [("trial-001/seed-0", 0), ("trial-001/seed-1", 0), ("trial-001/seed-1", 9),
                           ("trial-002/seed-0", 0), ("trial-002/seed-1", 0)]  # fmt: skip
    after = (tmp_path / "shared/trial-001/seed-0/model.safetensors").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert results(tmp_path / "shared") == results(tmp_path / "whole")


def sweep_without_warnings(*flags: str) -> None:
    warnings.simplefilter("error")
    call_command("sweep", "mine.toml", *flags)


def test_ctrl_c_saves_and_the_same_command_resumes_after_it_and_after_a_kill(here: Path, warm: WarmServer) -> None:
    flags = ["--grid", "optimizer.lr=[1e-3, 1e-2]", "--set", "train.epochs=60", "--set", "train.save_seconds=0.1"]
    folder = here / "sweeps" / "mine"

    def saved(trial: int) -> Callable[[], bool]:
        return lambda: any((folder / f"trial-{trial:03d}/seed-0").glob("checkpoints/*.json"))

    first = warm.start(sweep_without_warnings, *flags, cwd=here)
    assert wait_until(saved(1), first), first.wait()
    first.send_signal(signal.SIGINT)
    code, out, err, _ = first.wait()
    assert (code, err) == (130, "")
    assert "stopped and saved in epoch " in out
    assert (
        "resume with: python -m fcnet.sweep mine.toml --grid 'optimizer.lr=[1e-3, 1e-2]' --set train.epochs=60" in out
    )
    second = warm.start(sweep_without_warnings, *flags, cwd=here)
    assert wait_until(saved(2), second), second.wait()
    second.kill()
    second.wait()
    third = warm.start(sweep_without_warnings, *flags, cwd=here).wait()
    assert (third.code, third.err) == (0, "")
    assert [(trial["state"], trial["num_runs"]) for trial in read_sweep_json(folder)["trials"]] == [("finished", 1)] * 2
    with contextlib.chdir(here):
        assert sweep.main(["mine.toml", *flags, "--out", "whole"]) == 0
    assert results(folder) == results(here / "whole")
    assert read_sweep_json(folder) == read_sweep_json(here / "whole")


def test_two_processes_share_the_trials_and_run_each_once(here: Path, warm: WarmServer) -> None:
    flags = ["--grid", "optimizer.lr=[1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2]", "--set", "train.epochs=10"]
    both = [warm.start(sweep_without_warnings, *flags, cwd=here) for _ in range(2)]
    ended = [process.wait(240.0) for process in both]
    assert [(each.code, each.err) for each in ended] == [(0, ""), (0, "")]
    done = [re.findall(r"; (\S+/trial-\d+/seed-\d)$", each.out, re.MULTILINE) for each in ended]
    assert sorted(done[0] + done[1]) == [f"sweeps/mine/trial-{number:03d}/seed-0" for number in range(1, 7)]
    trials = read_sweep_json(here / "sweeps" / "mine")["trials"]
    assert {(trial["state"], trial["num_runs"]) for trial in trials} == {("finished", 1)}
    assert len({trial["settings"]["optimizer.lr"] for trial in trials}) == 6


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here", "no_reports")
def test_a_trial_that_diverges_fails_with_a_message_and_the_others_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "mine.toml",
        "--set",
        "optimizer.name=sgd",
        "--set",
        "model.activation=identity",
        "--set",
        "model.hidden=[6,6]",
    ]
    assert sweep.main([*flags, "--grid", "optimizer.lr=[1e-2, 1e30]"]) == 0
    content = read_sweep_json(tmp_path / "sweeps" / "mine")
    assert [trial["state"] for trial in content["trials"]] == ["finished", "failed"]
    assert re.search(r"NaN|inf|finite", content["trials"][1]["error"])
    assert content["best"]["settings"] == {"optimizer.lr": 1e-2}
    assert "  failed: " in capsys.readouterr().out
    with quiet_optuna():
        kept = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path}/sweeps/mine/study.db")
        assert {trial.state.name for trial in kept.trials} == {"COMPLETE", "PRUNED"}  # samplers learn from these states
        kept._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    assert content["trials"][1]["error"].split("'")[0][:30] in (tmp_path / "sweeps/mine/sweep.html").read_text()
    assert sweep.main([*flags, "--grid", "optimizer.lr=[1e30]", "--out", "none"]) == 2
    assert "no trial finished; the table shows why" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "give either --grid KEY=[…] or --search KEY=LOW..HIGH; --search takes lists as well"),
        (
            ["--grid", "optimizer.lr=[1]", "--search", "optimizer.lr=1..2"],
            "give either --grid KEY=[…] or --search KEY=LOW..HIGH; --search takes lists as well",
        ),
        (["--search", "optimizer.lr=1..2"], "--search and --trials N must be given together"),
        (["--grid", "optimizer.lr=[1]", "--trials", "3"], "--search and --trials N must be given together"),
        (["--grid", "optimizer.lr=[1]", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--search", "optimizer.lr=1..2", "--trials", "-1"], "--trials must be at least 1, got -1"),
        (
            ["--grid", "optimizer.lr=[1]", "--set", "data.validation=0"],
            "data.validation (mine.toml) must be greater than 0 for a sweep, which ranks trials by it, got 0.0",
        ),
        (
            ["--grid", "data.whiten=[3, 26, 30]"],
            ("data.whiten must be at most 25, the values of an image, got 26\n"
            "data.whiten must be at most 25, the values of an image, got 30"),
        ),
        (
            ["--grid", "optimizer.lr=[1]", "--set", f"seed={2**63 - 2}", "--seeds", "3"],
            f"seed (--seeds seed={2**63}) must be less than {2**63}, got {2**63}",
        ),
        (
            ["--grid", "optimizer.lr=[1]", "--storage", "nonsense"],
            "--storage must be a database URL such as postgresql://USER@HOST/NAME",
        ),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_starts_no_trial(here: Path, flags: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        sweep.main(["mine.toml", *flags])
    assert str(caught.value) == line
    assert not list(here.glob("sweeps/mine/trial-*"))


@pytest.mark.usefixtures("here")
def test_the_error_for_an_unreachable_database_hides_its_password() -> None:
    flags = ["mine.toml", "--grid", "optimizer.lr=[1]", "--storage"]
    with pytest.raises(UserError, match=r"^cannot open the database of the sweep, sqlite:") as caught:
        sweep.main([*flags, "sqlite:////nowhere/at/all.db"])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"of the sweep, mysql\+pymysql://me:\*\*\*@host/name: ") as caught:
        sweep.main([*flags, "mysql+pymysql://me:secret@host/name"])
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flags", [["--storage", "mysql://me:secret@host/name"], ["--storage=mysql://me:secret@host"]])
def test_a_run_does_not_keep_the_password_of_a_database(flags: list[str]) -> None:
    kept = sweep._without_storage(["digits", *flags, "--grid", "optimizer.lr=[1]"])
    assert kept == ["digits", "--grid", "optimizer.lr=[1]"]


@pytest.mark.usefixtures("here")
def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.db").write_text("notes, not a database")
    with pytest.raises(UserError, match=r"^cannot open the database of the sweep, .*/mine/study.db: .*not a database$"):
        sweep.main(["mine.toml", "--grid", "optimizer.lr=[1]", "--out", "mine"])
    assert (tmp_path / "mine" / "study.db").read_text() == "notes, not a database"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b", "{SCHEMA_VERSION}", "$x", "ü#"])
def test_a_sweep_stays_in_its_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    with quiet_optuna():
        next(Sweep(make_plan("optimizer.lr=[1]"), tmp_path / "in" / name).trials())
    files = [file for file in (tmp_path / "in").rglob("*") if file.is_file()]
    assert files
    assert {file.parent for file in files} == {tmp_path / "in" / name}
    assert tmp_path / "in" / name / "study.db" in files


@pytest.mark.usefixtures("here")
def test_a_database_removed_during_a_sweep_ends_it_with_one_line(tmp_path: Path) -> None:
    def remove_database() -> None:
        with quiet_optuna():
            held = Sweep(make_plan("optimizer.lr=[1]"), tmp_path / "mine").trials()
            (tmp_path / "mine" / "study.db").unlink()
            next(held)

    with pytest.raises(UserError, match=r"^the database of the sweep failed: no such table.*$"):
        remove_database()


def test_ctrl_c_between_runs_prints_how_to_resume(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("fcnet.sweep.__main__.build", interrupted)
    assert sweep.main(["mine.toml", "--grid", "optimizer.lr=[1]"]) == 143
    assert capsys.readouterr().out.endswith(
        "\nstopped; resume with: python -m fcnet.sweep mine.toml --grid 'optimizer.lr=[1]'\n"
    )
    assert not list(here.glob("sweeps/mine/sweep.*"))


@pytest.mark.usefixtures("here", "no_reports")
def test_a_folder_with_a_sweep_of_another_plan_is_refused() -> None:
    assert sweep.main(["mine.toml", "--grid", "optimizer.lr=[1e-2]"]) == 0
    with pytest.raises(UserError) as caught:
        sweep.main(["mine.toml", "--grid", "optimizer.lr=[1e-3]", "--seeds", "2", "--set", "train.epochs=1"])
    assert str(caught.value).split("\n") == [
        "train.epochs must be 2 as in the sweep in sweeps/mine, got 1; use --out DIR for another sweep",
        ("--grid must be optimizer.lr=[0.01] as in the sweep in sweeps/mine, got optimizer.lr=[0.001]; "
        "use --out DIR for another sweep"),
        "--seeds must be 1 as in the sweep in sweeps/mine, got 2; use --out DIR for another sweep",
    ]  # fmt: skip


@pytest.mark.usefixtures("here")
def test_a_validation_share_without_an_image_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^data.validation must hold out one or more images, .* got none of 100 images"
    ):
        sweep.main(["mine.toml", "--grid", "optimizer.lr=[1]", "--set", "data.validation=0.001"])


@pytest.mark.usefixtures("here")
def test_a_sweep_of_several_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^a sweep must be started as one process, .* got 2 ranks$"):
        sweep.main(["mine.toml", "--grid", "optimizer.lr=[1]"])


@pytest.mark.usefixtures("here")
def test_without_optuna_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"^fcnet\.sweep needs optuna, which is not installed: pip install optuna$"):
        sweep.main(["mine.toml", "--grid", "optimizer.lr=[1]"])


def test_only_a_sweep_loads_optuna() -> None:
    program = "import sys, fcnet.sweep, fcnet.train; print([m for m in ('optuna', 'sqlalchemy') if m in sys.modules])"
    assert run_python("-c", program).stdout == "[]\n"


@pytest.mark.usefixtures("here", "no_reports")
def test_a_sweep_restores_optunas_verbosity() -> None:
    before = optuna.logging.get_verbosity()
    assert sweep.main(["mine.toml", "--grid", "optimizer.lr=[1e-2]"]) == 0
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize(
    ("message", "tries"), [("relation alembic_version already exists", 3), ("the password is wrong", 1)]
)
@pytest.mark.usefixtures("here", "no_reports")
def test_a_database_whose_tables_another_worker_creates_is_retried(
    message: str, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count(1)

    class Busy(RDBStorage):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            if next(calls) < 3:
                raise StorageInternalError(message)
            super().__init__(*arguments, **options)

    monkeypatch.setattr("optuna.storages.RDBStorage", Busy)
    monkeypatch.setattr(study, "_RETRY_SECONDS", (0.0, 0.0, 0.0))
    plan = make_plan("optimizer.lr=[1e-3]")
    with quiet_optuna():
        if tries == 1:
            with pytest.raises(UserError, match=r"^cannot open the database of the sweep, .*: the password is wrong$"):
                Sweep(plan, tmp_path / "mine")
        else:
            assert len(run_trials(Sweep(plan, tmp_path / "mine")).trials) == 1
    assert next(calls) == tries + 1


def test_the_page_links_the_report_of_each_run_and_says_which_settings_mattered(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ["--grid", "optimizer.lr=[1e-5,1e-1]", "--grid", "model.hidden=[[],[6],[8]]"]
    assert sweep.main(["mine.toml", *grid]) == 0
    folder = here / "sweeps" / "mine"
    html = (folder / "sweep.html").read_text()
    links = re.findall(r'<a href="(trial[^"]+)">', html)
    assert sorted(links) == [f"trial-{number:03d}/seed-0/report.html" for number in range(1, 7)]
    assert all((folder / link).is_file() for link in links)
    shares = {key: float(value) for key, value in re.findall(r">([a-z.]+): ([\d.]+)%</text>", html)}
    assert shares.keys() == {"optimizer.lr", "model.hidden"}
    assert abs(sum(shares.values()) - 100.0) < 0.11
    (folder / links[0]).unlink()
    monkeypatch.setattr("optuna.importance.get_param_importances", mock.Mock(side_effect=RuntimeError("no\nvariance")))
    assert sweep.main(["mine.toml", *grid]) == 0
    html = (folder / "sweep.html").read_text()
    assert "Importances cannot be computed: no variance" in html
    assert f'href="{links[0]}"' not in html
