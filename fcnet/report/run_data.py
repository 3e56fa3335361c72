"""Reads the contents of a run folder for a report: records, predictions, test images and first-layer weights."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.prediction_files import read_predictions
from fcnet.evaluation.predictions import PredictionCollector
from fcnet.experiment.build import own_test_data
from fcnet.experiment.image_classifier import load
from fcnet.experiment.run_folder import Run, describe_no_run
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import escape_unprintable, shorten_middle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from fcnet import metrics
    from fcnet.config.schema import Config
    from fcnet.data.batches import Batches
    from fcnet.evaluation.predictions import Predictions
    from fcnet.experiment.image_classifier import ImageClassifier

_NUM_RANKING_IMAGES = 1000
_MAX_PATH_LENGTH = 1024


@dataclass(frozen=True)
class RunData:
    """The contents of a run folder.

    Attributes:
        name: the folder's name.
        folder: the folder's path.
        config: the run's configuration.
        records: the lines of ``metrics.jsonl``, one for each epoch.
        summary: the contents of ``summary.json``; empty if the run is unfinished.
        snapshots: the lines of ``diagnostics.jsonl``; may be empty.
        classifier: the trained model; None if the run is unfinished.
        predictions: the predictions on the test set; None if they are neither stored nor computable.
        test: the test set; None if it is unavailable.
        missing: one line for each missing part, with the reason.
        commands: the lines of ``commands.jsonl``: how the run was started and resumed; empty for older runs.
    """

    name: str
    folder: Path
    config: Config
    records: Sequence[dict[str, Any]]
    summary: dict[str, Any]
    snapshots: Sequence[dict[str, Any]] = ()
    classifier: ImageClassifier | None = None
    predictions: Predictions | None = None
    test: Batches | None = None
    missing: list[str] = field(default_factory=list)
    commands: Sequence[dict[str, Any]] = ()

    @property
    def is_probe(self) -> bool:
        """Whether the run is a finished probe."""
        return self.summary.get("probe") is not None

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; empty if there is no trained model."""
        return self.classifier.classes if self.classifier is not None else ()

    @cached_property
    def confusion(self) -> metrics.Confusion | None:
        """The counts of true and predicted classes; None without predictions."""
        return self.predictions.confusion(len(self.classes)) if self.predictions is not None else None

    @cached_property
    def confidence_bins(self) -> list[metrics.ConfidenceBin]:
        """The test images grouped by confidence; see `fcnet.metrics.confidence_bins`."""
        return [] if self.predictions is None else self.predictions.confidence_bins()

    @property
    def images_per_second(self) -> float | None:
        """The median of images per second over the epochs; None before the first epoch ends."""
        return statistics.median(record["images_per_second"] for record in self.records) if self.records else None

    def image_path(self, position: int) -> str | None:
        """Returns the path of a test image as one printable line; None if it is unknown."""
        names = self.predictions.names if self.predictions is not None else None
        return None if names is None else shorten_middle(escape_unprintable(names[position]), _MAX_PATH_LENGTH)

    def image_number(self, position: int) -> str:
        """Returns what the report calls a test image: ``test image 7`` for row 7 of the test split."""
        row = position if self.predictions is None else int(self.predictions.rows[position])
        return f"test image {row}"

    def pixels(self, index: int) -> Tensor | None:
        """Returns one test image, uint8 (channels, height, width); None if the images are unavailable."""
        if self.test is None or self.test.images.dtype != torch.uint8:
            return None
        return self.test.images[self.test.rows[index]].cpu()


