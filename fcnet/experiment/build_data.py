"""Builds the data of a configuration: from a source through the store to batches."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet.config.schema import validation_needs
from fcnet.data import sources
from fcnet.data.batches import Augmentation, Batches, Preprocessing, split_validation
from fcnet.data.features.statistics import feature_mean_and_std
from fcnet.data.features.store import open_feature_store
from fcnet.data.store.store import cache_folder, find_store, mean_and_std, open_store
from fcnet.data.transforms.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.transforms.mixup import MixupCutmix
from fcnet.data.transforms.whitening import VARIANCE_FLOOR, Whitening, fit_whitening
from fcnet.evaluation.selection import undefined_reasons
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, sha256, write_checksummed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.config import schema
    from fcnet.data.sources.source import Source
    from fcnet.data.store.build import Progress
    from fcnet.data.store.store import Split, Store
    from fcnet.data.transforms.augment import Transform
    from fcnet.experiment.image_classifier import ImageClassifier

EVALUATION_BATCH_SIZE = 1000
_WHITENING_BATCH_SIZE = 4096
_NUM_PREVIEW_IMAGES = 10


def open_data(data: schema.Data, progress: Progress | None = None) -> Store:
    """Opens the store of the configured source; one rank builds it if it does not exist yet, and the others wait.

    Features have no store in the cache: they are read from where they lie.
    """
    if data.source == "features":
        return open_configured_features(data)
    return open_store(make_source(data), progress=progress)


def open_configured_features(data: schema.Data, path: Path | None = None) -> Store:
    """Opens the configured features, or the test split of others.

    Args:
        data: the ``data`` section.
        path: a file whose test split to open; None for all splits of ``data.path``.
    """
    return open_feature_store(
        path or Path(data.path),
        feature_column=data.feature_column,
        label_column=data.label_column,
        test_only=path is not None,
    )


def compute_statistics(data: schema.Data, store: Store, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the mean and standard deviation of the training images of some rows, for each channel or feature."""
    if data.source != "features":
        return mean_and_std(store.train.moments[rows], math.prod(store.shape[1:]))
    if not data.standardize:
        return torch.zeros(store.shape), torch.ones(store.shape)
    return feature_mean_and_std(store.train.pixels, rows)


def make_source(data: schema.Data, *, download: bool = True) -> Source:
    """Returns the configured source; CIFAR is downloaded where it is missing, unless ``download`` is false."""
    match data.source:
        case "digits":
            return sources.digits()
        case "cifar10":
            return sources.cifar10(Path(data.path), download=download)
        case "cifar100":
            return sources.cifar100(Path(data.path), download=download)
        case "images":
            return sources.images(Path(data.path), data.test, data.size, skip_broken=data.skip_broken)
        case "arrays":
            return sources.arrays(Path(data.path))
        case "features":
            raise AssertionError("features are no images")
        case "synthetic":
            return sources.synthetic(data.shape, data.train_size, data.test_size, data.num_classes)


def check_data(config: schema.Config, store: Store) -> None:
    """Checks the settings that depend on the images.

    Raises:
        UserError: some settings do not fit; the message lists all of them, one per line.
    """
    data, num_classes = config.data, len(config.data.classes or store.classes)
    num_values = math.prod(store.shape)
    errors = _unknown_classes(store.classes, data.classes, "data.classes")
    for name, pixels in (("shift", data.augment.shift), ("cutout", data.augment.cutout)):
        if pixels and pixels >= min(store.shape[1:]):
            size = f"{store.shape[1]}×{store.shape[2]} pixels"
            errors.append(f"data.augment.{name} must be less than the size of the images, {size}, got {pixels}")
    if data.whiten > num_values:
        errors.append(f"data.whiten must be at most {num_values}, the values of an image, got {data.whiten}")
    if config.train.loss != "cross_entropy" and num_classes != 2:
        errors.append(f"train.loss must be cross_entropy for {num_classes} classes, got {config.train.loss}")
    if errors:
        raise UserError(*errors)


def split_rows(config: schema.Config, store: Store) -> tuple[Sequence[str], Tensor, Tensor, Tensor]:
    """Selects the classes and splits the training images.

    Returns:
        The class names; the label of each image of the training split, −1 for other classes; the rows to train on; and
        the rows held out for validation, none if the data has a validation split of its own.
    """
    classes = config.data.classes or store.classes
    rows, labels = select(store.train, store.classes, classes, "data.classes")
    share = 0.0 if len(store.validation.labels) else config.data.validation
    train_rows, validation_rows = split_validation(labels[rows], share, config.seed)
    return classes, labels, rows[train_rows], rows[validation_rows]


