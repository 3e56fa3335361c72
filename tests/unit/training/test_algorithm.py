"""Tests of fcnet.training.algorithm: each setting of `GradientDescent` does what it promises."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fcnet import fit
from fcnet.data.batches import Batches
from fcnet.losses import CrossEntropy
from fcnet.optim.schedules import constant, cosine
from fcnet.training.algorithm import GradientDescent
from tests.unit.training.helpers import PIXELS, copy_weights, float64_images, make_labels, make_model, make_sgd


def test_the_defaults_are_plain_gradient_descent_on_the_cross_entropy() -> None:
    algorithm = GradientDescent(make_sgd(make_model("plain")), epochs=3)
    assert [algorithm.schedule(step) for step in range(3)] == [1.0, 1.0, 1.0]
    assert isinstance(algorithm.loss, CrossEntropy)
    assert (algorithm.clip_norm, algorithm.ema_decay, algorithm.patience) == (0.0, 0.0, 0)
    assert (algorithm.accumulate, algorithm.precision) == (1, torch.float32)


@pytest.mark.parametrize("name", ["plain", "batch norm"])
def test_clipping_shortens_a_long_gradient_and_keeps_a_short_one(name: str) -> None:
    batches = Batches(float64_images(), make_labels(), batch_size=37)

    def step(clip_norm: float) -> Tensor:
        """Returns one step with learning rate 1, which is minus the clipped gradient."""
        model = make_model(name).double()
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        fit(model, batches, GradientDescent(optimizer, epochs=1, clip_norm=clip_norm))
        return torch.cat([p.detach().flatten() for p in model.parameters()]) - before

    unclipped = step(0.0)
    assert_close(step(float(2 * unclipped.norm())), unclipped, rtol=0, atol=0)
    assert_close(step(float(unclipped.norm() / 4)), unclipped / 4, rtol=1e-5, atol=0)  # torch adds 1e-6 to the norm


@pytest.mark.parametrize("name", ["plain", "residual", "layer norm"])
@pytest.mark.parametrize("accumulate", [2, 3, 8, 100])
def test_micro_batches_train_the_network_like_the_whole_batch(name: str, accumulate: int) -> None:
    batches = Batches(float64_images(), make_labels(), batch_size=8)
    ours, theirs = make_model(name).double(), make_model(name).double()
    algorithms = [GradientDescent(make_sgd(model), epochs=2, clip_norm=0.5) for model in (ours, theirs)]
    accumulated = fit(ours, batches, dataclasses.replace(algorithms[0], accumulate=accumulate))
    whole = fit(theirs, batches, algorithms[1])
    assert_close(copy_weights(ours), copy_weights(theirs), rtol=1e-10, atol=1e-12)
    for record, other in zip(accumulated, whole, strict=True):
        assert record.train_loss == pytest.approx(other.train_loss, rel=1e-10)
        assert (record.step, record.train_accuracy) == (other.step, other.train_accuracy)


@pytest.mark.parametrize("name", ["plain", "batch norm"])
def test_each_forward_pass_takes_one_micro_batch(name: str) -> None:
    model, sizes = make_model(name), []
    model.layers[0].register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[0]))
    algorithm = GradientDescent(make_sgd(model), epochs=1, accumulate=3)
    fit(model, Batches(PIXELS, make_labels(), batch_size=20), algorithm)
    assert sizes == [7, 7, 6, 6, 6, 5]


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", ["plain", "batch norm"])
def test_bfloat16_learns_like_float32_and_keeps_float32_parameters(name: str, num_classes: int) -> None:
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        model = make_model(name, num_classes)
        algorithm = GradientDescent(make_sgd(model), epochs=3, precision=precision)
        losses.append([record.train_loss for record in fit(model, (PIXELS, make_labels(num_classes)), algorithm)])
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    # bfloat16 keeps 8 bits of each factor, an error of 2⁻⁹, and a few products follow one another
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


def test_the_learning_rate_follows_the_schedule_also_when_an_optimizer_is_used_again() -> None:
    model = make_model("plain")
    optimizer = make_sgd(model, lr=0.5)
    for _ in range(2):
        *_, last = fit(model, (PIXELS, make_labels()), GradientDescent(optimizer, epochs=4, schedule=cosine(4)))
        assert last.lr == pytest.approx(0.5 * cosine(4)(3))
    *_, last = fit(model, (PIXELS, make_labels()), GradientDescent(optimizer, epochs=1, schedule=constant()))
    assert last.lr == 0.5
