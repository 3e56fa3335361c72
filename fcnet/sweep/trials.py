"""A sweep in its folder: trials that are taken one by one, their runs, and what it all comes to."""

from __future__ import annotations

import contextlib
import datetime
import json
import statistics
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fcnet.config.toml import check_agreement, dump_config, load_config
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import run_experiment
from fcnet.report.page import ensure_report
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import write_text
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
    from fcnet.experiment.build import Experiment
    from fcnet.sweep.ranking import RankedTrial
    from fcnet.sweep.study import SweepPlan
    from fcnet.training.records import EpochRecord

_ABANDONED_SECONDS = 60.0
"""A trial that no process took within them was begun by one that is gone."""


class Pruned(Exception):  # noqa: N818 - a finding, not an error
    """The trial does so much worse than others that the rest of it is spared."""


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep came to, so far.

    Attributes:
        trials: all that were begun.
        best: the chosen one; None where none is finished.
        num_unfinished: how many trials are not at their end.
        test_accuracy: mean and standard deviation of the chosen trial's test accuracies; None where trials are left, by
            which the choice may change, or where its runs are elsewhere.
    """

    trials: list[RankedTrial]
    best: RankedTrial | None
    num_unfinished: int
    test_accuracy: tuple[float, float | None] | None


class SweepTrial:
    """A trial that this process has taken, and no other works on.

    Args:
        plan: the sweep's.
        trial: the study's side of it.
        folder: the sweep's.

    Attributes:
        number: from 1, in the order in which trials were begun.
        settings: by dotted key.
    """

    def __init__(self, plan: SweepPlan, trial: Trial, folder: Path) -> None:
        self.number = trial.number + 1
        self.settings: dict[str, Any] = study.suggest_settings(trial, plan)
        self._plan, self._trial, self._folder = plan, trial, folder

    def config(self, seed: int) -> Config:
        """The configuration of one of its runs."""
        return self._plan.space.config(self.settings, seed)

    def run(self, seed: int) -> Run:
        """The folder of one of its runs, begun where it is not.

        Raises:
            UserError: the folder holds something else.
        """
        config, run = self.config(seed), Run(self._folder / run_name(self.number, seed))
        if not run.started:
            return Run.create(run.path, "", dump_config(config))
        check_agreement(config, load_config(run.config), self._plan.space.file, run.config)
        if run.finished:
            run.clean_up()
            ensure_report(run)
        return run

    def run_experiment(
        self, experiment: Experiment, run: Run, seed: int, stop: Callable[[], bool]
    ) -> Iterator[EpochRecord | None]:
        """As `fcnet.experiment.runner.run_experiment`; each epoch's validation accuracy is told to the study.

        Raises:
            Pruned: after an epoch, or before the run, where the trial does badly.
            UserError: no image is kept aside.
        """
        if experiment.training.validation is None:
            raise UserError(
                "data.validation must keep one image or more aside, by which a sweep chooses, "
                f"got none beside {experiment.training.batches.num_images} to train on"
            )
        self._report(run, seed)
        self._prune()
        train = self.config(seed).train
        for record in run_experiment(experiment, run, save_seconds=train.save_seconds, stop=stop):
            if record is not None:
                self._report(run, seed)
                if record.epoch < train.epochs:
                    self._prune()
            yield record

    def record_result(self, run: Run, seed: int) -> RunResult:
        """Tells the study what a finished run came to."""
        self._report(run, seed)
        summary = run.summary()
        result = RunResult(seed, summary["validation_accuracy"], summary["epochs"], summary["train_seconds"])
        others = [each for each in self._trial.user_attrs.get("runs", []) if each["seed"] != seed]
        self._trial.set_user_attr("runs", [*others, asdict(result)])
        return result

    def finish(self) -> None:
        """Tells the study the mean over all runs."""
        runs = self._trial.user_attrs["runs"]
        study.end_trial(self._trial, "finished", statistics.fmean(run["validation_accuracy"] for run in runs))

    def prune(self) -> None:
        """Tells the study that the rest of the trial is spared."""
        study.end_trial(self._trial, "pruned")

    def fail(self, why: str) -> None:
        """Tells the study that the trial comes to nothing, however often it is tried.

        It is ended as if it were pruned: a sampler learns from those, and nothing from what failed.
        """
        self._trial.set_user_attr("error", why)
        study.end_trial(self._trial, "pruned")

    def _report(self, run: Run, seed: int) -> None:
        """Tells the study the run's epochs, also those that a killed process left untold."""
        first = self._plan.seeds.index(seed) * self._plan.space.num_epochs
        study.report_values(
            self._trial, {first + record["epoch"]: record["validation_accuracy"] for record in run.records()}
        )

    def _prune(self) -> None:
        if self._trial.should_prune():
            raise Pruned


