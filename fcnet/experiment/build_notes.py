"""Notes on an experiment before it trains: what the data lacks or holds twice, and settings that will not do much.

Each is one line. A setting that cannot work at all is an error instead; see `fcnet.experiment.build_training`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fcnet.config.selection import CRITERIA, DEFAULT_SELECTION
from fcnet.data.batches import smallest_part
from fcnet.data.sources.unused import missing_class_notes
from fcnet.runtime.formatting import format_count, format_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.config import schema
    from fcnet.data.batches import Batches
    from fcnet.data.store.store import Split, Store

_IMBALANCE_RATIO = 2
_MAX_NAMED = 3
_LARGE_SIDE = 1000  # the side of a photo, not of a thumbnail
_FEW_IMAGES = 8  # of fewer, a mean and a variance are mostly noise


def data_notes(
    config: schema.Config, store: Store, classes: Sequence[str], batches: Batches, validation: Batches | None
) -> Iterator[str]:
    """Yields a line for each thing that the user should know about the data.

    Args:
        config: the configuration.
        store: the data.
        classes: the classes of the experiment.
        batches: the training set.
        validation: the validation set; None for none.
    """
    yield from store.notes
    yield from skipped_image_notes(store)
    if len(store.validation.labels):
        yield f"validation: the data's own {format_count(validation.num_images if validation else 0, 'image')}"
        yield from _absent_class_notes(store, store.validation, "validation")
    yield from _absent_class_notes(store, store.test, "test")
    yield from _copy_notes(store, store.validation, "validation")
    yield from _copy_notes(store, store.test, "test")
    counts = batches.selected_labels.bincount(minlength=len(classes)).tolist()
    yield from class_imbalance_notes(counts, classes, config.data.balance)
    yield from _image_size_notes(config, store)


def setting_notes(config: schema.Config, batches: Batches) -> Iterator[str]:
    """Yields a line for each setting of the training that has less effect than it seems.

    Args:
        config: the configuration.
        batches: the training set.
    """
    yield from schedule_notes(config)
    yield from selection_notes(config)
    if config.train.precision == "tf32" and batches.device.type != "cuda":
        yield f'train.precision = "tf32" is float32 on the device {batches.device}: TF32 needs an NVIDIA GPU'
    if config.model.kind == "mlp" and config.model.hidden and config.model.normalization == "batch":
        yield from batch_norm_notes(config.train, batches.num_images, batches.batch_size)


def skipped_image_notes(store: Store) -> Iterator[str]:
    """Yields a line if broken images were skipped."""
    if store.skipped:
        count = len(store.skipped)
        total = count + sum(len(split.labels) for split in (store.train, store.validation, store.test))
        names = format_names([name for name, _ in store.skipped[:_MAX_NAMED]], _MAX_NAMED, count)
        yield f"skipped {count:,} broken of {total:,} images: {names}; the full list is in {store.metadata_file}"


def _absent_class_notes(store: Store, split: Split, name: str) -> Iterator[str]:
    """Yields a line if a class has no image left in a split after broken ones were skipped, and so no figures there.

    The notes of the source name the classes that had none before.
    """
    if store.skipped:
        present = {store.classes[label] for label in split.labels.unique().tolist()}
        yield from (line for line in missing_class_notes(name, store.classes, present) if line not in store.notes)


def _copy_notes(store: Store, split: Split, name: str) -> Iterator[str]:
    """Yields a line if images of a split are copies of training images."""
    copies = store.train_copies[name]
    if copies.num_images:
        names = [f"image {row}" if split.names is None else split.names[row] for row in copies.first]
        verb = "is a copy of a training image" if copies.num_images == 1 else "are copies of training images"
        yield (
            f"{copies.num_images:,} of {format_count(len(split.labels), f'{name} image')} {verb}, pixel for pixel: "
            f"{format_names(names, _MAX_NAMED, copies.num_images)}; accuracy on copies says nothing about new images"
        )


def class_imbalance_notes(counts: Sequence[int], classes: Sequence[str], balance: str) -> Iterator[str]:
    """Yields a line if the largest class has at least twice the images of the smallest, without balancing.

    Example:
        >>> print(*class_imbalance_notes([90, 30], ["cat", "dog"], "none"))
        classes are imbalanced: 90 images of cat, 30 of dog; try data.balance = "weights" or "sampling"
    """
    (most, largest), *_, (least, smallest) = sorted(zip(counts, classes, strict=True), key=lambda pair: -pair[0])
    if balance == "none" and most >= _IMBALANCE_RATIO * least:
        yield (
            f"classes are imbalanced: {most:,} images of {largest}, {least:,} of {smallest}; "
            'try data.balance = "weights" or "sampling"'
        )


def _image_size_notes(config: schema.Config, store: Store) -> Iterator[str]:
    """Yields a line if photos keep their size, since every pixel is an input of every unit of the first layer."""
    if config.data.source != "images" or config.data.size:
        return
    _, height, width = store.shape
    if max(height, width) >= _LARGE_SIDE:
        yield (
            f"images have {width:,}×{height:,} pixels, and each unit of the first layer "
            f"{math.prod(store.shape):,} weights; data.size = [64, 64] resizes the images"
        )


def schedule_notes(config: schema.Config) -> Iterator[str]:
    """Yields a line for a warm-up, and one for milestones, that lie beyond the end of training.

    Example:
        >>> from fcnet.config.schema import Config, Optimizer, Train
        >>> optimizer = Optimizer(schedule="steps", milestones=(5.0, 10.0, 20.0))
        >>> print(*schedule_notes(Config(optimizer=optimizer, train=Train(epochs=10))))
        optimizer.milestones 10, 20 have no effect: training ends after 10 epochs (train.epochs)
    """
    optimizer, epochs = config.optimizer, config.train.epochs
    if optimizer.name == "lbfgs":  # it ignores the schedule
        return
    end = f"training ends after {format_count(epochs, 'epoch')} (train.epochs)"
    if optimizer.warmup_epochs >= epochs:
        yield f"the learning rate rises until {end}, because optimizer.warmup_epochs = {optimizer.warmup_epochs:g}"
    beyond = [each for each in optimizer.milestones if each >= epochs]
    if optimizer.schedule == "steps" and beyond:
        names = ", ".join(f"{each:g}" for each in beyond)
        yield f"optimizer.milestones {names} {'has' if len(beyond) == 1 else 'have'} no effect: {end}"


def selection_notes(config: schema.Config) -> Iterator[str]:
    """Yields a line if a figure is chosen to find the best epoch, and the last weights are kept whatever it is.

    Example:
        >>> from fcnet.config.schema import Config, Train
        >>> print(*selection_notes(Config(train=Train(select="validation_loss", epochs=30))))
        train.select keeps no epoch by itself: the last weights are kept, and train.patience = 30 would keep those of \
