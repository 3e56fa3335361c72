"""The finished network: a model and all it takes to use it on images."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet.data.batches import normalize
from fcnet.data.decoding.image_decoding import IGNORE_PILLOW_WARNINGS, decode_image
from fcnet.data.sources.image_paths import ImageEntry
from fcnet.data.transforms.whitening import Whitening
from fcnet.models.mlp import MLP, LogisticRegression, logits_to_probabilities
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_checksummed, write_checksummed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Attributes:
        class_name: the most probable class.
        probability: its probability.
        probabilities: of every class, in the order of the network's classes.
    """

    class_name: str
    probability: float
    probabilities: tuple[float, ...]


class ImageClassifier(nn.Module):
    """A trained model with its class names, input shape and normalisation.

    Args:
        model: normalised images -> logits.
        classes: the C class names, in the order of the labels.
        shape: (channels, height, width) of an image.
        mean: float32 (channels,), of pixels / 255, as in training.
        std: likewise.
        whitening: of normalised images, as in training; None: there was none.
        resize: whether a picture of another size is brought to the network's, as in training.
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
    ) -> None:
        super().__init__()
        self.model = model
        self.classes = tuple(classes)
        self.shape = tuple(shape)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.whitening = whitening
        self.resize = resize

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of uint8 images (B, channels, height, width): (B,) for two classes, else (B, C)."""
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise UserError(f"expected uint8 images (B, {expected}), got {pixels.dtype} {tuple(pixels.shape)}")
        x = normalize(pixels, self.mean, self.std)
        logits: Tensor = self.model(x if self.whitening is None else self.whitening(x))
        return logits

    @torch.no_grad()
    def predict_proba(self, pixels: Tensor) -> Tensor:
        """Class probabilities (B, C) of uint8 images (B, channels, height, width)."""
        logits: Tensor = self(pixels)
        return logits_to_probabilities(logits)

    def predict_images(self, images: Iterable[Any], *, batch_size: int = 256) -> list[Prediction]:
        """What the network says of images.

        Args:
            images: each a path, an open PIL image, or a uint8 tensor (channels, height, width). Files may be of
                any of the formats, modes and, where pictures were resized in training, sizes that training takes,
                and become pixels as there; see `fcnet.data.decoding.image_decoding.decode_image`.
            batch_size: how many are decoded and looked at together.

        Returns:
            One prediction an image, in their order.

        Raises:
            UserError: one of them is no image, or has another size than the network's, unless pictures are resized.
        """
        predictions = []
        for said in self.iter_predictions(images, batch_size=batch_size):
            if isinstance(said, UserError):
                raise said
            predictions.append(said)
        return predictions

    def iter_predictions(self, images: Iterable[Any], *, batch_size: int = 256) -> Iterator[Prediction | UserError]:
        """What the network says of images, batch by batch, so that memory holds no more than one.

        Args:
            images: as `predict_images` takes them, and pictures that `fcnet.data.sources.image_paths.iter_images` has found.
            batch_size: how many are decoded and looked at together.

        Yields:
            For each image a prediction, or what is wrong with it.

        Raises:
            UserError: ``images`` is one path, or ``batch_size`` is less than 1.
        """
        if isinstance(images, str | Path):
            raise UserError(f"images must be several, as in a list, got the one path {str(images)!r}")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        return self._predict_batches(enumerate(images), batch_size)

    def _predict_batches(self, images: Iterator[tuple[int, Any]], batch_size: int) -> Iterator[Prediction | UserError]:
        while pixels := self._decode_next(images, batch_size):
            whole = [each for each in pixels if isinstance(each, Tensor)]
            rows = iter(self.predict_proba(torch.stack(whole).to(self.mean.device)).tolist() if whole else [])
            for each in pixels:
                yield self._prediction(next(rows)) if isinstance(each, Tensor) else each

    def _decode_next(self, images: Iterator[tuple[int, Any]], count: int) -> list[Tensor | UserError]:
        """The pixels of the next images, each decoded before the one after it is asked for."""
        with IGNORE_PILLOW_WARNINGS:
            return [self._pixels_or_error(image, place) for place, image in itertools.islice(images, count)]

    def _prediction(self, row: list[float]) -> Prediction:
        best = max(range(len(row)), key=row.__getitem__)
        return Prediction(self.classes[best], row[best], tuple(row))

    def save(self, stem: Path, metadata: dict[str, Any]) -> None:
        """Writes ``STEM.safetensors`` and ``STEM.json``, sealed; ``metadata`` are kept beside."""
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
            **metadata,
        }
        write_checksummed(stem, self.state_dict(), content)

    @classmethod
    def load(cls, stem: Path, *, device: torch.device | str = "cpu") -> ImageClassifier:
        """The network that `save` wrote, in evaluation mode on ``device``.

        Raises:
            UserError: a file is missing, damaged, or of a newer format.
        """
        tensors, metadata = read_checksummed(stem)
        if metadata["format"] != FORMAT_VERSION:
            raise UserError(f"{stem}.json must be of format {FORMAT_VERSION}, got {metadata['format']}")
        arguments = metadata["arguments"]
        if metadata["kind"] == "logistic":
            model: MLP = LogisticRegression(arguments["in_features"], arguments["num_classes"], bias=arguments["bias"])
        else:
            model = MLP(**arguments)
        classifier = cls(
            model,
            classes=metadata["classes"],
            shape=metadata["shape"],
            mean=torch.tensor(metadata["mean"]),
            std=torch.tensor(metadata["std"]),
            whitening=Whitening(metadata["whiten"], math.prod(metadata["shape"])) if metadata["whiten"] else None,
            resize=metadata.get("resize", False),  # absent where no picture was resized yet
        )
        classifier.load_state_dict(tensors)
        return classifier.to(device).eval()

    def _pixels_or_error(self, image: Any, place: int) -> Tensor | UserError:  # noqa: ANN401 - see `_pixels`
        try:
            return self._pixels(image, place)
        except UserError as error:
            return error

    def _pixels(self, image: Any, place: int) -> Tensor:  # noqa: ANN401 - a path, a PIL image, a tensor, an `ImageEntry`
        name, content = f"images[{place}]", image
        if isinstance(image, ImageEntry):
            name, content = image
        elif isinstance(image, str | Path):
            name = str(image)
        if isinstance(content, UserError):
            raise content
        pixels = content if isinstance(content, Tensor) else self._decode(content, name)
        if pixels.dtype != torch.uint8:
            raise UserError(f"{name} must be uint8, got {pixels.dtype}")
        if tuple(pixels.shape) != self.shape:
            expected, came = "×".join(map(str, self.shape)), "×".join(map(str, pixels.shape))
            raise UserError(f"{name} must be an image of {expected} (channels, height, width), got {came}")
        return pixels

    def _decode(self, content: Any, name: str) -> Tensor:  # noqa: ANN401 - see `_pixels`
        size = (self.shape[1], self.shape[2]) if self.resize else None
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        return torch.from_numpy(decode_image(file, self.shape[0], name, size))


def load(run: str | Path, *, device: torch.device | str = "cpu") -> ImageClassifier:
    """The finished network of a run folder, ready to use.

    Args:
        run: the run's folder.
        device: where the network is wanted.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        UserError: the folder holds no finished network, or a damaged one.

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
    folder = Path(run)
    if not folder.is_dir():
        raise UserError(f"RUN must be a run's folder, got {folder}")
    if not (folder / "model.json").is_file():
        raise UserError(f"{folder} holds no finished network: model.json is missing")
    return ImageClassifier.load(folder / "model", device=device)
