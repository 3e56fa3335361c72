"""What optuna keeps of a sweep: the only room that knows it. Its trials are the sweep's points."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fcnet.config.toml import leaves
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import derive
from fcnet.sweep.ranking import Result, Standing
from fcnet.sweep.search_space import Range, toml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

    from fcnet.sweep.ranking import State
    from fcnet.sweep.search_space import Space

Pruning = Literal["none", "median", "halving"]
_BUSY_SECONDS = 60
"""So long a process waits for the study's file while another one writes to it."""
_PAUSES = (0.2, 1.0, 3.0)
"""Seconds after which a database is tried again whose tables another worker is making."""


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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While open, optuna says nothing but errors.

    Raises:
        UserError: it is not installed, or its database fails meanwhile.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("a sweep takes a package that is not installed here: pip install optuna") from None
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise UserError(f"the sweep's database must stay reachable and writable, got: {_why(error)}") from None
    finally:
        optuna.logging.set_verbosity(before)


def open_study(plan: Plan, folder: Path, storage: str) -> Study:
    """The study of the folder's name, made where it is not there; called by one process of a folder at a time.

    Args:
        plan: what is to be done.
        folder: the sweep's.
        storage: the URL of a database; empty: a file in the folder.

    Raises:
        UserError: the storage cannot be used, or the study that is there has another plan.
    """
    import optuna

    study = optuna.create_study(
        storage=_storage(folder, storage),
        study_name=folder.absolute().name,
        direction="maximize",
        load_if_exists=True,
        pruner=_pruner(plan),
        sampler=_sampler(plan, 0),
    )
    theirs, ours = study.user_attrs.get("plan"), plan.facts()
    if theirs is None:
        study.set_user_attr("plan", ours)
    elif differing := [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]:
        raise UserError(
            "\n".join(
                f"{key} must be {_said(theirs.get(key))} as in the sweep that {folder} holds, "
                f"got {_said(ours.get(key))}; --out DIR begins another"
                for key in differing
            )
        )
    return study


def begun(study: Study) -> list[FrozenTrial]:
    """The points that were begun, in order; without what `begin` took back."""
    from optuna.trial import TrialState

    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def begin(study: Study, plan: Plan) -> Trial | None:
    """A point more; None where there are enough, also where another process was quicker."""
    if len(begun(study)) >= plan.num_points:
        return None
    trial = study.ask()
    if trial.number not in [each.number for each in begun(study)[: plan.num_points]]:
        end(trial, "surplus")
        return None
    return trial


def again(study: Study, number: int) -> Trial | None:
    """A point that was begun before, by its number from 0, to go on with; None where it came to an end meanwhile."""
    from optuna import Trial

    trial = study.get_trials(deepcopy=False)[number]
    return None if trial.state.is_finished() else Trial(study, trial._trial_id)


def settings_of(trial: Trial, plan: Plan) -> dict[str, Any]:
    """A point's settings: those it has, else those that the sampler suggests, which the study then keeps."""
    trial.study.sampler = _sampler(plan, trial.number)
    settings: dict[str, Any] = {}
    for axis in plan.space.axes:
        if not isinstance(axis, Range):
            written = list(map(toml, axis.values))
            settings[axis.key] = axis.values[written.index(trial.suggest_categorical(axis.key, written))]
        elif axis.whole:
            settings[axis.key] = trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log)
        else:
            settings[axis.key] = trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)
    trial.set_user_attr("settings", settings)
    return settings


def report(trial: Trial, course: dict[int, float]) -> None:
    """Tells the study the values of the steps that it does not know yet."""
    known = trial.storage.get_trial(trial._trial_id).intermediate_values
    for step, value in course.items():
        if step not in known:
            trial.report(value, step)


def end(trial: Trial, state: Literal["finished", "pruned", "surplus"], value: float | None = None) -> None:
    """Ends a point; by the storage, since a grid's sampler would stop an optimization that is not under way."""
    from optuna.trial import TrialState

    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "surplus": TrialState.FAIL}
    trial.storage.set_trial_state_values(trial._trial_id, states[state], None if value is None else [value])


def standing(trial: FrozenTrial, plan: Plan) -> Standing:
    """What the study knows of a point that has settings."""
    from optuna.trial import TrialState

    states: dict[TrialState, State] = {
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "pruned",
    }
    state, why = states.get(trial.state, "unfinished"), trial.user_attrs.get("why", "")
    courses: dict[int, list[tuple[int, float]]] = {}
    for step, accuracy in sorted(trial.intermediate_values.items()):
        place, epoch = divmod(step - 1, plan.space.num_epochs)
        courses.setdefault(plan.seeds[place], []).append((epoch + 1, accuracy))
    runs = [Result(**each) for each in trial.user_attrs.get("runs", [])]
    return Standing(
        trial.number + 1,
        trial.user_attrs["settings"],
        "failed" if state == "pruned" and why else state,
        tuple(sorted(runs, key=lambda run: run.seed)),
        courses,
        why,
    )


def _storage(folder: Path, url: str) -> RDBStorage:
    """The database of a URL, else the file in the folder, whose name may hold what a URL gives a meaning to."""
    import sqlalchemy
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage

    file = folder.absolute() / "study.db"
    try:
        name = sqlalchemy.make_url(url).render_as_string(hide_password=True) if url else str(file)
    except sqlalchemy.exc.ArgumentError:
        raise UserError("--storage must be the URL of a database, such as postgresql://USER@HOST/NAME") from None
    options: dict[str, Any] = {}
    if not url:
        options["creator"] = partial(sqlite3.connect, file, timeout=_BUSY_SECONDS)
    elif url.startswith("sqlite"):
        options["connect_args"] = {"timeout": _BUSY_SECONDS}
    if not url or url.startswith("sqlite"):
        options["poolclass"] = sqlalchemy.NullPool  # which leaves nothing open
    for pause in (*_PAUSES, None):
        try:
            return RDBStorage(url or "sqlite:///study.db", engine_kwargs=options)
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ImportError) as error:
            why = _why(error)
            if pause is None or "already exists" not in why:  # what two workers make at once, one of them makes
                break
            time.sleep(pause)
    raise UserError(f"the sweep's database must be one that can be used here, got {name}: {why}")


def _why(error: BaseException) -> str:
    """What the database said, in one line."""
    said = error.__cause__ or error
    return " ".join(str(getattr(said, "orig", None) or said).split())


def _sampler(plan: Plan, number: int) -> BaseSampler:
    """What suggests one point's settings: seeded by its number, so that a sweep that was killed goes on alike."""
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


def _said(fact: object) -> str:
    if isinstance(fact, list) and fact and all(isinstance(each, str) for each in fact):
        return " ".join(fact)
    return "absent" if fact is None else toml(fact)
