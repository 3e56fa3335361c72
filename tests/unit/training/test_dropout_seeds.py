"""Tests of fcnet.training.dropout_seeds: the masks of a step depend on the seed, the step and the rank alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fcnet import fit
from fcnet.data.batches import Batches
from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import LBFGS
from fcnet.training.algorithm import GradientDescent
from fcnet.training.dropout_seeds import DropoutRng
from tests.unit.training.helpers import PIXELS, make_labels, make_sgd

if TYPE_CHECKING:
    import pytest
    from torch import Tensor

CPU = torch.device("cpu")


def recording_masks() -> tuple[MLP, list[tuple[bool, ...]]]:
    """Returns a network with dropout, and a list that gets the mask of each forward pass."""
    model: MLP = MLP(20, (64,), 3, activation="identity", dropout=0.5)
    masks: list[tuple[bool, ...]] = []
    layer = model.dense_layers()[0].dropout
    assert layer is not None
    layer.register_forward_hook(lambda module, inputs, output: masks.append(tuple((output == 0).flatten().tolist())))
    return model, masks


def draw(model: MLP) -> Tensor:
    output: Tensor = model(torch.ones(3, 20))
    return output


def test_every_step_drops_its_own_units() -> None:
    model, masks = recording_masks()
    batches = Batches(PIXELS[:16], make_labels(size=16), batch_size=8)
    fit(model, batches, GradientDescent(make_sgd(model), epochs=3))
    assert len(set(masks)) == len(masks) == 6


def test_lbfgs_drops_the_same_units_along_each_line_search() -> None:
    model, masks = recording_masks()
    batches = Batches(PIXELS, make_labels(), batch_size=37)
    fit(model, batches, GradientDescent(LBFGS(model.parameters()), epochs=2))
    assert len(masks) > 3
    assert len(set(masks)) == 2


def test_a_step_has_the_same_masks_whatever_was_drawn_before() -> None:
    model = MLP(20, (64,), 3, dropout=0.5)
    dropout_rng = DropoutRng(model, CPU, seed=1)
    dropout_rng.reseed(4)
    expected = draw(model)
    dropout_rng.reseed(3)
    assert not torch.equal(draw(model), expected)
    draw(model)
    dropout_rng.reseed(4)
    assert torch.equal(draw(model), expected)


def test_seeds_differ_between_runs_steps_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MLP(20, (64,), 3, dropout=0.5)
    seeds = set()
    for rank in range(2):
        monkeypatch.setattr("fcnet.runtime.distributed.rank", lambda rank=rank: rank)
        seeds |= {DropoutRng(model, CPU, seed).seed(step) for seed in range(2) for step in range(5)}
    assert len(seeds) == 20


def test_another_generator_serves_within_the_block_alone() -> None:
    model = MLP(20, (64,), 3, dropout=0.5)
    dropout_rng = DropoutRng(model, CPU, seed=1)
    (other,) = dropout_rng.generators(1)
    other.manual_seed(dropout_rng.seed(7))
    dropout_rng.reseed(4)
    with dropout_rng.use_generator(other):
        within = draw(model)
    after = draw(model)
    dropout_rng.reseed(4)
    assert torch.equal(draw(model), after)  # the block drew nothing from the layers' own generator
    dropout_rng.reseed(7)
    assert torch.equal(draw(model), within)
    with dropout_rng.use_generator(None):
        assert model.dense_layers()[0].dropout.generator is dropout_rng._generator  # type: ignore[union-attr]


def test_a_model_without_dropout_needs_no_generators() -> None:
    dropout_rng = DropoutRng(MLP(20, (64,), 3), CPU, seed=1)
    assert not dropout_rng.is_active
    assert dropout_rng.generators(3) == []
