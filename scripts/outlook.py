"""Prints, as Markdown, the least cost of training dense networks on small and large image sets.

`fcnet.models.flops` counts the figures. None is measured.

    python scripts/outlook.py
"""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

from fcnet.models.flops import DeviceSpec, step_cost, training_hours

# The fastest product and the fastest copy measured on an NVIDIA H100 SXM, and a network of 400 Gbit/s.
H100 = DeviceSpec(flops=703e12, memory_bandwidth=3.0e12, link_bandwidth=50e9)
BATCH, DEVICES, EPOCHS = 4096, 64, 30
NETWORKS = ((), (512, 256), (8192, 2048))


class ImageSet(NamedTuple):
    """A training set, with the shape (C, H, W) of an image as the network gets it."""

    name: str
    images: int
    shape: tuple[int, int, int]
    classes: int


SETS = (
    ImageSet("CIFAR-10", 50_000, (3, 32, 32), 10),
    ImageSet("ImageNet", 14_197_122, (3, 224, 224), 21_841),
    ImageSet("JFT-300M", 300_000_000, (3, 224, 224), 18_291),
)


def duration(hours: float) -> str:
    """Formats hours in seconds, minutes, hours or days."""
    for unit, of_an_hour in (("s", 3600.0), ("min", 60.0), ("h", 1.0)):
        if hours * of_an_hour < {"s": 100.0, "min": 100.0, "h": 72.0}[unit]:
            return f"{hours * of_an_hour:.2g} {unit}"
    return f"{hours / 24:,.0f} days"


def count(number: int) -> str:
    """Formats a large number in thousands (k), millions (M) or billions (G)."""
    power = int(math.log10(number)) // 3
    return f"{number / 1000**power:.3g} {('', 'k', 'M', 'G')[power]}"


def row(of: ImageSet, hidden: tuple[int, ...]) -> str:
    """Returns the table row of one network on one set."""
    widths = [math.prod(of.shape), *hidden, of.classes]
    hours = []
    for devices, batch in ((1, BATCH), (DEVICES, BATCH), (DEVICES, BATCH * DEVICES)):
        cost = step_cost(widths, batch, num_devices=devices)
        taken = training_hours(cost, H100, num_images=of.images, batch_size=batch, epochs=EPOCHS)
        hours.append(duration(taken) if batch <= of.images else "–")
    cost = step_cost(widths, BATCH)
    feed = BATCH * math.prod(of.shape) / cost.seconds(H100) / 1e9
    name = f"[{', '.join(map(str, hidden))}]" if hidden else "softmax regression"
    counts = f"{count(cost.parameters)} | {cost.flops / 1e12:.3g} | {cost.bytes_moved / 1e9:.3g}"
    return f"| {of.name} | {name} | {counts} | {' | '.join(hours)} | {feed:.3g} |"


def main() -> int:
    """Prints a table of the sets and a table of the costs."""
    print("| images | how many | classes | shape | as bytes |\n| --- | --- | --- | --- | --- |")
    for of in SETS:
        size = of.images * math.prod(of.shape)
        written = f"{size / 1e12:,.1f} TB" if size > 1e12 else f"{size / 1e9:.2f} GB"
        print(f"| {of.name} | {of.images:,} | {of.classes:,} | {' × '.join(map(str, of.shape))} | {written} |")
    several = f"{DEVICES} GPUs, {BATCH:,} images in all | {DEVICES} GPUs, {BATCH:,} each"
    print(
        f"\n| images | network | parameters | TFLOP a step | GB a step | 1 GPU | {several} | GB/s of pixels for one |"
    )
    print(f"{'| --- ' * 9}|")
    for of in SETS:
        for hidden in NETWORKS:
            print(row(of, hidden))
    return 0


if __name__ == "__main__":
    sys.exit(main())
