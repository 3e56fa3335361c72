"""Measures what looking into a network while it is trained costs, as a table in Markdown.

    python scripts/diagnostics_cost.py [CONFIG…] [--data PATH] [--epochs 5]

Each shipped configuration whose images are there is trained for some epochs; after each of them the network is looked
into and the look is written, as a run does it, whether it is due or not. The share is that of all looks of a whole run,
as many as it would make, in its seconds of training. ``--data`` is a folder or archive of images that takes CIFAR-10's
place.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks.report import machine_info, print_table
from fcnet.config.presets import list_presets
from fcnet.config.toml import load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.snapshots import Snapshots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.config.schema import Config

CONFIGS = ("digits", "cifar10_softmax", "cifar10_logistic", "cifar10_mlp")


class SnapshotCost(NamedTuple):
    """What the looks of a run cost.

    Attributes:
        epochs: of the whole run.
        epoch_seconds: of training, the median.
        snapshot_seconds: of a look and its writing, the median.
        num_snapshots: of the whole run.
    """

    epochs: int
    epoch_seconds: float
    snapshot_seconds: float
    num_snapshots: int

    @property
    def overhead(self) -> float:
        """Of the run's seconds of training."""
        return self.num_snapshots * self.snapshot_seconds / (self.epochs * self.epoch_seconds)


def measure(config: Config, epochs: int) -> SnapshotCost:
    """Trains for some epochs, and looks after each of them."""
    experiment = build(config, torch.device("cpu"))
    torch.set_num_threads(experiment.threads)
    training = experiment.training
    snapshots, lines = Snapshots(training), []
    training_seconds, snapshot_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        for record in training.advance():
            if record is None:
                continue
            since = time.perf_counter()
            lines.append(snapshots.take())
            run.write_snapshots(lines)
            snapshot_seconds.append(time.perf_counter() - since)
            training_seconds.append(record.seconds)
            if record.epoch == epochs:
                break
    whole = training.algorithm.epochs
    num_snapshots = 1 + -(-whole // snapshots.every)
    return SnapshotCost(whole, statistics.median(training_seconds), statistics.median(snapshot_seconds), num_snapshots)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"shipped; default: {' '.join(CONFIGS)}")
    parser.add_argument("--data", type=Path, help="images in the place of CIFAR-10's")
    parser.add_argument("--epochs", type=int, default=5, help="how many are measured of each (default: 5)")
    flags = parser.parse_args(arguments)
    print(", ".join(f"{name} {value}" for name, value in machine_info(torch.device("cpu")).items()) + "\n", flush=True)
    rows = []
    for name in flags.configs or CONFIGS:
        changes = ["data.source=images", f"data.path={flags.data}"] if flags.data and name != "digits" else []
        seen = measure(load_config(list_presets()[name], changes), flags.epochs)
        rows.append(
            [
                f"`{name}`",
                str(seen.epochs),
                f"{1000 * seen.epoch_seconds:.1f} ms",
                f"{1000 * seen.snapshot_seconds:.1f} ms",
                str(seen.num_snapshots),
                f"{seen.overhead:.2%}",
            ]
        )
    print_table(["configuration", "epochs", "an epoch's training", "a look", "looks", "share"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