def check_validation(config: schema.Config, store: Store, num_held_out: int) -> None:
    """Checks that there are validation images if a setting needs them.

    Args:
        config: the configuration.
        store: the data, which may have a validation split of its own.
        num_held_out: the number of training images that are held out for validation.

    Raises:
        UserError: there are none; the message has one line for each setting.
    """
    needs = validation_needs(config)
    if not needs or num_held_out:
        return
    classes, own = config.data.classes or store.classes, store.validation
    if len(own.labels):
        if len(select(own, store.classes, classes, "data.classes")[0]):
            return
        rule, found = (
            "the validation split must have an image of these classes",
            f"{len(own.labels):,} of other classes",
        )
    elif config.data.validation:
        rule, found = "data.validation must hold out one or more images", f"none with {config.data.validation:g}"
    else:
        rule, found = "data.validation must be greater than 0", "0.0"
    raise UserError(*(f"{rule} if {need}, got {found}" for need in needs))


def check_selection(config: schema.Config, validation: Batches | None, num_classes: int) -> None:
    """Checks that ``train.select`` is a figure that the validation images have, whatever the model.

    Raises:
        UserError: it is not.
    """
    if validation is not None:
        counts = validation.selected_labels.bincount(minlength=num_classes).tolist()
        for reason in undefined_reasons(config.train.select, counts):
            raise UserError(
                f"train.select must be a figure of the validation images, got {config.train.select}: {reason}"
            )


def select(split: Split, known: Sequence[str], wanted: Sequence[str], key: str) -> tuple[Tensor, Tensor]:
    """Selects the rows of some classes and numbers their labels anew.

    Args:
        split: the images and labels.
        known: the class names of the source, in the order of its labels.
        wanted: the class names to select, in the order of the new labels.
        key: where the names come from, for the error message.

    Returns:
        The selected rows, int64; and the new label of every row of the split, −1 for the other classes.

    Raises:
        UserError: a name is not a class of the source.
    """
    if unknown := _unknown_classes(known, wanted, key):
        raise UserError(unknown[0])
    new_labels = torch.full((len(known),), -1, dtype=torch.int64)
    for label, name in enumerate(wanted):
        new_labels[known.index(name)] = label
    labels = new_labels[split.labels]
    return (labels >= 0).nonzero().squeeze(1), labels


def _unknown_classes(known: Sequence[str], wanted: Sequence[str], key: str) -> list[str]:
    """Returns an error message if some names are not classes of the source."""
    unknown = [name for name in wanted if name not in known]
    return [f"{key} must be among {', '.join(known)}, got {', '.join(unknown)}"] if unknown else []


def make_augmentation(augment: schema.Augment) -> Augmentation:
    """Builds the configured augmentation. The transforms of single images are applied in this order."""
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
    """Returns the whitening of a training set, cached in the folder of the store.

    The cache key covers the rows, the number of components, and whatever changes the rounding. The first rank reads or
    fits the whitening. The others return zeros, for the first rank's values.

    Args:
        store: the store of the images.
        batches: the training set, without whitening.
        num_components: the number of principal components to keep.
    """
    if distributed.rank() > 0:
        return Whitening(num_components, math.prod(store.shape))
    device = batches.device
    # The rounding depends on the number of threads, which sum in another order, and on the version of torch.
    inputs = [num_components, VARIANCE_FLOOR, device.type, torch.get_num_threads(), str(torch.__version__)]
    key = sha256(json.dumps(inputs).encode(), batches.rows.numpy().tobytes())
    stem = store.metadata_file.with_name(f"whitening-{key[:16]}")
    with contextlib.suppress(UserError, OSError):  # missing or damaged: fit it
        tensors, metadata = read_checksummed(stem)
        if metadata["key"] == key:
            whitening = Whitening(*tensors["weight"].shape)
            whitening.load_state_dict(tensors)
            return whitening.to(device)
    parts = (batches.get_images(rows.to(batches.images.device)) for rows in batches.rows.split(_WHITENING_BATCH_SIZE))
    whitening = fit_whitening(parts, num_components)
    with contextlib.suppress(UserError, OSError):  # a read-only or full cache costs time, nothing else
        write_checksummed(stem, whitening.state_dict(), {"key": key})
    return whitening


