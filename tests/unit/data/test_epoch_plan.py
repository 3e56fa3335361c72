"""Tests of epoch plans: slices and parts are views, clones are copies."""

from __future__ import annotations

import pytest
import torch

from fcnet.data.epoch_plan import EpochPlan
from fcnet.data.transforms.mixup import MixupCutmix


def make_plan(size: int = 10, *, mixed: bool = True) -> EpochPlan:
    draws = torch.Generator().manual_seed(size)
    num_rows = 2 if mixed else 1
    return EpochPlan(
        rows=torch.randint(100, (num_rows, size), generator=draws),
        labels=torch.randint(3, (num_rows, size), generator=draws),
        draws=(torch.rand(num_rows, size, generator=draws), torch.rand(num_rows, size, 2, generator=draws)),
        mixture=MixupCutmix(0.4, 1.0).draw(size, (4, 4), draws) if mixed else None,
        weights=torch.rand(3, generator=draws) if mixed else None,
    )


def assert_equal(plan: EpochPlan, expected: EpochPlan) -> None:
    for ours, theirs in zip(plan._tensors(), expected._tensors(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("size", [1, 3, 5, 20])
def test_the_parts_of_a_plan_are_its_consecutive_slices(size: int, mixed: bool) -> None:
    plan = make_plan(mixed=mixed)
    parts = list(plan.split(size))
    assert sum(part.rows.shape[1] for part in parts) == 10
    for number, part in enumerate(parts):
        assert_equal(part, plan.slice(slice(number * size, (number + 1) * size)))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_slice_shares_the_memory_of_its_plan_and_a_clone_does_not(mixed: bool) -> None:
    plan = make_plan(mixed=mixed)
    before, view, clone = plan.clone(), plan.slice(slice(2, 5)), plan.clone()
    view.rows.fill_(-1)
    assert (plan.rows[:, 2:5] == -1).all()
    assert_equal(clone, before)


@pytest.mark.parametrize("mixed", [False, True])
def test_copying_overwrites_every_tensor_in_place(mixed: bool) -> None:
    plan, other = make_plan(mixed=mixed), make_plan(20, mixed=mixed).slice(slice(10, None))
    pointers = [tensor.data_ptr() for tensor in plan._tensors()]
    plan.copy_(other)
    assert_equal(plan, other)
    assert [tensor.data_ptr() for tensor in plan._tensors()] == pointers
