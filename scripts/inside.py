"""Measures what happens inside networks during training, as Markdown tables for docs/inside.md.

    python scripts/inside.py --saturation [--data PATH]   # saturated units and gradients, layer by layer
    python scripts/inside.py --dead [--data PATH]         # dead units
    python scripts/inside.py --descent [--data PATH]      # full-batch, mini-batch and stochastic gradient descent
    python scripts/inside.py --gradients                  # backpropagation by hand against autograd

The images are the training split of scikit-learn's digits, or of a folder or archive of images. The networks train on
half of them; every accuracy is measured on the other half. ``--quick`` takes few images, few epochs and two seeds.
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

from benchmarks.report import format_mean_std, print_table
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
    from collections.abc import Callable, Sequence

    from fcnet.models.layers import ActivationName

NUM_IMAGES, NUM_IMAGES_QUICK = 5000, 300
DEPTH, WIDTH = 8, 64
SMALL_GRAD, ZERO_GRAD = 0.01, 0.001


class Images(NamedTuple):
    """Standardized images and their labels.

    Attributes:
        x: float32 (N, D), the training images.
        y: int64 (N,), the labels of the training images.
        held_out_x: float32 (M, D), the held-out images.
        held_out_y: int64 (M,), the labels of the held-out images.
    """

    x: Tensor
    y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor


class TrainingSetup(NamedTuple):
    """The size of an experiment.

    Attributes:
        images: the images.
        seeds: the seeds; each setting is trained once per seed.
        epochs: the number of epochs of each training.
    """

    images: Images
    seeds: range
    epochs: int


def load(path: Path | None, count: int) -> Images:
    """Loads every k-th image of the training split and holds out half of them; at most ``count`` per half."""
    store = open_store(sources.images(path) if path else sources.digits())
    mean, std = mean_and_std(store.train.moments, store.shape[1] * store.shape[2])
    step = -(-len(store.train.labels) // (2 * count))  # not the first images, which may all be of one class
    pixels, labels = store.train.pixels[::step], store.train.labels[::step]
    x = normalize(pixels, mean, std).flatten(1)
    train, held_out = split_validation(labels, 0.5, seed=0)
    return Images(x[train], labels[train], x[held_out], labels[held_out])


def make_model(images: Images, hidden: Sequence[int], activation: ActivationName, seed: int) -> MLP:
    """Builds a network for the images."""
    num_classes = int(images.y.max()) + 1
    return MLP(images.x.shape[1], hidden, num_classes, activation=activation, generator=generator(seed, "init"))


def train(model: MLP, setup: TrainingSetup, seed: int, lr: float) -> bool:
    """Trains with batches of 64 and momentum 0.9; returns False if NaN or inf stops the training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    batches = Batches(setup.images.x, setup.images.y, batch_size=64)
    try:
        fit(model, batches, GradientDescent(optimizer, epochs=setup.epochs), seed=seed)
    except NonFiniteError:
        return False
    return True


# --- saturation -------------------------------------------------------------------------------------------------

DEEP: tuple[tuple[str, ActivationName, float], ...] = (
    ("sigmoid", "sigmoid", 1.0),
    ("sigmoid, W × 10", "sigmoid", 10.0),
    ("ReLU", "relu", 1.0),
)


class LayerStatistics(NamedTuple):
    """The figures of a network before or after training.

    Attributes:
        flat: the fraction of pairs (image, unit) with |g′(z)| < 0.01, for each hidden layer.
        norms: ‖∂R/∂W[l]‖ of every layer.
        loss: the mean training loss.
    """

    flat: list[float]
    norms: list[float]
    loss: float


def measure_layers(model: MLP, images: Images) -> LayerStatistics:
    """Measures a network on all training images."""
    flat = [float((grad.abs() < SMALL_GRAD).float().mean()) for grad in activation_grads(model, images.x)]
    loss = evaluate(model, Batches(images.x, images.y)).loss
    return LayerStatistics(flat, gradient_norms(model, images.x, images.y, CrossEntropy()), loss)


def measure_before_and_after(
    setup: TrainingSetup, activation: ActivationName, factor: float, seed: int
) -> tuple[LayerStatistics, LayerStatistics]:
    """Measures a deep network, with its initial hidden weights times ``factor``, before and after training."""
    model = make_model(setup.images, (WIDTH,) * DEPTH, activation, seed)
    with torch.no_grad():
        for layer in model.dense_layers()[:-1]:
            layer.weight.mul_(factor)
    before = measure_layers(model, setup.images)
    if not train(model, setup, seed, lr=0.01):
        raise ArithmeticError(f"the training of the {activation} network ended in NaN or inf")
    return before, measure_layers(model, setup.images)


