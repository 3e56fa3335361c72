"""The optuna study of a sweep, in a database that several processes share.

No other module uses optuna's own names; here `Trial` and `FrozenTrial` are optuna's.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fcnet.config.schema import Config
from fcnet.config.selection import CRITERIA
from fcnet.config.toml import flatten_config
from fcnet.config.values import format_value
from fcnet.runtime.errors import UserError
from fcnet.runtime.seeds import derive_seed
from fcnet.sweep.ranking import RankedTrial, RunResult
from fcnet.sweep.search_space import Range

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

    from fcnet.config.selection import Criterion
    from fcnet.sweep.ranking import State
    from fcnet.sweep.search_space import SearchSpace

Pruning = Literal["none", "median", "halving"]
_LOCK_TIMEOUT = 60
"""Seconds to wait for the database file while another process writes to it."""
_MIN_TRIALS_FOR_IMPORTANCE = 5
_RETRY_SECONDS = (0.2, 1.0, 3.0)
"""Seconds between attempts to open a database while another worker creates its tables."""


@dataclass(frozen=True)
class SweepPlan:
    """Plan of a sweep.

    Attributes:
        space: search space.
        num_seeds: number of runs of each trial; their seeds count up from that of the configuration.
        num_trials: number of trials.
        pruning: rule by which unpromising trials are pruned.
        data_fingerprint: fingerprint of the images.
    """

    space: SearchSpace
    num_seeds: int
    num_trials: int
    pruning: Pruning
    data_fingerprint: str

    @property
    def criterion(self) -> Criterion:
        """Validation figure by which the trials are ranked."""
        return CRITERIA[self.space.base.train.select]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs of each trial."""
        first = self.space.base.seed
        return list(range(first, first + self.num_seeds))

    def to_dict(self) -> dict[str, Any]:
        """Returns what all processes that work on the sweep must have in common."""
        settings = dict(flatten_config(self.space.base.model_dump(mode="json")))
        del settings["data.path"]  # it may differ between machines
        return {
            **settings,
            "data": self.data_fingerprint,
            self.space.flag: [str(axis) for axis in self.space.axes],
            "--seeds": self.num_seeds,
            "--prune": self.pruning,
        }


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silences optuna's messages, except errors, while the block runs.

    Raises:
        UserError: optuna is not installed, or its database fails while the block runs.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("fcnet.sweep needs optuna, which is not installed: pip install optuna") from None
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise UserError(f"the database of the sweep failed: {_error_text(error)}") from None
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def report_damage() -> Iterator[None]:
    """Turns the errors of reading a damaged database into a `UserError` while the block runs.

    The database has no checksums: optuna fails in many ways over a value that it did not write.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(f"the database of the sweep is damaged: {' '.join(str(error).split())[:200]}") from error


def open_study(plan: SweepPlan, folder: Path, storage: str) -> Study:
    """Opens the study named after the folder; creates it if it does not exist. The caller must hold the folder's lock.

    Args:
        plan: plan of the sweep.
        folder: folder of the sweep.
        storage: URL of a database; empty for a file in the folder.

    Raises:
        UserError: the database cannot be used, or the study has another plan.
    """
    import optuna

    if not storage:
        _check_integrity(folder.absolute() / "study.db")
    study = optuna.create_study(
        storage=_open_storage(folder, storage),
        study_name=folder.absolute().name,
        direction="minimize" if plan.criterion.lower_is_better else "maximize",
        load_if_exists=True,
        pruner=_make_pruner(plan),
        sampler=_make_sampler(plan, 0),
    )
    stored, given = study.user_attrs.get("plan"), plan.to_dict()
    if stored is None:
        study.set_user_attr("plan", given)
        return study
    # A sweep that began before a setting existed did what the default of the setting does.
    defaults = dict(flatten_config(Config().model_dump(mode="json")))
    stored = {key: value for key, value in defaults.items() if key in given} | stored
    if differing := [key for key in {**stored, **given} if stored.get(key) != given.get(key)]:
        raise UserError(
            *(
                f"{key} must be {_format_setting(stored.get(key))} as in the sweep in {folder}, "
                f"got {_format_setting(given.get(key))}; use --out DIR for another sweep"
                for key in differing
            )
        )
    return study


def list_trials(study: Study) -> list[FrozenTrial]:
    """Returns the trials that were started, in order, without surplus ones that `start_trial` took back."""
    from optuna.trial import TrialState

    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def start_trial(study: Study, plan: SweepPlan) -> Trial | None:
    """Starts a trial and returns it, or None if all trials of the plan are started."""
    if len(list_trials(study)) >= plan.num_trials:
        return None
    # Several processes may ask for the last trial at once. Those with a higher number take theirs back.
    trial = study.ask()
    if trial.number not in [each.number for each in list_trials(study)[: plan.num_trials]]:
        end_trial(trial, "surplus")
        return None
    return trial


def resume_trial(study: Study, number: int) -> Trial | None:
    """Returns a started trial by its number, from 0, to resume it, or None if it has ended."""
    from optuna import Trial

    trial = study.get_trials(deepcopy=False)[number]
    return None if trial.state.is_finished() else Trial(study, trial._trial_id)


def suggest_settings(trial: Trial, plan: SweepPlan) -> dict[str, Any]:
    """Returns the settings of a trial: those it already has, or new ones from the sampler, which the study stores."""
    trial.study.sampler = _make_sampler(plan, trial.number)
    settings: dict[str, Any] = {}
    for axis in plan.space.axes:
        if not isinstance(axis, Range):
            written = list(map(format_value, axis.values))
            settings[axis.key] = axis.values[written.index(trial.suggest_categorical(axis.key, written))]
        elif axis.integer:
            settings[axis.key] = trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log)
        else:
            settings[axis.key] = trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)
    trial.set_user_attr("settings", settings)
    return settings


def report_values(trial: Trial, curve: Mapping[int, float | None]) -> None:
    """Stores the values of those steps that the study does not have yet; None as NaN, which pruners count worst."""
    known = trial.storage.get_trial(trial._trial_id).intermediate_values
    for step, value in curve.items():
        if step not in known:
            trial.report(math.nan if value is None else value, step)


def should_prune(trial: Trial) -> bool:
    """Returns whether the plan's rule prunes a trial after the values that it has reported."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)  # such a trial is pruned
        return bool(trial.should_prune())


