"""A sweep under way: its points, shared by all processes that work on it, kept by optuna, which only this room knows."""

from __future__ import annotations

import contextlib
import datetime
import statistics
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from fcnet.config_file import check_agreement, dump_config, leaves, load_config
from fcnet.errors import UserError
from fcnet.experiment import carry_out, tidy
from fcnet.files import locked, write_text
from fcnet.run import Run
from fcnet.seeds import derive
from fcnet.space import Range, toml
from fcnet.standings import Result, Standing, run_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

    from fcnet.build import Experiment
    from fcnet.config import Config
    from fcnet.records import EpochRecord
    from fcnet.space import Space

Pruning = Literal["none", "median", "halving"]
_BUSY_SECONDS = 60
"""So long a process waits for a file that another one writes to."""
_NOBODYS_SECONDS = 60.0
"""A point that nobody took within them was begun by a process that is gone."""


class Pruned(Exception):  # noqa: N818 - a finding, not an error
    """The point does so much worse than others that the rest of it is spared."""


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Attributes:
        space: what is tried.
        num_seeds: runs of each point, from the configuration's seed on.
        num_points: how many points are begun.
        pruning: whether and how points that do badly are given up.
        data: names the images to the bit.
    """

    space: Space
    num_seeds: int
    num_points: int
    pruning: Pruning
    data: str

    @property
    def seeds(self) -> list[int]:
        """The seeds of each point's runs."""
        first = self.space.base.seed
        return list(range(first, first + self.num_seeds))

    def facts(self) -> dict[str, Any]:
        """What every process that works on the sweep must have in common."""
        settings = dict(leaves(self.space.base.model_dump(mode="json")))
        del settings["data.path"]  # which may differ from machine to machine
        return {
            **settings,
            "data": self.data,
            self.space.flag: [str(axis) for axis in self.space.axes],
            "--seeds": self.num_seeds,
            "--prune": self.pruning,
        }


class Point:
    """A point that this process has taken, and no other works on.

    Args:
        plan: the sweep's.
        trial: optuna's side of it.
        folder: the sweep's.
    """

    def __init__(self, plan: Plan, trial: Trial, folder: Path) -> None:
        self.plan, self.folder, self._trial = plan, folder, trial
        self.number = trial.number + 1
        self.settings: dict[str, Any] = _suggested(plan, trial)
        trial.set_user_attr("settings", self.settings)

    def config(self, seed: int) -> Config:
        """The configuration of one of its runs."""
        return self.plan.space.config(self.settings, seed)

    def run(self, seed: int) -> Run:
        """The folder of one of its runs, begun where it is not.

        Raises:
            UserError: the folder holds something else.
        """
        config, run = self.config(seed), Run(self.folder / run_name(self.number, seed))
        if not run.started:
            return Run.create(run.path, "", dump_config(config))
        check_agreement(config, load_config(run.config), self.plan.space.file, run.config)
        if run.finished:
            tidy(run)
        return run

    def carry_out(
        self, experiment: Experiment, run: Run, seed: int, stop: Callable[[], bool]
    ) -> Iterator[EpochRecord | None]:
        """As `fcnet.experiment.carry_out`; each epoch's validation accuracy is told to the study.

        Raises:
            Pruned: after an epoch, or before the run, where the point does badly.
            UserError: no image is kept aside.
        """
        if experiment.training.validation is None:
            raise UserError(
                "data.validation must keep one image or more aside, by which a sweep chooses, "
                f"got none with {experiment.training.batches.num_images} to train on"
            )
        self._report(run, seed)
        self._prune()
        epochs = experiment.training.algorithm.epochs
        for record in carry_out(
            experiment, run, save_seconds=self.config(seed).train.save_seconds, stop=stop
        ):
            if record is not None:
                self._report(run, seed)
                if record.epoch < epochs:
                    self._prune()
            yield record

    def note(self, run: Run, seed: int) -> Result:
        """Tells the study what a finished run came to."""
        summary = run.summary()
        result = Result(seed, summary["validation_accuracy"], summary["epochs"], summary["train_seconds"])
        others = [each for each in self._trial.user_attrs.get("runs", []) if each["seed"] != seed]
        self._trial.set_user_attr("runs", [*others, asdict(result)])
        return result

    def finish(self) -> None:
        """Tells the study the mean over all runs."""
        from optuna.trial import TrialState

        accuracies = [each["validation_accuracy"] for each in self._trial.user_attrs["runs"]]
        _tell(self._trial, TrialState.COMPLETE, statistics.fmean(accuracies))

    def give_up(self, *, pruned: bool, why: str = "") -> None:
        """Tells the study that the point comes to nothing: it does badly, or would fail again."""
        from optuna.trial import TrialState

        self._trial.set_user_attr("why", why)
        _tell(self._trial, TrialState.PRUNED if pruned else TrialState.FAIL)

    def _report(self, run: Run, seed: int) -> None:
        """Tells the study the epochs that it does not know, which a killed process may have left untold."""
        first = self.plan.seeds.index(seed) * self.plan.space.num_epochs
        known = self._trial.storage.get_trial(self._trial._trial_id).intermediate_values
        for record in run.records():
            if first + record["epoch"] not in known:
                self._trial.report(record["validation_accuracy"], first + record["epoch"])

    def _prune(self) -> None:
        if self._trial.should_prune():
            raise Pruned


