"""The images of a configuration: from a source to batches."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.data import sources
from fcnet.data.batches import Augmentation, Batches, Preprocessing, split_validation
from fcnet.data.store.store import open_store
from fcnet.data.transforms.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.data.transforms.whitening import VARIANCE_FLOOR, Whitening, fit_whitening
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, sha256, write_checksummed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet.config import schema
    from fcnet.data.sources.source import Source
    from fcnet.data.store.build import Progress
    from fcnet.data.store.store import Split, Store
    from fcnet.data.transforms.augment import Transform
    from fcnet.experiment.image_classifier import ImageClassifier

EVALUATION_BATCH_SIZE = 1000
_WHITENING_BATCH_SIZE = 4096
_PREVIEW_IMAGES = 10
_IMBALANCE_RATIO = 2
_MAX_NAMED = 3


def open_data(data: schema.Data, progress: Progress | None = None) -> Store:
    """The store of the configured source, built when it is not there yet; one rank builds, the others wait."""
    return open_store(_source(data), progress=progress)


def _source(data: schema.Data) -> Source:
    match data.source:
        case "digits":
            return sources.digits()
        case "cifar10":
            return sources.cifar10(Path(data.path))
        case "cifar100":
            return sources.cifar100(Path(data.path))
        case "images":
            return sources.images(Path(data.path), data.test, data.size, skip_broken=data.skip_broken)
        case "arrays":
            return sources.arrays(Path(data.path))
        case "synthetic":
            return sources.synthetic(data.shape, data.train_size, data.test_size, data.num_classes)


def check_data(config: schema.Config, store: Store) -> None:
    """Refuses settings that do not go with the images, all of them at once."""
    data, num_classes = config.data, len(config.data.classes or store.classes)
    _, height, width = store.shape
    errors = _unknown_classes(store.classes, data.classes, "data.classes")
    for name, pixels in (("shift", data.augment.shift), ("cutout", data.augment.cutout)):
        if pixels >= min(height, width):
            errors.append(f"data.augment.{name} must be less than the images' {height}×{width} pixels, got {pixels}")
    if data.whiten > math.prod(store.shape):
        errors.append(f"data.whiten must be at most the {math.prod(store.shape)} values of an image, got {data.whiten}")
    if config.train.loss != "cross_entropy" and num_classes != 2:
        errors.append(f"train.loss must be cross_entropy for {num_classes} classes, got {config.train.loss}")
    if errors:
        raise UserError("\n".join(errors))


def split_rows(config: schema.Config, store: Store) -> tuple[Sequence[str], Tensor, Tensor, Tensor]:
    """The classes, every image's label among them, and the rows to train on and to keep aside."""
    classes = config.data.classes or store.classes
    rows, labels = select(store.train, store.classes, classes, "data.classes")
    train_rows, validation_rows = split_validation(labels[rows], config.data.validation, config.seed)
    return classes, labels, rows[train_rows], rows[validation_rows]


def select(split: Split, known: Sequence[str], wanted: Sequence[str], key: str) -> tuple[Tensor, Tensor]:
    """The rows of some classes, and every row's label among them, −1 for the others'.

    Args:
        split: images and labels.
        known: the source's classes, in the order of its labels.
        wanted: names, in the order of the new labels.
        key: what the names came from, for the message.

    Raises:
        UserError: a name is not a class of the source.
    """
    if unknown := _unknown_classes(known, wanted, key):
        raise UserError(unknown[0])
    places = torch.full((len(known),), -1, dtype=torch.int64)
    for place, name in enumerate(wanted):
        places[known.index(name)] = place
    labels = places[split.labels]
    return (labels >= 0).nonzero().squeeze(1), labels


def _unknown_classes(known: Sequence[str], wanted: Sequence[str], key: str) -> list[str]:
    """The mistake of names that are no class, if there are any."""
    unknown = [name for name in wanted if name not in known]
    return [f"{key} must be among {', '.join(known)}, got {', '.join(unknown)}"] if unknown else []


def make_augmentation(augment: schema.Augment) -> Augmentation:
    """Builds the configured augmentation; transforms of single images come first, in this order."""
    transforms: list[Transform] = []
    if augment.flip:
        transforms.append(Flip())
    if augment.shift:
        transforms.append(Shift(augment.shift))
    if augment.rotate or augment.scale:
        transforms.append(Affine(augment.rotate, augment.scale))
    if augment.color_jitter:
        transforms.append(ColorJitter(augment.color_jitter))
    if augment.cutout:
        transforms.append(Cutout(augment.cutout))
    mixing = MixupCutmix(augment.mixup, augment.cutmix) if augment.mixup or augment.cutmix else None
    return Augmentation(tuple(transforms), mixing)