def read_run_data(folder: Path, test: Batches | None = None) -> RunData:
    """Reads a run folder.

    Args:
        folder: the run folder; the run may be unfinished.
        test: the run's test set; None: it is opened if it is available.

    Raises:
        UserError: the folder contains no run, or a file of the run is damaged.
    """
    run = Run(folder)
    if not run.started:
        raise UserError(f"RUN must be a run folder, got {folder}: {describe_no_run(folder)}")
    config, snapshots, missing = run.load_config(), run.snapshots(), list[str]()
    name = folder.resolve().name
    if not run.finished:
        missing.append("the run is not finished; the test set is evaluated at its end")
        return RunData(
            name, folder, config, run.records(), {}, snapshots, missing=missing, commands=_commands(run, missing)
        )
    classifier, summary = load(folder), run.summary()
    if test is None:
        test = _open_test_set(run, config, classifier, missing)
    elif test.device != classifier.mean.device:
        classifier = classifier.to(test.device)
    predictions = _read_or_predict(folder, classifier, test, missing)
    commands = _commands(run, missing)
    return RunData(
        name, folder, config, run.records(), summary, snapshots, classifier, predictions, test, missing, commands
    )


def find_uncertain_correct(predictions: Predictions, count: int) -> list[int]:
    """Returns the positions of correctly classified images, least confident first; ties keep their order.

    Example:
        >>> from fcnet.evaluation.predictions import PredictionCollector
        >>> collector = PredictionCollector()
        >>> collector.update(torch.tensor([[4.0, 0.0], [0.0, 9.0], [2.0, 0.0]]), torch.tensor([0, 0, 0]))
        >>> find_uncertain_correct(collector.compute(), 5)
        [2, 0]
    """
    positions = predictions.is_correct.nonzero().squeeze(1)
    order = predictions.probabilities[positions, 0].sort(stable=True).indices
    selected: list[int] = positions[order][:count].tolist()
    return selected


@torch.no_grad()
def first_layer_weights(classifier: ImageClassifier, test: Batches | None, count: int) -> tuple[list[int], Tensor]:
    """Returns the weights of the most influential units of the first layer, as images.

    The influence of unit j on the next layer is s_j ‖W²[:, j]‖, where s_j is the standard deviation of its activation
    over test images. Without test images, s_j is the norm of the unit's weights. A model without hidden layers keeps
    the order of its classes. For whitened images, the weights are mapped back to pixels, W¹ V.

    Args:
        classifier: the trained model.
        test: its test set; the first 1,000 images are used. None: it is unavailable.
        count: the maximum number of units.

    Returns:
        The units' indices, from 0, and their weights for normalised pixels, float32 (count, channels, height, width).
    """
    model = classifier.model
    first, *rest = model.dense_layers()
    weights = first.weight
    if rest:
        spread = weights.norm(dim=1)
        if test is not None:
            images = test.get_images(test.rows[:_NUM_RANKING_IMAGES].to(test.images.device))
            spread = model.trace(images)[0].a.std(0, correction=0)
        order = (spread * rest[0].weight.norm(dim=0)).argsort(descending=True)[:count]
    else:
        order = torch.arange(min(count, len(weights)), device=weights.device)
    selected = weights[order]
    if classifier.whitening is not None:
        selected = selected @ classifier.whitening.weight
    return order.tolist(), selected.view(-1, *classifier.shape).float().cpu()


def _commands(run: Run, missing: list[str]) -> list[dict[str, Any]]:
    """Returns how the run was started and resumed, which a report can do without."""
    try:
        return run.commands()
    except UserError as error:
        missing.append(f"the run's commands are unavailable: {error}")
        return []


def _open_test_set(run: Run, config: Config, classifier: ImageClassifier, missing: list[str]) -> Batches | None:
    """Opens the test set if it is in the cache."""
    try:
        return own_test_data(config.data, run.data_fingerprint(), classifier, classifier.mean.device)
    except (UserError, OSError) as error:
        missing.append(f"test images unavailable: {error}")
    return None


def _read_or_predict(
    folder: Path, classifier: ImageClassifier, test: Batches | None, missing: list[str]
) -> Predictions | None:
    """Reads the stored predictions; if there are none, evaluates the model on the test set."""
    try:
        stored = read_predictions(folder)
        if stored is not None and test is not None and len(stored.labels) != test.num_images:
            raise UserError(f"{len(stored.labels):,} predictions for {test.num_images:,} test images")
    except UserError as error:
        stored = None
        missing.append(f"stored predictions unavailable: {error}")
    if stored is not None or test is None:
        return stored
    collector = PredictionCollector(test)
    evaluate(classifier.model, test, on_batch=collector.update)
    return collector.compute()
