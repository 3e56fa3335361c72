"""Prints what happens inside networks while they learn real images, as tables in Markdown for docs/inside.md.

    python scripts/inside.py --saturation [--data PATH]   # saturated units and gradients, layer by layer
    python scripts/inside.py --dead [--data PATH]         # units that no image moves any more
    python scripts/inside.py --descent                    # full-batch, mini-batch and stochastic descent
    python scripts/inside.py --gradients                  # backpropagation by hand against autograd

The images are scikit-learn's digits, or those of a folder or archive: of its training split, half to train on and half
kept aside, from which every accuracy is. ``--quick`` takes few of them, few passes and two seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.report import print_table
from fcnet import GradientDescent, fit
from fcnet.data import sources
from fcnet.data.batches import Batches, normalize, split_validation
from fcnet.data.store.store import mean_and_std, open_store
from fcnet.diagnostics import activation_grads, gradient_norms
from fcnet.evaluation.classification import evaluate
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import NonFiniteError
from fcnet.runtime.seeds import generator
from fcnet.training.backpropagation import backpropagate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fcnet.models.layers import ActivationName

FEW = 300
IMAGES = 5000
DEPTH, WIDTH = 8, 64
SMALL_GRAD, ZERO_GRAD = 0.01, 0.001


class Images(NamedTuple):
    """Standardised images and their labels.

    Attributes:
        x: float32 (N, D), to train on.
        y: int64 (N,).
        held_out_x: others, kept aside.
        held_out_y: their labels.
    """

    x: Tensor
    y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor


class TrainingSetup(NamedTuple):
    """How much is done.

    Attributes:
        images: what is learnt.
        seeds: one training each.
        epochs: of each training.
    """

    images: Images
    seeds: range
    epochs: int


def load(path: Path | None, count: int) -> Images:
    """Every k-th image of the training split, half of them kept aside: at most ``count`` in a half."""
    store = open_store(sources.images(path) if path else sources.digits())
    mean, std = mean_and_std(store.train.moments, store.shape[1] * store.shape[2])
    step = -(-len(store.train.labels) // (2 * count))
    pixels, labels = store.train.pixels[::step], store.train.labels[::step]
    x = normalize(pixels, mean, std).flatten(1)
    train, kept = split_validation(labels, 0.5, seed=0)
    return Images(x[train], labels[train], x[kept], labels[kept])


def make_model(images: Images, hidden: Sequence[int], activation: ActivationName, seed: int) -> MLP:
    """A new network for the images."""
    num_classes = int(images.y.max()) + 1
    return MLP(images.x.shape[1], hidden, num_classes, activation=activation, generator=generator(seed, "init"))


def train(model: MLP, setup: TrainingSetup, seed: int, lr: float) -> bool:
    """Mini-batches of 64 with momentum 0.9; whether all went well to the end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    batches = Batches(setup.images.x, setup.images.y, batch_size=64)
    try:
        list(fit(model, batches, GradientDescent(optimizer, epochs=setup.epochs), seed=seed))
    except NonFiniteError:
        return False
    return True


def format_mean_std(values: Iterable[float], form: str) -> str:
    """Mean and standard deviation."""
    known = list(values)
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    return f"{statistics.mean(known):{form}} ± {deviation:{form}}"


# --- saturation -------------------------------------------------------------------------------------------------

DEEP: tuple[tuple[str, ActivationName, float], ...] = (
    ("sigmoid", "sigmoid", 1.0),
    ("sigmoid, W × 10", "sigmoid", 10.0),
    ("ReLU", "relu", 1.0),
)


class LayerStatistics(NamedTuple):
    """One network at one time.

    Attributes:
        flat: for each hidden layer the share of (image, unit) with |g′(z)| < 0.01.
        norms: ‖∂R/∂W[l]‖ of every layer.
        loss: of the training images.
    """

    flat: list[float]
    norms: list[float]
    loss: float


def measure_layers(model: MLP, images: Images) -> LayerStatistics:
    """Over all training images at once."""
    flat = [float((slope.abs() < SMALL_GRAD).float().mean()) for slope in activation_grads(model, images.x)]
    loss = evaluate(model, Batches(images.x, images.y)).loss
    return LayerStatistics(flat, gradient_norms(model, images.x, images.y, CrossEntropy()), loss)


def measure_before_and_after(
    setup: TrainingSetup, activation: ActivationName, factor: float, seed: int
) -> tuple[LayerStatistics, LayerStatistics]:
    """A deep network with its first hidden weights multiplied by ``factor``, and what training makes of it."""
    model = make_model(setup.images, (WIDTH,) * DEPTH, activation, seed)
    with torch.no_grad():
        for layer in model.dense_layers()[:-1]:
            layer.weight.mul_(factor)
    before = measure_layers(model, setup.images)
    if not train(model, setup, seed, lr=0.01):
        raise ArithmeticError(f"the training of {activation} ended in NaN or inf")
    return before, measure_layers(model, setup.images)


