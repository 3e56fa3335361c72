"""Prints what is learned of two classes of images: by three losses of a score, or from more and more images.

One network, w·x + b on normalised pixels, and one algorithm, L-BFGS on all training images with a decay of 0.01; what
differs is the loss. Digits 3 and 8, or with --data airplanes and automobiles of an archive of CIFAR-10's images.

    python scripts/learning.py [--samples] [--data PATH] [--quick]
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

import fcnet
import fcnet.functional as F
from fcnet.config.schema import Config
from fcnet.evaluation.classification import evaluate
from fcnet.experiment.build import build

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.evaluation.classification import Evaluation
    from fcnet.experiment.build import Experiment

LOSSES = ("logistic", "hinge", "quadratic")
BINS = 5
SIZES = (20, 40, 80, 160, 286), (100, 300, 1000, 3000, 10_000)
NUM_SEEDS = 5


class Bin(NamedTuple):
    """Test images whose s(h) lies in one fifth of [0, 1].

    Attributes:
        num_images: how many.
        mean_probability: the mean of s(h) over them.
        observed_fraction: the share of them that is of the second class.
    """

    num_images: int
    mean_probability: float
    observed_fraction: float


def make_config(
    path: str | None, *, loss: str = "logistic", held_out: float = 0.0, seed: int = 0, epochs: int
) -> Config:
    """The experiment: the images, and by which loss."""
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
    """The experiment, trained."""
    experiment = build(config, torch.device("cpu"))
    training = experiment.training
    for _ in fcnet.fit(training.model, training.batches, training.algorithm, seed=config.seed):
        pass
    return experiment


@torch.no_grad()
def scores_and_labels(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """h and the label of every test image, (n,) both."""
    batches = [(experiment.training.model(batch.images), batch.labels) for batch in experiment.test]
    scores, labels = zip(*batches, strict=True)
    return torch.cat(scores), torch.cat(labels)


def reliability_bins(scores: Tensor, labels: Tensor) -> list[Bin]:
    """What s(h) says beside what is seen, from the lowest fifth to the highest."""
    said = F.sigmoid(scores)
    place = (said * BINS).long().clamp(max=BINS - 1)
    found = []
    for number in range(BINS):
        inside = place == number
        count = int(inside.sum())
        means = [values[inside].double().mean().item() if count else math.nan for values in (said, labels)]
        found.append(Bin(count, *means))
    return found


def calibration_error(found: Sequence[Bin]) -> float:
    """The mean over all images of |said − seen| in their bins."""
    filled = [each for each in found if each.num_images]
    return sum(each.num_images * abs(each.mean_probability - each.observed_fraction) for each in filled) / sum(
        each.num_images for each in filled
    )


def loss_tables(path: str | None, epochs: int) -> Iterator[str]:
    """The tables of the three losses, line by line."""
    found = {}
    yield "| loss | test error (95 % interval) | scores outside [0, 1] | largest size | mean of abs. said − seen |"
    yield "| --- | --- | --- | --- | --- |"
    for loss in LOSSES:
        experiment = train(make_config(path, loss=loss, epochs=epochs))
        scores, labels = scores_and_labels(experiment)
        seen, found[loss] = evaluate(experiment.training.model, experiment.test), reliability_bins(scores, labels)
        low, high = seen.error_interval
        outside = ((scores < 0) | (scores > 1)).double().mean().item()
        yield (
            f"| {loss} | {seen.error:.2%} ({low:.2%} to {high:.2%}) | {outside:.1%} | {scores.abs().max():.2f} | "
            f"{calibration_error(found[loss]):.3f} |"
        )
    yield ""
    yield "| s(h) in | " + " | ".join(f"{loss}: images, said, seen" for loss in LOSSES) + " |"
    yield "| --- |" + " --- |" * len(LOSSES)
    for number in range(BINS):
        row = [found[loss][number] for loss in LOSSES]
        cells = [
            f"{each.num_images:,}, {each.mean_probability:.2f}, {each.observed_fraction:.2f}"
            if each.num_images
            else "0"
            for each in row
        ]
        yield f"| {number / BINS:.1f} to {(number + 1) / BINS:.1f} | " + " | ".join(cells) + " |"


def sample_size_table(path: str | None, epochs: int, sizes: Sequence[int], num_seeds: int) -> Iterator[str]:
    """The table of training and test risk over the number of images learned from."""
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
        risks = [format_mean_std([pair[k].loss for pair in pairs]) for k in (0, 1)]
        difference = format_mean_std([test.loss - train.loss for train, test in pairs])
        yield (
            f"| {counts[0]:,} | {risks[0]} | {risks[1]} | {difference} | "
            f"{mean_error([pair[0] for pair in pairs])} | {mean_error([pair[1] for pair in pairs])} |"
        )


def format_mean_std(values: Sequence[float]) -> str:
    """Mean and standard deviation; the mean alone of one value."""
    numbers = torch.tensor(values, dtype=torch.float64)
    return f"{numbers.mean():.3f}" + (f" ± {numbers.std():.3f}" if len(values) > 1 else "")


def mean_error(seen: Sequence[Evaluation]) -> str:
    """The mean misclassification rate."""
    return f"{sum(each.error for each in seen) / len(seen):.1%}"


def main() -> None:
    """Parses the flags and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", action="store_true", help="training and test risk over the number of images")
    parser.add_argument("--data", metavar="PATH", help="CIFAR-10's images in a tar archive; else scikit-learn's digits")
    parser.add_argument("--quick", action="store_true", help="few steps, and few sizes and seeds")
    flags = parser.parse_args()
    epochs, sizes = 20 if flags.quick else 200, SIZES[flags.data is not None]
    if flags.samples:
        few = flags.quick
        lines = sample_size_table(flags.data, epochs, sizes[:: 4 if few else 1], 2 if few else NUM_SEEDS)
    else:
        lines = loss_tables(flags.data, epochs)
    for line in lines:
        print(line)


if __name__ == "__main__":
    main()