class Sweep:
    """A sweep in its folder, joined by this process.

    Args:
        plan: what it is to do.
        folder: the sweep's; made where it is not there.
        storage: the URL of a database that several machines share; empty: a file in the folder.

    Raises:
        UserError: the storage cannot be used, or the folder's sweep has another plan.
    """

    def __init__(self, plan: SweepPlan, folder: Path, storage: str = "") -> None:
        self.plan, self.folder = plan, folder
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / "study.db"):
            self._folder_id = _folder_id(folder) if storage else ""
            self._study = study.open_study(plan, folder, storage)

    def trials(self) -> Iterator[SweepTrial]:
        """The trials that are left, one by one; each is this process's until the next is asked for.

        A trial that a process left when it was killed comes before a new one.
        """
        while True:
            with contextlib.ExitStack() as locks:
                trial = self._resume_abandoned(locks) or self._start_new(locks)
                if trial is None:
                    return
                trial.set_user_attr("folder_id", self._folder_id)
                yield SweepTrial(self.plan, trial, self.folder)

    def write(self) -> SweepOutcome:
        """Writes what is known of all trials, whoever worked on them, as JSON, CSV and a page."""
        with file_lock(self.folder / "sweep.json"):
            started = study.list_trials(self._study)
            trials = [study.to_ranked_trial(trial, self.plan) for trial in started if "settings" in trial.user_attrs]
            num_unfinished = max(self.plan.num_trials, len(started)) - sum(
                trial.state != "unfinished" for trial in trials
            )
            best = best_trial(trials)
            test_accuracy = self._test_accuracy(best) if best is not None and not num_unfinished else None
            results = to_dict(trials, self.plan.to_dict(), test_accuracy)
            write_text(self.folder / "sweep.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
            write_text(self.folder / "sweep.csv", to_csv(trials))
            write_text(self.folder / "sweep.html", sweep_page(self.folder.absolute().name, trials, results))
        return SweepOutcome(trials, best, num_unfinished, test_accuracy)

    def _test_accuracy(self, best: RankedTrial) -> tuple[float, float | None] | None:
        """The test accuracies of the chosen trial's runs."""
        runs = [Run(self.folder / run_name(best.number, result.seed)) for result in best.runs]
        if not all(run.finished for run in runs):
            return None
        values = [run.summary()["test_accuracy"] for run in runs]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    def _resume_abandoned(self, locks: contextlib.ExitStack) -> Trial | None:
        """A trial that was begun, by a process that is gone; locked."""
        for trial in study.list_trials(self._study):
            if not trial.state.is_finished() and self._can_resume(trial) and self._lock(locks, trial.number):
                if (found := study.resume_trial(self._study, trial.number)) is not None:
                    return found
                locks.close()
        return None

    def _start_new(self, locks: contextlib.ExitStack) -> Trial | None:
        """A trial that nobody began; locked."""
        while True:
            with file_lock(self.folder / "trial"):
                trial = study.start_trial(self._study, self.plan)
            if trial is None or self._lock(locks, trial.number):
                return trial

    def _lock(self, locks: contextlib.ExitStack, number: int) -> bool:
        try:
            locks.enter_context(file_lock(self.folder / f"trial-{number + 1:03d}", wait=False))
        except BlockingIOError:
            return False
        return True

    def _can_resume(self, trial: FrozenTrial) -> bool:
        """Whether its runs are in this folder, or nowhere yet because its process was gone at once."""
        folder_id = trial.user_attrs.get("folder_id")
        if folder_id is not None or not self._folder_id:
            return folder_id in (None, self._folder_id)
        assert trial.datetime_start is not None
        return (datetime.datetime.now() - trial.datetime_start).total_seconds() > _ABANDONED_SECONDS


def _folder_id(folder: Path) -> str:
    """Names the folder among those of all machines; called by one process at a time."""
    file = folder / ".folder_id"
    if not file.is_file():
        write_text(file, uuid.uuid4().hex)
    return file.read_text()
