"""Builds the objects of an experiment from its configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fcnet.data.batches import Batches, Preprocessing
from fcnet.experiment.build_data import (
    EVALUATION_BATCH_SIZE,
    check_data,
    check_selection,
    check_validation,
    compute_statistics,
    load_or_fit_whitening,
    make_augmentation,
    open_data,
    own_test_data,
    own_validation_batches,
    preview,
    split_rows,
    test_batches,
)
from fcnet.experiment.build_notes import data_notes, setting_notes
from fcnet.experiment.build_training import (
    check_batch_norm,
    choose_threads,
    estimate_step_memory,
    make_algorithm,
    make_model,
)
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.experiment.initial_weights import load_initial_weights
from fcnet.runtime import distributed, memory
from fcnet.runtime.formatting import format_count
from fcnet.training.loop import Training

if TYPE_CHECKING:
    import torch

    from fcnet.config import schema
    from fcnet.data.store.build import Progress
    from fcnet.data.store.store import Store
    from fcnet.experiment.initial_weights import InitialWeights
    from fcnet.experiment.run_folder import Run
    from fcnet.runtime.memory import MemoryEstimate

__all__ = [
    "Experiment",
    "build",
    "choose_threads",
    "make_model",
    "open_data",
    "own_test_data",
    "preview",
    "test_batches",
]


@dataclass(frozen=True)
class Experiment:
    """The objects of a configuration.

    Attributes:
        training: the training, before its first step.
        test: the test set.
        classifier: the model under training, with its classes, input shape and normalization.
        config: the configuration.
        store: the data, of which training, validation and test set are parts.
        threads: the number of CPU threads for training.
        memory_estimate: the estimated memory of a training step.
        free_bytes: the memory that was free before anything was allocated; None if it is unknown.
        notes: one line for each thing that the user should know about the data, the settings and the initial weights.
        diagnostics_every: the number of epochs between diagnostics snapshots; 0 for none.
        initial: the weights of another run that the training starts from, or None.
    """

    training: Training
    test: Batches
    classifier: ImageClassifier
    config: schema.Config
    store: Store
    threads: int
    memory_estimate: MemoryEstimate
    free_bytes: int | None
    notes: tuple[str, ...]
    diagnostics_every: int
    initial: InitialWeights | None

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the content of the data."""
        return self.store.fingerprint

    def describe(self) -> str:
        """Describes the data, the network and the device in one line."""
        training = self.training
        validation_images = training.validation.num_images if training.validation else 0
        parameters = sum(parameter.numel() for parameter in training.model.parameters())
        widths = "-".join(map(str, self.classifier.model.widths))
        return (
            f"{training.batches.num_images:,} training, {validation_images:,} validation"
            f" and {self.test.num_images:,} test images in {len(self.classifier.classes)} classes;"
            f" layers {widths}, {parameters:,} parameters;"
            f" {self.test.device}, {format_count(self.threads, 'thread')}"
        )


def build(
    config: schema.Config, device: torch.device, progress: Progress | None = None, *, run: Run | None = None
) -> Experiment:
    """Opens the data, and builds the model and the training.

    Collective: every rank must call it. All get the first rank's whitening, and the smallest number of threads of any.

    Args:
        config: the configuration of the experiment.
        device: the device of the model and, if it fits, of the data.
        progress: a callback for decoding; see `fcnet.data.store.store.open_store`.
        run: the run to resume, which has a copy of the weights that it started from.

    Raises:
        UserError: the data or the run ``model.init_from`` is missing or broken, or does not fit the configuration; or
            another rank failed.
    """
    with distributed.long_work():  # each rank may have images to decode, and the first one fits the whitening
        experiment = _build(config, device, progress, run)
    if experiment.classifier.whitening is not None:
        for tensor in experiment.classifier.whitening.buffers():
            distributed.broadcast_tensor(tensor)
    # Each rank updates its own copy of the weights. With other threads a copy would be rounded otherwise.
    return replace(experiment, threads=min(distributed.all_gather(experiment.threads)))


def _build(config: schema.Config, device: torch.device, progress: Progress | None, run: Run | None) -> Experiment:
    with memory.phase("reading the data"):
        store = open_data(config.data, progress)
        check_data(config, store)
        classes, labels, train_rows, validation_rows = split_rows(config, store)
        check_batch_norm(config, len(train_rows))
        check_validation(config, store, len(validation_rows))
    initial = load_initial_weights(config, run)
    if initial is None:
        with memory.phase("reading the data"):
            statistics = compute_statistics(config.data, store, train_rows)
    else:
        initial.check_fit(config, store.shape)
        statistics = initial.classifier.mean, initial.classifier.std
    # Fail before the model is allocated, where the operating system may kill the process without a message.
    free_bytes = memory.free_bytes(device)
    memory_estimate = estimate_step_memory(config, store, len(train_rows), len(classes), device, free_bytes)
    if free_bytes is not None:
        memory_estimate.check_parameters(free_bytes)
    preprocessing = Preprocessing(*statistics, l2_normalize=initial is not None and initial.classifier.l2_normalize)
    with memory.phase("reading the data"):
        # The training split moves to the device here, once. What follows derives its batches from these.
        split = Batches(store.train.pixels, labels, rows=train_rows, preprocessing=preprocessing, device=device)
    if config.data.whiten:
        whitening = None if initial is None else initial.classifier.whitening
        if whitening is None:
            with memory.phase("fitting the whitening"):
                whitening = load_or_fit_whitening(store, split, config.data.whiten)
        preprocessing = replace(preprocessing, whitening=whitening.to(device))
    with memory.phase("reading the data"):
        batches = split.derive(
            rows=train_rows,
            batch_size=len(train_rows) if config.train.batch_size == "all" else config.train.batch_size,
            preprocessing=preprocessing,
            augmentation=make_augmentation(config.data.augment),
            balance=config.data.balance,
        )
        validation = own_validation_batches(store, classes, preprocessing, device)
        if len(validation_rows):
            validation = split.derive(
                rows=validation_rows, batch_size=EVALUATION_BATCH_SIZE, preprocessing=preprocessing
            )
        check_selection(config, validation, len(classes))
    with memory.phase("building the network"):
        model = make_model(config, config.data.whiten or math.prod(store.shape), len(classes)).to(device)
        initial_note = () if initial is None else (initial.copy_to(model, classes),)
        training = Training(
            model, batches, make_algorithm(config, model, len(batches)), validation=validation, seed=config.seed
        )
    mean, std = (values.to(device) for values in statistics)
    classifier = ImageClassifier(
        model,
        classes=classes,
        shape=store.shape,
        mean=mean,
        std=std,
        whitening=preprocessing.whitening,
        resize=config.data.source == "images" and bool(config.data.size),
        l2_normalize=preprocessing.l2_normalize,
    )
    return Experiment(
        training=training,
        test=test_batches(store, classifier, device),
        classifier=classifier,
        config=config,
        store=store,
        threads=config.train.threads or choose_threads(model, batches.batch_size),
        memory_estimate=memory_estimate,
        free_bytes=free_bytes,
        notes=(
            *initial_note,
            *data_notes(config, store, classes, batches, validation),
            *setting_notes(config, batches),
        ),
        diagnostics_every=config.train.diagnostics_every,
        initial=initial,
    )
