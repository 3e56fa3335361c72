"""A run's folder -> what there is to say of it: figures, predictions, the images they are of, the first weights.

N test images, C classes, D values of an image.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fcnet import metrics
from fcnet.config.toml import load_config
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.predictions import PredictionCollector, read_predictions
from fcnet.experiment.build import open_data, test_batches
from fcnet.experiment.image_classifier import load
from fcnet.experiment.run_folder import Run
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fcnet.config.schema import Config
    from fcnet.data.batches import Batches
    from fcnet.evaluation.predictions import Predictions
    from fcnet.experiment.image_classifier import ImageClassifier

_NUM_RANKING_IMAGES = 1000


@dataclass(frozen=True)
class RunData:
    """What one run's folder holds.

    Attributes:
        name: the folder's.
        folder: where it is.
        config: what was asked for.
        records: of the epochs, as ``metrics.jsonl`` holds them.
        summary: as ``summary.json`` holds it; empty where the run is not finished.
        snapshots: what was seen inside the network, a line of ``diagnostics.jsonl`` each; may be empty.
        classifier: the finished one; None where there is none yet.
        predictions: of the test set; None where neither they nor the images are at hand.
        test: the test set; None where it is not at hand.
        missing: what is not at hand and why, a line each.
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

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.classifier.classes if self.classifier is not None else ()

    @cached_property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Counts, ``confusion[truth][prediction]``; nothing without predictions."""
        return self.predictions.confusion(len(self.classes)) if self.predictions is not None else ()

    @cached_property
    def confidence_bins(self) -> list[metrics.ConfidenceBin]:
        """The test images by how sure the network was; see `fcnet.metrics.confidence_bins`."""
        if self.predictions is None:
            return []
        sure, hits = self.predictions.probabilities[:, 0], self.predictions.is_correct
        return metrics.confidence_bins([min(p, 1.0) for p in sure.tolist()], hits.tolist())

    @property
    def images_per_second(self) -> float | None:
        """The median epoch's; None before the first is done."""
        return statistics.median(record["images_per_second"] for record in self.records) if self.records else None

    def pixels(self, place: int) -> Tensor | None:
        """One test image, uint8 (channels, height, width); None where they are not at hand."""
        if self.test is None or self.test.images.dtype != torch.uint8:
            return None
        return self.test.images[self.test.rows[place]].cpu()


def read_run_data(folder: Path, test: Batches | None = None) -> RunData:
    """Gathers what there is to say of a run.

    Args:
        folder: the run's; it need not be finished.
        test: its test set; None opens it where it is at hand.

    Raises:
        UserError: the folder holds no run, or a damaged one.
    """
    run = Run(folder)
    if not run.started:
        raise UserError(f"RUN must be a run's folder, got {folder}")
    config, missing = load_config(run.config), list[str]()
    snapshots = _read_snapshots(folder / "diagnostics.jsonl", missing)
    name = folder.resolve().name
    if not run.finished:
        missing.append("the run is not finished: the test set is read at its end")
        return RunData(name, folder, config, run.records(), {}, snapshots, missing=missing)
    classifier, summary = load(folder), run.summary()
    if test is None:
        test = _open_test_set(config, classifier, summary, missing)
    elif test.device != classifier.mean.device:
        classifier = classifier.to(test.device)
    predictions = _read_or_predict(folder, classifier, test, missing)
    return RunData(name, folder, config, run.records(), summary, snapshots, classifier, predictions, test, missing)


def find_confident_mistakes(predictions: Predictions, count: int) -> list[int]:
    """The places of the images that the network got wrong, those it was surest of first.

    Example:
        >>> from fcnet.evaluation.predictions import PredictionCollector
        >>> collector = PredictionCollector()
        >>> collector.update(torch.tensor([[0.0, 2.0], [0.0, 9.0], [0.0, 4.0]]), torch.tensor([0, 1, 0]))
        >>> find_confident_mistakes(collector.compute(), 5)
        [2, 0]
    """
    return _sort_by_confidence(predictions.probabilities[:, 0], ~predictions.is_correct, count, descending=True)


def find_uncertain_correct(predictions: Predictions, count: int) -> list[int]:
    """The places of the images that the network got right, those it was least sure of first."""
    return _sort_by_confidence(predictions.probabilities[:, 0], predictions.is_correct, count, descending=False)


@torch.no_grad()
def first_layer_weights(classifier: ImageClassifier, test: Batches | None, count: int) -> tuple[list[int], Tensor]:
    """The units of the first layer that matter most, and the images of their weights.

    A unit matters by how much it moves the next layer, s_j ‖W²[:, j]‖, with s_j the standard deviation of its
    activation over test images, or without them the norm of its weights. Without
    a hidden layer the order is that of the classes.
    Where images are whitened the weights are taken back to pixels, W¹ V.

    Args:
        classifier: the finished one.
        test: its test set, of which some are looked at; None: not at hand.
        count: how many units.

    Returns:
        Their numbers, from 0, and float32 (count, channels, height, width), of normalised pixels.
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
    shown = weights[order]
    if classifier.whitening is not None:
        shown = shown @ classifier.whitening.weight
    return order.tolist(), shown.view(-1, *classifier.shape).float().cpu()


def _sort_by_confidence(sure: Tensor, among: Tensor, count: int, *, descending: bool) -> list[int]:
    places = among.nonzero().squeeze(1)
    order = sure[places].sort(dim=0, descending=descending, stable=True).indices
    chosen: list[int] = places[order][:count].tolist()
    return chosen


def _read_snapshots(file: Path, missing: list[str]) -> list[dict[str, Any]]:
    """The lines of ``diagnostics.jsonl`` that are whole."""
    if not file.is_file():
        return []
    lines = []
    for line in file.read_bytes().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            missing.append(f"a line of {file.name} is damaged and left out")
    return lines


def _open_test_set(
    config: Config, classifier: ImageClassifier, summary: dict[str, Any], missing: list[str]
) -> Batches | None:
    """The test set where it is at hand and what it was; nothing is downloaded for it."""
    path = config.data.path
    try:
        if path and not Path(path).exists():
            raise UserError(f"{path} is gone")
        store = open_data(config.data)
        if store.fingerprint != summary["data"]:
            raise UserError("the data is other than what the network was trained on")
        return test_batches(store, classifier, classifier.mean.device)
    except (UserError, OSError) as error:
        missing.append(f"the images are not at hand: {error}")
    return None


def _read_or_predict(
    folder: Path, classifier: ImageClassifier, test: Batches | None, missing: list[str]
) -> Predictions | None:
    """Those that were kept, else those that the network makes now."""
    try:
        kept = read_predictions(folder)
    except UserError as error:
        kept = None
        missing.append(f"what the network said of the test set is not at hand: {error}")
    if kept is not None or test is None:
        return kept
    collector = PredictionCollector()
    evaluate(classifier.model, test, on_batch=collector.update)
    return collector.compute()
