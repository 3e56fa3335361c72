"""Image classifiers: a model with its class names, input shape and normalization, saved and loaded as one.

A model of the shape (D,) takes vectors of D features instead of images, and normalizes each feature by itself, perhaps
after each vector has been scaled to unit norm.
"""

from __future__ import annotations

import itertools
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet.data.arrays import advise_pixels
from fcnet.data.batches import normalize
from fcnet.data.decoding.image_decoding import IGNORE_PILLOW_WARNINGS
from fcnet.data.transforms.pipeline import l2_normalize
from fcnet.data.transforms.whitening import Whitening
from fcnet.experiment.image_inputs import image_name, iterate_images, to_pixels
from fcnet.models.mlp import MLP, LogisticRegression, logits_to_probabilities
from fcnet.runtime import memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, read_metadata, write_checksummed
from fcnet.runtime.tensor_checks import check_finite, check_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FORMAT_VERSION = 1
_MAX_HEADER_BYTES = 1 << 26  # of a safetensors file


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        class_name: the most probable class.
        probability: the probability of that class.
        probabilities: the probability of every class, in the order of the classifier's classes.
    """

    class_name: str
    probability: float
    probabilities: tuple[float, ...]


class ImageClassifier(nn.Module):
    """A model with everything that is needed to classify images.

    Args:
        model: normalized images -> logits.
        classes: the C class names, in the order of the labels.
        shape: (channels, height, width) of an image, or (D,) for features.
        mean: float32 (channels,), the mean of pixels / 255 of the training images; or (D,), that of the features.
        std: float32 (channels,), their standard deviation.
        whitening: applied after the normalization; None if the model was trained without it.
        resize: whether files of another size are resized to ``shape``, as in training.
        temperature: what the last layer of the model was divided by to calibrate it; None if it was not.
        l2_normalize: whether each vector of features is divided by its norm before it is normalized.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: MLP,
        *,
        classes: Sequence[str],
        shape: Sequence[int],
        mean: Tensor,
        std: Tensor,
        whitening: Whitening | None = None,
        resize: bool = False,
        temperature: float | None = None,
        l2_normalize: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.classes = tuple(classes)
        self.shape = tuple(shape)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.whitening = whitening
        self.resize = resize
        self.temperature = temperature
        self.l2_normalize = l2_normalize

    @property
    def takes_features(self) -> bool:
        """Whether inputs are vectors of features and not images."""
        return len(self.shape) == 1

    @property
    def input_dtype(self) -> torch.dtype:
        """The dtype of the inputs that `fcnet.fit` and `evaluate` give it: uint8 for pixels, float32 for features."""
        return torch.float32 if self.takes_features else torch.uint8

    def extra_repr(self) -> str:
        """Returns the shape of an input and the number of classes, as `print` shows them."""
        return f"shape={self.shape}, num_classes={len(self.classes)}"

    def forward(self, pixels: Tensor) -> Tensor:
        """Computes the logits of uint8 images (B, channels, height, width): (B,) for two classes, else (B, C).

        A model of features takes floating (B, D).
        """
        if not torch.is_tensor(pixels) or not self._fits(pixels):
            raise UserError(_describe_mismatch(pixels, self.shape))
        x = normalize(l2_normalize(pixels) if self.l2_normalize else pixels, self.mean, self.std)
        logits: Tensor = self.model(x if self.whitening is None else self.whitening(x))
        return logits

    def _fits(self, inputs: Tensor) -> bool:
        is_dtype = inputs.is_floating_point() if self.takes_features else inputs.dtype == torch.uint8
        return is_dtype and tuple(inputs.shape[1:]) == self.shape

    @torch.no_grad()
    def predict_proba(self, pixels: Tensor) -> Tensor:
        """Computes the class probabilities (B, C) of uint8 images (B, channels, height, width) or features (B, D)."""
        logits: Tensor = self(pixels)
        return logits_to_probabilities(logits)

    def predict_images(self, images: Iterable[Any], *, batch_size: int = 256) -> list[Prediction]:
        """Classifies images.

        Args:
            images: paths, open PIL images, uint8 arrays (H, W), (H, W, C) or (C, H, W), or uint8 tensors (C, H, W); or
                a stack of them, (N, …). Files, PIL images and arrays are decoded as in training, with the same
                formats and modes; see `fcnet.data.decoding.image_decoding.decode_image`.
            batch_size: the number of images that are decoded and classified together.

        Returns:
            One prediction per image, in order.

        Raises:
            UserError: ``images`` is a single image, or an item is not an image; or its size is not the classifier's,
                and images are not resized.
        """
        predictions = []
        for prediction in self.iter_predictions(images, batch_size=batch_size):
            if isinstance(prediction, UserError):
                raise prediction
            predictions.append(prediction)
        return predictions

    def iter_predictions(self, images: Iterable[Any], *, batch_size: int = 256) -> Iterator[Prediction | UserError]:
        """Classifies a stream of images; at most one batch is in memory.

        Args:
            images: as for `predict_images`, or the entries of `fcnet.data.sources.image_paths.iter_images`.
            batch_size: the number of images that are decoded and classified together.

        Yields:
            For each image its prediction, or the error that it caused.

        Raises:
            UserError: ``images`` is a single image, or ``batch_size`` is less than 1.
        """
        # Checked here and not in a generator, so that the error comes with the call.
        if self.takes_features:
            raise UserError("this model takes features, not images; pass a tensor (N, D) to iter_feature_predictions")
        iterator = iterate_images(images, self.shape)
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        return self._predict_batches(enumerate(iterator), batch_size)

    def iter_feature_predictions(self, x: Tensor, *, batch_size: int = 256) -> Iterator[Prediction | UserError]:
        """Classifies vectors of features; at most one batch of them is copied.

        Args:
            x: floating (N, D).
            batch_size: the number of vectors that are classified together.

        Yields:
            For each vector its prediction, or the error that it caused.

        Raises:
            UserError: ``x`` is no tensor of features of this model.
        """
        for number, batch in enumerate(x.split(batch_size)):
            rows = self.predict_proba(batch.to(self.mean.device)).tolist()
            for row, probabilities in enumerate(rows, number * batch_size):
                yield self._prediction(f"row {row}", probabilities)

    def _prediction(self, name: str, probabilities: list[float]) -> Prediction | UserError:
        if not all(map(math.isfinite, probabilities)):
            return UserError(f"{name}: the model's outputs must be finite, got NaN; its weights are too large")
        best = max(range(len(probabilities)), key=probabilities.__getitem__)  # the first of equals
        return Prediction(self.classes[best], probabilities[best], tuple(probabilities))

    def _predict_batches(self, images: Iterator[tuple[int, Any]], batch_size: int) -> Iterator[Prediction | UserError]:
        while True:
            with IGNORE_PILLOW_WARNINGS:
                # Each image is decoded before the next one is taken, so an iterable may reuse or close its files.
                batch = [
                    (image_name(image, index), self._pixels_or_error(image, index))
                    for index, image in itertools.islice(images, batch_size)
                ]
            if not batch:
                return
            pixels = [item for _, item in batch if isinstance(item, Tensor)]
            rows = iter(self.predict_proba(torch.stack(pixels).to(self.mean.device)).tolist() if pixels else [])
            for name, item in batch:
                yield item if isinstance(item, UserError) else self._prediction(name, next(rows))

    def _pixels_or_error(self, image: Any, index: int) -> Tensor | UserError:  # noqa: ANN401 - see `to_pixels`
        try:
            return to_pixels(image, index, self.shape, resize=self.resize)
        except UserError as error:
            return error

    def save(self, stem: Path, metadata: dict[str, Any]) -> None:
        """Writes ``STEM.safetensors`` and ``STEM.json`` with checksums.

        Args:
            stem: the path without an ending.
            metadata: further entries of the JSON file.
        """
        content = {
            "format": FORMAT_VERSION,
            "kind": "logistic" if isinstance(self.model, LogisticRegression) else "mlp",
            "arguments": self.model.arguments,
            "classes": list(self.classes),
            "shape": list(self.shape),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "resize": self.resize,
            "whiten": 0 if self.whitening is None else len(self.whitening.bias),
            **({} if self.temperature is None else {"temperature": self.temperature}),
            **({"l2_normalize": True} if self.l2_normalize else {}),
            **metadata,
        }
        write_checksummed(stem, self.state_dict(), content)

    @classmethod
    def load(cls, stem: Path, *, device: torch.device | str = "cpu") -> ImageClassifier:
        """Loads the classifier that `save` wrote, in evaluation mode.

        Args:
            stem: the path without an ending.
            device: the device of the classifier.

        Raises:
            UserError: a file is missing or damaged, or of another format version, or the two do not describe one
                classifier.
        """
        from fcnet.experiment.model_metadata import parse_metadata  # pydantic takes long to import

        metadata_file, tensors_file = (stem.with_name(f"{stem.name}.{ending}") for ending in ("json", "safetensors"))
        content = read_metadata(stem)
        metadata = parse_metadata(content, metadata_file)
        # A model without memory tells the shapes of its tensors: memory is taken only for those that the file holds.
        with torch.device("meta"):
            classifier = cls(
                metadata.make_model(),
                classes=metadata.classes,
                shape=metadata.shape,
                mean=torch.tensor(metadata.mean),
                std=torch.tensor(metadata.std),
                whitening=Whitening(metadata.whiten, math.prod(metadata.shape)) if metadata.whiten else None,
                resize=metadata.resize,
                temperature=metadata.temperature,
                l2_normalize=metadata.l2_normalize,
            )
        expected = classifier.state_dict()
        num_bytes = sum(tensor.nbytes for tensor in expected.values())
        if tensors_file.is_file() and tensors_file.stat().st_size > num_bytes + _MAX_HEADER_BYTES:
            raise UserError(f"{tensors_file} must have the size of its tensors, {num_bytes:,} bytes, got a larger file")
        tensors, _ = read_checksummed(stem)
        check_tensors(tensors, expected, tensors_file)
        check_finite(tensors, tensors_file)
        for name in ("mean", "std"):
            if not torch.equal(tensors[name], torch.tensor(content[name], dtype=torch.float32)):
                raise UserError(f"{tensors_file}: the tensor {name} must be that of {metadata_file.name}")
        classifier.to_empty(device="cpu").load_state_dict(tensors)
        return classifier.to(device).eval()


