"""The lecture's networks: dense layers a[l] = g(W[l] a[l−1] + b[l]), stacked.

B examples, n[l] units in layer l, D = n[0] input features, C classes. With two classes a network
has one output node, the logit of the second class.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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


def _identity(input: Tensor) -> Tensor:  # noqa: A002 - the name of the other activations' argument
    return input


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": _identity,
    "sigmoid": F.sigmoid,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
}
"""g by name, each a function of one tensor."""

ACTIVATION_GRADS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda upstream, z: upstream,
    "sigmoid": lambda upstream, z: activations.SIGMOID.derivative(z).mul_(upstream),
    "relu": lambda upstream, z: z.ge_(0.0).mul_(upstream),
    "leaky_relu": lambda upstream, z: activations.make_leaky_relu().derivative(z).mul_(upstream),
    "elu": lambda upstream, z: activations.make_elu().derivative(z).mul_(upstream),
    "gelu": lambda upstream, z: activations.GELU_VARIANTS["none"].derivative(z).mul_(upstream),
}
"""(∂R/∂a, z) -> ∂R/∂z = ∂R/∂a · g′(z), by the name of g; z may be used up."""

_NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {"batch": BatchNorm, "layer": nn.LayerNorm}


class LayerTrace(NamedTuple):
    """What one layer computed: its activation's argument and its output, each (B, n[l])."""

    z: Tensor
    a: Tensor


class Dropout(nn.Module):
    """In training each activation is 0 with probability p, the others are divided by 1 − p.

    Args:
        p: the probability, in [0, 1).
        generator: what the zeros are drawn from, on the device of the input; None is torch's own.
            `fcnet.fit` sets one that is derived from its seed and the step.

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

    def forward(self, a: Tensor) -> Tensor:
        """The same shape and dtype as ``a``."""
        if not self.training or self.p == 0.0:
            return a
        mask = torch.empty_like(a).bernoulli_(1.0 - self.p, generator=self.generator)
        return a * mask.div_(1.0 - self.p)


class Dense(nn.Module):
    """One layer, a[l] = g(W a[l−1] + b), with what may stand around it.

    Args:
        in_features: n[l−1].
        out_features: n[l].
        activation: g by name.
        normalization: ``"batch"`` normalises each unit of W a[l−1] over the batch, ``"layer"`` each
            example over the units; the shift β takes the place of b.
        dropout: probability that an output is dropped in training.
        residual: adds a[l−1] to the output; n[l−1] and n[l] must be equal.
        bias: whether there is a b.
        initialization: the variance of the first W, one of `fcnet.models.init.VARIANCES`.
        generator: what W and b, and in training the dropped outputs, are drawn from.

    Attributes:
        weight: W, (n[l], n[l−1]), a row for each unit, drawn from a normal distribution.
        bias: b, (n[l],), from 0; None without.

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
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout must be at least 0 and less than 1, got {dropout}")
        if residual and in_features != out_features:
            raise UserError(f"residual must be False where the widths differ, got {in_features} and {out_features}")
        self.in_features, self.out_features = in_features, out_features
        self.activation, self.residual = activation, residual
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias and normalization == "none" else None
        self.normalization = None if normalization == "none" else _NORMALIZATIONS[normalization](out_features)
        self.dropout = Dropout(dropout, generator=generator) if dropout else None
        variance = VARIANCES[initialization](max(in_features, 1), out_features, activation)
        nn.init.normal_(self.weight, std=math.sqrt(variance), generator=generator)

    def preactivation(self, a: Tensor) -> Tensor:
        """z = W a + b, normalised where the layer does that; (B, n[l−1]) -> (B, n[l])."""
        z = _affine(a, self.weight, self.bias)
        if self.normalization is not None:
            z = self.normalization(z)
        return z

    def output(self, z: Tensor, a: Tensor) -> Tensor:
        """a[l] from its preactivation and, for a residual layer, a[l−1]."""
        result = ACTIVATIONS[self.activation](z)
        if self.residual:
            result = result + a
        if self.dropout is not None:
            result = self.dropout(result)
        return result

    def forward(self, a: Tensor) -> Tensor:
        """a[l−1] (B, n[l−1]) -> a[l] (B, n[l])."""
        return self.output(self.preactivation(a), a)

    def extra_repr(self) -> str:
        """The layer in one line, as `print` shows it."""
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_features}, {self.out_features}, {self.activation}{bias}"


