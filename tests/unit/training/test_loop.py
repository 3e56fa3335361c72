"""Tests of fcnet.training.loop: each step is the textbook's, and nothing but the seed decides the result."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from fcnet import fit, iter_fit
from fcnet.data.batches import Augmentation, Batches
from fcnet.data.transforms.augment import Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.evaluation.classification import evaluate
from fcnet.losses import CrossEntropy, ScoreLoss
from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import LBFGS, parameter_groups
from fcnet.optim.schedules import cosine
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training
from tests.helpers import assert_identical
from tests.unit.training.helpers import (
    HOOKS,
    NETWORKS,
    OPTIMIZERS,
    PIXELS,
    copy_weights,
    float64_images,
    make_labels,
    make_model,
    make_sgd,
    make_training,
    record_without_timings,
    register_hook,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


# --- one step ----------------------------------------------------------------------------------------------------


def torch_loss(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Returns the mean loss, computed by torch."""
    if logits.ndim == 1:
        soft = target.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, soft)
    return functional.cross_entropy(logits, target, label_smoothing=smoothing)


def train_by_the_textbook(
    model: MLP, algorithm: GradientDescent, batches: Batches, smoothing: float, seed: int
) -> Iterator[tuple[float, float]]:
    """Trains with torch's loss, autograd and optimizer, and yields the mean loss and the accuracy of each epoch."""
    optimizer, step = algorithm.optimizer, 0
    lrs = [group["lr"] for group in optimizer.param_groups]
    for epoch in range(algorithm.epochs):
        total, num_correct = 0.0, 0
        for batch in batches.epoch(seed, epoch):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * algorithm.schedule(step)
            optimizer.zero_grad()
            logits = model(batch.images)
            loss = torch_loss(logits, batch.labels, smoothing)
            loss.backward()
            optimizer.step()
            predicted = (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)
            total += loss.item() * len(batch.labels)
            num_correct += int((predicted == batch.labels).sum())
            step += 1
        yield total / batches.num_images, num_correct / batches.num_images


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "all"])
def test_every_step_matches_plain_torch(name: str, optimizer: str, num_classes: int, smoothing: float) -> None:
    batches = Batches(float64_images(), make_labels(num_classes), batch_size=8)  # five batches, the last of 5 images
    ours = make_model(name, num_classes).double()
    theirs = copy.deepcopy(ours)

    def algorithm(model: MLP) -> GradientDescent:
        made = OPTIMIZERS[optimizer](parameter_groups(model, 0.05))
        return GradientDescent(made, epochs=2, schedule=cosine(20), loss=CrossEntropy(smoothing))

    expected = train_by_the_textbook(theirs, algorithm(theirs), batches, smoothing, seed=7)
    for record, (loss, accuracy) in zip(iter_fit(ours, batches, algorithm(ours), seed=7), expected, strict=True):
        assert record.train_loss == pytest.approx(loss, rel=1e-9)
        assert record.train_accuracy == accuracy
        # sums in another order round differently, and the divisions of AdamW and batch norm amplify it
        assert_close(copy_weights(ours), copy_weights(theirs), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("balance", ["none", "weights", "sampling"])
@pytest.mark.parametrize("name", ["logistic regression", "plain", "batch norm"])
def test_a_step_on_mixed_and_balanced_images_matches_plain_torch(
    name: str, balance: str, num_classes: int, smoothing: float
) -> None:
    """The target is the smoothed, weighted mixture of both labels, and the loss divides by the number of images."""
    target = (make_labels(4) - 1).clamp(0, num_classes - 1)
    augmentation = Augmentation(mixing=MixupCutmix(0.4, 1.0))
    batches = Batches(PIXELS, target, batch_size=8, augmentation=augmentation, balance=balance)
    ours = make_model(name, num_classes)
    theirs = copy.deepcopy(ours)
    algorithm = GradientDescent(torch.optim.SGD(ours.parameters(), lr=0.1), epochs=1, loss=CrossEntropy(smoothing))
    (record,) = fit(ours, batches, algorithm, seed=7)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    total, num_correct = 0.0, 0
    for batch in batches.epoch(7, 0):
        logits = theirs(batch.images)
        scores = logits if logits.ndim == 2 else torch.stack([torch.zeros_like(logits), logits], 1)
        smoothed = (1 - smoothing) * batch.target + smoothing * batch.target.mean(1, keepdim=True)
        loss = -(smoothed * scores.log_softmax(1)).sum() / len(batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch.labels)
        num_correct += int((scores.argmax(1) == batch.labels).sum())
    assert record.train_loss == pytest.approx(total / 37, rel=1e-5)
    assert record.train_accuracy == num_correct / 37
    assert_close(copy_weights(ours), copy_weights(theirs), rtol=1e-4, atol=1e-5)  # float32, by hand and by autograd


@pytest.mark.parametrize("name", ["plain", "batch norm"])
def test_a_small_batch_gives_the_mean_gradient_of_its_own_images(name: str) -> None:
    model = make_model(name).double()
    images, target = float64_images(3), make_labels(size=3)
    expected = torch.autograd.grad(functional.cross_entropy(model(images), target), list(model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=1.0), epochs=1)
    fit(model, Batches(images, target, batch_size=8), algorithm)
    steps = [start - parameter.detach() for start, parameter in zip(before, model.parameters(), strict=True)]
    assert_close(steps, list(expected))


@pytest.mark.parametrize("name", ["logistic regression", "plain"])
def test_lbfgs_on_the_whole_set_reaches_a_zero_gradient_of_mean_loss_and_decay(name: str) -> None:
    model = make_model(name).double()
    groups = parameter_groups(model, 0.1)
    batches = Batches(float64_images(), make_labels(), batch_size=37)
    records = fit(model, batches, GradientDescent(LBFGS(groups), epochs=60))
    assert records[0].train_loss > records[10].train_loss >= records[-1].train_loss
    risk = functional.cross_entropy(model(float64_images()), make_labels())
    for group in groups:
        risk = risk + 0.5 * group["weight_decay"] * sum(p.square().sum() for p in group["params"])
    gradients = torch.autograd.grad(risk, [p for group in groups for p in group["params"]])
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-5


def test_lbfgs_evaluates_no_point_twice() -> None:
    model = make_model("plain").double()
    optimizer = LBFGS(model.parameters())
    training = Training(
        model, Batches(float64_images(), make_labels(), batch_size=37), GradientDescent(optimizer, epochs=5)
    )
    points, compute_gradients = [], training.compute_gradients

    def count(*arguments: Any) -> tuple[Tensor, Tensor]:
        points.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        return compute_gradients(*arguments)

    training.compute_gradients = count
    list(training.advance())
    (state,) = optimizer.state.values()
    assert len(points) == state["func_evals"] > 5
    repeats = [torch.equal(before, after) for before, after in itertools.pairwise(points)]
    assert sum(repeats) <= 4  # each of the later steps may begin at the point that ended the previous search


@pytest.mark.parametrize("name", ["plain", "batch norm"])
def test_frozen_parameters_stay_unchanged(name: str) -> None:
    model = make_model(name)
    frozen = next(model.parameters()).requires_grad_(False)
    before = frozen.clone()
    fit(model, (PIXELS, make_labels()), GradientDescent(make_sgd(model), epochs=2))
    assert torch.equal(frozen, before)


@pytest.mark.parametrize("name", ["plain", "batch norm"])
def test_training_calls_the_hooks_of_a_layer(name: str) -> None:
    model, sizes = make_model(name), []
    model.layers[0].register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[0]))
    fit(model, Batches(PIXELS, make_labels(), batch_size=8), GradientDescent(make_sgd(model), epochs=1))
    assert sizes == [8, 8, 8, 8, 5]