def saturation(setup: TrainingSetup) -> None:
    """Prints the flat units and the gradients of deep sigmoid and ReLU networks, before and after training."""
    results = [[measure_before_and_after(setup, g, factor, seed) for seed in setup.seeds] for _, g, factor in DEEP]
    head = ["layer", *itertools.chain.from_iterable((f"{name}: flat", "‖∂R/∂W‖") for name, _, _ in DEEP)]
    for index, time_of_measurement in enumerate(("before training", "after training")):
        print(f"{time_of_measurement}:\n")
        networks = [[pair[index] for pair in pairs] for pairs in results]
        rows = [
            [str(layer + 1), *itertools.chain.from_iterable(layer_cells(runs, layer) for runs in networks)]
            for layer in range(DEPTH + 1)
        ]
        losses = itertools.chain.from_iterable(
            ("", format_mean_std((run.loss for run in runs), ".3f")) for runs in networks
        )
        print_table(head, [*rows, ["loss", *losses]])


def layer_cells(runs: Sequence[LayerStatistics], layer: int) -> tuple[str, str]:
    """Formats the flat units and the gradient of a layer, counted from 0; the output layer has no activation."""
    flat = format_mean_std((100 * run.flat[layer] for run in runs), ".1f") + "%" if layer < DEPTH else ""
    return flat, format_mean_std((run.norms[layer] for run in runs), ".1e")


# --- dead units -------------------------------------------------------------------------------------------------

PERTURBATIONS: tuple[tuple[str, float, float], ...] = (
    ("nothing", 0.01, 0.0),
    ("η = 0.05", 0.05, 0.0),
    ("η = 0.3", 0.3, 0.0),
    ("b = −5", 0.01, -5.0),
)
DEAD_UNIT_ACTIVATIONS: tuple[ActivationName, ...] = ("relu", "leaky_relu", "elu", "gelu")


def dead_fraction(model: MLP, images: Images) -> float:
    """Returns the fraction of hidden units with |g′(z)| < 0.001 for every training image: no image trains them."""
    dead_units = [(grad.abs() < ZERO_GRAD).all(0) for grad in activation_grads(model, images.x)]
    return float(torch.cat(dead_units).float().mean())


def dead(setup: TrainingSetup) -> None:
    """Prints the dead units of several activations under large learning rates and low biases."""
    rows = []
    for (perturbation, lr, shift), activation in itertools.product(PERTURBATIONS, DEAD_UNIT_ACTIVATIONS):
        before, after, accuracies, num_failed = [], [], [], 0
        for seed in setup.seeds:
            model = make_model(setup.images, (100, 100), activation, seed)
            with torch.no_grad():
                for layer in model.dense_layers()[:-1]:
                    if layer.bias is not None:
                        layer.bias.add_(shift)
            before.append(100 * dead_fraction(model, setup.images))
            if train(model, setup, seed, lr):
                after.append(100 * dead_fraction(model, setup.images))
                result = evaluate(model, Batches(setup.images.held_out_x, setup.images.held_out_y))
                accuracies.append(100 * result.accuracy)
            else:
                num_failed += 1
        cells = [f"{format_mean_std(values, '.1f')}%" if values else "–" for values in (before, after, accuracies)]
        rows.append([perturbation, activation, *cells, str(num_failed)])
    print_table(["perturbation", "g", "dead before", "dead after", "validation accuracy", "NaN or inf"], rows)


# --- descent ----------------------------------------------------------------------------------------------------

EPOCHS_SHOWN = (1, 2, 5, 10, 20)
LRS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class Descent(NamedTuple):
    """The figures of one training.

    Attributes:
        losses: the mean training loss after each epoch.
        held_out_loss: the mean loss of the held-out images at the end.
        seconds: the time of the training steps alone.
    """

    losses: list[float]
    held_out_loss: float
    seconds: float


