"""Builds the model and the learning algorithm of a configuration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from fcnet import losses, optim
from fcnet.data.batches import fits_on_device, smallest_part
from fcnet.models.mlp import MLP, LogisticRegression
from fcnet.optim import schedules
from fcnet.runtime import distributed, memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.hardware import MAX_THREADS, num_processors, num_threads
from fcnet.runtime.seeds import generator
from fcnet.training.algorithm import GradientDescent

if TYPE_CHECKING:
    from fcnet.config import schema
    from fcnet.data.store.store import Store
    from fcnet.optim.schedules import Schedule
    from fcnet.runtime.memory import MemoryEstimate

# Below these sizes of a step, starting and joining threads takes longer than they save.
_ONE_THREAD_PRODUCTS, _ONE_THREAD_VALUES = 20_000_000, 200_000
MOMENTS = {"sgd": 1, "adam": 2, "adamw": 2, "muon": 9, "lbfgs": 25}
"""The peak memory of each optimizer, state and temporaries, in multiples of the parameters."""


def make_model(config: schema.Config, in_features: int, num_classes: int) -> MLP:
    """Builds the configured model, initialized from the configured seed.

    Example:
        >>> from fcnet.config.schema import Config, Model
        >>> model = make_model(Config(model=Model(hidden=(16,))), in_features=64, num_classes=10)
        >>> [tuple(parameter.shape) for parameter in model.parameters()]
        [(16, 64), (16,), (10, 16), (10,)]
    """
    section = config.model
    init_generator = generator(config.seed, "initialisation")
    if section.kind == "logistic":
        return LogisticRegression(in_features, num_classes, generator=init_generator)
    return MLP(
        in_features,
        section.hidden,
        num_classes,
        activation=section.activation,
        normalization=section.normalization,
        dropout=section.dropout,
        residual=section.residual,
        initialization=section.initialization,
        generator=init_generator,
    )


def make_algorithm(config: schema.Config, model: MLP, steps_per_epoch: int) -> GradientDescent:
    """Builds the configured learning algorithm for a model."""
    train = config.train
    return GradientDescent(
        _make_optimizer(config.optimizer, model),
        epochs=train.epochs,
        schedule=_make_schedule(config.optimizer, train.epochs, steps_per_epoch),
        loss=(
            losses.CrossEntropy(train.label_smoothing)
            if train.loss == "cross_entropy"
            else losses.ScoreLoss(train.loss, train.label_smoothing)
        ),
        clip_norm=config.optimizer.clip_norm,
        precision="tf32" if train.precision == "tf32" else getattr(torch, train.precision),
        accumulate=train.accumulate,
        ema_decay=train.ema_decay,
        patience=train.patience,
        select=train.select,
    )


def _make_optimizer(section: schema.Optimizer, model: MLP) -> torch.optim.Optimizer:
    groups, betas = optim.parameter_groups(model, section.weight_decay), (section.beta1, section.beta2)
    match section.name:
        case "sgd":
            return torch.optim.SGD(
                groups, lr=section.lr, momentum=section.momentum, nesterov=section.nesterov, fused=True
            )
        case "adam":
            return torch.optim.Adam(groups, lr=section.lr, betas=betas, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, lr=section.lr, betas=betas, fused=True)
        case "muon":
            return optim.Muon(groups, lr=section.lr, momentum=section.momentum, betas=betas)
        case "lbfgs":
            return optim.LBFGS(groups)


def _make_schedule(section: schema.Optimizer, epochs: int, steps_per_epoch: int) -> Schedule:
    if section.name == "lbfgs":  # its line search chooses the step size
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
            schedule = schedules.multi_step(
                [round(epoch * steps_per_epoch) for epoch in section.milestones], section.gamma
            )
    if section.warmup_epochs:
        schedule = schedules.add_warmup(schedule, round(section.warmup_epochs * steps_per_epoch))
    return schedule


def choose_threads(model: MLP, batch_size: int) -> int:
    """Returns the number of CPU threads for training: 1 for small steps, else this rank's share of the processors."""
    products = batch_size * sum(parameter.numel() for parameter in model.parameters())
    values = batch_size * model.dense_layers()[0].in_features
    if products < _ONE_THREAD_PRODUCTS and values < _ONE_THREAD_VALUES:
        return 1
    return rank_threads()


