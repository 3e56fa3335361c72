"""The finished network: a model and all it takes to use it on images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcnet.data.batches import normalize
from fcnet.data.sources import decode_image
from fcnet.data.whitening import Whitening
from fcnet.errors import UserError
from fcnet.files import read_sealed, write_sealed
from fcnet.models import MLP, LogisticRegression, probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = 1


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


class Network(nn.Module):
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
        return probabilities(logits)

    def predict_images(self, images: Sequence[Any]) -> list[Prediction]:
        """What the network says of images.

        Args:
            images: each a path, an open PIL image, or a uint8 tensor (channels, height, width).

        Returns:
            One prediction an image, in their order.

        Raises:
            UserError: one of them is no image, or has another size than the network's, unless pictures are resized.
        """
        if not images:
            return []
        pixels = torch.stack([self._pixels(image, place) for place, image in enumerate(images)])
        rows = self.predict_proba(pixels.to(self.mean.device)).tolist()
        return [
            Prediction(self.classes[best], row[best], tuple(row))
            for row in rows
            for best in [max(range(len(row)), key=row.__getitem__)]
        ]

    def save(self, stem: Path, facts: dict[str, Any]) -> None:
        """Writes ``STEM.safetensors`` and ``STEM.json``, sealed; ``facts`` are kept beside."""
        content = {
            "format": FORMAT,
            "kind": "logistic" if isinstance(self.model, LogisticRegression) else "mlp",
            "arguments": self.model.arguments,
            "classes": list(self.classes),
            "shape": list(self.shape),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "resize": self.resize,
            "whiten": 0 if self.whitening is None else len(self.whitening.bias),
            **facts,
        }
        write_sealed(stem, self.state_dict(), content)

    @classmethod
    def load(cls, stem: Path, *, device: torch.device | str = "cpu") -> Network:
        """The network that `save` wrote, in evaluation mode on ``device``.

        Raises:
            UserError: a file is missing, damaged, or of a newer format.
        """
        tensors, facts = read_sealed(stem)
        if facts["format"] != FORMAT:
            raise UserError(f"{stem}.json must be of format {FORMAT}, got {facts['format']}")
        arguments = facts["arguments"]
        if facts["kind"] == "logistic":
            model: MLP = LogisticRegression(arguments["in_features"], arguments["num_classes"], bias=arguments["bias"])
        else:
            model = MLP(**arguments)
        network = cls(
            model,
            classes=facts["classes"],
            shape=facts["shape"],
            mean=torch.tensor(facts["mean"]),
            std=torch.tensor(facts["std"]),
            whitening=Whitening(facts["whiten"], math.prod(facts["shape"])) if facts["whiten"] else None,
            resize=facts.get("resize", False),  # absent where no picture was resized yet
        )
        network.load_state_dict(tensors)
        return network.to(device).eval()

    def _pixels(self, image: Any, place: int) -> Tensor:  # noqa: ANN401 - a path, a PIL image or a tensor
        if isinstance(image, Tensor):
            pixels, name = image, f"images[{place}]"
        else:
            name = str(image) if isinstance(image, str | Path) else f"images[{place}]"
            size = (self.shape[1], self.shape[2]) if self.resize else None
            pixels = torch.from_numpy(decode_image(image, self.shape[0], name, size))
        if pixels.dtype != torch.uint8:
            raise UserError(f"{name} must be uint8, got {pixels.dtype}")
        if tuple(pixels.shape) != self.shape:
            expected, came = "×".join(map(str, self.shape)), "×".join(map(str, pixels.shape))
            raise UserError(f"{name} must be an image of {expected} (channels, height, width), got {came}")
        return pixels


def load(run: str | Path, *, device: torch.device | str = "cpu") -> Network:
    """The finished network of a run folder, ready to use.

    Args:
        run: the run's folder.
        device: where the network is wanted.

    Returns:
        The network, in evaluation mode.

    Raises:
        UserError: the folder holds no finished network, or a damaged one.

    Example:
        >>> import tempfile
        >>> model, half = MLP(4, (3,), 2), torch.full((1,), 0.5)
        >>> network = Network(model, classes=("cat", "dog"), shape=(1, 2, 2), mean=half, std=half)
        >>> with tempfile.TemporaryDirectory() as run:
        ...     network.save(Path(run) / "model", {})
        ...     loaded = load(run)
        >>> loaded.classes, loaded.predict_proba(torch.zeros(5, 1, 2, 2, dtype=torch.uint8)).shape
        (('cat', 'dog'), torch.Size([5, 2]))
    """
    folder = Path(run)
    if not folder.is_dir():
        raise UserError(f"RUN must be a run's folder, got {folder}")
    if not (folder / "model.json").is_file():
        raise UserError(f"{folder} holds no finished network: model.json is missing")
    return Network.load(folder / "model", device=device)
