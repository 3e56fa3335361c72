"""Benchmarks fcnet against other libraries and against the speed limit of the machine, interleaved in one process.

By default the script times an epoch of training by fcnet, the usual `DataLoader` loop, a loop over resident tensors,
scikit-learn, skorch, Lightning and Keras, and the limit: one read of the data, the matrix products and the pass of the
optimizer. ``--losses`` times the cross-entropy, forward and backward, alone and behind a linear layer; ``--augment``
times batches, plain and with each augmentation; ``--store`` times the decoding of small JPEG files into a store;
``--names`` measures what the names of images add to a store; ``--startup`` times the way from the command to the first
training step; ``--probe`` times paths of logistic regressions on features to an equal objective. Packages that are not
installed are left out.

    pip install -e '.[peers]'
    python scripts/benchmark.py [--losses | --augment | --store | --names | --startup | --probe] [--device cpu]
                                [--repeats 5] [--images 50000] [--json FILE] [--plot FILE]
    python scripts/benchmark.py --probe [--features FOLDER] [--examples N] [--width D] [--classes C] [--Cs 1e-6..1e5:45]
                                [--limit SECONDS]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks import augment, losses, names, probe, startup, store, training
from benchmarks.cases import CASES, IMAGES, Data
from benchmarks.report import append_lines, machine_info, plot

if TYPE_CHECKING:
    from benchmarks.report import Measurement


def plot_path(name: str) -> Path:
    """Parses the path of a plot; the suffix selects the format."""
    path = Path(name)
    if path.suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"must end in .svg or .png, got {name}")
    return path


def measure(flags: argparse.Namespace) -> list[Measurement]:
    """Runs the selected benchmark."""
    device = torch.device(flags.device)
    if flags.losses:
        return losses.compare(flags.repeats, device)
    if flags.augment:
        return augment.compare(flags.repeats, device)
    if flags.store:
        return store.compare(flags.images, flags.repeats)
    if flags.names:
        return names.compare(flags.images, flags.repeats)
    if flags.startup:
        return startup.compare(flags.repeats)
    if flags.probe:
        return probe.run(flags)
    return training.compare(CASES[device.type], Data.random(IMAGES, device), flags.repeats)


def main() -> int:
    """Parses the flags, runs a benchmark, prints tables, and writes JSON lines and a plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--losses", action="store_true", help="time the cross-entropy instead")
    mode.add_argument("--augment", action="store_true", help="time batches with augmentation instead")
    mode.add_argument("--store", action="store_true", help="time the decoding of a store instead")
    mode.add_argument("--names", action="store_true", help="measure the names of images in a store instead")
    mode.add_argument("--startup", action="store_true", help="time the start, up to the first step, instead")
    mode.add_argument("--probe", action="store_true", help="time paths of regressions on features instead")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=IMAGES, help="with --store and --names: the number of images")
    parser.add_argument("--json", type=Path, help="append one line per measurement")
    parser.add_argument("--plot", type=plot_path, help="plot the measurements; .svg or .png")
    probe.add_flags(parser)
    flags = parser.parse_args()
    about = machine_info(torch.device(flags.device))
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"medians of {flags.repeats} interleaved repeats\n", flush=True)
    measurements = measure(flags)
    if flags.json:
        append_lines(measurements, flags.json, about)
    if flags.plot:
        plot(measurements, flags.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