class Sweep:
    """A sweep in its folder, joined by this process.

    Args:
        plan: what it is to do.
        folder: of the sweep; made where it is not there.
        storage: the URL of a database that several machines share; empty: a file in the folder.

    Raises:
        UserError: optuna is not installed, the storage cannot be used, or the folder's sweep has another plan.
    """

    def __init__(self, plan: Plan, folder: Path, storage: str = "") -> None:
        self.plan, self.folder = plan, folder
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "study.db"):
            self._place = _place(folder) if storage else ""
            self._study = _study(plan, folder, storage)

    def points(self) -> Iterator[Point]:
        """The points that are left, one by one; each is this process's until the next is asked for.

        A point that a process left when it was killed comes before a new one.
        """
        while True:
            with contextlib.ExitStack() as held:
                trial = self._left(held) or self._new(held)
                if trial is None:
                    return
                self._study.sampler = _sampler(self.plan, trial.number)
                trial.set_user_attr("place", self._place)
                yield Point(self.plan, trial, self.folder)

    def standings(self) -> list[Standing]:
        """What is known of each point so far, whoever worked on it."""
        trials = self._study.get_trials(deepcopy=False)
        return [
            _standing(self.plan, trial)
            for trial in trials[: self.plan.num_points]
            if "settings" in trial.user_attrs
        ]

    def run(self, number: int, seed: int) -> Run:
        """The run of a point's number and a seed, which may lie on another machine."""
        return Run(self.folder / run_name(number, seed))

    def _left(self, held: contextlib.ExitStack) -> Trial | None:
        """A point that was begun, by a process that is gone; locked."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number < self.plan.num_points and self._may_take(trial) and self._lock(held, trial.number):
                if self._study._storage.get_trial(trial._trial_id).state == TrialState.RUNNING:
                    return self._trial(trial._trial_id)
                held.close()
        return None

    def _new(self, held: contextlib.ExitStack) -> Trial | None:
        """A point that nobody began; locked."""
        from optuna.trial import TrialState

        while len(self._study.get_trials(deepcopy=False)) < self.plan.num_points:
            trial = self._study.ask()
            if trial.number >= self.plan.num_points:  # another process was quicker
                _tell(trial, TrialState.FAIL)
            elif self._lock(held, trial.number):
                return trial
        return None

    def _trial(self, trial_id: int) -> Trial:
        from optuna import Trial

        return Trial(self._study, trial_id)

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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While open, optuna says nothing but errors.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("a sweep takes a package that is not installed here: pip install optuna") from None
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _study(plan: Plan, folder: Path, storage: str) -> Study:
    """The study of the folder's name, made where it is not there; refused where it has another plan."""
    import optuna

    found = optuna.create_study(
        storage=_storage(storage or f"sqlite:///{folder.absolute() / 'study.db'}"),
        study_name=folder.absolute().name,
        direction="maximize",
        load_if_exists=True,
        sampler=_sampler(plan, 0),
        pruner=_pruner(plan),
    )
    theirs, ours = found.user_attrs.get("plan"), plan.facts()
    if theirs is None:
        found.set_user_attr("plan", ours)
    elif theirs != ours:
        raise UserError(
            "\n".join(
                f"{key} must be {_said(theirs.get(key))} as in the sweep in {folder}, got {_said(ours.get(key))}; "
                "--out DIR begins another"
                for key in {**theirs, **ours}
                if theirs.get(key) != ours.get(key)
            )
        )
    return found


