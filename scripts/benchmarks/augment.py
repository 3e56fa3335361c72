"""Times batches, plain and with each augmentation, without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.cases import Data
from benchmarks.report import Measurement, print_measurements, time_interleaved
from fcnet.data.batches import Augmentation, Batches
from fcnet.data.transforms.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from fcnet.data.transforms.augment import Transform

BATCH_SIZE = 256
NUM_BATCHES = 20
AUGMENTATIONS: dict[str, Transform] = {
    "flip": Flip(),
    "shift": Shift(4),
    "rotate, scale": Affine(15.0, 0.2),
    "color_jitter": ColorJitter(0.4),
    "cutout": Cutout(8),
}


def _iterate_epoch(batches: Batches) -> Callable[[], None]:
    """Returns a function that makes the batches of an epoch, a different one at each call."""
    epoch = 0

    def run() -> None:
        nonlocal epoch
        for _ in batches.epoch(0, epoch, reuse_buffer=True):
            pass
        epoch += 1

    return run


def compare(repeats: int, device: torch.device) -> list[Measurement]:
    """Prints and returns the milliseconds per batch."""
    kinds = {"plain": Augmentation()}
    kinds |= {name: Augmentation((transform,)) for name, transform in AUGMENTATIONS.items()}
    kinds |= {"mixup": Augmentation(mixing=MixupCutmix(mixup=0.4))}
    kinds |= {"cutmix": Augmentation(mixing=MixupCutmix(cutmix=1.0))}
    kinds["all"] = Augmentation(tuple(AUGMENTATIONS.values()), MixupCutmix(0.4, 1.0))
    data = Data.random(BATCH_SIZE * NUM_BATCHES, device)
    runs = {
        name: _iterate_epoch(
            Batches(data.pixels, data.labels, batch_size=BATCH_SIZE, augmentation=augmentation, device=device)
        )
        for name, augmentation in kinds.items()
    }
    measurements = [
        Measurement(f"a batch of {BATCH_SIZE}", name, tuple(1e3 * value / NUM_BATCHES for value in values), "ms")
        for name, values in time_interleaved(runs, repeats, fill_seconds=0.0, device=device).items()
    ]
    print_measurements(measurements)
    return measurements