def descend(setup: TrainingSetup, batch_size: int, lr: float, seed: int) -> Descent:
    """Trains one hidden layer of 32 ReLUs, without momentum; all figures are inf if NaN or inf stops the training."""
    images = setup.images
    model = make_model(images, (32,), "relu", seed)
    algorithm = GradientDescent(torch.optim.SGD(model.parameters(), lr=lr), epochs=setup.epochs)
    batches = Batches(images.x, images.y, batch_size=batch_size)
    same_images = Batches(images.x, images.y, batch_size=1024)  # the training loss after the epoch, not during it
    try:
        records = fit(model, batches, algorithm, validation=same_images, seed=seed)
    except NonFiniteError:
        return Descent([math.inf] * setup.epochs, math.inf, math.inf)
    held_out_loss = evaluate(model, Batches(images.held_out_x, images.held_out_y)).loss
    losses = [math.inf if record.validation_loss is None else record.validation_loss for record in records]
    return Descent(losses, held_out_loss, sum(record.seconds for record in records))


def descent(setup: TrainingSetup) -> None:
    """Prints the loss of three batch sizes, each with the learning rate of the lowest held-out loss."""
    num_images, epochs_shown = len(setup.images.y), [epoch for epoch in EPOCHS_SHOWN if epoch <= setup.epochs]
    names = {num_images: "full batch", 32: "mini-batch", 1: "stochastic"}
    results = {
        (batch_size, lr): [descend(setup, batch_size, lr, seed) for seed in setup.seeds]
        for batch_size, lr in itertools.product(names, LRS)
    }
    held_out_losses = {key: statistics.mean(run.held_out_loss for run in runs) for key, runs in results.items()}
    print("validation loss after the last epoch:\n")
    rows = [
        [f"{name}, {batch_size:,}", *(f"{held_out_losses[batch_size, lr]:.3f}" for lr in LRS)]
        for batch_size, name in names.items()
    ]
    print_table(["batch", *(f"η = {lr:g}" for lr in LRS)], rows)
    print("training loss:\n")
    rows = []
    for batch_size, name in names.items():
        best_lr = min(LRS, key=lambda lr: held_out_losses[batch_size, lr])
        runs, steps = results[batch_size, best_lr], -(-num_images // batch_size)
        losses = [format_mean_std((run.losses[epoch - 1] for run in runs), ".3f") for epoch in epochs_shown]
        seconds = f"{statistics.median(run.seconds for run in runs):.2f}"
        rows.append([f"{name}, {batch_size:,}", f"{best_lr:g}", f"{steps:,}", *losses, seconds])
    print_table(["batch", "η", "steps/epoch", *(f"epoch {epoch}" for epoch in epochs_shown), "median seconds"], rows)


# --- backpropagation --------------------------------------------------------------------------------------------

TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "relu": lambda z: z * (z >= 0),
    "leaky_relu": torch.nn.functional.leaky_relu,
    "elu": torch.nn.functional.elu,
    "gelu": torch.nn.functional.gelu,
}
"""Torch's g. The ReLU has gradient 1 at 0, as fcnet's: after a dead layer without bias, z is exactly 0."""


def gradient_error(number: int) -> float:
    """Returns ‖g − g′‖ / ‖g′‖ in float64: g by `backpropagate`, g′ by autograd through torch's own functions.

    The number selects depth and activation, 30 pairs in turn, and seeds the rest: widths, biases or none, one output
    node or three to ten, and the batch.
    """
    draws = generator(number, "network")

    def randint(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draws))

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
    """Prints the median and the largest error over random networks, by depth."""
    errors = [gradient_error(number) for number in range(count)]
    rows = []
    for depth in range(5):
        of_depth = errors[depth::5]
        rows.append([str(depth), str(len(of_depth)), f"{statistics.median(of_depth):.1e}", f"{max(of_depth):.1e}"])
    print_table(["hidden layers", "networks", "median", "largest"], rows)


def main() -> int:
    """Parses the flags and prints the selected tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    table = parser.add_mutually_exclusive_group(required=True)
    for name in ("saturation", "dead", "descent", "gradients"):
        table.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--data", type=Path, help="a folder or archive of images (default: the digits)")
    parser.add_argument("--quick", action="store_true", help="few images, few epochs, two seeds")
    flags = parser.parse_args()
    start = time.perf_counter()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads", end="")
    if flags.gradients:
        print("\n")
        gradients(20 if flags.quick else 100)
        return 0
    images = load(flags.data, NUM_IMAGES_QUICK if flags.quick else NUM_IMAGES)
    print(f"; {len(images.y):,} training images, {len(images.held_out_y):,} held out\n")
    setup = TrainingSetup(images, range(2 if flags.quick else 5), 2 if flags.quick else 20)
    if flags.saturation:
        saturation(setup)
    elif flags.dead:
        dead(setup)
    else:
        descent(setup)
    print(f"{time.perf_counter() - start:.0f} seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
