"""Compares three losses of a score, or training sets of increasing size, on a problem with two classes.

The model is always w·x + b on normalized pixels, and the algorithm L-BFGS on the whole training set with weight decay
0.01. The classes are the digits 3 and 8, or with --data the airplanes and automobiles of CIFAR-10.

    python scripts/learning.py [--samples] [--data PATH] [--quick]
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

import fcnet
import fcnet.functional as F
from benchmarks.report import format_mean_std
from fcnet.config.schema import Config
from fcnet.evaluation.classification import evaluate
from fcnet.experiment.build import build
from fcnet.runtime.formatting import format_percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.experiment.build import Experiment

LOSSES = ("logistic", "hinge", "quadratic")
BINS = 5
SIZES = (20, 40, 80, 160, 286), (100, 300, 1000, 3000, 10_000)
NUM_SEEDS = 5


class Bin(NamedTuple):
    """The test images with s(h) in one fifth of [0, 1].

    Attributes:
        num_images: the number of images.
        mean_probability: the mean of s(h).
        observed_fraction: the fraction of images of the second class.
    """

    num_images: int
    mean_probability: float
    observed_fraction: float


def make_config(
    path: str | None, *, loss: str = "logistic", held_out: float = 0.0, seed: int = 0, epochs: int
) -> Config:
    """Builds the configuration of one training."""
    data = (
        {"source": "digits", "classes": ("3", "8")}
        if path is None
        else {"source": "images", "path": path, "classes": ("airplane", "automobile")}
    )
    return Config.model_validate(
        {
            "seed": seed,
            "data": data | {"validation": held_out},
            "model": {"kind": "logistic"},
            "optimizer": {"name": "lbfgs", "weight_decay": 0.01},
            "train": {"loss": loss, "batch_size": "all", "epochs": epochs},
        }
    )


def train(config: Config) -> Experiment:
    """Builds an experiment and trains its model."""
    experiment = build(config, torch.device("cpu"))
    training = experiment.training
    fcnet.fit(training.model, training.batches, training.algorithm, seed=config.seed)
    return experiment


@torch.no_grad()
def scores_and_labels(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Returns the score h and the label of every test image, (n,) each."""
    batches = [(experiment.training.model(batch.images), batch.labels) for batch in experiment.test]
    scores, labels = zip(*batches, strict=True)
    return torch.cat(scores), torch.cat(labels)


def reliability_bins(scores: Tensor, labels: Tensor) -> list[Bin]:
    """Groups the test images by s(h), from the lowest fifth to the highest."""
    probabilities = F.sigmoid(scores)
    indices = (probabilities * BINS).long().clamp(max=BINS - 1)
    bins = []
    for index in range(BINS):
        inside = indices == index
        count = int(inside.sum())
        means = [values[inside].double().mean().item() if count else math.nan for values in (probabilities, labels)]
        bins.append(Bin(count, *means))
    return bins


def calibration_error(bins: Sequence[Bin]) -> float:
    """Computes the expected calibration error, the mean over all images of |probability − fraction| in their bin."""
    filled = [each for each in bins if each.num_images]
    total = sum(each.num_images * abs(each.mean_probability - each.observed_fraction) for each in filled)
    return total / sum(each.num_images for each in filled)


def loss_tables(path: str | None, epochs: int) -> Iterator[str]:
    """Yields the lines of the tables of the three losses."""
    bins = {}
    yield "| loss | test error (95% interval) | scores outside [0, 1] | largest score | calibration error |"
    yield "| --- | --- | --- | --- | --- |"
    for loss in LOSSES:
        experiment = train(make_config(path, loss=loss, epochs=epochs))
        scores, labels = scores_and_labels(experiment)
        result, bins[loss] = evaluate(experiment.training.model, experiment.test), reliability_bins(scores, labels)
        low, high = result.error_interval
        outside = ((scores < 0) | (scores > 1)).double().mean().item()
        yield (
            f"| {loss} | {format_percent(result.error)} ({format_percent(low)} to {format_percent(high)}) | "
            f"{format_percent(outside, 1)} | {scores.abs().max():.2f} | {calibration_error(bins[loss]):.3f} |"
        )
    yield ""
    yield "| s(h) in | " + " | ".join(f"{loss}: images, mean s(h), fraction" for loss in LOSSES) + " |"
    yield "| --- |" + " --- |" * len(LOSSES)
    for number in range(BINS):
        row = [bins[loss][number] for loss in LOSSES]
        cells = [
            f"{each.num_images:,}, {each.mean_probability:.2f}, {each.observed_fraction:.2f}"
            if each.num_images
            else "0"
            for each in row
        ]
        yield f"| {number / BINS:.1f} to {(number + 1) / BINS:.1f} | " + " | ".join(cells) + " |"


def sample_size_table(path: str | None, epochs: int, sizes: Sequence[int], num_seeds: int) -> Iterator[str]:
    """Yields the lines of the table of training and test risk by the number of training images."""
    yield "| n | training risk | test risk | difference | training error | test error |"
    yield "| --- | --- | --- | --- | --- | --- |"
    available = build(make_config(path, epochs=epochs), torch.device("cpu")).training.batches.num_images
    for size in sizes:
        pairs, counts = [], []
        for seed in range(num_seeds if size < available else 1):
            held_out = max(0.0, 1.0 - size / available)
            experiment = train(make_config(path, held_out=held_out, seed=seed, epochs=epochs))
            training = experiment.training
            counts.append(training.batches.num_images)
            pairs.append([evaluate(training.model, images) for images in (training.batches, experiment.test)])
        risks = [format_mean_std((pair[k].loss for pair in pairs), ".3f") for k in (0, 1)]
        difference = format_mean_std((test.loss - train.loss for train, test in pairs), ".3f")
        errors = [format_percent(statistics.fmean(pair[k].error for pair in pairs), 1) for k in (0, 1)]
        yield f"| {counts[0]:,} | {risks[0]} | {risks[1]} | {difference} | {errors[0]} | {errors[1]} |"


def main() -> None:
    """Parses the flags and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--samples", action="store_true", help="training and test risk by the number of training images"
    )
    parser.add_argument("--data", metavar="PATH", help="a folder or archive of CIFAR-10's images (default: the digits)")
    parser.add_argument("--quick", action="store_true", help="few steps, and few sizes and seeds")
    flags = parser.parse_args()
    epochs, sizes = 20 if flags.quick else 200, SIZES[flags.data is not None]
    if flags.samples:
        step, num_seeds = (4, 2) if flags.quick else (1, NUM_SEEDS)
        lines = sample_size_table(flags.data, epochs, sizes[::step], num_seeds)
    else:
        lines = loss_tables(flags.data, epochs)
    for line in lines:
        print(line)


if __name__ == "__main__":
    main()