def end_trial(trial: Trial, state: Literal["finished", "pruned", "surplus"], value: float | None = None) -> None:
    """Sets the final state of a trial, and its value if it is finished."""
    from optuna.trial import TrialState

    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "surplus": TrialState.FAIL}
    # Not by `study.tell`: after the last trial GridSampler would stop an `optimize` loop, which there is not.
    trial.storage.set_trial_state_values(trial._trial_id, states[state], None if value is None else [value])


def rank_started(study: Study, plan: SweepPlan) -> list[RankedTrial]:
    """Returns the started trials that have settings.

    Raises:
        UserError: a trial does not agree with its state or with the plan, so that the database is damaged.
    """
    from optuna.trial import TrialState

    trials = []
    for frozen in study.get_trials(deepcopy=False):
        has_settings = "settings" in frozen.user_attrs
        if frozen.state.is_finished() and has_settings != (frozen.state != TrialState.FAIL):
            raise UserError(f"the database of the sweep is damaged: trial {frozen.number + 1} has lost its settings")
        if has_settings:
            trials.append(trial := _to_ranked_trial(frozen, plan))
            is_complete = [run.seed for run in trial.runs] == plan.seeds
            if trial.settings.keys() != {axis.key for axis in plan.space.axes} or (
                trial.state != "unfinished" and is_complete != (trial.state == "finished")
            ):
                raise UserError(f"the database of the sweep is damaged: trial {trial.number} does not fit the plan")
    return trials