def preview(config: schema.Config) -> tuple[list[str], Sequence[str], dict[str, Batches]]:
    """Selects a few training images of each class for display, neither normalized nor whitened.

    Returns:
        The class name of each image; the names of all classes; and batches of these images, one batch per epoch: under
        ``""`` with all configured augmentations, and under the name of each augmentation with that one alone.
    """
    store = open_data(config.data)
    check_data(config, store)
    classes, labels, rows, _ = split_rows(config, store)
    per_class = -(-_NUM_PREVIEW_IMAGES // len(classes))
    num_classes = min(len(classes), _NUM_PREVIEW_IMAGES)
    shown = torch.cat([rows[labels[rows] == label][:per_class] for label in range(num_classes)])
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
    return [classes[label] for label in labels[shown].tolist()], classes, batches


class NotCachedError(UserError):
    """The cache does not have the images that a model was trained on."""


def own_test_data(data: schema.Data, fingerprint: str, classifier: ImageClassifier, device: torch.device) -> Batches:
    """Opens the test set of the data that a model was trained on, wherever that lies now.

    The cache is searched for it, and nothing else is opened: the settings of a run that somebody else made must not
    have any data downloaded or decoded. Scikit-learn's digits are part of the installation, so they are always there.
    Features have no store: their file is read where the run found it.

    Args:
        data: the ``data`` section of the run's configuration.
        fingerprint: the fingerprint of the data; see `fcnet.data.store.store.Store`.
        classifier: the trained model.
        device: the device of the batches.

    Raises:
        NotCachedError: the cache does not have the data, or the file has other features.
    """
    if data.source == "features":
        return test_batches(_own_features(data, fingerprint), classifier, device)
    store = find_store(fingerprint)
    if store is None and data.source == "digits":
        store = open_store(sources.digits())
    if store is None or store.fingerprint != fingerprint:
        raise NotCachedError(f"the images that the model was trained on are not in the cache ({cache_folder()})")
    return test_batches(store, classifier, device)


def _own_features(data: schema.Data, fingerprint: str) -> Store:
    """Opens the features that a model was trained on, where the run found them."""
    store = open_configured_features(data)
    if store.fingerprint != fingerprint:
        raise NotCachedError(f"{data.path} does not hold the features that the model was trained on any more")
    return store


def own_validation_batches(
    store: Store, classes: Sequence[str], preprocessing: Preprocessing, device: torch.device
) -> Batches | None:
    """Builds the validation set from the data's own validation split.

    Args:
        store: the data.
        classes: the classes of the experiment.
        preprocessing: the normalization and whitening of the training images.
        device: the device of the batches.

    Returns:
        The batches; None if the data has no validation split, or no validation image of these classes.
    """
    rows, labels = select(store.validation, store.classes, classes, "data.classes")
    if not len(rows):
        return None
    return Batches(
        store.validation.pixels,
        labels,
        rows=rows,
        batch_size=EVALUATION_BATCH_SIZE,
        preprocessing=preprocessing,
        device=device,
    )


def test_batches(
    store: Store,
    classifier: ImageClassifier,
    device: torch.device,
    labels: Tensor | None = None,  # noqa: PT028 - not a test
) -> Batches:
    """Builds the test set of a model's classes, normalized and whitened as in training.

    Args:
        store: the store of the images.
        classifier: the model.
        device: the device of the batches.
        labels: the model's class index of each test image, −1 for those to leave out; None to match classes by name,
            each of which must be a class of the store.
    """
    if labels is None:
        _, labels = select(store.test, store.classes, classifier.classes, "the classes of the test split")
    rows = (labels >= 0).nonzero().squeeze(1)
    if not len(rows):
        raise UserError("the test split must hold at least one image of these classes, got 0")
    return Batches(
        store.test.pixels,
        labels,
        rows=rows,
        batch_size=EVALUATION_BATCH_SIZE,
        preprocessing=Preprocessing(
            classifier.mean, classifier.std, classifier.whitening, l2_normalize=classifier.l2_normalize
        ),
        names=store.test.names,
        device=device,
    )
