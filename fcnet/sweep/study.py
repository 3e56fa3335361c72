"""What optuna keeps of a sweep: the only room that knows it. Its trials are the sweep's."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fcnet.config.toml import flatten_config
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import derive_seed
from fcnet.sweep.ranking import RankedTrial, RunResult
from fcnet.sweep.search_space import Range, format_toml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

    from fcnet.sweep.ranking import State
    from fcnet.sweep.search_space import SearchSpace

Pruning = Literal["none", "median", "halving"]
_LOCK_TIMEOUT = 60
"""So long a process waits for the study's file while another one writes to it."""
_RETRY_SECONDS = (0.2, 1.0, 3.0)
"""Seconds after which a database is tried again whose tables another worker is making."""


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is to do.

    Attributes:
        space: what is tried.
        num_seeds: runs of each trial, from the configuration's seed on.
        num_trials: how many trials are begun.
        pruning: whether and how trials that do badly are given up.
        data_fingerprint: names the images to the bit.
    """

    space: SearchSpace
    num_seeds: int
    num_trials: int
    pruning: Pruning
    data_fingerprint: str

    @property
    def seeds(self) -> list[int]:
        """The seeds of each trial's runs."""
        first = self.space.base.seed
        return list(range(first, first + self.num_seeds))

    def to_dict(self) -> dict[str, Any]:
        """What every process that works on the sweep must have in common."""
        settings = dict(flatten_config(self.space.base.model_dump(mode="json")))
        del settings["data.path"]  # which may differ from machine to machine
        return {
            **settings,
            "data": self.data_fingerprint,
            self.space.flag: [str(axis) for axis in self.space.axes],
            "--seeds": self.num_seeds,
            "--prune": self.pruning,
        }


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
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
        raise UserError(f"the sweep's database must stay reachable and writable, got: {_error_text(error)}") from None
    finally:
        optuna.logging.set_verbosity(before)


def open_study(plan: SweepPlan, folder: Path, storage: str) -> Study:
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
        storage=_open_storage(folder, storage),
        study_name=folder.absolute().name,
        direction="maximize",
        load_if_exists=True,
        pruner=_make_pruner(plan),
        sampler=_make_sampler(plan, 0),
    )
    theirs, ours = study.user_attrs.get("plan"), plan.to_dict()
    if theirs is None:
        study.set_user_attr("plan", ours)
    elif differing := [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]:
        raise UserError(
            "\n".join(
                f"{key} must be {_format_setting(theirs.get(key))} as in the sweep that {folder} holds, "
                f"got {_format_setting(ours.get(key))}; --out DIR begins another"
                for key in differing
            )
        )
    return study


def list_trials(study: Study) -> list[FrozenTrial]:
    """The trials that were begun, in order; without what `start_trial` took back."""
    from optuna.trial import TrialState

    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def start_trial(study: Study, plan: SweepPlan) -> Trial | None:
    """A trial more; None where there are enough, also where another process was quicker."""
    if len(list_trials(study)) >= plan.num_trials:
        return None
    trial = study.ask()
    if trial.number not in [each.number for each in list_trials(study)[: plan.num_trials]]:
        end_trial(trial, "surplus")
        return None
    return trial


def resume_trial(study: Study, number: int) -> Trial | None:
    """A trial that was begun before, by its number from 0, to go on with; None where it came to an end meanwhile."""
    from optuna import Trial

    trial = study.get_trials(deepcopy=False)[number]
    return None if trial.state.is_finished() else Trial(study, trial._trial_id)


def suggest_settings(trial: Trial, plan: SweepPlan) -> dict[str, Any]:
    """A trial's settings: those it has, else those that the sampler suggests, which the study then keeps."""
    trial.study.sampler = _make_sampler(plan, trial.number)
    settings: dict[str, Any] = {}
    for axis in plan.space.axes:
        if not isinstance(axis, Range):
            written = list(map(format_toml, axis.values))
            settings[axis.key] = axis.values[written.index(trial.suggest_categorical(axis.key, written))]
        elif axis.integer:
            settings[axis.key] = trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log)
        else:
            settings[axis.key] = trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)
    trial.set_user_attr("settings", settings)
    return settings