def _said(fact: object) -> str:
    if isinstance(fact, list) and fact and all(isinstance(each, str) for each in fact):
        return " ".join(fact)
    return "absent" if fact is None else toml(fact)


def _storage(url: str) -> RDBStorage:
    import sqlalchemy
    from optuna.storages import RDBStorage

    try:
        name = sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        raise UserError("--storage must be the URL of a database, such as postgresql://USER@HOST/NAME") from None
    patient = {"connect_args": {"timeout": _BUSY_SECONDS}} if url.startswith("sqlite:") else {}
    try:
        return RDBStorage(url, engine_kwargs=patient)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        why = " ".join(str(getattr(error, "orig", None) or error).split())
        raise UserError(f"--storage must be a database that can be used from here, got {name}: {why}") from None


def _sampler(plan: Plan, number: int) -> BaseSampler:
    """What suggests the settings of one point: by its number, so that a sweep that was killed goes on alike."""
    from optuna.samplers import GridSampler, TPESampler

    seed = plan.space.base.seed
    if plan.space.flag == "--grid":
        choices = {axis.key: list(map(toml, axis.ends)) for axis in plan.space.axes}
        return GridSampler(choices, seed=derive(seed, "sweep") % 2**32)
    return TPESampler(seed=derive(seed, "sweep", number) % 2**32)


def _pruner(plan: Plan) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if plan.pruning == "median":
        return MedianPruner()
    if plan.pruning == "halving":
        return SuccessiveHalvingPruner(min_resource=max(1, plan.space.num_epochs // 4), reduction_factor=2)
    return NopPruner()


def _suggested(plan: Plan, trial: Trial) -> dict[str, Any]:
    """The point's settings: those it has, else those that the sampler suggests."""
    settings: dict[str, Any] = {}
    for axis in plan.space.axes:
        if not isinstance(axis, Range):
            written = list(map(toml, axis.values))
            settings[axis.key] = axis.values[written.index(trial.suggest_categorical(axis.key, written))]
        elif axis.whole:
            settings[axis.key] = trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log)
        else:
            settings[axis.key] = trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)
    return settings


def _tell(trial: Trial, state: Any, value: float | None = None) -> None:  # noqa: ANN401 - optuna's own
    """Ends a trial; by the storage, since a grid's sampler would stop an optimization that is not under way."""
    trial.storage.set_trial_state_values(trial._trial_id, state, None if value is None else [value])


def _standing(plan: Plan, trial: FrozenTrial) -> Standing:
    from optuna.trial import TrialState

    states = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    runs = tuple(Result(**each) for each in trial.user_attrs.get("runs", []))
    courses: dict[int, list[tuple[int, float]]] = {}
    for step, accuracy in sorted(trial.intermediate_values.items()):
        place, epoch = divmod(step - 1, plan.space.num_epochs)
        courses.setdefault(plan.seeds[place], []).append((epoch + 1, accuracy))
    return Standing(
        trial.number + 1,
        trial.user_attrs["settings"],
        states.get(trial.state, "unfinished"),  # type: ignore[arg-type]
        tuple(sorted(runs, key=lambda run: run.seed)),
        courses,
        trial.user_attrs.get("why", ""),
    )


def _place(folder: Path) -> str:
    """Names the folder among those of all machines; called by one process at a time."""
    file = folder / ".place"
    if not file.is_file():
        write_text(file, uuid.uuid4().hex)
    return file.read_text()