def _describe_mismatch(pixels: object, shape: tuple[int, ...]) -> str:
    """Returns the error of an argument that is no batch of uint8 images, or of features."""
    if len(shape) == 1:
        found = f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else f"a {type(pixels).__name__}"
        advice = "; pass x[None] for one vector" if isinstance(pixels, Tensor) and tuple(pixels.shape) == shape else ""
        return f"expected floating features (B, {shape[0]}) as a tensor, got {found}{advice}"
    expected = f"expected uint8 images (B, {', '.join(map(str, shape))})"
    if not isinstance(pixels, Tensor):
        advice = "predict_images takes arrays, files and PIL images"
        return f"{expected} as a tensor, got a {type(pixels).__name__}; {advice}"
    advice = ""
    if pixels.dtype != torch.uint8 and pixels.numel():
        advice = advise_pixels(pixels)
    elif tuple(pixels.shape) == shape:
        advice = "; pass x[None] for one image"
    elif tuple(pixels.shape[1:]) == (*shape[1:], shape[0]):
        advice = "; pass x.permute(0, 3, 1, 2)"
    return f"{expected}, got {pixels.dtype} {tuple(pixels.shape)}{advice}"


def load(run: str | Path, *, device: torch.device | str = "cpu") -> ImageClassifier:
    """Loads the trained model of a run.

    Args:
        run: the run folder.
        device: the device of the model.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        UserError: the folder does not exist, or its model is missing or damaged.

    Example:
        >>> import tempfile
        >>> model, half = MLP(4, (3,), 2), torch.full((1,), 0.5)
        >>> classifier = ImageClassifier(model, classes=("cat", "dog"), shape=(1, 2, 2), mean=half, std=half)
        >>> with tempfile.TemporaryDirectory() as run:
        ...     classifier.save(Path(run) / "model", {})
        ...     loaded = load(run)
        >>> loaded.classes, loaded.predict_proba(torch.zeros(5, 1, 2, 2, dtype=torch.uint8)).shape
        (('cat', 'dog'), torch.Size([5, 2]))
    """
    from fcnet.experiment.run_folder import Run, describe_no_run  # pydantic takes long to import

    folder = Path(run)
    if not folder.is_dir():
        raise UserError(f"RUN must be a run folder, got {folder}: {describe_no_run(folder)}")
    if not (folder / "model.json").is_file():
        resume = f"python -m fcnet.train --resume {shlex.quote(str(folder))}"
        advice = f"; its training is not finished, {resume} continues it" if Run(folder).started else ""
        raise UserError(f"{folder} holds no trained model: model.json is missing{advice}")
    with memory.phase("loading the model"):
        return ImageClassifier.load(folder / "model", device=device)
