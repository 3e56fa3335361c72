"""A sweep in its folder: points that are taken one by one, their runs, and what it all comes to."""

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
from fcnet.experiment.runner import carry_out
from fcnet.report.page import ensure_report
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import locked, write_text
from fcnet.sweep import study
from fcnet.sweep.page import sweep_page
from fcnet.sweep.ranking import Result, as_csv, as_facts, chosen, run_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from optuna import Trial
    from optuna.trial import FrozenTrial

    from fcnet.config.schema import Config
    from fcnet.experiment.build import Experiment
    from fcnet.sweep.ranking import Standing
    from fcnet.sweep.study import Plan
    from fcnet.training.records import EpochRecord

_NOBODYS_SECONDS = 60.0
"""A point that no process took within them was begun by one that is gone."""


class Pruned(Exception):  # noqa: N818 - a finding, not an error
    """The point does so much worse than others that the rest of it is spared."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to, so far.

    Attributes:
        points: all that were begun.
        best: the chosen one; None where none is finished.
        num_left: how many points are not at their end.
        tested: mean and standard deviation of the chosen point's test accuracies; None where points are left, by
            which the choice may change, or where its runs are elsewhere.
    """

    points: list[Standing]
    best: Standing | None
    num_left: int
    tested: tuple[float, float | None] | None


class Point:
    """A point that this process has taken, and no other works on.

    Args:
        plan: the sweep's.
        trial: the study's side of it.
        folder: the sweep's.

    Attributes:
        number: from 1, in the order in which points were begun.
        settings: by dotted key.
    """

    def __init__(self, plan: Plan, trial: Trial, folder: Path) -> None:
        self.number = trial.number + 1
        self.settings: dict[str, Any] = study.settings_of(trial, plan)
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

    def carry_out(
        self, experiment: Experiment, run: Run, seed: int, stop: Callable[[], bool]
    ) -> Iterator[EpochRecord | None]:
        """As `fcnet.experiment.runner.carry_out`; each epoch's validation accuracy is told to the study.

        Raises:
            Pruned: after an epoch, or before the run, where the point does badly.
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
        for record in carry_out(experiment, run, save_seconds=train.save_seconds, stop=stop):
            if record is not None:
                self._report(run, seed)
                if record.epoch < train.epochs:
                    self._prune()
            yield record

    def note(self, run: Run, seed: int) -> Result:
        """Tells the study what a finished run came to."""
        self._report(run, seed)
        summary = run.summary()
        result = Result(seed, summary["validation_accuracy"], summary["epochs"], summary["train_seconds"])
        others = [each for each in self._trial.user_attrs.get("runs", []) if each["seed"] != seed]
        self._trial.set_user_attr("runs", [*others, asdict(result)])
        return result

    def finish(self) -> None:
        """Tells the study the mean over all runs."""
        runs = self._trial.user_attrs["runs"]
        study.end(self._trial, "finished", statistics.fmean(run["validation_accuracy"] for run in runs))

    def prune(self) -> None:
        """Tells the study that the rest of the point is spared."""
        study.end(self._trial, "pruned")

    def fail(self, why: str) -> None:
        """Tells the study that the point comes to nothing, however often it is tried.

        It is ended as if it were pruned: a sampler learns from those, and nothing from what failed.
        """
        self._trial.set_user_attr("why", why)
        study.end(self._trial, "pruned")

    def _report(self, run: Run, seed: int) -> None:
        """Tells the study the run's epochs, also those that a killed process left untold."""
        first = self._plan.seeds.index(seed) * self._plan.space.num_epochs
        study.report(self._trial, {first + record["epoch"]: record["validation_accuracy"] for record in run.records()})

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

    def __init__(self, plan: Plan, folder: Path, storage: str = "") -> None:
        self.plan, self.folder = plan, folder
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "study.db"):
            self._place = _place(folder) if storage else ""
            self._study = study.open_study(plan, folder, storage)

    def points(self) -> Iterator[Point]:
        """The points that are left, one by one; each is this process's until the next is asked for.

        A point that a process left when it was killed comes before a new one.
        """
        while True:
            with contextlib.ExitStack() as held:
                trial = self._left(held) or self._new(held)
                if trial is None:
                    return
                trial.set_user_attr("place", self._place)
                yield Point(self.plan, trial, self.folder)

    def write(self) -> Outcome:
        """Writes what is known of all points, whoever worked on them, as JSON, CSV and a page."""
        with locked(self.folder / "sweep.json"):
            trials = study.begun(self._study)
            points = [study.standing(trial, self.plan) for trial in trials if "settings" in trial.user_attrs]
            num_left = max(self.plan.num_points, len(trials)) - sum(point.state != "unfinished" for point in points)
            best = chosen(points)
            tested = self._tested(best) if best is not None and not num_left else None
            facts = as_facts(points, self.plan.facts(), tested)
            write_text(self.folder / "sweep.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
            write_text(self.folder / "sweep.csv", as_csv(points))
            write_text(self.folder / "sweep.html", sweep_page(self.folder.absolute().name, points, facts))
        return Outcome(points, best, num_left, tested)

    def _tested(self, best: Standing) -> tuple[float, float | None] | None:
        """The test accuracies of the chosen point's runs."""
        runs = [Run(self.folder / run_name(best.number, result.seed)) for result in best.runs]
        if not all(run.finished for run in runs):
            return None
        values = [run.summary()["test_accuracy"] for run in runs]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    def _left(self, held: contextlib.ExitStack) -> Trial | None:
        """A point that was begun, by a process that is gone; locked."""
        for trial in study.begun(self._study):
            if not trial.state.is_finished() and self._may_take(trial) and self._lock(held, trial.number):
                if (found := study.again(self._study, trial.number)) is not None:
                    return found
                held.close()
        return None

    def _new(self, held: contextlib.ExitStack) -> Trial | None:
        """A point that nobody began; locked."""
        while True:
            with locked(self.folder / "point"):
                trial = study.begin(self._study, self.plan)
            if trial is None or self._lock(held, trial.number):
                return trial

    def _lock(self, held: contextlib.ExitStack, number: int) -> bool:
        try:
            held.enter_context(locked(self.folder / f"point-{number + 1:03d}", wait=False))
        except BlockingIOError:
            return False
        return True

    def _may_take(self, trial: FrozenTrial) -> bool:
        """Whether its runs are in this folder, or nowhere yet because its process was gone at once."""
        place = trial.user_attrs.get("place")
        if place is not None or not self._place:
            return place in (None, self._place)
        assert trial.datetime_start is not None
        return (datetime.datetime.now() - trial.datetime_start).total_seconds() > _NOBODYS_SECONDS


def _place(folder: Path) -> str:
    """Names the folder among those of all machines; called by one process at a time."""
    file = folder / ".place"
    if not file.is_file():
        write_text(file, uuid.uuid4().hex)
    return file.read_text()