@pytest.mark.parametrize("register", HOOKS)
def test_training_calls_every_hook_of_a_layer_and_its_weight(register: str) -> None:
    model, calls = make_model("plain"), []
    register_hook(model.layers[1], register, lambda *_: calls.append(register))
    fit(model, Batches(PIXELS, make_labels(), batch_size=8), GradientDescent(make_sgd(model), epochs=1))
    assert len(calls) == 5


def test_weight_decay_spares_biases_and_normalizations() -> None:
    model = make_model("batch norm")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.5), lr=1.0)
    fit(model, (PIXELS, make_labels()), GradientDescent(optimizer, epochs=1, loss=lambda z, _: 0.0 * z.sum()))
    for name, parameter in model.named_parameters():
        expected = 0.5 if parameter.ndim == 2 else 1.0
        assert torch.equal(parameter, torch.full_like(parameter, expected)), name


# --- records -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 8, 37, 100])
def test_training_figures_are_exact_means_over_the_images(batch_size: int) -> None:
    model = make_model("plain").double()
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.0), epochs=1)
    images, target = float64_images(), make_labels()
    (record,) = fit(model, Batches(images, target, batch_size=batch_size), algorithm)
    logits = model(images)
    assert record.train_loss == pytest.approx(functional.cross_entropy(logits, target).item(), rel=1e-12)
    assert record.train_accuracy == (logits.argmax(1) == target).double().mean().item()
    assert record.step == -(-37 // batch_size)


def test_validation_figures_describe_the_model_after_the_epoch() -> None:
    training = make_training(epochs=2)
    for record in training.advance():
        if record is not None:
            assert training.validation is not None
            evaluation = evaluate(training.model, training.validation)
            assert (record.validation_loss, record.validation_accuracy) == (evaluation.loss, evaluation.accuracy)


def test_validation_figures_are_none_without_a_validation_set() -> None:
    model = make_model("plain")
    algorithm = GradientDescent(make_sgd(model), epochs=1)
    (record,) = fit(model, (PIXELS, make_labels()), algorithm)
    assert record.validation_loss is None
    assert record.validation_accuracy is None


# --- fit ---------------------------------------------------------------------------------------------------------


def test_iter_fit_trains_on_plain_tensors_and_only_while_it_is_iterated() -> None:
    images = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    target = (images[:, 0] * images[:, 1] > 0).long()  # not linearly separable
    model = MLP(4, (32,), 2, generator=torch.Generator().manual_seed(0))
    before = copy_weights(model)
    records = iter_fit(model, (images, target), validation=(images[:50], target[:50]))
    assert_identical(copy_weights(model), before)
    first = next(records)
    assert first.epoch == 1
    *_, last = records
    assert (last.epoch, last.step) == (10, 30)
    assert last.train_loss < first.train_loss
    assert last.validation_loss is not None
    assert first.validation_loss is not None
    assert last.validation_loss < first.validation_loss


@pytest.mark.parametrize("num_classes", [2, 3])
def test_fit_trains_any_torch_module(num_classes: int) -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(20, num_classes))
    target = make_labels(num_classes)
    records = fit(layers, (PIXELS, target), validation=(PIXELS, target))
    assert records[-1].train_loss < records[0].train_loss
    assert records[-1].validation_accuracy is not None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixing", [None, MixupCutmix(0.4)], ids=["labels", "mixup"])
