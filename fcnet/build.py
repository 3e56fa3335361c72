"""From a configuration to objects: the only file that knows both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcnet import distributed, losses, memory, optim, schedules
from fcnet.data import sources
from fcnet.data.augment import Affine, ColorJitter, Cutout, Flip, Shift
from fcnet.data.batches import Batches, split_validation
from fcnet.data.mixing import Mixing
from fcnet.data.store import mean_and_std, open_store
from fcnet.data.whitening import find_whitening
from fcnet.data.workers import num_processors
from fcnet.errors import UserError
from fcnet.models import MLP, LogisticRegression
from fcnet.network import Network
from fcnet.seeds import generator
from fcnet.training import GradientDescent, Training

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fcnet import config
    from fcnet.data.augment import Transform
    from fcnet.data.building import Progress
    from fcnet.data.sources import Source
    from fcnet.data.store import Split, Store
    from fcnet.data.whitening import Whitening
    from fcnet.memory import Need
    from fcnet.schedules import Schedule

_EVALUATION_BATCH = 1000
_WHITENING_BATCH = 4096
_ONE_THREAD_PRODUCTS = 20_000_000
_PREVIEW_IMAGES = 10
_MOMENTS = {"sgd": 1, "adam": 2, "adamw": 2, "muon": 1, "lbfgs": 25}
_UNEVEN = 2
_NAMED = 3


@dataclass(frozen=True)
class Experiment:
    """Everything a configuration asks for, built.

    Attributes:
        training: at its beginning.
        test: the test set, to be read once.
        network: the model under training with what it takes to use it.
        fingerprint: names the data to the bit.
        threads: how many processor threads fit the work.
        need: the memory that a step takes.
        free_bytes: the memory that was free before anything was made; None where nobody tells.
        remarks: what the user should know of the data, a line each.
    """

    training: Training
    test: Batches
    network: Network
    fingerprint: str
    threads: int
    need: Need
    free_bytes: int | None
    remarks: tuple[str, ...]

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


def build(config: config.Config, device: torch.device, progress: Progress | None = None) -> Experiment:
    """Opens the data and makes everything that trains on it.

    Args:
        config: the experiment.
        device: where the network and, when it fits, the data live.
        progress: told how far the data is decoded; see `open_store`.

    Raises:
        UserError: the data is missing, broken, or does not fit the configuration.
    """
    store = open_data(config.data, progress)
    _check_fit(config.data, store)
    classes, labels, train_rows, validation_rows = _split(config, store)
    statistics = mean_and_std(store.train.moments[train_rows], store.shape[1] * store.shape[2])
    need, free_bytes = _need(config, store, len(train_rows), len(classes), device), memory.free_bytes(device)
    if free_bytes is not None:
        need.check_parameters(free_bytes)
    feed = partial(Batches, store.train.pixels, labels, statistics=statistics, device=device)
    whitening = _whitening(feed(rows=train_rows), config.data.whiten) if config.data.whiten else None
    feed = partial(feed, whitening=whitening)
    batches = feed(
        rows=train_rows,
        batch_size=len(train_rows) if config.train.batch_size == "all" else config.train.batch_size,
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
    network = Network(
        model,
        classes=classes,
        shape=store.shape,
        mean=mean,
        std=std,
        whitening=whitening,
        resize=config.data.source == "images" and bool(config.data.size),
    )
    return Experiment(
        training=training,
        test=test_batches(store, network, device),
        network=network,
        fingerprint=store.fingerprint,
        threads=config.train.threads or choose_threads(model, batches.batch_size),
        need=need,
        free_bytes=free_bytes,
        remarks=(*_skipped(store), *_unevenness(labels[train_rows], classes)),
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
    return classes, labels, rows[train_rows], rows[validation_rows]


def open_data(data: config.Data, progress: Progress | None = None) -> Store:
    """The store of the configured source, built when it is not there yet; one rank builds, the others wait."""
    return open_store(_source(data), progress=progress)


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


def test_data(
    data: config.Data,
    network: Network,
    *,
    path: Path | None,
    device: torch.device,
    progress: Progress | None = None,  # noqa: PT028 - no test, whatever its name
) -> Batches:
    """The test split for a finished network: of its own data, or of other data of the same kind.

    Args:
        data: what the network was trained on.
        network: whose classes and normalisation count.
        path: other data; None takes the network's own.
        device: where batches are wanted.
        progress: told how far the data is decoded; see `open_store`.

    Raises:
        UserError: the data does not fit the network.
    """
    if path is not None:
        if data.source not in {"images", "cifar10", "cifar100", "arrays"}:
            raise UserError(f"--data must be left out for a network trained on {data.source}, got {path}")
        data = data.model_copy(update={"path": str(path)})
    store = open_data(data, progress)
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
    """The configured network, initialised from the configured seed.

    Example:
        >>> from fcnet.config import Config, Model
        >>> model = make_model(Config(model=Model(hidden=(16,))), in_features=64, num_classes=10)
        >>> [tuple(parameter.shape) for parameter in model.parameters()]
        [(16, 64), (16,), (10, 16), (10,)]
    """
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
        initialization=section.initialization,
        generator=initial,
    )


def _need(config: config.Config, store: Store, train_images: int, num_classes: int, device: torch.device) -> Need:
    model, pixels = config.model, math.prod(store.shape)
    plain = model.kind == "logistic"
    images = train_images if config.train.batch_size == "all" else min(config.train.batch_size, train_images)
    widths = [config.data.whiten or pixels, *(() if plain else model.hidden), 1 if num_classes == 2 else num_classes]
    return memory.need(
        widths,
        images=-(-images // (distributed.num_ranks() * config.train.accumulate)),
        activation=model.activation,
        normalization="none" if plain else model.normalization,
        dropout=not plain and model.dropout > 0.0,
        moments=_MOMENTS[config.optimizer.name] + (config.train.ema_decay > 0.0) + (config.train.patience > 0),
        pixels=pixels if config.data.whiten else 0,
        data_bytes=store.train.pixels.nbytes + store.test.pixels.nbytes if device.type == "cuda" else 0,
    )


def _source(data: config.Data) -> Source:
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


def _skipped(store: Store) -> Iterator[str]:
    """A line where images of the source are not in the store."""
    if store.skipped:
        count = len(store.skipped)
        total = count + len(store.train.labels) + len(store.test.labels)
        names = ", ".join(name for name, _ in store.skipped[:_NAMED]) + (", …" if count > _NAMED else "")
        yield f"skipped {count:,} broken of {total:,} images: {names}; all of them, and why, are in {store.about}"


def _unevenness(labels: Tensor, classes: Sequence[str]) -> Iterator[str]:
    """A line where the largest class has twice the training images of the smallest, or more."""
    counts = sorted(
        zip(labels.bincount(minlength=len(classes)).tolist(), classes, strict=True), key=lambda pair: -pair[0]
    )
    if counts[0][0] >= _UNEVEN * counts[-1][0]:
        (most, largest), (least, smallest) = counts[0], counts[-1]
        yield (
            f"classes are uneven: {most:,} of {largest}, {least:,} of {smallest}; "
            'data.balance = "weights" or "sampling" evens them out'
        )


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


def _check_fit(data: config.Data, store: Store) -> None:
    """Refuses settings that do not go with the images, all of them at once."""
    _, height, width = store.shape
    mistakes = _unknown_classes(store.classes, data.classes, "data.classes")
    for name, pixels in (("shift", data.augment.shift), ("cutout", data.augment.cutout)):
        if pixels >= min(height, width):
            mistakes.append(f"data.augment.{name} must be less than the images' {height}×{width} pixels, got {pixels}")
    if data.whiten > math.prod(store.shape):
        mistakes.append(
            f"data.whiten must be at most the {math.prod(store.shape)} values of an image, got {data.whiten}"
        )
    if mistakes:
        raise UserError("\n".join(mistakes))


def _algorithm(config: config.Config, model: MLP, steps_per_epoch: int) -> GradientDescent:
    train = config.train
    return GradientDescent(
        _optimizer(config.optimizer, model),
        epochs=train.epochs,
        schedule=_schedule(config.optimizer, train.epochs, steps_per_epoch),
        loss=losses.CrossEntropy(train.label_smoothing),
        clip_norm=config.optimizer.clip_norm,
        precision=torch.bfloat16 if train.precision == "bfloat16" else torch.float32,
        accumulate=train.accumulate,
        ema_decay=train.ema_decay,
        patience=train.patience,
    )


def _optimizer(section: config.Optimizer, model: MLP) -> torch.optim.Optimizer:
    groups, betas = optim.parameter_groups(model, section.weight_decay), (section.beta1, section.beta2)
    on_gpu = next(model.parameters()).is_cuda
    match section.name:
        case "sgd":
            return torch.optim.SGD(
                groups, lr=section.lr, momentum=section.momentum, nesterov=section.nesterov, fused=True
            )
        case "adam":
            return torch.optim.Adam(groups, lr=section.lr, betas=betas, fused=True, capturable=on_gpu)
        case "adamw":
            return torch.optim.AdamW(groups, lr=section.lr, betas=betas, fused=True, capturable=on_gpu)
        case "muon":
            return optim.Muon(groups, lr=section.lr, momentum=section.momentum, betas=betas)
        case "lbfgs":
            return optim.LBFGS(groups)


def _schedule(section: config.Optimizer, epochs: int, steps_per_epoch: int) -> Schedule:
    if section.name == "lbfgs":
        return schedules.constant()
    num_steps = epochs * steps_per_epoch
    match section.schedule:
        case "constant":
            schedule = schedules.constant()
        case "cosine":
            schedule = schedules.cosine(num_steps)
        case "linear":
            schedule = schedules.linear(num_steps)
        case "one_cycle":
            schedule = schedules.one_cycle(num_steps)
        case "steps":
            schedule = schedules.steps([round(epoch * steps_per_epoch) for epoch in section.milestones], section.gamma)
    if section.warmup_epochs:
        schedule = schedules.warmed_up(schedule, round(section.warmup_epochs * steps_per_epoch))
    return schedule


def choose_threads(model: MLP, batch_size: int) -> int:
    """One thread where a step's products are too small to share, else this rank's part of the processors."""
    products = batch_size * sum(parameter.numel() for parameter in model.parameters())
    if products < _ONE_THREAD_PRODUCTS:
        return 1
    return max(1, num_processors() // distributed.num_ranks())