the epoch with the best validation loss
    """
    train = config.train
    if train.select != DEFAULT_SELECTION and not train.patience:
        yield (
            f"train.select keeps no epoch by itself: the last weights are kept, and train.patience = {train.epochs} "
            f"would keep those of the epoch with the best {CRITERIA[train.select].label}"
        )


def batch_norm_notes(train: schema.Train, num_images: int, batch_size: int) -> Iterator[str]:
    """Yields a line if batch normalization sees so few images at a time that it mostly normalizes noise.

    Args:
        train: the ``train`` section of the configuration.
        num_images: the number of training images.
        batch_size: the number of images in a global batch.
    """
    accumulate = train.accumulate
    part = smallest_part(min(batch_size, num_images), accumulate)
    last = num_images % batch_size
    if part < _FEW_IMAGES:
        remedy = "lower train.accumulate or raise train.batch_size" if accumulate > 1 else "raise train.batch_size"
        yield f"batch normalization sees only {part} images at a time, whose mean and variance are noise; {remedy}"
    elif last and smallest_part(last, accumulate) == 1:
        what = "has 1 image" if last == 1 else f"has {last} images in {min(accumulate, last)} parts"
        yield (
            f"the last batch of an epoch {what}, and batch normalization learns nothing from one image; "
            f"change train.batch_size ({batch_size})"
        )
