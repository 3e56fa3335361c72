"""Rules of fcnet.evaluation.classification."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from fcnet.data.batches import Augmentation, Batches
from fcnet.data.transforms.augment import Shift
from fcnet.evaluation.classification import Evaluation, evaluate
from fcnet.metrics import wilson_interval
from fcnet.models.layers import Dropout
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError

PIXELS = torch.randint(0, 256, (23, 1, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def labels(num_classes: int) -> Tensor:
    return torch.arange(len(PIXELS)) % num_classes


def model(num_classes: int) -> MLP:
    generator = torch.Generator().manual_seed(1)
    return MLP(20, (6,), num_classes, normalization="batch", dropout=0.5, generator=generator)


def batches(num_classes: int, batch_size: int = 7) -> Batches:
    return Batches(PIXELS, labels(num_classes), batch_size=batch_size)


@given(st.sampled_from([2, 3, 5]), st.integers(1, 30))
def test_loss_and_counts_are_those_of_one_batch_of_all(num_classes: int, batch_size: int) -> None:
    net, target = model(num_classes), labels(num_classes)
    seen = evaluate(net, batches(num_classes, batch_size))
    logits = net.eval()(PIXELS.float() / 255)
    if num_classes == 2:
        logits = torch.stack([torch.zeros_like(logits), logits], dim=1)
    # float32 rounds each row's loss; the sums of rows are float64
    assert seen.loss == pytest.approx(functional.cross_entropy(logits.double(), target).item(), rel=1e-6)
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for truth, called in zip(target.tolist(), logits.argmax(1).tolist(), strict=True):
        counts[truth, called] += 1
    assert seen.confusion == tuple(map(tuple, counts.tolist()))


@given(st.sampled_from([2, 3, 5]), st.integers(1, 30))
def test_counts_add_up(num_classes: int, batch_size: int) -> None:
    seen = evaluate(model(num_classes), batches(num_classes, batch_size))
    assert seen.count == len(PIXELS)
    assert [sum(row) for row in seen.confusion] == labels(num_classes).bincount().tolist()
    assert seen.num_correct == sum(seen.confusion[label][label] for label in range(num_classes))
    assert seen.accuracy == seen.num_correct / seen.count
    low, high = seen.interval
    assert low <= seen.accuracy <= high


@given(st.integers(0, 40), st.integers(1, 40))
def test_the_error_and_its_interval_are_what_the_accuracy_leaves(hits: int, misses: int) -> None:
    seen = Evaluation(0.0, ((hits, misses), (0, 0)))
    assert seen.error == pytest.approx(misses / (hits + misses), abs=1e-15)
    assert seen.error_interval == pytest.approx(wilson_interval(misses, hits + misses), abs=1e-12)
    assert seen.error_interval[0] <= seen.error <= seen.error_interval[1]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_it_was(training: bool) -> None:
    net = model(3).train(training)
    evaluate(net, batches(3))
    assert {module.training for module in net.modules()} == {training}


def test_the_mode_is_left_as_it_was_by_an_error_too() -> None:
    net = model(3).train()
    with pytest.raises(UserError, match="20 values each"):
        evaluate(net, Batches(torch.rand(3, 7), torch.arange(3)))
    assert net.training


def test_a_part_that_is_frozen_in_evaluation_mode_stays_so() -> None:
    net = model(3).train()
    frozen = next(module for module in net.modules() if isinstance(module, Dropout)).eval()
    evaluate(net, batches(3))
    assert net.training
    assert not frozen.training


def test_nothing_is_learned_or_drawn() -> None:
    net, drawn = model(3).train(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    evaluate(net, batches(3))
    assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_images_are_seen_as_they_are() -> None:
    augmented = Batches(PIXELS, labels(3), batch_size=7, augmentation=Augmentation((Shift(2),)))
    net = model(3)
    assert evaluate(net, augmented) == evaluate(net, batches(3))


def test_the_loss_that_was_asked_for_is_the_mean_over_the_images() -> None:
    seen = evaluate(model(3), batches(3), loss=lambda logits, labels: labels.double().sum())
    assert seen.loss == pytest.approx(labels(3).double().mean().item(), rel=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_any_module_of_torchs_can_be_evaluated(num_classes: int) -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(20, num_classes))
    seen = evaluate(layers, batches(num_classes))
    assert len(seen.confusion) == num_classes
    assert seen.count == len(PIXELS)


def test_a_set_without_images_is_refused() -> None:
    with pytest.raises(UserError, match="the set to evaluate on must hold at least one image, got 0"):
        evaluate(model(3), Batches(PIXELS, labels(3), rows=torch.arange(0)))