def _affine(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """a Wᵀ + b, (B, n).

    A processor's product with a matrix of few columns is slow where they are no multiple of the 16 that it takes at
    once, up to twice as slow as the transposed product W aᵀ, whose columns are the batch. The compiler is given one
    form for batches of every size.
    """
    few = 4 < weight.shape[0] < 16 and a.device.type == "cpu"
    if few and not torch.compiler.is_compiling() and a.shape[0] >= 16:
        product = weight @ a.T if bias is None else torch.addmm(bias[:, None], weight, a.T)
        return product.T.contiguous()
    return nn.functional.linear(a, weight, bias)


class MLP(nn.Module):
    """A feedforward network of dense layers that ends in logits.

    Args:
        in_features: D = n[0]; an input of any trailing shape with D values is flattened.
        hidden: n[1], …, n[L−1]; with none this is logistic regression.
        num_classes: C ≥ 2. Two classes have one output node, else n[L] = C.
        activation: g of the hidden layers: identity, sigmoid, relu, leaky_relu, elu or gelu.
        normalization: of the hidden layers: none, batch or layer.
        dropout: probability that a hidden unit's output is dropped in training.
        residual: hidden layers as wide as the one before add its output to theirs.
        bias: whether the layers have a b.
        initialization: of the first weights: auto, he, glorot or lecun.
        generator: what initialisation and dropout draw from; None is torch's own.

    Raises:
        UserError: a ValueError; an argument is out of its range.

    Source:
        The lecture's feedforward network, L layers without the input.

    Example:
        >>> net = MLP(3 * 32 * 32, (512, 256), 10)
        >>> net(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 10])
        >>> [tuple(p.shape) for p in MLP(3, (2,), 2).parameters()]  # W¹, b¹, W², b²
        [(2, 3), (2,), (1, 2), (1,)]
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        num_classes: int,
        *,
        activation: ActivationName = "relu",
        normalization: NormalizationName = "none",
        dropout: float = 0.0,
        residual: bool = False,
        bias: bool = True,
        initialization: InitializationName = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _require_at_least("in_features", in_features, 1)
        _require_at_least("num_classes", num_classes, 2)
        for width in hidden:
            _require_at_least("each width of hidden", width, 1)
        widths = [in_features, *hidden]
        same = [before == width for before, width in itertools.pairwise(widths)]
        if residual and not any(same):
            raise UserError(f"hidden must have two neighbours of one width for residual=True, got {widths}")
        self.arguments: dict[str, Any] = {
            "in_features": in_features,
            "hidden": list(hidden),
            "num_classes": num_classes,
            "activation": activation,
            "normalization": normalization,
            "dropout": dropout,
            "residual": residual,
            "bias": bias,
        }
        self.in_features, self.num_classes = in_features, num_classes
        layers = [
            Dense(
                before,
                width,
                activation=activation,
                normalization=normalization,
                dropout=dropout,
                residual=residual and before == width,
                bias=bias,
                initialization=initialization,
                generator=generator,
            )
            for before, width in itertools.pairwise(widths)
        ]
        num_outputs = 1 if num_classes == 2 else num_classes
        layers.append(Dense(widths[-1], num_outputs, bias=bias, initialization=initialization, generator=generator))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, …) -> (B,) of the second of two classes, else (B, C)."""
        a = self.flatten_inputs(x)
        for layer in self.layers:
            a = layer(a)
        return a.squeeze(1) if self.num_classes == 2 else a

    def predict_proba(self, x: Tensor) -> Tensor:
        """Class probabilities, (B, …) -> (B, C); two classes give [p(first), p(second)]."""
        logits: Tensor = self(x)
        return logits_to_probabilities(logits)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class, (B, …) -> int64 (B,); the first of equals."""
        logits: Tensor = self(x)
        return logits_to_classes(logits)

    def trace(self, x: Tensor) -> list[LayerTrace]:
        """z and a of every layer from 1 to L, each (B, n[l]); the last a are probabilities.

        Example:
            >>> net = MLP(6, (4,), 3)
            >>> [tuple(layer.a.shape) for layer in net.trace(torch.zeros(2, 6))]
            [(2, 4), (2, 3)]
        """
        a, records = self.flatten_inputs(x), []
        for layer in self.dense_layers():
            z = layer.preactivation(a)
            a = layer.output(z, a)
            records.append(LayerTrace(z, a))
        logits = records[-1].z
        records[-1] = LayerTrace(logits, F.sigmoid(logits) if self.num_classes == 2 else F.softmax(logits, 1))
        return records

    def dense_layers(self) -> list[Dense]:
        """The layers from 1 to L."""
        return list(self.layers)  # type: ignore[arg-type]

    @property
    def widths(self) -> list[int]:
        """n[0], …, n[L]: the input's, the hidden layers', the output's.

        Example:
            >>> MLP(64, (32, 16), 2).widths
            [64, 32, 16, 1]
        """
        return [self.in_features, *(layer.out_features for layer in self.dense_layers())]

    def flatten_inputs(self, x: Tensor) -> Tensor:
        """The inputs as rows, (B, …) -> (B, D); see `flatten_inputs`."""
        return flatten_inputs(x, self.in_features)


class LogisticRegression(MLP):
    """p̂ = s(w·x + b), or the softmax of W x + b with more than two classes: an MLP without a hidden layer.

    Args:
        in_features: D, the number of input features.
        num_classes: C ≥ 2. Two classes have one output node.
        bias: whether there is a b.
        generator: what the initial W is drawn from; None is torch's own.

    Raises:
        UserError: a ValueError; an argument is out of its range.

    Source:
        The lecture's logistic regression, from maximum likelihood.

    Example:
        >>> net = LogisticRegression(64)
        >>> net(torch.zeros(5, 1, 8, 8)).shape, net.predict_proba(torch.zeros(5, 64)).shape
        (torch.Size([5]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int = 2,
        *,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(in_features, (), num_classes, bias=bias, generator=generator)


def flatten_inputs(x: Tensor, in_features: int) -> Tensor:
    """Inputs (B, …) as rows (B, D).

    Raises:
        UserError: a ValueError; they have not D values each, or are not floating.
    """
    if x.ndim < 2 or math.prod(x.shape[1:]) != in_features:
        raise UserError(f"expected a batch of inputs (B, …) with {in_features} values each, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise UserError(f"expected inputs of a floating dtype, got {x.dtype}")
    return x.flatten(1)


def num_parameters(widths: Sequence[int], *, bias: bool = True) -> int:
    """Σ_l n[l] (n[l−1] + 1), the weights and biases of dense layers; without b, Σ_l n[l] n[l−1].

    Args:
        widths: n[0], …, n[L]: the input's, the hidden layers', the output's.
        bias: whether the layers have a b.

    Source:
        The lecture's number of parameters of a feedforward network.

    Example:
        >>> num_parameters([3 * 32 * 32, 512, 10])
        1578506
        >>> num_parameters([64, 1]) == sum(p.numel() for p in LogisticRegression(64).parameters())
        True
    """
    return sum(width * (before + bias) for before, width in itertools.pairwise(widths))


def logits_to_probabilities(logits: Tensor) -> Tensor:
    """(B, C) class probabilities of logits (B,) or (B, C).

    Example:
        >>> logits_to_probabilities(torch.tensor([0.0, 20.0]))  # one output node
        tensor([[5.0000e-01, 5.0000e-01],
                [2.0612e-09, 1.0000e+00]])
    """
    if logits.ndim == 1:
        return torch.stack([F.sigmoid(-logits), F.sigmoid(logits)], dim=1)
    return F.softmax(logits, 1)


def logits_to_classes(logits: Tensor) -> Tensor:
    """The class of largest probability, int64 (B,), of logits (B,) or (B, C).

    Example:
        >>> logits_to_classes(torch.tensor([-1.0, 2.0])), logits_to_classes(torch.tensor([[0.0, 3.0, 1.0]]))
        (tensor([0, 1]), tensor([1]))
    """
    return (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)


def _require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}")