@pytest.mark.parametrize("name", ["logistic regression", "plain", "batch norm"])
def test_training_by_the_logistic_loss_equals_training_by_the_cross_entropy(
    name: str, mixing: MixupCutmix | None, smoothing: float
) -> None:
    results = []
    for loss in (ScoreLoss("logistic", smoothing), CrossEntropy(smoothing)):
        model = make_model(name, 2)
        augmentation = Augmentation((Shift(1),), mixing)
        batches = Batches(PIXELS, make_labels(2), batch_size=8, augmentation=augmentation, balance="weights")
        records = fit(model, batches, GradientDescent(make_sgd(model), epochs=3, loss=loss), seed=5)
        results.append((copy_weights(model), [record.train_loss for record in records]))
    for parameter, other in zip(results[0][0].values(), results[1][0].values(), strict=True):
        assert_close(parameter, other, rtol=1e-4, atol=1e-5)  # float32 in another order, over 15 steps
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)


@pytest.mark.parametrize("loss", ["hinge", "quadratic"])
@pytest.mark.parametrize("name", ["logistic regression", "plain", "all"])
def test_a_network_learns_by_a_margin_loss(name: str, loss: str) -> None:
    model = make_model(name, 2)
    batches = Batches(PIXELS, make_labels(2), batch_size=8, augmentation=Augmentation(mixing=MixupCutmix(0.4)))
    records = fit(model, batches, GradientDescent(make_sgd(model, 0.02), epochs=8, loss=ScoreLoss(loss)))
    assert records[-1].train_loss < records[0].train_loss


# --- seeds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_seed_determines_every_bit_whatever_torchs_global_seed(name: str, optimizer: str) -> None:
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        training = make_training(name, optimizer)
        records = [record_without_timings(record) for record in training.advance()]
        results.append((copy_weights(training.model), records))
    (ours, our_records), (theirs, their_records) = results
    assert_identical(ours, theirs)
    assert our_records == their_records


def test_another_seed_gives_another_network() -> None:
    ours, theirs = (make_training(seed=seed) for seed in (5, 6))
    for training in (ours, theirs):
        list(training.advance())
    first = "layers.0.weight"
    assert not torch.equal(copy_weights(ours.model)[first], copy_weights(theirs.model)[first])


@pytest.mark.parametrize("name", NETWORKS)
def test_training_does_not_use_torchs_global_generator(name: str) -> None:
    before = torch.get_rng_state()
    training = make_training(name)
    list(training.advance())
    training.state()
    assert torch.equal(torch.get_rng_state(), before)


# --- no host sync ------------------------------------------------------------------------------------------------


class NoHostSync(TorchDispatchMode):
    """Fails on every operation that makes the host wait for its result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        syncs = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "item", "bincount"}
        assert name not in syncs, f"{func} waits for the device"
        assert not (name == "index" and any(a is not None and a.dtype == torch.bool for a in args[1])), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_step_waits_for_the_device(name: str, optimizer: str, num_classes: int) -> None:
    training = make_training(name, optimizer, num_classes=num_classes)
    training.reads_losses = False  # as on a GPU
    events = training.advance()
    next(events)
    with NoHostSync():
        for _ in range(4):
            assert next(events) is None


def test_the_host_sync_guard_detects_item() -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoHostSync():
        torch.ones(1).item()
