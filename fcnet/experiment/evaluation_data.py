"""Opens other data than a run's own, to judge a trained model on it."""

from __future__ import annotations

import contextlib
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

import torch

from fcnet.data import sources
from fcnet.data.sources.npz import is_npz
from fcnet.data.sources.unused import list_names
from fcnet.data.store.store import open_store
from fcnet.experiment.build_data import make_source, open_configured_features, test_batches
from fcnet.experiment.build_notes import skipped_image_notes
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from fcnet.config import schema
    from fcnet.data.batches import Batches
    from fcnet.data.sources.source import Source
    from fcnet.data.store.build import Progress
    from fcnet.data.store.store import Store
    from fcnet.experiment.image_classifier import ImageClassifier


class OwnData(NamedTuple):
    """The data that a model was trained on.

    Attributes:
        settings: the ``data`` section of the run's configuration.
        fingerprint: the fingerprint of the data; see `fcnet.data.store.store.Store`.
        num_images: the number of images of the model's classes, in all splits; None if it is unknown.
    """

    settings: schema.Data
    fingerprint: str
    num_images: int | None


class EvaluationData(NamedTuple):
    """Images to judge a model on.

    Attributes:
        batches: the images of the model's classes.
        notes: sentences on images that are not judged or are converted, and on classes without images.
    """

    batches: Batches
    notes: tuple[str, ...]


def open_evaluation_data(
    own: OwnData,
    classifier: ImageClassifier,
    path: Path,
    *,
    device: torch.device,
    progress: Progress | None = None,
) -> EvaluationData:
    """Opens the test images of other data, or all images of data without a test split.

    Images are converted to the shape that the model expects, as in prediction. Classes are matched by name, and images
    of other classes are left out. If the data is the model's own, its test images are those of the run: the model has
    seen the others.

    Args:
        own: the data that the model was trained on.
        classifier: the trained model.
        path: a ``.npz`` file, or a folder or archive of images; for a model trained on CIFAR also a folder with another
            copy of it; for a model of features a file of features, as for ``data.path``.
        device: the device of the batches.
        progress: a callback for decoding; see `fcnet.data.store.store.open_store`.

    Raises:
        UserError: the data is unreadable, or has no image of the model's classes.
    """
    if classifier.takes_features:
        store = open_configured_features(own.settings, path)
    else:
        store = open_store(_test_source(own.settings, classifier, path), progress=progress)
    if store.shape != classifier.shape:
        noun = "features" if classifier.takes_features else "images"
        raise UserError(f"{path} must hold {noun} of shape {classifier.shape} for this model, got {store.shape}")
    labels = _match_labels(store, classifier.classes)
    num_images = int((labels >= 0).sum())
    if own.settings.source == "images" and num_images == (own.num_images or num_images):
        # A folder without splits: they are made anew to find out whether these are the run's own images.
        with contextlib.suppress(UserError):
            settings = own.settings.model_copy(update={"path": str(path)})
            again = open_store(make_source(settings, download=False), progress=progress)
            if again.fingerprint == own.fingerprint:
                note = "these are the images that the model was trained on: only the test images of the run are judged"
                return EvaluationData(test_batches(again, classifier, device), (note,))
    if not num_images:
        raise UserError(
            f"{path} must hold images of the model's classes ({list_names(classifier.classes)}), "
            f"found only {list_names(store.classes)}"
        )
    notes = (*store.notes, *skipped_image_notes(store), *_class_notes(store, labels, classifier.classes))
    return EvaluationData(test_batches(store, classifier, device, labels), notes)


def _test_source(own: schema.Data, classifier: ImageClassifier, path: Path) -> Source:
    """Returns the test images at a path, which tells the kind of the source."""
    if path.suffix == ".npz" or is_npz(path):
        return sources.arrays(path, test_only=True, shape=classifier.shape)
    if own.source in {"cifar10", "cifar100"} and any(path.glob("cifar-*")):
        return make_source(own.model_copy(update={"path": str(path)}), download=False)
    return sources.images(path, skip_broken=own.skip_broken, test_only=True, shape=classifier.shape)


def _match_labels(store: Store, classes: Sequence[str]) -> Tensor:
    """Returns the index of the model's class of each test image, int64 (N,); −1 for images of other classes."""
    index = {unicodedata.normalize("NFC", name): label for label, name in enumerate(classes)}
    found = [index.get(unicodedata.normalize("NFC", name), -1) for name in store.classes]
    return torch.tensor(found, dtype=torch.int64)[store.test.labels]


def _class_notes(store: Store, labels: Tensor, classes: Sequence[str]) -> Iterator[str]:
    """Yields sentences on images of classes that the model lacks, and on its classes without images."""
    if num_other := int((labels < 0).sum()):
        others = {store.classes[label] for label in store.test.labels[labels < 0].unique().tolist()}
        verb = "is" if num_other == 1 else "are"
        yield (
            f"{format_count(num_other, 'image')} of classes that the model lacks {verb} left out: {list_names(others)}"
        )
    present = set(labels[labels >= 0].unique().tolist())
    if missing := [name for label, name in enumerate(classes) if label not in present]:
        verb = "has" if len(missing) == 1 else "have"
        yield f"{len(missing):,} of {len(classes):,} classes of the model {verb} no image: {list_names(missing)}"
