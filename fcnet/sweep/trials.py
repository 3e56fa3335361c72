"""A sweep in its folder: its trials, their runs, and the files with the results.

Several processes may work on one sweep. A lock for each trial shows which process works on it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import statistics
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcnet.config.toml import check_agreement, dump_config, flatten_config
from fcnet.config.values import format_value
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import run_experiment
from fcnet.report.page import ensure_report
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import ChecksummedFolder, write_text
from fcnet.runtime.formatting import format_count
from fcnet.runtime.locks import file_lock
from fcnet.sweep import study
from fcnet.sweep.page import sweep_page
from fcnet.sweep.ranking import RunResult, best_trial, run_name, to_csv, to_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from optuna import Trial
    from optuna.trial import FrozenTrial

    from fcnet.config.schema import Config
    from fcnet.config.selection import Criterion
    from fcnet.experiment.build import Experiment
    from fcnet.experiment.provenance import CommandRecord
    from fcnet.sweep.ranking import RankedTrial
    from fcnet.sweep.study import SweepPlan
    from fcnet.training.records import EpochRecord

_FOLDER_ID = ".folder_id"
_ABANDONED_SECONDS = 60.0
"""Age from which a started trial without a folder counts as left behind by a process that ended."""


class Pruned(Exception):  # noqa: N818 - an outcome, not an error
    """The trial is unpromising and is to be pruned."""


class NoFigureError(UserError):
    """The run ended with a validation figure that is not finite, and cannot be ranked."""


@dataclass(frozen=True)
class SweepOutcome:
    """Results of a sweep so far.

    Attributes:
        trials: all started trials.
        best: best trial, or None if no trial is finished.
        num_unfinished: number of trials that are not finished, pruned or failed.
        test_accuracy: mean and standard deviation of the best trial's test accuracies, or None while trials are left,
            which may still change the choice, or if its runs are on another machine.
    """

    trials: list[RankedTrial]
    best: RankedTrial | None
    num_unfinished: int
    test_accuracy: tuple[float, float | None] | None


class SweepTrial:
    """A trial on which this process alone works.

    Args:
        plan: plan of the sweep.
        trial: trial of the study.
        folder: folder of the sweep.

    Attributes:
        number: number of the trial, from 1, in order of start.
        settings: settings by dotted key.
    """

    def __init__(self, plan: SweepPlan, trial: Trial, folder: Path) -> None:
        self.number = trial.number + 1
        self.settings: dict[str, Any] = study.suggest_settings(trial, plan)
        self._plan, self._trial, self._folder = plan, trial, folder

    def config(self, seed: int) -> Config:
        """Returns the configuration of the run with this seed."""
        return self._plan.space.config(self.settings, seed)

    @contextlib.contextmanager
    def lock(self, seed: int) -> Iterator[None]:
        """Keeps other processes from training the run with this seed while the block runs.

        Raises:
            UserError: another process trains it.
        """
        run = self._run_folder(seed)
        run.path.mkdir(parents=True, exist_ok=True)
        with run.lock():
            yield

    def run(self, seed: int) -> Run:
        """Returns the run with this seed; creates its folder if it does not exist.

        Raises:
            UserError: the folder has a run of another configuration.
        """
        config, run = self.config(seed), self._run_folder(seed)
        if not run.started:
            return Run.create(run.path, "", dump_config(config))
        check_agreement(config, run.load_config(), self._plan.space.file, run.config)
        if run.finished:
            run.clean_up()
            ensure_report(run)
        return run

    def run_experiment(
        self,
        experiment: Experiment,
        run: Run,
        seed: int,
        stop: Callable[[], bool],
        note: Callable[[str], None] = lambda _: None,
        record: CommandRecord | None = None,
    ) -> Iterator[EpochRecord | None]:
        """Trains like `fcnet.experiment.runner.run_experiment`, and reports each validation figure to the study.

        The run keeps ``record``, the command, if it is given.

        Raises:
            Pruned: the trial is unpromising, before the run or after an epoch.
            UserError: no image is held out for validation.
        """
        if experiment.training.validation is None:
            raise UserError(
                "data.validation must hold out one or more images, because a sweep ranks trials by them, "
                f"got none of {format_count(experiment.training.batches.num_images, 'image')}"
            )
        train = self.config(seed).train
        events = run_experiment(experiment, run, save_seconds=train.save_seconds, stop=stop, note=note)
        if record is not None:
            run.add_command(record.to_dict(self._plan.space.sources(self.settings, seed)), note)
        self._report(run, seed)  # after the records are restored
        self._prune()
        for epoch in events:
            if epoch is not None:
                self._report(run, seed)
                if epoch.epoch < train.epochs:
                    self._prune()
            yield epoch

    def record_result(self, run: Run, seed: int) -> RunResult:
        """Stores the result of a finished run in the study and returns it.

        Raises:
            NoFigureError: its validation figure is not finite.
        """
        self._report(run, seed)
        criterion = self._plan.criterion
        result = _to_result(run, seed, criterion)
        if result is None:
            raise NoFigureError(f"the {criterion.label} of {run.path} is not finite")
        others = [each for each in self._trial.user_attrs.get("runs", []) if each["seed"] != seed]
        self._trial.set_user_attr("runs", [*others, result.to_dict(criterion)])
        return result

    def finish(self) -> None:
        """Ends the trial with the mean validation figure of its runs."""
        runs = self._trial.user_attrs["runs"]
        study.end_trial(self._trial, "finished", statistics.fmean(run[self._plan.criterion.name] for run in runs))

    def prune(self) -> None:
        """Ends the trial as pruned."""
        study.end_trial(self._trial, "pruned")

    def fail(self, message: str) -> None:
        """Ends the trial as failed, with an error message."""
        self._trial.set_user_attr("error", message)
        # The study counts it as pruned: samplers learn from pruned trials, and ignore failed ones.
        study.end_trial(self._trial, "pruned")

    def _run_folder(self, seed: int) -> Run:
        return Run(self._folder / run_name(self.number, seed))

    def _report(self, run: Run, seed: int) -> None:
        """Reports all epochs of the run to the study, also those that a killed process left unreported."""
        first = self._plan.seeds.index(seed) * self._plan.space.num_epochs
        find = self._plan.criterion.find
        study.report_values(self._trial, {first + record["epoch"]: find(record) for record in run.records()})

    def _prune(self) -> None:
        if study.should_prune(self._trial):
            raise Pruned


class Sweep:
    """A sweep in its folder, on which this process works.

    Args:
        plan: plan of the sweep.
        folder: folder of the sweep; created if missing.
        storage: URL of a database that several machines share; empty for a file in the folder.

    Raises:
        UserError: the database cannot be used, or its sweep has another plan.
    """

    def __init__(self, plan: SweepPlan, folder: Path, storage: str = "") -> None:
        self.plan, self.folder = plan, folder
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / "study.db"):
            self._folder_id = _folder_id(folder) if storage else ""
            with study.report_damage():
                self._study = study.open_study(plan, folder, storage)
                self._check_results(study.rank_started(self._study, plan))

    def trials(self) -> Iterator[SweepTrial]:
        """Yields trials to work on, each locked until the next; abandoned trials of dead processes come first."""
        while True:
            with contextlib.ExitStack() as locks:
                trial = self._resume_abandoned(locks) or self._start_new(locks)
                if trial is None:
                    return
                trial.set_user_attr("folder_id", self._folder_id)
                yield SweepTrial(self.plan, trial, self.folder)

    def write(self) -> SweepOutcome:
        """Writes the results of all trials, of every process, as JSON, CSV and an HTML page, and returns them."""
        with file_lock(self.folder / "sweep.json"):
            num_started = len(study.list_trials(self._study))
            trials = study.rank_started(self._study, self.plan)
            num_unfinished = max(self.plan.num_trials, num_started) - sum(
                trial.state != "unfinished" for trial in trials
            )
            best = best_trial(trials)
            if not num_unfinished:
                self._check_results(trials)
            test_accuracy = self._test_accuracy(best) if best is not None and not num_unfinished else None
            results = to_dict(trials, self.plan.to_dict(), test_accuracy)
            write_text(self.folder / "sweep.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
            write_text(self.folder / "sweep.csv", to_csv(trials))
            # Takes seconds for hundreds of trials, so once, at the end.
            importances = "" if num_unfinished else study.importances(self._study, self.plan)
            page = sweep_page(self.folder.absolute().name, trials, results, self._reports(trials), importances)
            write_text(self.folder / "sweep.html", page)
        return SweepOutcome(trials, best, num_unfinished, test_accuracy)

    def _reports(self, trials: list[RankedTrial]) -> dict[tuple[int, int], str]:
        """Returns the reports in this folder by trial and seed, relative to it."""
        files = {
            (trial.number, seed): f"{run_name(trial.number, seed)}/report.html"
            for trial in trials
            for seed in self.plan.seeds
        }
        return {key: file for key, file in files.items() if (self.folder / file).is_file()}

    def _check_results(self, trials: list[RankedTrial]) -> None:
        """Checks the trials in the database, which has no checksums, against their runs in this folder.

        Raises:
            UserError: the run of an ended trial has other settings, another learning curve or another result, or is
                damaged.
        """
        for trial in trials:
            for seed in self.plan.seeds:
                run = Run(self.folder / run_name(trial.number, seed))
                if trial.state != "unfinished" and run.started:
                    self._check_run(trial, run, seed)

    def _check_run(self, trial: RankedTrial, run: Run, seed: int) -> None:
        damaged = "the database of the sweep is damaged: it has"
        settings = dict(flatten_config(run.load_config().model_dump(mode="json")))
        for key, value in trial.settings.items():
            if settings[key] != value:
                raise UserError(f"{damaged} {key} = {format_value(value)}, not that of {run.config}")
        curve, recorded = dict(trial.learning_curves.get(seed, ())), run.records()
        is_partial = not run.finished  # a process that resumed it may have had fewer epochs saved than reported
        find = self.plan.criterion.find
        if any(curve.get(record["epoch"]) != find(record) for record in recorded) or (
            len(curve) != len(recorded) and not is_partial
        ):
            raise UserError(f"{damaged} another learning curve than {run.path}")
        if is_partial:
            return
        criterion = self.plan.criterion
        stored = next((each.to_dict(criterion) for each in trial.runs if each.seed == seed), {})
        result = _to_result(run, seed, criterion)
        differing = [
            f"{key.replace('_', ' ')} {stored.get(key)!r}, not {value!r}"
            for key, value in ({} if result is None else result.to_dict(criterion)).items()
            if stored.get(key) != value
        ]
        if differing:
            raise UserError(f"{damaged} another result than {run.path} ({'; '.join(differing)})")

    def _test_accuracy(self, best: RankedTrial) -> tuple[float, float | None] | None:
        """Returns mean and standard deviation of the test accuracies of the best trial's runs."""
        runs = [Run(self.folder / run_name(best.number, result.seed)) for result in best.runs]
        if not all(run.finished for run in runs):
            return None
        values = [run.summary()["test_accuracy"] for run in runs]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    def _resume_abandoned(self, locks: contextlib.ExitStack) -> Trial | None:
        """Locks and returns a started trial that no process works on, or returns None."""
        for trial in study.list_trials(self._study):
            if not trial.state.is_finished() and self._can_resume(trial) and self._lock(locks, trial.number):
                if (found := study.resume_trial(self._study, trial.number)) is not None:
                    return found
                locks.close()
        return None

    def _start_new(self, locks: contextlib.ExitStack) -> Trial | None:
        """Starts, locks and returns a new trial, or returns None."""
        while True:
            with file_lock(self.folder / "trial"):
                trial = study.start_trial(self._study, self.plan)
            # Another process may resume the trial before it is locked: then start another one.
            if trial is None or self._lock(locks, trial.number):
                return trial

    def _lock(self, locks: contextlib.ExitStack, number: int) -> bool:
        try:
            locks.enter_context(file_lock(self.folder / f"trial-{number + 1:03d}", wait=False))
        except BlockingIOError:
            return False
        return True

    def _can_resume(self, trial: FrozenTrial) -> bool:
        """Returns whether the runs of a trial are in this folder, or nowhere because its process ended at once."""
        folder_id = trial.user_attrs.get("folder_id")
        if folder_id is not None or not self._folder_id:
            return folder_id in (None, self._folder_id)
        assert trial.datetime_start is not None
        return (datetime.datetime.now() - trial.datetime_start).total_seconds() > _ABANDONED_SECONDS


def _to_result(run: Run, seed: int, criterion: Criterion) -> RunResult | None:
    """Returns the result of a finished run; None if its validation figure is not finite.

    Raises:
        UserError: its summary is damaged.
    """
    summary = run.summary()
    if summary["validation_accuracy"] is None:
        raise UserError(f"{run.path} must have a validation accuracy to be ranked; its summary.json has none")
    value = criterion.find(summary)
    return None if value is None else RunResult(seed, value, summary["epochs"], summary["train_seconds"])


def _folder_id(folder: Path) -> str:
    """Returns an identifier of the folder, unique among machines. The caller must hold the folder's lock."""
    files = ChecksummedFolder(folder)
    is_new = not files.checksums_file.is_file() and not (folder / _FOLDER_ID).is_file()
    data = None if is_new else files.read(_FOLDER_ID)
    if data is None:
        data = uuid.uuid4().hex.encode()
        files.write(_FOLDER_ID, data)
    return data.decode(errors="replace")
