"""Packs a model's weights into a few bytes for the live demo. n[l] is the number of units in layer l."""

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

MAX_BYTES = {"float32": 1_500_000, "float16": 2_600_000, "int8": 4_000_000}
"""The maximum size of the weight matrices in each format, most precise format first."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}


class FusedLayer(NamedTuple):
    """A layer without batch norm: a = g(norm(W x + b)), plus x if it is residual. All tensors are float32.

    Attributes:
        name: the name shown on the page.
        weight: W, (n[l], n[l−1]).
        bias: b, (n[l],); None: no bias.
        activation: the name of g.
        gain: γ of the layer norm, (n[l],); None: no layer norm.
        shift: β of the layer norm.
        epsilon: ε of the layer norm.
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
        """Computes the layer's output, (B, n[l−1]) -> (B, n[l])."""
        z = nn.functional.linear(x, self.weight, self.bias)
        if self.gain is not None:
            z = nn.functional.layer_norm(z, self.gain.shape, self.gain, self.shift, self.epsilon)
        a = ACTIVATIONS[self.activation](z)
        return a + x if self.residual else a


def fuse_layers(classifier: ImageClassifier) -> list[FusedLayer]:
    """Returns the layers that map normalised images to logits: the whitening, if any, and the model's layers.

    Batch norm in evaluation mode is an affine map of each unit, so it is folded into W and b.

    Args:
        classifier: on any device; its model is an `fcnet.models.mlp.MLP`.

    Returns:
        The layers, on the CPU.

    Example:
        >>> from fcnet.models.mlp import MLP
        >>> from fcnet.experiment.image_classifier import ImageClassifier
        >>> half, model = torch.full((1,), 0.5), MLP(4, (3,), 2, normalization="batch")
        >>> classifier = ImageClassifier(model, classes=("cat", "dog"), shape=(1, 2, 2), mean=half, std=half)
        >>> [(layer.name, tuple(layer.weight.shape), layer.gain) for layer in fuse_layers(classifier)]
        [('Layer 1', (3, 4), None), ('Layer 2', (1, 3), None)]
    """
    layers = [_fuse(f"Layer {number}", layer) for number, layer in enumerate(classifier.model.dense_layers(), 1)]
    whitening = classifier.whitening
    if whitening is None:
        return layers
    return [FusedLayer("Principal components", _to_float32(whitening.weight), _to_float32(whitening.bias)), *layers]


def choose_dtype(layers: Sequence[FusedLayer]) -> str | None:
    """Returns the most precise format whose size limit the layers meet; None if none fits or a value is not finite.

    Example:
        >>> [choose_dtype([FusedLayer("", torch.ones(1000, n))]) for n in (100, 1000, 3000, 5000)]
        ['float32', 'float16', 'int8', None]
    """
    num_weights = sum(layer.weight.numel() for layer in layers)
    largest = max(float(layer.weight.abs().max()) for layer in layers)
    finite = all(bool(values.isfinite().all()) for layer in layers for values in layer if isinstance(values, Tensor))
    for dtype_name, max_bytes in MAX_BYTES.items():
        dtype = _DTYPES[dtype_name]
        in_range = not dtype.is_floating_point or largest <= torch.finfo(dtype).max
        if finite and in_range and num_weights * dtype.itemsize <= max_bytes:
            return dtype_name
    return None


class PackedWeights:
    """Layers packed into one byte string, each tensor aligned to 4 bytes.

    Args:
        dtype_name: the format of the matrices, a key of `MAX_BYTES`; other tensors are float32. In int8, a weight is an
            integer from −127 to 127 times a float32 scale of its row.

    Attributes:
        content: the bytes.
        layers: the layers with the weights that the bytes represent.
        num_bytes: the size of the matrices.

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

    def add(self, layer: FusedLayer) -> dict[str, Any]:
        """Packs a layer.

        Returns:
            The layer as JSON metadata for ``live_network.js``, each tensor replaced by its dtype, shape and offset.
        """
        metadata, weight = self._add_matrix(layer.weight)
        self.layers.append(layer._replace(weight=weight))
        vectors = {name: getattr(layer, name) for name in ("bias", "gain", "shift")}
        return {
            **layer._asdict(),
            "weight": metadata,
            **{
                name: None if values is None else self._append("float32", values[:, None])
                for name, values in vectors.items()
            },
        }

    def _add_matrix(self, weight: Tensor) -> tuple[dict[str, Any], Tensor]:
        """Packs a matrix; returns its metadata and the values that the bytes represent."""
        self.num_bytes += weight.numel() * _DTYPES[self.dtype_name].itemsize
        if self.dtype_name != "int8":
            packed = weight.to(_DTYPES[self.dtype_name])
            return self._append(self.dtype_name, packed), packed.float()
        scale = (weight.abs().amax(1, keepdim=True) / 127.0).clamp(min=torch.finfo(torch.float32).tiny)
        packed = (weight / scale).round().to(torch.int8)
        metadata = self._append("int8", packed)
        return {**metadata, "scales": self._append("float32", scale)["offset"]}, packed * scale

    def _append(self, dtype_name: str, values: Tensor) -> dict[str, Any]:
        rows, columns = values.shape
        offset = len(self.content)
        self.content += values.contiguous().numpy().tobytes()
        self.content += bytes(-len(self.content) % 4)
        return {"dtype": dtype_name, "rows": rows, "columns": columns, "offset": offset}


def _to_float32(values: Tensor) -> Tensor:
    return values.detach().cpu().float()


def _fuse(name: str, layer: Dense) -> FusedLayer:
    """Converts a layer; folds its batch norm, if any, into W and b."""
    bias = None if layer.bias is None else _to_float32(layer.bias)
    fused = FusedLayer(name, _to_float32(layer.weight), bias, layer.activation, residual=layer.residual)
    norm = layer.normalization
    if isinstance(norm, BatchNorm):
        # γ (z − μ) / √(σ² + ε) + β = gain · z + (β − gain · μ)
        weight, gamma, beta, mean, variance = (
            values.detach().cpu().double()
            for values in (layer.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        gain = gamma / (variance + norm.eps).sqrt()
        return fused._replace(weight=(weight * gain[:, None]).float(), bias=(beta - mean * gain).float())
    if isinstance(norm, nn.LayerNorm):
        return fused._replace(gain=_to_float32(norm.weight), shift=_to_float32(norm.bias), epsilon=norm.eps)
    return fused
