"""Rules of fcnet.optim."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcnet.models import MLP
from fcnet.optim import constant, cosine, linear, parameter_groups, warmed_up


@given(st.integers(1, 1000))
def test_cosine_falls_from_1_to_0(num_steps: int) -> None:
    schedule = cosine(num_steps)
    factors = [schedule(step) for step in range(num_steps + 1)]
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(0.0, abs=1e-12)
    assert all(before > after for before, after in itertools.pairwise(factors))


def test_cosine_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    ours = cosine(20)
    for step in range(20):
        assert 0.5 * ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_linear_falls_evenly_and_stays_at_0() -> None:
    assert [linear(5)(step) for step in range(7)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0])


def test_warmup_rises_evenly_and_then_leaves_the_schedule_alone() -> None:
    ramp = [warmed_up(constant(), 4)(step) for step in range(6)]
    assert ramp == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert [warmed_up(cosine(20), 4)(step) for step in range(4, 20)] == [cosine(20)(step) for step in range(4, 20)]


def test_only_matrices_decay() -> None:
    model = MLP(6, (5, 4), 3, normalization="batch")
    decaying, spared = parameter_groups(model, 0.1)
    assert decaying["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert sorted(p.ndim for p in decaying["params"]) == [2, 2, 2]
    assert {p.ndim for p in spared["params"]} == {1}
    assert len(decaying["params"]) + len(spared["params"]) == len(list(model.parameters()))
