"""From a configuration to objects: the only file that knows both."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet import distributed, losses, optim
from fcnet.data import sources
from fcnet.data.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.batches import Batches, split_validation
from fcnet.data.mixing import Mixing
from fcnet.data.store import mean_and_std, open_store
from fcnet.data.whitening import find_whitening
from fcnet.errors import UserError
from fcnet.models import MLP, LogisticRegression
from fcnet.network import Network
from fcnet.seeds import generator
from fcnet.training import GradientDescent, Training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet import config
    from fcnet.data.augment import Transform
    from fcnet.data.sources import Source
    from fcnet.data.store import Split, Store
    from fcnet.data.whitening import Whitening

_EVALUATION_BATCH = 1000
_WHITENING_BATCH = 4096
_ONE_THREAD_PRODUCTS = 20_000_000
_PREVIEW_IMAGES = 10


@dataclass(frozen=True)
class Experiment:
    """Everything a configuration asks for, built.

    Attributes:
        training: at its beginning.
        test: the test set, to be read once.
        network: the model under training with what it takes to use it.
        fingerprint: names the data to the bit.
        threads: how many processor threads fit the work.
    """

    training: Training
    test: Batches
    network: Network
    fingerprint: str
    threads: int

    def describe(self) -> str:
        """What is about to be trained, on what, in one line."""
        training = self.training
        kept = training.validation.num_images if training.validation else 0
        parameters = sum(parameter.numel() for parameter in training.model.parameters())
        arguments = self.network.model.arguments
        outputs = 1 if arguments["num_classes"] == 2 else arguments["num_classes"]
        widths = [arguments["in_features"], *arguments["hidden"], outputs]
        return (
            f"{training.batches.num_images:,} training, {kept:,} validation and {self.test.num_images:,} test images"
            f" in {len(self.network.classes)} classes; layers {'-'.join(map(str, widths))}, {parameters:,} parameters;"
            f" {self.test.device}, {self.threads} thread{'s' * (self.threads > 1)}"
        )


def build(config: config.Config, device: torch.device) -> Experiment:
    """Opens the data and makes everything that trains on it.

    Args:
        config: the experiment.
        device: where the network and, when it fits, the data live.

    Raises:
        UserError: the data is missing, broken, or does not fit the configuration.
    """
    store = open_data(config.data)
    classes, labels, train_rows, validation_rows = _split(config, store)
    statistics = mean_and_std(store.train.moments[train_rows], store.shape[1] * store.shape[2])
    feed = partial(Batches, store.train.pixels, labels, statistics=statistics, device=device)
    whitening = _whitening(feed(rows=train_rows), config.data.whiten) if config.data.whiten else None
    feed = partial(feed, whitening=whitening)
    batches = feed(
        rows=train_rows,
        batch_size=config.train.batch_size,
        augment=_transforms(config.data.augment),
        mixing=_mixing(config.data.augment),
        balance=config.data.balance,
    )
    validation = feed(rows=validation_rows, batch_size=_EVALUATION_BATCH) if len(validation_rows) else None
    model = make_model(config, config.data.whiten or math.prod(store.shape), len(classes)).to(device)
    training = Training(
        model, batches, _algorithm(config, model, len(batches)), validation=validation, seed=config.seed
    )
    mean, std = (values.to(device) for values in statistics)
    network = Network(model, classes=classes, shape=store.shape, mean=mean, std=std, whitening=whitening)
    return Experiment(
        training=training,
        test=test_batches(store, network, device),
        network=network,
        fingerprint=store.fingerprint,
        threads=config.train.threads or choose_threads(model, config.train.batch_size),
    )


def preview(config: config.Config) -> tuple[list[str], dict[str, Batches]]:
    """A few training images of each class, to be looked at: neither normalised nor whitened.

    Returns:
        The images' classes, and their batches, of one batch an epoch: under ``""`` with all of the
        configured changes, and under each change's name with that one alone.
    """
    store = open_data(config.data)
    classes, labels, rows, _ = _split(config, store)
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
            augment=_transforms(section),
            mixing=_mixing(section),
        )
        for kind, section in {"": augment, **kinds}.items()
    }
    return [classes[label] for label in labels[shown].tolist()], batches


def _split(config: config.Config, store: Store) -> tuple[Sequence[str], Tensor, Tensor, Tensor]:
    """The classes, every image's label among them, and the rows to train on and to keep aside."""
    classes = config.data.classes or store.classes
    rows, labels = select(store.train, store.classes, classes, "data.classes")
    train_rows, validation_rows = split_validation(labels[rows], config.data.validation, config.seed)
    _check_augmentation(config.data.augment, store.shape)
    return classes, labels, rows[train_rows], rows[validation_rows]