def saturation(setup: TrainingSetup) -> None:
    """Deep networks of sigmoids beside one of ReLUs, before and after training."""
    seen = [[measure_before_and_after(setup, g, factor, seed) for seed in setup.seeds] for _, g, factor in DEEP]
    columns = itertools.chain.from_iterable((f"{name}: flat", "‖∂R/∂W‖") for name, _, _ in DEEP)
    head = ["layer", *columns]
    for time_of, when in enumerate(("before training", "after training")):
        print(f"{when}:\n")
        networks = [[run[time_of] for run in runs] for runs in seen]
        rows = [[str(number + 1), *itertools.chain.from_iterable(cells(runs, number) for runs in networks)]
                for number in range(DEPTH + 1)]  # fmt: skip
        losses = itertools.chain.from_iterable(
            ("", format_mean_std((one.loss for one in runs), ".3f")) for runs in networks
        )
        print_table(head, [*rows, ["loss", *losses]])


def cells(runs: Sequence[LayerStatistics], number: int) -> tuple[str, str]:
    """The share of flat units and the gradient of a layer, from 0; the output has no g."""
    flat = format_mean_std((100 * one.flat[number] for one in runs), ".1f") + " %" if number < DEPTH else ""
    return flat, format_mean_std((one.norms[number] for one in runs), ".1e")


# --- dead units -------------------------------------------------------------------------------------------------

PERTURBATIONS: tuple[tuple[str, float, float], ...] = (
    ("nothing", 0.01, 0.0),
    ("η = 0.05", 0.05, 0.0),
    ("η = 0.3", 0.3, 0.0),
    ("b = −5", 0.01, -5.0),
)
DEAD_UNIT_ACTIVATIONS: tuple[ActivationName, ...] = ("relu", "leaky_relu", "elu", "gelu")


def dead_fraction(model: MLP, images: Images) -> float:
    """The share of hidden units with |g′(z)| < 0.001 for every training image: none moves their weights."""
    idle = [(slope.abs() < ZERO_GRAD).all(0) for slope in activation_grads(model, images.x)]
    return float(torch.cat(idle).float().mean())


def dead(setup: TrainingSetup) -> None:
    """What kills ReLU units, and what the other activations make of it."""
    rows = []
    for (harm, lr, shift), activation in itertools.product(PERTURBATIONS, DEAD_UNIT_ACTIVATIONS):
        first, last, accuracies, lost = [], [], [], 0
        for seed in setup.seeds:
            model = make_model(setup.images, (100, 100), activation, seed)
            with torch.no_grad():
                for layer in model.dense_layers()[:-1]:
                    if layer.bias is not None:
                        layer.bias.add_(shift)
            first.append(100 * dead_fraction(model, setup.images))
            if train(model, setup, seed, lr):
                last.append(100 * dead_fraction(model, setup.images))
                seen = evaluate(model, Batches(setup.images.held_out_x, setup.images.held_out_y))
                accuracies.append(100 * seen.accuracy)
            else:
                lost += 1
        ends = [f"{format_mean_std(values, '.1f')} %" if values else "–" for values in (last, accuracies)]
        rows.append([harm, activation, f"{format_mean_std(first, '.1f')} %", *ends, str(lost)])
    print_table(["harm", "g", "dead before", "dead after", "validation accuracy", "NaN or inf"], rows)


# --- descent ----------------------------------------------------------------------------------------------------

PASSES = (1, 2, 5, 10, 20)
LRS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class Descent(NamedTuple):
    """One training.

    Attributes:
        losses: of the training images, after each pass.
        held_out_loss: of the images kept aside, at the end.
        seconds: of the steps alone.
    """

    losses: list[float]
    held_out_loss: float
    seconds: float


def descend(setup: TrainingSetup, batch_size: int, lr: float, seed: int) -> Descent:
    """One hidden layer of 32 ReLUs, without momentum; NaN or inf on the way held_out_losses inf."""
    images = setup.images
    model = make_model(images, (32,), "relu", seed)
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=lr), epochs=setup.epochs)
    batches, whole = Batches(images.x, images.y, batch_size=batch_size), Batches(images.x, images.y, batch_size=1024)
    try:
        records = list(fit(model, batches, algorithm, validation=whole, seed=seed))
    except NonFiniteError:
        return Descent([math.inf] * setup.epochs, math.inf, math.inf)
    held_out_loss = evaluate(model, Batches(images.held_out_x, images.held_out_y)).loss
    losses = [math.inf if record.validation_loss is None else record.validation_loss for record in records]
    return Descent(losses, held_out_loss, sum(record.seconds for record in records))


