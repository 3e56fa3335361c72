"""Rules of fcnet.training.loop."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from fcnet import fit
from fcnet.data.batches import Augmentation, Batches
from fcnet.data.transforms.augment import Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.evaluation.classification import evaluate
from fcnet.losses import CrossEntropy, ScoreLoss
from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import LBFGS, Muon, parameter_groups
from fcnet.optim.schedules import add_warmup, constant, cosine
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, write_checksummed
from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fcnet.training.records import EpochRecord

    MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

# What the configuration can ask for; fused, as it is built.
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "sgd without momentum": partial(torch.optim.SGD, lr=0.1, fused=True),
    "adam": partial(torch.optim.Adam, lr=0.01, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01, betas=(0.8, 0.95), fused=True),
    "muon": partial(Muon, lr=0.01),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "logistic regression": {"hidden": ()},
    "plain": {"hidden": (6, 6), "activation": "sigmoid"},
    "residual": {"hidden": (6, 6), "activation": "relu", "residual": True},
    "normalised": {"hidden": (6, 6), "activation": "relu", "normalization": "batch"},
    "normalised by layer": {"hidden": (6, 6), "activation": "gelu", "normalization": "layer"},
    "all": {"hidden": (6, 6), "activation": "relu", "normalization": "batch", "dropout": 0.3, "residual": True},
}
PIXELS = torch.randint(0, 256, (37, 1, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network(name: str, num_classes: int = 3, seed: int = 1) -> MLP:
    return MLP(20, num_classes=num_classes, generator=torch.Generator().manual_seed(seed), **NETWORKS[name])


def labels(num_classes: int = 3, size: int = 37) -> Tensor:
    return torch.randint(num_classes, (size,), generator=torch.Generator().manual_seed(2))


def exact_images(size: int = 37) -> Tensor:
    """Float64, so that two ways to the same number differ in their last digits alone."""
    return torch.randn(size, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def training(
    name: str = "all",
    optimizer: str = "adamw",
    *,
    epochs: int = 3,
    seed: int = 5,
    num_classes: int = 3,
    **settings: Any,
) -> Training:
    """Everything that a step can change, at its beginning: 5 steps an epoch, the last of 5 images."""
    target = labels(num_classes)
    batches = Batches(PIXELS, target, batch_size=8, augmentation=Augmentation((Flip(), Shift(1))))
    model = network(name, num_classes)
    algorithm = GradientDescent(
        OPTIMIZERS[optimizer](parameter_groups(model, 0.05)),
        epochs=epochs,
        schedule=add_warmup(cosine(5 * epochs), 3),
        loss=CrossEntropy(0.1),
        **settings,
    )
    return Training(model, batches, algorithm, validation=Batches(PIXELS, target, batch_size=10), seed=seed)


def figures(record: EpochRecord | None) -> dict[str, Any] | None:
    """A record without what a clock measured."""
    if record is None:
        return None
    return {
        key: value for key, value in dataclasses.asdict(record).items() if key not in {"seconds", "images_per_second"}
    }


def timeless(metadata: dict[str, Any]) -> dict[str, Any]:
    """Facts as JSON gives them back, without what a clock measured."""
    back: dict[str, Any] = json.loads(json.dumps(metadata))
    return {key: value for key, value in back.items() if key not in {"seconds", "previous_seconds"}}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_to_the_bit(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def torchs_loss(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """The mean loss, by torch."""
    if logits.ndim == 1:
        soft = target.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, soft)
    return functional.cross_entropy(logits, target, label_smoothing=smoothing)


def textbook(
    model: MLP, algorithm: GradientDescent, batches: Batches, smoothing: float, seed: int
) -> Iterator[tuple[float, float]]:
    """Training as anyone writes it: the mean loss, autograd, the optimizer; mean loss and accuracy of each epoch."""
    optimizer, step = algorithm.optimizer, 0
    rates = [group["lr"] for group in optimizer.param_groups]
    for epoch in range(algorithm.epochs):
        total, hits = 0.0, 0
        for batch in batches.epoch(seed, epoch):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * algorithm.schedule(step)
            optimizer.zero_grad()
            logits = model(batch.images)
            loss = torchs_loss(logits, batch.labels, smoothing)
            loss.backward()
            optimizer.step()
            called = (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)
            total += loss.item() * len(batch.labels)
            hits += int((called == batch.labels).sum())
            step += 1
        yield total / batches.num_images, hits / batches.num_images


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "all"])
def test_every_step_is_that_of_plain_torch(name: str, optimizer: str, num_classes: int, smoothing: float) -> None:
    batches = Batches(exact_images(), labels(num_classes), batch_size=8)  # five batches, the last of 5 images
    ours = network(name, num_classes).double()
    theirs = copy.deepcopy(ours)

    def algorithm(model: MLP) -> GradientDescent:
        made = OPTIMIZERS[optimizer](parameter_groups(model, 0.05))
        return GradientDescent(made, epochs=2, schedule=cosine(20), loss=CrossEntropy(smoothing))

    expected = textbook(theirs, algorithm(theirs), batches, smoothing, seed=7)
    for record, (loss, accuracy) in zip(fit(ours, batches, algorithm(ours), seed=7), expected, strict=True):
        assert record.train_loss == pytest.approx(loss, rel=1e-9)
        assert record.train_accuracy == accuracy
        # float64 rounds in another order, and the divisions of AdamW and batch norm make that larger
        assert_close(weights(ours), weights(theirs), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("balance", ["none", "weights", "sampling"])
@pytest.mark.parametrize("name", ["logistic regression", "plain", "normalised"])
def test_a_step_on_mixed_and_balanced_images_is_that_of_plain_torch(
    name: str, balance: str, num_classes: int, smoothing: float
) -> None:
    """The smoothed target of both labels, in their shares and weights, over the number of images."""
    target = (labels(4) - 1).clamp(0, num_classes - 1)
    batches = Batches(
        PIXELS, target, batch_size=8, augmentation=Augmentation(mixing=MixupCutmix(0.4, 1.0)), balance=balance
    )
    ours = network(name, num_classes)
    theirs = copy.deepcopy(ours)
    algorithm = GradientDescent(torch.optim.SGD(ours.parameters(), lr=0.1), epochs=1, loss=CrossEntropy(smoothing))
    (record,) = fit(ours, batches, algorithm, seed=7)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    total, hits = 0.0, 0
    for batch in batches.epoch(7, 0):
        logits = theirs(batch.images)
        scores = logits if logits.ndim == 2 else torch.stack([torch.zeros_like(logits), logits], 1)
        shares = (1 - smoothing) * batch.target + smoothing * batch.target.mean(1, keepdim=True)
        loss = -(shares * scores.log_softmax(1)).sum() / len(batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch.labels)
        hits += int((scores.argmax(1) == batch.labels).sum())
    assert record.train_loss == pytest.approx(total / 37, rel=1e-5)
    assert record.train_accuracy == hits / 37
    assert_close(weights(ours), weights(theirs), rtol=1e-4, atol=1e-5)  # float32, by hand and by autograd


@pytest.mark.parametrize("name", ["plain", "normalised"])
def test_a_gradient_that_is_too_long_is_shortened_and_a_short_one_is_left(name: str) -> None:
    batches = Batches(exact_images(), labels(), batch_size=37)

    def moved(clip_norm: float) -> Tensor:
        """One step of length 1 along the gradient."""
        model = network(name).double()
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        list(fit(model, batches, GradientDescent(optimizer, epochs=1, clip_norm=clip_norm)))
        return torch.cat([p.detach().flatten() for p in model.parameters()]) - before

    whole = moved(0.0)
    assert_close(moved(float(2 * whole.norm())), whole, rtol=0, atol=0)
    assert_close(moved(float(whole.norm() / 4)), whole / 4, rtol=1e-5, atol=0)  # torch adds 1e-6 to the norm


@pytest.mark.parametrize("name", ["plain", "residual", "normalised by layer"])
@pytest.mark.parametrize("accumulate", [2, 3, 8, 100])
def test_a_batch_in_parts_moves_the_network_as_the_whole_batch_does(name: str, accumulate: int) -> None:
    batches = Batches(exact_images(), labels(), batch_size=8)
    ours, theirs = network(name).double(), network(name).double()
    algorithms = [GradientDescent(sgd(model), epochs=2, clip_norm=0.5) for model in (ours, theirs)]
    parts, whole = (
        list(fit(model, batches, algorithm))
        for model, algorithm in zip(
            (ours, theirs), (dataclasses.replace(algorithms[0], accumulate=accumulate), algorithms[1]), strict=True
        )
    )
    assert_close(weights(ours), weights(theirs), rtol=1e-10, atol=1e-12)
    for part, other in zip(parts, whole, strict=True):
        assert part.train_loss == pytest.approx(other.train_loss, rel=1e-10)
        assert (part.step, part.train_accuracy) == (other.step, other.train_accuracy)


@pytest.mark.parametrize("name", ["plain", "normalised"])
def test_no_more_than_a_part_goes_through_the_network_at_once(name: str) -> None:
    model, seen = network(name), []
    model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0]))
    algorithm = GradientDescent(sgd(model), epochs=1, accumulate=3)
    list(fit(model, Batches(PIXELS, labels(), batch_size=20), algorithm))
    assert seen == [7, 7, 6, 6, 6, 5]


def test_the_average_of_the_weights_is_what_is_validated_and_kept() -> None:
    model, seen = network("normalised"), []
    algorithm = GradientDescent(sgd(model, lr=0.5), epochs=2, ema_decay=0.7)
    course = Training(model, Batches(PIXELS, labels(), batch_size=8), algorithm, validation=Batches(PIXELS, labels()))
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for record in course.advance():
        if record is None:
            decay = min(0.7, (1 + course.step) / (10 + course.step))
            for name, parameter in model.named_parameters():
                average[name].mul_(decay).add_(parameter.detach(), alpha=1 - decay)
        else:
            seen.append((record.validation_loss, record.validation_accuracy))
            assert not torch.equal(model.dense_layers()[0].weight, average["layers.0.weight"])
    assert_close(dict(model.named_parameters()), average, rtol=1e-5, atol=1e-6)
    kept = evaluate(model, Batches(PIXELS, labels()))
    assert seen[-1] == (kept.loss, kept.accuracy)
    assert seen[0] != seen[1]


def test_training_ends_when_patience_is_lost_with_the_weights_of_the_best_epoch() -> None:
    model = network("normalised")
    algorithm = GradientDescent(sgd(model, lr=3.0), epochs=40, patience=3)
    course = Training(model, Batches(PIXELS, labels(), batch_size=8), algorithm, validation=Batches(PIXELS, labels()))
    records, states = [], []
    for record in course.advance():
        if record is not None:
            records.append(record)
            states.append(weights(model))
    accuracies = [record.validation_accuracy or 0.0 for record in records]
    best = accuracies.index(max(accuracies))
    assert len(records) == best + 1 + 3 < 40
    assert course.best_epoch == best + 1
    assert_equal_to_the_bit(weights(model), states[best])
    assert any(not torch.equal(states[-1][name], tensor) for name, tensor in states[best].items())


def test_the_best_epoch_counts_also_where_patience_lasts() -> None:
    model = network("plain")
    algorithm = GradientDescent(sgd(model, lr=3.0), epochs=6, patience=99)
    course = Training(model, Batches(PIXELS, labels(), batch_size=8), algorithm, validation=Batches(PIXELS, labels()))
    accuracies = [record.validation_accuracy for record in course.advance() if record is not None]
    assert len(accuracies) == 6
    assert evaluate(model, Batches(PIXELS, labels())).accuracy == max(map(float, filter(None, accuracies)))


def test_patience_needs_a_validation_set() -> None:
    model = network("plain")
    with pytest.raises(UserError, match="patience must be 0 where nothing is kept aside for validation, got 3"):
        next(fit(model, (PIXELS, labels()), GradientDescent(sgd(model), epochs=1, patience=3)))


@pytest.mark.parametrize("name", ["logistic regression", "plain"])
def test_lbfgs_on_the_whole_set_ends_where_the_gradient_of_the_mean_loss_and_decay_is_0(name: str) -> None:
    model = network(name).double()
    groups = parameter_groups(model, 0.1)
    batches = Batches(exact_images(), labels(), batch_size=37)
    records = list(fit(model, batches, GradientDescent(LBFGS(groups), epochs=60)))
    assert records[0].train_loss > records[10].train_loss >= records[-1].train_loss
    risk = functional.cross_entropy(model(exact_images()), labels())
    for group in groups:
        risk = risk + 0.5 * group["weight_decay"] * sum(p.square().sum() for p in group["params"])
    slopes = torch.autograd.grad(risk, [p for group in groups for p in group["params"]])
    assert max(slope.abs().max().item() for slope in slopes) < 1e-5


def test_lbfgs_drops_the_same_units_all_along_its_line() -> None:
    model, dropped = MLP(20, (64,), 3, activation="identity", dropout=0.5), []
    layer = model.dense_layers()[0].dropout
    assert layer is not None
    layer.register_forward_hook(lambda module, inputs, output: dropped.append((output == 0).flatten().tolist()))
    list(fit(model, Batches(PIXELS, labels(), batch_size=37), GradientDescent(LBFGS(model.parameters()), epochs=2)))
    assert len(dropped) > 3
    assert len({tuple(units) for units in dropped}) == 2


@pytest.mark.parametrize("name", ["plain", "normalised"])
def test_a_smaller_batch_is_the_mean_over_its_own_images(name: str) -> None:
    model = network(name).double()
    images, target = exact_images(3), labels(size=3)
    expected = torch.autograd.grad(functional.cross_entropy(model(images), target), list(model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=1.0), epochs=1)
    list(fit(model, Batches(images, target, batch_size=8), algorithm))
    moved = [start - parameter.detach() for start, parameter in zip(before, model.parameters(), strict=True)]
    assert_close(moved, list(expected))


@pytest.mark.parametrize("batch_size", [1, 8, 37, 100])
def test_training_figures_are_exact_means_over_the_images(batch_size: int) -> None:
    model = network("plain").double()
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=0.0), epochs=1)
    images, target = exact_images(), labels()
    (record,) = fit(model, Batches(images, target, batch_size=batch_size), algorithm)
    logits = model(images)
    assert record.train_loss == pytest.approx(functional.cross_entropy(logits, target).item(), rel=1e-12)
    assert record.train_accuracy == (logits.argmax(1) == target).double().mean().item()
    assert record.step == -(-37 // batch_size)


def test_validation_figures_are_those_of_the_network_after_the_epoch() -> None:
    course = training(epochs=2)
    for record in course.advance():
        if record is not None:
            assert course.validation is not None
            seen = evaluate(course.model, course.validation)
            assert (record.validation_loss, record.validation_accuracy) == (seen.loss, seen.accuracy)


def test_without_a_validation_set_its_figures_are_none() -> None:
    (record,) = fit(network("plain"), (PIXELS, labels()), GradientDescent(sgd(network("plain")), epochs=1))
    assert record.validation_loss is None
    assert record.validation_accuracy is None


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_fit_learns_ones_own_tensors_and_does_nothing_before_it_is_asked() -> None:
    images = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    target = (images[:, 0] * images[:, 1] > 0).long()  # no straight line separates these
    model = MLP(4, (32,), 2, generator=torch.Generator().manual_seed(0))
    before = weights(model)
    records = fit(model, (images, target), validation=(images[:50], target[:50]))
    assert_equal_to_the_bit(weights(model), before)
    first = next(records)
    assert first.epoch == 1
    *_, last = records
    assert (last.epoch, last.step) == (10, 30)
    assert last.train_loss < first.train_loss
    assert last.validation_loss is not None
    assert first.validation_loss is not None
    assert last.validation_loss < first.validation_loss


@pytest.mark.parametrize("num_classes", [2, 3])
def test_fit_trains_any_module_of_torchs(num_classes: int) -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(20, num_classes))
    target = labels(num_classes)
    records = list(fit(layers, (PIXELS, target), validation=(PIXELS, target)))
    assert records[-1].train_loss < records[0].train_loss
    assert records[-1].validation_accuracy is not None


@pytest.mark.parametrize("name", ["plain", "normalised"])
def test_what_is_frozen_stays_as_it_is(name: str) -> None:
    model = network(name)
    frozen = next(model.parameters()).requires_grad_(False)
    before = frozen.clone()
    list(fit(model, (PIXELS, labels()), GradientDescent(sgd(model), epochs=2)))
    assert torch.equal(frozen, before)


@pytest.mark.parametrize("name", ["plain", "normalised"])
def test_a_hook_on_a_layer_is_called_in_training(name: str) -> None:
    model, seen = network(name), []
    model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0]))
    list(fit(model, Batches(PIXELS, labels(), batch_size=8), GradientDescent(sgd(model), epochs=1)))
    assert seen == [8, 8, 8, 8, 5]


def test_every_step_drops_units_of_its_own() -> None:
    model, dropped = MLP(20, (64,), 3, activation="identity", dropout=0.5), []
    layer = model.dense_layers()[0].dropout
    assert layer is not None
    layer.register_forward_hook(lambda module, inputs, output: dropped.append((output == 0).flatten().tolist()))
    list(fit(model, Batches(PIXELS[:16], labels(size=16), batch_size=8), GradientDescent(sgd(model), epochs=3)))
    assert len({tuple(units) for units in dropped}) == len(dropped) == 6


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_seed_gives_one_network_to_the_bit_whatever_torchs_own_seed(name: str, optimizer: str) -> None:
    results = []
    for ambient in (1, 2):
        torch.manual_seed(ambient)
        course = training(name, optimizer)
        records = [figures(record) for record in course.advance()]
        results.append((weights(course.model), records))
    (ours, our_records), (theirs, their_records) = results
    assert_equal_to_the_bit(ours, theirs)
    assert our_records == their_records


def test_another_seed_gives_another_network() -> None:
    ours, theirs = (training(seed=seed) for seed in (5, 6))
    for course in (ours, theirs):
        list(course.advance())
    first = "layers.0.weight"
    assert not torch.equal(weights(ours.model)[first], weights(theirs.model)[first])


@pytest.mark.parametrize("name", NETWORKS)
def test_torchs_own_generator_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    course = training(name)
    list(course.advance())
    course.state()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["plain", "all"])
@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.8, "accumulate": 2}, {"patience": 9}], ids=str)
def test_a_training_restored_at_any_step_ends_as_if_it_had_never_stopped(
    name: str, optimizer: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = training(name, optimizer, **settings)
    pauses = 0
    events: list[dict[str, Any] | None] = []
    for record in whole.advance():
        write_checksummed(tmp_path / f"{pauses}", *whole.state())
        events.append(figures(record))
        pauses += 1
    assert pauses == whole.num_steps + 3 == 18
    last, metadata = whole.state()
    for pause in range(pauses):
        again = training(name, optimizer, **settings)
        again.restore(*read_checksummed(tmp_path / f"{pause}"))
        rest = [figures(record) for record in again.advance()]
        assert rest == events[pause + 1 :], f"restored at pause {pause}"
        tensors, other = again.state()
        assert_equal_to_the_bit(tensors, last)
        assert timeless(other) == timeless(metadata)


def test_seconds_go_on_where_a_training_is_restored(tmp_path: Path) -> None:
    course = training()
    list(itertools.islice(course.advance(), 8))
    write_checksummed(tmp_path / "saved", *course.state())
    again = training()
    again.restore(*read_checksummed(tmp_path / "saved"))
    assert again.train_seconds == course.train_seconds > course.seconds > 0.0
    *_, record = (record for record in again.advance() if record is not None)
    assert record.seconds > 0.0
    assert again.train_seconds > course.train_seconds


def test_decay_spares_biases_and_normalisations() -> None:
    model = network("normalised")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.5), lr=1.0)
    list(fit(model, (PIXELS, labels()), GradientDescent(optimizer, epochs=1, loss=lambda z, _: 0.0 * z.sum())))
    for name, parameter in model.named_parameters():
        expected = 0.5 if parameter.ndim == 2 else 1.0
        assert torch.equal(parameter, torch.full_like(parameter, expected)), name


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", ["plain", "normalised"])
def test_bfloat16_learns_what_float32_learns_and_keeps_float32_parameters(name: str, num_classes: int) -> None:
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        model = network(name, num_classes)
        algorithm = GradientDescent(sgd(model), epochs=3, precision=precision)
        losses.append([record.train_loss for record in fit(model, (PIXELS, labels(num_classes)), algorithm)])
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    # bfloat16 keeps 8 bits of each product's factors: 2⁻⁹ a factor, a few factors after another
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixing", [None, MixupCutmix(0.4)], ids=["labels", "mixup"])
@pytest.mark.parametrize("name", ["logistic regression", "plain", "normalised"])
def test_a_run_by_the_logistic_loss_is_the_run_by_the_cross_entropy(
    name: str, mixing: MixupCutmix | None, smoothing: float
) -> None:
    found = []
    for loss in (ScoreLoss("logistic", smoothing), CrossEntropy(smoothing)):
        model = network(name, 2)
        batches = Batches(
            PIXELS, labels(2), batch_size=8, augmentation=Augmentation((Shift(1),), mixing), balance="weights"
        )
        records = list(fit(model, batches, GradientDescent(sgd(model), epochs=3, loss=loss), seed=5))
        found.append((weights(model), [record.train_loss for record in records]))
    for parameter, other in zip(found[0][0].values(), found[1][0].values(), strict=True):
        assert_close(parameter, other, rtol=1e-4, atol=1e-5)  # float32 in another order, over 15 steps
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


@pytest.mark.parametrize("loss", ["hinge", "quadratic"])
@pytest.mark.parametrize("name", ["logistic regression", "plain", "all"])
def test_a_network_learns_by_a_loss_of_its_score(name: str, loss: str) -> None:
    model = network(name, 2)
    batches = Batches(PIXELS, labels(2), batch_size=8, augmentation=Augmentation(mixing=MixupCutmix(0.4)))
    records = list(fit(model, batches, GradientDescent(sgd(model, 0.02), epochs=8, loss=ScoreLoss(loss))))
    assert records[-1].train_loss < records[0].train_loss


def test_a_training_set_without_images_is_refused() -> None:
    model = network("plain")
    empty = Batches(PIXELS, labels(), rows=torch.arange(0))
    with pytest.raises(UserError, match="the training set must hold at least one image, got 0"):
        Training(model, empty, GradientDescent(sgd(model), epochs=1))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([-1, 1, 1]), "labels must be 0 to 1, got -1"),
        (torch.tensor([0, 1, 2]), "labels must be 0 to 1, got 2"),
    ],
)
def test_a_label_outside_the_classes_is_refused(target: Tensor, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        next(fit(network("plain", 2), (PIXELS[:3], target)))
    assert str(refusal.value) == message


class NoHostSync(TorchDispatchMode):
    """Fails on every operation whose result the host must wait for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        waiting = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "item", "bincount"}
        assert name not in waiting, f"{func} waits for the device"
        assert not (name == "index" and any(a is not None and a.dtype == torch.bool for a in args[1])), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_step_waits_for_the_device(name: str, optimizer: str, num_classes: int) -> None:
    course = training(name, optimizer, num_classes=num_classes)
    course.reads_losses = False  # as on a device that the host would have to wait for
    events = course.advance()
    next(events)
    with NoHostSync():
        for _ in range(4):
            assert next(events) is None


def test_reading_a_tensor_is_what_the_guard_forbids() -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoHostSync():
        torch.ones(1).item()


def test_the_rate_follows_the_schedule_also_in_a_second_training() -> None:
    model = network("plain")
    optimizer = sgd(model, lr=0.5)
    for _ in range(2):
        *_, last = fit(model, (PIXELS, labels()), GradientDescent(optimizer, epochs=4, schedule=cosine(4)))
        assert last.lr == pytest.approx(0.5 * cosine(4)(3))
    *_, last = fit(model, (PIXELS, labels()), GradientDescent(optimizer, epochs=1, schedule=constant()))
    assert last.lr == 0.5
