"""Times fcnet against others and against what the machine can do, in turn and in one run.

Without a mode it times an epoch of training: ours, the usual `DataLoader` loop, the loop over resident tensors,
scikit-learn, skorch, Lightning, Keras, and the limit: one read of the data, the matrix products, the
optimizer's pass. With ``--losses`` it times the cross-entropy, forward and backward, against torch's, and with a
linear layer before it; with ``--augment`` the making of a batch, plain and with each change of the images; with
``--store`` the making of a store of small JPEG files against Pillow alone; with ``--startup`` the
time from the command to the first step. Others that are not installed are left out; all are, by

    pip install -e '.[peers]'
    python scripts/benchmark.py [--losses | --augment | --store | --startup] [--device cpu] [--repeats 5]
                                [--images 50000] [--json FILE] [--plot FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks import augment, losses, startup, store, training
from benchmarks.cases import CASES, IMAGES, Data
from benchmarks.report import append_lines, machine_info, plot

if TYPE_CHECKING:
    from benchmarks.report import Measurement


def plot_path(name: str) -> Path:
    """A path whose ending says how to draw."""
    path = Path(name)
    if path.suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"must end in .svg or .png, got {name}")
    return path


def measure(flags: argparse.Namespace) -> list[Measurement]:
    """What is asked for."""
    device = torch.device(flags.device)
    if flags.losses:
        return losses.compare(flags.repeats, device)
    if flags.augment:
        return augment.compare(flags.repeats, device)
    if flags.store:
        return store.compare(flags.images, flags.repeats)
    if flags.startup:
        return startup.compare(flags.repeats)
    return training.compare(CASES[device.type], Data.random(IMAGES, device), flags.repeats)


def main() -> int:
    """Measures, prints tables, and writes JSON lines and a plot where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--losses", action="store_true", help="compare the cross-entropy instead")
    mode.add_argument("--augment", action="store_true", help="time the making of a batch instead")
    mode.add_argument("--store", action="store_true", help="time the making of a store instead")
    mode.add_argument("--startup", action="store_true", help="time the way to the first step instead")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=IMAGES, help="with --store: how many")
    parser.add_argument("--json", type=Path, help="append a line for each figure")
    parser.add_argument("--plot", type=plot_path, help="draw the figures; .svg or .png")
    flags = parser.parse_args()
    about = machine_info(torch.device(flags.device))
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"medians of {flags.repeats} interleaved repeats\n", flush=True)
    figures = measure(flags)
    if flags.json:
        append_lines(figures, flags.json, about)
    if flags.plot:
        plot(figures, flags.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