def descent(setup: TrainingSetup) -> None:
    """One loss, three batch sizes, each with the learning rate that serves the images kept aside best."""
    size, passes = len(setup.images.y), [number for number in PASSES if number <= setup.epochs]
    names = {size: "full batch", 32: "mini-batch", 1: "stochastic"}
    tried = {(batch_size, lr): [descend(setup, batch_size, lr, seed) for seed in setup.seeds]
             for batch_size in names for lr in LRS}  # fmt: skip
    held_out_losses = {which: statistics.mean(run.held_out_loss for run in runs) for which, runs in tried.items()}
    print("validation loss after the last pass:\n")
    print_table(
        ["batch", *(f"η = {lr:g}" for lr in LRS)],
        ([f"{name}, {batch_size:,}", *(f"{held_out_losses[batch_size, lr]:.3f}" for lr in LRS)]
         for batch_size, name in names.items()),
    )  # fmt: skip
    print("training loss:\n")
    rows = []
    for batch_size, name in names.items():
        lr = min(LRS, key=lambda rate: held_out_losses[batch_size, rate])
        runs, steps = tried[batch_size, lr], -(-size // batch_size)
        losses = [format_mean_std((run.losses[number - 1] for run in runs), ".3f") for number in passes]
        seconds = f"{statistics.median(run.seconds for run in runs):.2f}"
        rows.append([f"{name}, {batch_size:,}", f"{lr:g}", f"{steps:,}", *losses, seconds])
    print_table(["batch", "η", "steps a pass", *(f"pass {number}" for number in passes), "median seconds"], rows)


# --- backpropagation --------------------------------------------------------------------------------------------

TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "relu": lambda z: z * (z >= 0),
    "leaky_relu": torch.nn.functional.leaky_relu,
    "elu": torch.nn.functional.elu,
    "gelu": torch.nn.functional.gelu,
}
"""g by torch; a ReLU of its own, whose slope at 0 is 1: behind a layer of idle ReLUs without a bias z is 0."""


def gradient_error(number: int) -> float:
    """‖g − g′‖ / ‖g′‖ in float64, with g by hand and g′ by autograd through torch's own functions.

    Depths and activations take turns, in 30 pairs; the rest is drawn: widths, biases or none, one output node or
    three to ten, the batch.
    """
    draws = generator(number, "network")

    def randint(least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=draws))

    names = sorted(TORCH_ACTIVATIONS)
    hidden = [randint(1, 40) for _ in range(number % 5)]
    features, num_classes, size = randint(1, 40), randint(3, 10) if randint(0, 1) else 2, randint(1, 40)
    activation: Any = names[number % len(names)]
    bias = randint(0, 3) > 0
    model = MLP(features, hidden, num_classes, activation=activation, bias=bias, generator=draws).double()
    with torch.no_grad():
        for layer in model.dense_layers():
            if layer.bias is not None:
                layer.bias.normal_(generator=draws)
    x = torch.randn(size, features, generator=draws, dtype=torch.float64)
    labels = torch.randint(num_classes, (size,), generator=draws)
    backpropagate(model, x, labels, CrossEntropy(), scale=1.0 / size)
    by_hand = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    a = x
    for layer in model.dense_layers():
        a = TORCH_ACTIVATIONS[layer.activation](torch.nn.functional.linear(a, layer.weight, layer.bias))
    if num_classes == 2:
        risk = torch.nn.functional.binary_cross_entropy_with_logits(a.squeeze(1), labels.double())
    else:
        risk = torch.nn.functional.cross_entropy(a, labels)
    by_autograd = torch.cat([g.flatten() for g in torch.autograd.grad(risk, list(model.parameters()))])
    return float((by_hand - by_autograd).norm() / by_autograd.norm())


def gradients(count: int) -> None:
    """The largest and the median error over random networks, by their depth."""
    errors = [gradient_error(number) for number in range(count)]
    rows = []
    for depth in range(5):
        own = errors[depth::5]
        rows.append([str(depth), str(len(own)), f"{statistics.median(own):.1e}", f"{max(own):.1e}"])
    print_table(["hidden layers", "networks", "median", "largest"], rows)


def main() -> int:
    """Prints the table that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    for name in ("saturation", "dead", "descent", "gradients"):
        what.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--data", type=Path, help="a folder or archive of images; without, the digits")
    parser.add_argument("--quick", action="store_true", help="few images, few passes, two seeds")
    flags = parser.parse_args()
    since = time.perf_counter()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads", end="")
    if flags.gradients:
        print("\n")
        gradients(20 if flags.quick else 100)
        return 0
    images = load(flags.data, FEW if flags.quick else IMAGES)
    print(f"; {len(images.y):,} images to train on, {len(images.held_out_y):,} kept aside\n")
    seeds, epochs = range(2 if flags.quick else 5), 2 if flags.quick else 20
    if flags.saturation:
        saturation(TrainingSetup(images, seeds, epochs))
    elif flags.dead:
        dead(TrainingSetup(images, seeds, epochs))
    else:
        descent(TrainingSetup(images, seeds, epochs))
    print(f"{time.perf_counter() - since:.0f} seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
