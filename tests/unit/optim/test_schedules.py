"""Tests of fcnet.optim.schedules."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcnet.optim.schedules import add_warmup, constant, cosine, linear, multi_step, one_cycle
from fcnet.runtime.errors import UserError


@given(st.integers(1, 1000))
def test_cosine_falls_from_1_to_0(num_steps: int) -> None:
    schedule = cosine(num_steps)
    factors = [schedule(step) for step in range(num_steps + 1)]
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(0.0, abs=1e-12)
    assert all(before > after for before, after in itertools.pairwise(factors))


def torchs_factors(num_steps: int, scheduler: Any, **options: Any) -> list[float]:
    """Returns the factors of a scheduler of torch's from step 0 to step ``num_steps``."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    made = scheduler(optimizer, **options)
    factors = []
    for _ in range(num_steps + 1):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return factors


@pytest.mark.parametrize("num_steps", [1, 2, 3, 20])
def test_schedules_equal_torchs_from_the_first_step_to_the_last(num_steps: int) -> None:
    theirs = torch.optim.lr_scheduler
    for schedule, scheduler, options in (
        (cosine(num_steps), theirs.CosineAnnealingLR, {"T_max": num_steps}),
        (linear(num_steps), theirs.LinearLR, {"start_factor": 1.0, "end_factor": 0.0, "total_iters": num_steps}),
        (linear(num_steps), theirs.PolynomialLR, {"total_iters": num_steps}),
        (
            add_warmup(constant(), num_steps),
            theirs.LinearLR,
            {"start_factor": 1.0 / (num_steps + 1), "total_iters": num_steps},
        ),
        (multi_step([2, 1, 1], 0.5), theirs.MultiStepLR, {"milestones": [2, 1, 1], "gamma": 0.5}),
    ):
        expected = torchs_factors(num_steps, scheduler, **options)
        assert [schedule(step) for step in range(num_steps + 1)] == pytest.approx(expected, abs=1e-12)


def test_no_warmup_changes_nothing() -> None:
    assert [add_warmup(cosine(3), 0)(step) for step in range(4)] == [cosine(3)(step) for step in range(4)]


@pytest.mark.parametrize("schedule", [cosine, linear, one_cycle])
@pytest.mark.parametrize("num_steps", [0, -1, 2.0, True])
def test_a_training_has_at_least_one_step(schedule: Any, num_steps: Any) -> None:
    with pytest.raises(UserError, match=f"num_steps must be an integer of at least 1, got {num_steps}"):
        schedule(num_steps)
    with pytest.raises(UserError, match="num_steps must be an integer of at least 0, got -1"):
        add_warmup(constant(), -1)


def test_linear_falls_evenly_to_0_and_stays_there() -> None:
    assert [linear(5)(step) for step in range(7)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0])


def test_warmup_rises_evenly_and_then_follows_the_schedule() -> None:
    ramp = [add_warmup(constant(), 4)(step) for step in range(6)]
    assert ramp == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert [add_warmup(cosine(20), 4)(step) for step in range(4, 20)] == [cosine(20)(step) for step in range(4, 20)]


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5, 20, 21, 100, 1000])
def test_one_cycle_equals_torchs(num_steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=num_steps, cycle_momentum=False)
    ours = one_cycle(num_steps)
    for step in range(num_steps):
        assert 0.5 * ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < num_steps - 1:
            theirs.step()


@given(st.integers(1, 500))
def test_one_cycle_rises_once_and_falls_once_to_almost_0(num_steps: int) -> None:
    factors = [one_cycle(num_steps)(step) for step in range(num_steps + 2)]
    peak = factors.index(max(factors))
    assert all(0.0 < factor <= 1.0 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[-1] == pytest.approx(4e-6)


def test_multi_step_equals_torchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[3, 7, 8], gamma=0.3)
    ours = multi_step([3, 7, 8], 0.3)
    for step in range(12):
        assert 0.5 * ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        theirs.step()