def open_data(data: config.Data) -> Store:
    """The store of the configured source, built when it is not there yet; one rank builds, the others wait."""
    return open_store(_source(data))


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
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(f"{key} must be among {', '.join(known)}, got {', '.join(unknown)}")
    places = torch.full((len(known),), -1, dtype=torch.int64)
    for place, name in enumerate(wanted):
        places[known.index(name)] = place
    labels = places[split.labels]
    return (labels >= 0).nonzero().squeeze(1), labels


def test_data(data: config.Data, network: Network, *, path: Path | None, device: torch.device) -> Batches:
    """The test split for a finished network: of its own data, or of other data of the same kind.

    Args:
        data: what the network was trained on.
        network: whose classes and normalisation count.
        path: other data; None takes the network's own.
        device: where batches are wanted.

    Raises:
        UserError: the data does not fit the network.
    """
    if path is not None:
        if data.source not in {"images", "cifar10", "arrays"}:
            raise UserError(f"--data must be left out for a network trained on {data.source}, got {path}")
        data = data.model_copy(update={"path": str(path)})
    store = open_data(data)
    if store.shape != network.shape:
        raise UserError(f"{data.path} must hold images of shape {network.shape} for this network, got {store.shape}")
    return test_batches(store, network, device)


def test_batches(store: Store, network: Network, device: torch.device) -> Batches:
    """The test split of a network's classes, normalised and whitened as it was trained."""
    rows, labels = select(store.test, store.classes, network.classes, "the classes of the test split")
    if not len(rows):
        raise UserError("the test split must hold at least one image, got 0")
    return Batches(
        store.test.pixels,
        labels,
        rows=rows,
        batch_size=_EVALUATION_BATCH,
        statistics=(network.mean, network.std),
        whitening=network.whitening,
        device=device,
    )


def _whitening(batches: Batches, num_components: int) -> Whitening:
    """That of a whole training set, which every rank goes through by itself."""
    parts = (batches.take(rows.to(batches.images.device)) for rows in batches.rows.split(_WHITENING_BATCH))
    return find_whitening(parts, num_components)


def make_model(config: config.Config, in_features: int, num_classes: int) -> MLP:
    """The configured network, initialised from the configured seed."""
    section = config.model
    initial = generator(config.seed, "initialisation")
    if section.kind == "logistic":
        return LogisticRegression(in_features, num_classes, generator=initial)
    return MLP(
        in_features,
        section.hidden,
        num_classes,
        activation=section.activation,
        normalization=section.normalization,
        dropout=section.dropout,
        residual=section.residual,
        generator=initial,
    )


def _source(data: config.Data) -> Source:
    match data.source:
        case "digits":
            return sources.digits()
        case "cifar10":
            return sources.cifar10(Path(data.path))
        case "images":
            return sources.images(Path(data.path))
        case "arrays":
            return sources.arrays(Path(data.path))
        case "synthetic":
            return sources.synthetic(data.shape, data.train_size, data.test_size, data.num_classes)


def _transforms(augment: config.Augment) -> list[Transform]:
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
    return transforms


def _mixing(augment: config.Augment) -> Mixing | None:
    return Mixing(augment.mixup, augment.cutmix) if augment.mixup or augment.cutmix else None


def _check_augmentation(augment: config.Augment, shape: tuple[int, int, int]) -> None:
    for name, pixels in (("shift", augment.shift), ("cutout", augment.cutout)):
        if pixels >= min(shape[1:]):
            raise UserError(
                f"data.augment.{name} must be less than the images' {shape[1]}×{shape[2]} pixels, got {pixels}"
            )


def _algorithm(config: config.Config, model: MLP, steps_per_epoch: int) -> GradientDescent:
    section, train = config.optimizer, config.train
    on_gpu = next(model.parameters()).is_cuda
    groups = optim.parameter_groups(model, section.weight_decay)
    if section.name == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            groups, lr=section.lr, momentum=section.momentum, nesterov=section.nesterov, fused=True
        )
    else:
        optimizer = torch.optim.AdamW(
            groups, lr=section.lr, betas=(section.beta1, section.beta2), fused=True, capturable=on_gpu
        )
    num_steps = train.epochs * steps_per_epoch
    schedules = {"constant": optim.constant(), "cosine": optim.cosine(num_steps), "linear": optim.linear(num_steps)}
    schedule = schedules[section.schedule]
    if section.warmup_epochs:
        schedule = optim.warmed_up(schedule, round(section.warmup_epochs * steps_per_epoch))
    return GradientDescent(
        optimizer,
        epochs=train.epochs,
        schedule=schedule,
        loss=losses.CrossEntropy(train.label_smoothing),
        clip_norm=section.clip_norm,
        precision=torch.bfloat16 if train.precision == "bfloat16" else torch.float32,
    )


def choose_threads(model: MLP, batch_size: int) -> int:
    """One thread where a step's products are too small to share, else this rank's part of the processors."""
    products = batch_size * sum(parameter.numel() for parameter in model.parameters())
    if products < _ONE_THREAD_PRODUCTS:
        return 1
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // distributed.num_ranks())
