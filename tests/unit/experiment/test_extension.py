"""The commands' refusals are tested in ``tests/workflow/test_extension.py``."""

from __future__ import annotations

from typing import get_args

import pytest

from fcnet.config.schema import Config, Optimizer, Train
from fcnet.experiment.build_training import make_algorithm
from fcnet.experiment.extension import schedule_allows, stopped_early
from fcnet.models.mlp import MLP
from fcnet.training.early_stopping import EarlyStopping

SCHEDULES = get_args(Optimizer.model_fields["schedule"].annotation)


@pytest.mark.parametrize("warmup_epochs", [0.0, 2.5])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_allows_more_epochs_if_and_only_if_the_first_learning_rates_stay(
    schedule: str, warmup_epochs: float
) -> None:
    settings = {"schedule": schedule, "milestones": [1.0, 5.0], "warmup_epochs": warmup_epochs}
    short, long = (
        Config(optimizer=Optimizer.model_validate(settings), train=Train(epochs=epochs)) for epochs in (3, 6)
    )
    rates = [
        [make_algorithm(config, MLP(4, (), 3), 10).schedule(step) for step in range(30)] for config in (short, long)
    ]
    assert schedule_allows(short) == (rates[0] == rates[1])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lbfgs_has_no_schedule(schedule: str) -> None:
    optimizer = Optimizer.model_validate({"name": "lbfgs", "schedule": schedule, "milestones": [1.0]})
    assert schedule_allows(Config(optimizer=optimizer, train=Train(batch_size="all")))


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("best_epoch", range(1, 6))
def test_stopped_early_agrees_with_early_stopping(patience: int, best_epoch: int) -> None:
    stopping = EarlyStopping(patience)
    stopping.epoch = best_epoch
    for epochs in range(best_epoch, 8):
        assert stopped_early(epochs, best_epoch, patience) == stopping.should_stop(epochs)
    assert not stopped_early(8, best_epoch, 0)