def report_values(trial: Trial, curve: dict[int, float]) -> None:
    """Tells the study the values of the steps that it does not know yet."""
    known = trial.storage.get_trial(trial._trial_id).intermediate_values
    for step, value in curve.items():
        if step not in known:
            trial.report(value, step)


def end_trial(trial: Trial, state: Literal["finished", "pruned", "surplus"], value: float | None = None) -> None:
    """Ends a trial; by the storage, since a grid's sampler would stop an optimization that is not under way."""
    from optuna.trial import TrialState

    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "surplus": TrialState.FAIL}
    trial.storage.set_trial_state_values(trial._trial_id, states[state], None if value is None else [value])


def to_ranked_trial(trial: FrozenTrial, plan: SweepPlan) -> RankedTrial:
    """What the study knows of a trial that has settings."""
    from optuna.trial import TrialState

    states: dict[TrialState, State] = {
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "pruned",
    }
    state, why = states.get(trial.state, "unfinished"), trial.user_attrs.get("error", "")
    learning_curves: dict[int, list[tuple[int, float]]] = {}
    for step, accuracy in sorted(trial.intermediate_values.items()):
        place, epoch = divmod(step - 1, plan.space.num_epochs)
        learning_curves.setdefault(plan.seeds[place], []).append((epoch + 1, accuracy))
    runs = [RunResult(**each) for each in trial.user_attrs.get("runs", [])]
    return RankedTrial(
        trial.number + 1,
        trial.user_attrs["settings"],
        "failed" if state == "pruned" and why else state,
        tuple(sorted(runs, key=lambda run: run.seed)),
        learning_curves,
        why,
    )


def _open_storage(folder: Path, url: str) -> RDBStorage:
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
        options["creator"] = partial(sqlite3.connect, file, timeout=_LOCK_TIMEOUT)
    elif url.startswith("sqlite"):
        options["connect_args"] = {"timeout": _LOCK_TIMEOUT}
    if not url or url.startswith("sqlite"):
        options["poolclass"] = sqlalchemy.NullPool  # which leaves nothing open
    for pause in (*_RETRY_SECONDS, None):
        try:
            return RDBStorage(url or "sqlite:///study.db", engine_kwargs=options)
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ImportError) as error:
            why = _error_text(error)
            if pause is None or "already exists" not in why:  # what two workers make at once, one of them makes
                break
            time.sleep(pause)
    raise UserError(f"the sweep's database must be one that can be used here, got {name}: {why}")


def _error_text(error: BaseException) -> str:
    """What the database said, in one line."""
    said = error.__cause__ or error
    return " ".join(str(getattr(said, "orig", None) or said).split())


def _make_sampler(plan: SweepPlan, number: int) -> BaseSampler:
    """What suggests one trial's settings: seeded by its number, so that a sweep that was killed goes on alike."""
    from optuna.samplers import GridSampler, TPESampler

    seed = plan.space.base.seed
    if plan.space.flag == "--grid":
        choices = {axis.key: list(map(format_toml, axis.probes)) for axis in plan.space.axes}
        return GridSampler(choices, seed=derive_seed(seed, "sweep") % 2**32)
    return TPESampler(seed=derive_seed(seed, "sweep", number) % 2**32)


def _make_pruner(plan: SweepPlan) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if plan.pruning == "median":
        return MedianPruner()
    if plan.pruning == "halving":
        return SuccessiveHalvingPruner(min_resource=max(1, plan.space.num_epochs // 4), reduction_factor=2)
    return NopPruner()


def _format_setting(fact: object) -> str:
    if isinstance(fact, list) and fact and all(isinstance(each, str) for each in fact):
        return " ".join(fact)
    return "absent" if fact is None else format_toml(fact)
