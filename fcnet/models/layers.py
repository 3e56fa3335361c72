"""Dense layers a[l] = g(W[l] a[l−1] + b[l]): the activations g by name, dropout, normalization and residuals.

B examples, n[l] units in layer l, n[0] = D input features.
"""

from __future__ import annotations

import difflib
import inspect
import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

import fcnet.functional as F
from fcnet.functional import activations
from fcnet.models.batch_norm import BatchNorm
from fcnet.models.init import VARIANCES, InitializationName
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ActivationName = Literal["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"]
NormalizationName = Literal["none", "batch", "layer"]


def _identity(input: Tensor) -> Tensor:  # noqa: A002 - the other activations call their argument input
    return input


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": _identity,
    "sigmoid": F.sigmoid,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
}
"""The activations by name, each a function z -> g(z)."""

ACTIVATION_GRADS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda upstream, z: upstream,
    "sigmoid": lambda upstream, z: activations.SIGMOID.derivative(z).mul_(upstream),
    "relu": lambda upstream, z: z.ge_(0.0).mul_(upstream),
    "leaky_relu": lambda upstream, z: activations.make_leaky_relu().derivative(z).mul_(upstream),
    "elu": lambda upstream, z: activations.make_elu().derivative(z).mul_(upstream),
    "gelu": lambda upstream, z: activations.GELU_VARIANTS["none"].derivative(z).mul_(upstream),
}
"""The backward pass of each activation, (∂R/∂a, z) -> ∂R/∂z = ∂R/∂a · g′(z). It may overwrite z."""

_NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {"batch": BatchNorm, "layer": nn.LayerNorm}


