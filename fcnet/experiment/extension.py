"""More epochs for a run: whether its first epochs would have been the same, and what it takes to continue."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count

if TYPE_CHECKING:
    from fcnet.config.schema import Config
    from fcnet.experiment.run_folder import Run

_SCHEDULES_WITH_END = {"cosine", "linear", "one_cycle"}


def schedule_allows(config: Config) -> bool:
    """Returns whether the steps of a training do not depend on the number of its epochs.

    The schedules constant and steps, and the warm-up, count from the first step. The others are laid out to the last
    one. L-BFGS has no schedule.

    Example:
        >>> from fcnet.config.schema import Config, Optimizer
        >>> schedule_allows(Config()), schedule_allows(Config(optimizer=Optimizer(schedule="cosine")))
        (True, False)
    """
    optimizer = config.optimizer
    return optimizer.name == "lbfgs" or optimizer.schedule not in _SCHEDULES_WITH_END


def stopped_early(epochs: int, best_epoch: int, patience: int) -> bool:
    """Returns whether early stopping ended a training after some epochs; ``patience`` is that of `EarlyStopping`."""
    return patience > 0 and epochs - best_epoch >= patience


def check_extension(run: Run, before: Config, after: Config) -> Config:
    """Checks that a run may continue with another number of epochs.

    Args:
        run: the run.
        before: its configuration.
        after: the same with another ``train.epochs``.

    Returns:
        The configuration to continue with. A finished run keeps its number of epochs if ``after`` has fewer.

    Raises:
        UserError: the run cannot continue to that number of epochs; the message says why, and what to do instead.
    """
    path, epochs, finished = run.path, after.train.epochs, run.finished
    if epochs < before.train.epochs and not finished:
        raise UserError(f"train.epochs must be at least {before.train.epochs} to resume {path}, got {epochs}")
    if epochs <= before.train.epochs:
        return after.model_copy(update={"train": before.train})
    if reason := _obstacle(run, before, finished=finished):
        instead = f"start a new run with --set train.epochs={epochs}"
        if finished:
            source = shlex.quote(str(path))
            instead = f"to train its weights further, start a new run with --set model.init_from={source}"
        raise UserError(f"{path} cannot continue to epoch {epochs}: {reason}; {instead}")
    return after


def _obstacle(run: Run, config: Config, *, finished: bool) -> str:
    """Says why a run cannot continue to more epochs; empty if it can."""
    train = config.train
    if not schedule_allows(config):
        length = format_count(train.epochs, "epoch")
        return (
            f"its {config.optimizer.schedule} schedule is laid out for {length}, "
            "and a longer one differs from the first step"
        )
    if not finished:
        return ""
    summary = run.summary()
    if stopped_early(summary["epochs"], summary["best_epoch"], train.patience):
        return f"it stopped early after epoch {summary['epochs']}, as train.patience = {train.patience} asks"
    return "" if run.checkpoints.saved_step is not None else "it has no checkpoint to continue from"