def importances(study: Study, plan: SweepPlan) -> dict[str, float] | str:
    """Returns how much each setting explains of the differences between finished trials, or why that is unknown.

    The shares are those of fANOVA: a random forest predicts the figure from the settings, and its variance is
    attributed to them, alone or together with others. They sum to 1.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    if len(plan.space.axes) < 2:
        return "The sweep varies a single setting."
    num_finished = len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
    if num_finished < _MIN_TRIALS_FOR_IMPORTANCE:
        return f"Importances need at least {_MIN_TRIALS_FOR_IMPORTANCE} finished trials; there are {num_finished}."
    evaluator = FanovaImportanceEvaluator(seed=derive_seed(plan.space.base.seed, "importance") % 2**32)
    try:
        found = get_param_importances(study, evaluator=evaluator)
    except (ImportError, RuntimeError, ValueError) as error:  # equal results have no variance to explain
        return f"Importances cannot be computed: {_error_text(error)}"
    return {key: float(share) for key, share in found.items()}


def _to_ranked_trial(trial: FrozenTrial, plan: SweepPlan) -> RankedTrial:
    """Converts a trial of the study that has settings."""
    from optuna.trial import TrialState

    states: dict[TrialState, State] = {
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "pruned",
    }
    state, why = states.get(trial.state, "unfinished"), trial.user_attrs.get("error", "")
    learning_curves: dict[int, list[tuple[int, float | None]]] = {}
    for step, value in sorted(trial.intermediate_values.items()):
        place, epoch = divmod(step - 1, plan.space.num_epochs)
        learning_curves.setdefault(plan.seeds[place], []).append((epoch + 1, None if math.isnan(value) else value))
    runs = [RunResult.from_dict(each, plan.criterion) for each in trial.user_attrs.get("runs", [])]
    return RankedTrial(
        trial.number + 1,
        trial.user_attrs["settings"],
        "failed" if state == "pruned" and why else state,
        tuple(sorted(runs, key=lambda run: run.seed)),
        learning_curves,
        why,
        plan.criterion,
    )


def _open_storage(folder: Path, url: str) -> RDBStorage:
    """Opens the database of a URL, or else the file ``study.db`` in the folder."""
    import sqlalchemy
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage

    file = folder.absolute() / "study.db"
    try:
        name = sqlalchemy.make_url(url).render_as_string(hide_password=True) if url else str(file)
    except sqlalchemy.exc.ArgumentError:
        raise UserError("--storage must be a database URL such as postgresql://USER@HOST/NAME") from None
    options: dict[str, Any] = {}
    if not url:
        # A path may contain characters with a meaning in URLs, so SQLite is opened directly.
        options["creator"] = partial(sqlite3.connect, file, timeout=_LOCK_TIMEOUT)
    elif url.startswith("sqlite"):
        options["connect_args"] = {"timeout": _LOCK_TIMEOUT}
    if not url or url.startswith("sqlite"):
        options["poolclass"] = sqlalchemy.NullPool  # keeps no connection open
    for pause in (*_RETRY_SECONDS, None):
        try:
            return RDBStorage(url or "sqlite:///study.db", engine_kwargs=options)
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ImportError) as error:
            why = _error_text(error)
            if pause is None or "already exists" not in why:  # two workers created the tables at once
                break
            time.sleep(pause)
    raise UserError(f"cannot open the database of the sweep, {name}: {why}")


def _check_integrity(file: Path) -> None:
    """Raises if the tables and the indices of a database file do not fit together; the file need not exist."""
    if not file.is_file():
        return
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=_LOCK_TIMEOUT)) as database:
            ((found,), *_) = database.execute("PRAGMA integrity_check").fetchall()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise UserError(f"cannot open the database of the sweep, {file}: {_error_text(error)}") from None
    if found != "ok":
        raise UserError(f"cannot open the database of the sweep, {file}: it is damaged: {' '.join(found.split())}")


def _error_text(error: BaseException) -> str:
    """Returns the database's own message in one line."""
    cause = error.__cause__ or error
    return " ".join(str(getattr(cause, "orig", None) or cause).split())


def _make_sampler(plan: SweepPlan, number: int) -> BaseSampler:
    """Returns the sampler for one trial, seeded by its number, so that a resumed sweep draws the same settings."""
    from optuna.samplers import GridSampler, TPESampler

    seed = plan.space.base.seed
    if plan.space.flag == "--grid":
        choices = {axis.key: list(map(format_value, axis.probes)) for axis in plan.space.axes}
        return GridSampler(choices, seed=derive_seed(seed, "sweep") % 2**32)
    return TPESampler(seed=derive_seed(seed, "sweep", number) % 2**32)


def _make_pruner(plan: SweepPlan) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if plan.pruning == "median":
        return MedianPruner()
    if plan.pruning == "halving":
        return SuccessiveHalvingPruner(min_resource=max(1, plan.space.num_epochs // 4), reduction_factor=2)
    return NopPruner()


def _format_setting(value: object) -> str:
    """Returns an entry of a plan for an error: axes as their flags write them, other values as TOML."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return "absent" if value is None else format_value(value)