class Dropout(nn.Module):
    """Sets each activation to 0 with probability p during training and divides the others by 1 − p.

    The division keeps the expected activation, so evaluation needs no correction.

    Args:
        p: the probability of dropping an activation, in [0, 1).
        generator: the source of the masks, on the input's device. None uses torch's global generator. `fcnet.fit`
            sets a generator that depends on its seed and the step alone.

    Source:
        Srivastava et al., "Dropout", 2014.

    Example:
        >>> a = Dropout(0.5, generator=torch.Generator().manual_seed(0))(torch.ones(1000))
        >>> sorted(set(a.tolist())), round(a.mean().item(), 1)
        ([0.0, 2.0], 1.0)
    """

    def __init__(self, p: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.p, self.generator = p, generator

    def extra_repr(self) -> str:
        """Returns the probability, as `print` shows it."""
        return f"p={self.p}"

    def forward(self, a: Tensor) -> Tensor:
        """Returns a tensor of the shape and dtype of ``a``."""
        if not self.training or self.p == 0.0:
            return a
        mask = torch.empty_like(a).bernoulli_(1.0 - self.p, generator=self.generator)
        return a * mask.div_(1.0 - self.p)


class Dense(nn.Module):
    """One dense layer, a[l] = g(W a[l−1] + b), with optional normalization, residual connection and dropout.

    Args:
        in_features: n[l−1].
        out_features: n[l].
        activation: the name of g, a key of `ACTIVATIONS`.
        normalization: ``"none"``; ``"batch"`` normalizes each unit of W a[l−1] over the batch; ``"layer"``
            normalizes each example over the units. The shift β of a normalization replaces b.
        dropout: the probability of dropping an output during training, in [0, 1).
        residual: whether to add a[l−1] to the output. It requires n[l−1] = n[l].
        bias: whether the layer has a bias b.
        initialization: the variance of the initial W, a key of `fcnet.models.init.VARIANCES`.
        generator: the source of the initial W and of the dropout masks. None uses torch's global generator.

    Attributes:
        weight: W, (n[l], n[l−1]), one row per unit, drawn from a normal distribution.
        bias: b, (n[l],), initially 0; None for a layer without b.

    Raises:
        UserError: a ValueError; an argument is out of its range.

    Source:
        The lecture's dense layer.

    Example:
        >>> layer = Dense(4, 3, activation="sigmoid")
        >>> layer(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: ActivationName = "identity",
        normalization: NormalizationName = "none",
        dropout: float = 0.0,
        residual: bool = False,
        bias: bool = True,
        initialization: InitializationName = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _require_one_of("activation", activation, tuple(ACTIVATIONS))
        _require_one_of("initialization", initialization, tuple(VARIANCES))
        _require_one_of("normalization", normalization, ("none", *_NORMALIZATIONS))
        probability: object = dropout
        if isinstance(probability, str) or not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout must be at least 0 and less than 1, got {dropout!r}")
        if residual and in_features != out_features:
            raise UserError(f"residual must be False for widths that differ, got {in_features} and {out_features}")
        self.in_features, self.out_features = in_features, out_features
        self.activation, self.residual = activation, residual
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias and normalization == "none" else None
        self.normalization = None if normalization == "none" else _NORMALIZATIONS[normalization](out_features)
        self.dropout = Dropout(dropout, generator=generator) if dropout else None
        variance = VARIANCES[initialization](max(in_features, 1), out_features, activation)
        nn.init.normal_(self.weight, std=math.sqrt(variance), generator=generator)

    def preactivation(self, a: Tensor) -> Tensor:
        """Computes z = W a + b, normalized if the layer has a normalization; (B, n[l−1]) -> (B, n[l])."""
        z = _affine(a, self.weight, self.bias)
        if self.normalization is not None:
            z = self.normalization(z)
        return z

    def output(self, z: Tensor, a: Tensor) -> Tensor:
        """Computes a[l] from z[l] and, for a residual layer, a[l−1]; each (B, n[l])."""
        result = ACTIVATIONS[self.activation](z)
        if self.residual:
            result = result + a
        if self.dropout is not None:
            result = self.dropout(result)
        return result

    def forward(self, a: Tensor) -> Tensor:
        """Computes a[l] from a[l−1], (B, n[l−1]) -> (B, n[l]).

        Raises:
            UserError: a ValueError; the dtype is not that of the weights.
        """
        return self.output(self.preactivation(a), a)

    def extra_repr(self) -> str:
        """Returns the widths, the activation with its constants, a residual and a missing bias, as `print` shows."""
        residual = ", residual=True" if self.residual else ""
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_features}, {self.out_features}, {describe_activation(self.activation)}{residual}{bias}"


def describe_activation(name: str) -> str:
    """Returns the name of an activation with its constants.

    Example:
        >>> describe_activation("leaky_relu"), describe_activation("relu")
        ('leaky_relu(negative_slope=0.01)', 'relu')
    """
    constants = [
        f"{parameter.name}={parameter.default!r}"
        for parameter in inspect.signature(ACTIVATIONS[name]).parameters.values()
        if parameter.default is not parameter.empty
    ]
    return f"{name}({', '.join(constants)})" if constants else name


def flatten_inputs(x: Tensor, in_features: int) -> Tensor:
    """Flattens inputs (B, …) with D values each to rows (B, D).

    Raises:
        UserError: a ValueError; an input does not have D values, or the dtype is not floating.
    """
    value: object = x
    if not isinstance(value, Tensor):
        advice = "pass torch.as_tensor(x, dtype=torch.float32)"
        raise UserError(f"expected a tensor (B, …) of inputs, got a {type(value).__name__}; {advice}")
    if x.ndim < 2 or math.prod(x.shape[1:]) != in_features:
        advice = "; pass x[None] for one example" if x.numel() == in_features else ""
        raise UserError(
            f"expected a batch of inputs (B, …) with {in_features} values each, got {tuple(x.shape)}{advice}"
        )
    if not x.is_floating_point():
        advice = "; for pixels pass x.float() / 255" if x.dtype == torch.uint8 else "; pass x.float()"
        raise UserError(f"expected inputs of a floating dtype, got {x.dtype}{advice}")
    return x.flatten(1)


def _affine(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes a Wᵀ + b, (B, n)."""
    # Autocast converts both factors, unless one is float64.
    if a.dtype != weight.dtype and (
        torch.float64 in (a.dtype, weight.dtype) or not torch.is_autocast_enabled(a.device.type)
    ):
        raise UserError(
            f"expected inputs of the dtype of the weights, {weight.dtype}, got {a.dtype}; pass x.to({weight.dtype})"
        )
    # A CPU computes 16 columns of a product at once. With fewer outputs than that, a Wᵀ takes up to twice as long as
    # its transpose W aᵀ, whose columns are the batch. torch.compile gets one form for every batch size.
    few = 4 < weight.shape[0] < 16 and a.device.type == "cpu"
    if few and not torch.compiler.is_compiling() and a.shape[0] >= 16:
        product = weight @ a.T if bias is None else torch.addmm(bias[:, None], weight, a.T)
        return product.T.contiguous()
    return nn.functional.linear(a, weight, bias)


def _require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        close = difflib.get_close_matches(str(value).lower(), known, n=1)
        advice = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}{advice}")
