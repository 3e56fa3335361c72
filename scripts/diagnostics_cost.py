"""Measures the cost of diagnostics snapshots during training, as a Markdown table.

    python scripts/diagnostics_cost.py [CONFIG…] [--data PATH] [--epochs 5]

The script trains each configuration for a few epochs and takes and writes a snapshot after every one of them. The share
is the time of all snapshots of a whole run, as often as ``train.diagnostics_every`` says, divided by its training time.
``--data`` is a folder or archive of images to use in place of CIFAR-10.
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
from fcnet.runtime.formatting import format_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.config.schema import Config

CONFIGS = ("digits", "cifar10_softmax", "cifar10_logistic", "cifar10_mlp")


class SnapshotCost(NamedTuple):
    """The cost of the snapshots of a run.

    Attributes:
        epochs: the number of epochs of the whole run.
        epoch_seconds: the median training time of an epoch.
        snapshot_seconds: the median time to take and write a snapshot.
        num_snapshots: the number of snapshots of the whole run.
    """

    epochs: int
    epoch_seconds: float
    snapshot_seconds: float
    num_snapshots: int

    @property
    def overhead(self) -> float:
        """The time of all snapshots as a fraction of the training time."""
        return self.num_snapshots * self.snapshot_seconds / (self.epochs * self.epoch_seconds)


def measure(config: Config, epochs: int) -> SnapshotCost:
    """Trains for some epochs and takes a snapshot after each of them."""
    experiment = build(config, torch.device("cpu"))
    torch.set_num_threads(experiment.threads)
    training, every = experiment.training, experiment.diagnostics_every
    snapshots, lines = Snapshots(training, every), []
    training_seconds, snapshot_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        for record in training.advance():
            if record is None:
                continue
            start = time.perf_counter()
            lines.append(snapshots.take())
            run.write_snapshots(lines)
            snapshot_seconds.append(time.perf_counter() - start)
            training_seconds.append(record.seconds)
            if record.epoch == epochs:
                break
    total_epochs = training.algorithm.epochs
    num_snapshots = 1 + -(-total_epochs // every) if every else 0  # the first is taken before training
    return SnapshotCost(
        total_epochs, statistics.median(training_seconds), statistics.median(snapshot_seconds), num_snapshots
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the flags and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"presets (default: {' '.join(CONFIGS)})")
    parser.add_argument("--data", type=Path, help="images to use in place of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=5, help="epochs to measure (default: 5)")
    flags = parser.parse_args(arguments)
    print(", ".join(f"{name} {value}" for name, value in machine_info(torch.device("cpu")).items()) + "\n", flush=True)
    rows = []
    for name in flags.configs or CONFIGS:
        changes = ["data.source=images", f"data.path={flags.data}"] if flags.data and name != "digits" else []
        cost = measure(load_config(list_presets()[name], changes), flags.epochs)
        rows.append(
            [
                f"`{name}`",
                str(cost.epochs),
                f"{1000 * cost.epoch_seconds:.1f} ms",
                f"{1000 * cost.snapshot_seconds:.1f} ms",
                str(cost.num_snapshots),
                format_percent(cost.overhead),
            ]
        )
    print_table(["configuration", "epochs", "training/epoch", "snapshot", "snapshots", "share"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