def rank_threads() -> int:
    """Returns this rank's share of the processors, as a number of threads."""
    ranks = distributed.world_size()
    # With several ranks OMP_NUM_THREADS is ignored: torchrun sets it to 1 unless the user does.
    return num_threads() if ranks == 1 else min(max(1, num_processors() // ranks), MAX_THREADS)


def check_batch_norm(config: schema.Config, num_images: int) -> None:
    """Checks that batch normalization sees more than one image at a time.

    One image is its own mean, so that it is normalized to zero and nothing is learned.

    Args:
        config: the configuration.
        num_images: the number of training images.

    Raises:
        UserError: it would see one image.
    """
    model, train = config.model, config.train
    if model.kind == "logistic" or not model.hidden or model.normalization != "batch":
        return
    batch = num_images if train.batch_size == "all" else min(train.batch_size, num_images)
    reason = "because batch normalization learns nothing from one image"
    if batch < 2:
        raise UserError(f"train.batch_size must be at least 2, {reason}, got {train.batch_size}")
    if smallest_part(batch, train.accumulate) < 2:
        raise UserError(
            f"train.accumulate must be at most {batch // 2} for batches of {batch} images, {reason}, "
            f"got {train.accumulate}"
        )


def estimate_step_memory(
    config: schema.Config,
    store: Store,
    train_images: int,
    num_classes: int,
    device: torch.device,
    free_bytes: int | None = None,
) -> MemoryEstimate:
    """Estimates the memory that a training step takes in this process."""
    model, pixels = config.model, math.prod(store.shape)
    is_logistic = model.kind == "logistic"
    images = train_images if config.train.batch_size == "all" else min(config.train.batch_size, train_images)
    widths = [
        config.data.whiten or pixels,
        *(() if is_logistic else model.hidden),
        1 if num_classes == 2 else num_classes,
    ]
    return memory.estimate_memory(
        widths,
        num_images=-(-images // (distributed.world_size() * config.train.accumulate)),
        activation=model.activation,
        normalization="none" if is_logistic else model.normalization,
        dropout=not is_logistic and model.dropout > 0.0,
        moments=MOMENTS[config.optimizer.name] + (config.train.ema_decay > 0.0) + (config.train.patience > 0),
        num_pixels=pixels if config.data.whiten else 0,
        data_bytes=0 if device.type == "cpu" or free_bytes is None else _bytes_on_device(store, free_bytes),
        remedy=_memory_remedy(config, store),
    )


def _bytes_on_device(store: Store, free_bytes: int) -> int:
    """Returns the bytes of the splits that move to a device, one after another, while they fit."""
    total = 0
    for split in (store.train, store.validation, store.test):
        if fits_on_device(split.pixels.nbytes, free_bytes - total):
            total += split.pixels.nbytes
    return total


def _memory_remedy(config: schema.Config, store: Store) -> str:
    """Returns the settings that make a network smaller. If most of it are inputs, that is the image size."""
    data, hidden = config.data, config.model.hidden if config.model.kind == "mlp" else ()
    if data.whiten:
        return "lower data.whiten or model.hidden" if hidden else "lower data.whiten"
    if hidden and math.prod(store.shape) <= sum(hidden):
        return "lower model.hidden"
    if data.source == "features":
        return f"use fewer than {store.shape[0]} features" + (", or lower model.hidden" if hidden else "")
    _, height, width = store.shape
    smaller = {
        "images": f"lower data.size from [{height}, {width}]" if data.size else "set data.size, such as [64, 64]",
        "synthetic": f"lower data.shape from {list(store.shape)}",
    }.get(data.source, "make the images smaller")
    return f"{smaller}: images have {width}×{height} pixels" + (", or lower model.hidden" if hidden else "")