def load_or_fit_whitening(store: Store, batches: Batches, num_components: int) -> Whitening:
    """That of a whole training set, which every rank goes through by itself.

    It is kept beside the store, where the next training on the same rows finds it.

    Args:
        store: where the images are from.
        batches: the training set, not yet whitened.
        num_components: how many are kept.
    """
    device = batches.device
    # Other threads add up in another order, and another version may choose another way.
    inputs = [num_components, VARIANCE_FLOOR, device.type, torch.get_num_threads(), str(torch.__version__)]
    key = sha256(json.dumps(inputs).encode(), batches.rows.numpy().tobytes())
    stem = store.metadata_file.with_name(f"whitening-{key[:16]}")
    with contextlib.suppress(UserError, OSError):
        tensors, metadata = read_checksummed(stem)
        if metadata["key"] == key:
            whitening = Whitening(*tensors["weight"].shape)
            whitening.load_state_dict(tensors)
            return whitening.to(device)
    parts = (batches.get_images(rows.to(batches.images.device)) for rows in batches.rows.split(_WHITENING_BATCH_SIZE))
    whitening = fit_whitening(parts, num_components)
    if distributed.rank() == 0:
        with contextlib.suppress(UserError, OSError):
            write_checksummed(stem, whitening.state_dict(), {"key": key})
    return whitening


def preview(config: schema.Config) -> tuple[list[str], dict[str, Batches]]:
    """A few training images of each class, to be looked at: neither normalised nor whitened.

    Returns:
        The images' classes, and their batches, of one batch an epoch: under ``""`` with all of the
        configured changes, and under each change's name with that one alone.
    """
    store = open_data(config.data)
    check_data(config, store)
    classes, labels, rows, _ = split_rows(config, store)
    each = -(-_PREVIEW_IMAGES // len(classes))
    shown = torch.cat([rows[labels[rows] == label][:each] for label in range(min(len(classes), _PREVIEW_IMAGES))])
    augment = config.data.augment
    kinds = {name: type(augment)(**{name: value}) for name, value in augment.model_dump().items() if value}
    batches = {
        kind: Batches(
            store.train.pixels,
            labels,
            rows=shown,
            batch_size=len(shown),
            augmentation=make_augmentation(section),
        )
        for kind, section in {"": augment, **kinds}.items()
    }
    return [classes[label] for label in labels[shown].tolist()], batches


def test_data(
    data: schema.Data,
    classifier: ImageClassifier,
    *,
    path: Path | None,
    device: torch.device,
    progress: Progress | None = None,  # noqa: PT028 - no test, whatever its name
) -> Batches:
    """The test split for a finished network: of its own data, or of other data with the same classes.

    Args:
        data: what the network was trained on.
        classifier: whose classes and normalisation count.
        path: other data, a ``.npz`` file, a folder or an archive of images, or for a network trained on a CIFAR the
            folder that one is in; None takes the network's own.
        device: where batches are wanted.
        progress: told how far the data is decoded; see `open_store`.

    Raises:
        UserError: the data does not fit the network.
    """
    if path is not None:
        data = data.model_copy(update={"path": str(path), "source": _source_name(data.source, path)})
    store = open_data(data, progress)
    if store.shape != classifier.shape:
        raise UserError(f"{data.path} must hold images of shape {classifier.shape} for this network, got {store.shape}")
    return test_batches(store, classifier, device)


def _source_name(own: str, path: Path) -> str:
    """What source other data are of: by their path, and where that leaves a choice by the network's own."""
    if path.suffix == ".npz" or (own == "arrays" and not path.is_dir() and ".tar" not in path.name):
        return "arrays"
    empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    return own if own in {"cifar10", "cifar100"} and (empty or any(path.glob("cifar-*"))) else "images"


def test_batches(store: Store, classifier: ImageClassifier, device: torch.device) -> Batches:
    """The test split of a network's classes, normalised and whitened as it was trained."""
    rows, labels = select(store.test, store.classes, classifier.classes, "the classes of the test split")
    if not len(rows):
        raise UserError("the test split must hold at least one image, got 0")
    return Batches(
        store.test.pixels,
        labels,
        rows=rows,
        batch_size=EVALUATION_BATCH_SIZE,
        preprocessing=Preprocessing(classifier.mean, classifier.std, classifier.whitening),
        device=device,
    )


def skipped_image_notes(store: Store) -> Iterator[str]:
    """A line where images of the source are not in the store."""
    if store.skipped:
        count = len(store.skipped)
        total = count + len(store.train.labels) + len(store.test.labels)
        names = ", ".join(name for name, _ in store.skipped[:_MAX_NAMED]) + (", …" if count > _MAX_NAMED else "")
        yield f"skipped {count:,} broken of {total:,} images: {names}; all of them, and why, are in {store.metadata_file}"


def class_imbalance_notes(labels: Tensor, classes: Sequence[str], balance: str) -> Iterator[str]:
    """A line where the largest class has at least twice the smallest's training images, and nothing evens them out."""
    counts = sorted(
        zip(labels.bincount(minlength=len(classes)).tolist(), classes, strict=True), key=lambda pair: -pair[0]
    )
    if balance == "none" and counts[0][0] >= _IMBALANCE_RATIO * counts[-1][0]:
        (most, largest), (least, smallest) = counts[0], counts[-1]
        yield (
            f"classes are uneven: {most:,} of {largest}, {least:,} of {smallest}; "
            'data.balance = "weights" or "sampling" evens them out'
        )
