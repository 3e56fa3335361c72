"""A network's weights in few bytes, for a page to carry. n[l] units in layer l."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fcnet.models.batch_norm import BatchNorm
from fcnet.models.layers import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.experiment.image_classifier import ImageClassifier
    from fcnet.models.layers import Dense

MAX_BYTES = {"float32": 1_500_000, "float16": 4_000_000, "int8": 4_000_000}
"""How many bytes of weights are carried at most in each form, the most exact form first."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}


class FusedLayer(NamedTuple):
    """One layer as a browser computes it: a = g(norm(W x + b)), plus x where it is residual; all float32.

    Attributes:
        name: what a page calls it.
        weight: W, (n[l], n[l−1]).
        bias: b, (n[l],); None: there is none.
        activation: g by name.
        gain: the layer norm's γ, (n[l],); None: there is no layer norm.
        shift: its β.
        epsilon: its ε.
        residual: whether x is added.
    """

    name: str
    weight: Tensor
    bias: Tensor | None = None
    activation: str = "identity"
    gain: Tensor | None = None
    shift: Tensor | None = None
    epsilon: float = 0.0
    residual: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """(B, n[l−1]) -> (B, n[l])."""
        z = nn.functional.linear(x, self.weight, self.bias)
        if self.gain is not None:
            z = nn.functional.layer_norm(z, self.gain.shape, self.gain, self.shift, self.epsilon)
        a = ACTIVATIONS[self.activation](z)
        return a + x if self.residual else a


def fuse_layers(classifier: ImageClassifier) -> list[FusedLayer]:
    """What a network computes once its images are normalised: whitening, if any, and its layers.

    Batch norm in evaluation is a line in each unit, so it goes into W and b.

    Args:
        classifier: on any device; its model is an `fcnet.models.mlp.MLP`.

    Returns:
        The steps, on the processor.

    Example:
        >>> from fcnet.models.mlp import MLP
        >>> from fcnet.experiment.image_classifier import ImageClassifier
        >>> half, model = torch.full((1,), 0.5), MLP(4, (3,), 2, normalization="batch")
        >>> classifier = ImageClassifier(model, classes=("cat", "dog"), shape=(1, 2, 2), mean=half, std=half)
        >>> [(step.name, tuple(step.weight.shape), step.gain) for step in fuse_layers(classifier)]
        [('Layer 1', (3, 4), None), ('Layer 2', (1, 3), None)]
    """
    layers = enumerate(classifier.model.dense_layers(), 1)
    steps = [_step(f"Layer {place}", layer) for place, layer in layers]
    if classifier.whitening is None:
        return steps
    return [
        FusedLayer("Principal components", _plain(classifier.whitening.weight), _plain(classifier.whitening.bias)),
        *steps,
    ]


def choose_dtype(steps: Sequence[FusedLayer]) -> str | None:
    """The most exact form of `MAX_BYTES` in which layers are small enough, unless they hold NaN or inf; else None.

    Example:
        >>> [choose_dtype([FusedLayer("", torch.ones(1000, n))]) for n in (100, 1000, 3000, 5000)]
        ['float32', 'float16', 'int8', None]
    """
    count = sum(step.weight.numel() for step in steps)
    largest = max(float(step.weight.abs().max()) for step in steps)
    finite = all(bool(values.isfinite().all()) for step in steps for values in step if isinstance(values, Tensor))
    for dtype_name, most in MAX_BYTES.items():
        dtype = _DTYPES[dtype_name]
        fits = not dtype.is_floating_point or largest <= torch.finfo(dtype).max
        if finite and fits and count * dtype.itemsize <= most:
            return dtype_name
    return None


class PackedWeights:
    """Layers one after another in one run of bytes, each tensor at a multiple of 4.

    Args:
        dtype_name: of the matrices, one of `MAX_BYTES`; biases and the like are float32. int8 is a number of −127 to 127
            times a float32 scale for each row.

    Attributes:
        content: the bytes so far.
        layers: the layers so far, with the weights that the bytes stand for.
        num_bytes: of the matrices.

    Example:
        >>> pack = PackedWeights("int8")
        >>> pack.add(FusedLayer("Layer 1", torch.tensor([[1.27, -0.634]])))["weight"]
        {'dtype': 'int8', 'rows': 1, 'columns': 2, 'offset': 0, 'scales': 4}
        >>> pack.layers[0].weight
        tensor([[ 1.2700, -0.6300]])
    """

    def __init__(self, dtype_name: str) -> None:
        self.dtype_name = dtype_name
        self.content = bytearray()
        self.layers: list[FusedLayer] = []
        self.num_bytes = 0

    def add(self, step: FusedLayer) -> dict[str, Any]:
        """Takes a layer in.

        Returns:
            What there is to know of it, each tensor by its place: what ``live_network.js`` reads.
        """
        metadata, weight = self._matrix(step.weight)
        self.layers.append(step._replace(weight=weight))
        tensors = {
            "weight": metadata,
            **{name: self._vector(getattr(step, name)) for name in ("bias", "gain", "shift")},
        }
        return {**step._asdict(), **tensors}

    def _matrix(self, weight: Tensor) -> tuple[dict[str, Any], Tensor]:
        """Where a matrix is, and what it is there."""
        self.num_bytes += weight.numel() * _DTYPES[self.dtype_name].itemsize
        if self.dtype_name != "int8":
            packed = weight.to(_DTYPES[self.dtype_name])
            return self._append(self.dtype_name, packed), packed.float()
        scale = (weight.abs().amax(1, keepdim=True) / 127.0).clamp(min=torch.finfo(torch.float32).tiny)
        packed = (weight / scale).round().to(torch.int8)
        metadata = self._append("int8", packed)
        return {**metadata, "scales": self._append("float32", scale)["offset"]}, packed * scale

    def _vector(self, values: Tensor | None) -> dict[str, Any] | None:
        return None if values is None else self._append("float32", values[:, None])

    def _append(self, dtype_name: str, values: Tensor) -> dict[str, Any]:
        rows, columns = values.shape
        place = len(self.content)
        self.content += values.contiguous().numpy().tobytes()
        self.content += bytes(-len(self.content) % 4)
        return {"dtype": dtype_name, "rows": rows, "columns": columns, "offset": place}


def _plain(values: Tensor) -> Tensor:
    return values.detach().cpu().float()


def _step(name: str, layer: Dense) -> FusedLayer:
    """A layer with its batch norm, if it has one, in W and b."""
    bias = None if layer.bias is None else _plain(layer.bias)
    step = FusedLayer(name, _plain(layer.weight), bias, layer.activation, residual=layer.residual)
    norm = layer.normalization
    if isinstance(norm, BatchNorm):
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        folded = norm.bias.double() - norm.running_mean.double() * gain
        return step._replace(weight=_plain(layer.weight.double() * gain[:, None]), bias=_plain(folded))
    if isinstance(norm, nn.LayerNorm):
        return step._replace(gain=_plain(norm.weight), shift=_plain(norm.bias), epsilon=norm.eps)
    return step
