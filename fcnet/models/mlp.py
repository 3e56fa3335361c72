"""The lecture's networks: dense layers a[l] = g(W[l] a[l−1] + b[l]), stacked from the input to the logits.

B examples, n[l] units in layer l, D = n[0] input features, C classes. A network for two classes has one output node,
the logit of the second class.
"""

from __future__ import annotations

import itertools
import numbers
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

import fcnet.functional as F
from fcnet.models.layers import Dense, flatten_inputs
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.models.init import InitializationName
    from fcnet.models.layers import ActivationName, NormalizationName


class LayerTrace(NamedTuple):
    """The preactivation z and the activation a of one layer, each (B, n[l])."""

    z: Tensor
    a: Tensor


class MLP(nn.Module):
    """A feedforward network of dense layers that returns logits.

    Args:
        in_features: D = n[0]. The network flattens inputs of any trailing shape with D values.
        hidden: n[1], …, n[L−1]; a number for one hidden layer. An empty sequence makes logistic regression.
        num_classes: C ≥ 2. Two classes have one output node, more have n[L] = C.
        activation: g of the hidden layers: identity, sigmoid, relu, leaky_relu, elu or gelu.
        normalization: the normalization of the hidden layers: none, batch or layer.
        dropout: the probability of dropping a hidden unit's output during training, in [0, 1).
        residual: whether each hidden layer adds its input to its output; layers that change the width do not.
        bias: whether the layers have a bias b.
        initialization: the variance of the initial weights: auto, he, glorot or lecun.
        generator: the source of the initial weights and of the dropout masks. None uses torch's global generator.

    Raises:
        UserError: a ValueError; an argument is out of its range.

    Source:
        The lecture's feedforward network. Its L layers do not count the input.

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
        hidden: int | Sequence[int],
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
        in_features, num_classes, hidden = operator.index(in_features), operator.index(num_classes), _to_widths(hidden)
        widths = [in_features, *hidden]
        if residual and not any(before == width for before, width in itertools.pairwise(widths)):
            raise UserError(f"hidden must have two equal widths in a row for residual=True, got {widths}")
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
        """Computes logits: (B, …) -> (B,), those of the second of two classes, or (B, C).

        Raises:
            UserError: a ValueError; an input does not have D values, or the dtype is not that of the weights.
        """
        a = self.flatten_inputs(x)
        for layer in self.layers:
            a = layer(a)
        return a.squeeze(1) if self.num_classes == 2 else a

    def predict_proba(self, x: Tensor) -> Tensor:
        """Computes class probabilities, (B, …) -> (B, C). Two classes give [p(first), p(second)]."""
        logits: Tensor = self(x)
        return logits_to_probabilities(logits)

    def predict(self, x: Tensor) -> Tensor:
        """Returns the most probable class, (B, …) -> int64 (B,). A tie goes to the first class."""
        logits: Tensor = self(x)
        return logits_to_classes(logits)

    def trace(self, x: Tensor) -> list[LayerTrace]:
        """Returns z and a of each layer from 1 to L, each (B, n[l]). The last a holds probabilities.

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
        """Returns the layers from 1 to L."""
        return list(self.layers)  # type: ignore[arg-type]

    @property
    def widths(self) -> list[int]:
        """The widths n[0], …, n[L] of the input, the hidden layers and the output.

        Example:
            >>> MLP(64, (32, 16), 2).widths
            [64, 32, 16, 1]
        """
        return [self.in_features, *(layer.out_features for layer in self.dense_layers())]

    def flatten_inputs(self, x: Tensor) -> Tensor:
        """Flattens inputs (B, …) to rows (B, D); see `fcnet.models.layers.flatten_inputs`."""
        return flatten_inputs(x, self.in_features)


class LogisticRegression(MLP):
    """Logistic regression p̂ = s(w·x + b), or the softmax of W x + b for more than two classes.

    It is an `MLP` without a hidden layer.

    Args:
        in_features: D, the number of input features.
        num_classes: C ≥ 2. Two classes have one output node.
        bias: whether the model has a bias b.
        generator: the source of the initial W. None uses torch's global generator.

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

    @classmethod
    def from_weights(cls, weight: Tensor, bias: Tensor | None = None) -> Self:
        """Returns a model with a copy of W (C, D), or (1, D) for two classes, and b (C,) or (1,), in the dtype of W.

        Example:
            >>> LogisticRegression.from_weights(torch.eye(3), torch.tensor([0.0, 1.0, 2.0]))(torch.zeros(1, 3))
            tensor([[0., 1., 2.]], grad_fn=<AddmmBackward0>)
        """
        nodes, width = weight.shape
        unused = torch.Generator().manual_seed(0)  # keeps torch's global generator untouched
        net = cls(width, max(nodes, 2), bias=bias is not None, generator=unused).to(weight.dtype)
        (layer,) = net.dense_layers()
        with torch.no_grad():
            layer.weight.copy_(weight)
            if layer.bias is not None and bias is not None:
                layer.bias.copy_(bias)
        return net


def num_parameters(widths: Sequence[int], *, bias: bool = True) -> int:
    """Counts the weights and biases of dense layers: Σ_l n[l] (n[l−1] + 1), or Σ_l n[l] n[l−1] without b.

    Args:
        widths: n[0], …, n[L], the widths of the input, the hidden layers and the output.
        bias: whether the layers have a bias b.

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
    """Computes class probabilities (B, C) from logits (B,) or (B, C).

    Example:
        >>> logits_to_probabilities(torch.tensor([0.0, 20.0]))  # one output node
        tensor([[5.0000e-01, 5.0000e-01],
                [2.0612e-09, 1.0000e+00]])
    """
    if logits.ndim == 1:
        # 1 − s(z) rounds to 0 for a large z. Its equal s(−z) keeps its digits.
        return torch.stack([F.sigmoid(-logits), F.sigmoid(logits)], dim=1)
    return F.softmax(logits, 1)


def logits_to_classes(logits: Tensor) -> Tensor:
    """Returns the most probable class, int64 (B,), from logits (B,) or (B, C). A tie goes to the first class.

    Example:
        >>> logits_to_classes(torch.tensor([-1.0, 2.0])), logits_to_classes(torch.tensor([[0.0, 3.0, 1.0]]))
        (tensor([0, 1]), tensor([1]))
    """
    return (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)


def outputs_to_classes(outputs: Tensor) -> Tensor:
    """Returns the most probable class of each row, int64 (B,), from logits or from these classes themselves."""
    return logits_to_classes(outputs) if outputs.is_floating_point() else outputs


def _to_widths(hidden: Any) -> list[int]:  # noqa: ANN401 - checked here
    """Returns the widths of the hidden layers; a number is the width of a single one."""
    if isinstance(hidden, str) or not isinstance(hidden, numbers.Integral | Iterable):
        raise UserError(f"hidden must be the widths of the hidden layers, such as (32,), got {hidden!r}")
    widths = list(hidden) if isinstance(hidden, Iterable) else [hidden]
    for width in widths:
        _require_at_least("each width of hidden", width, 1)
    return [operator.index(width) for width in widths]


def _require_at_least(name: str, value: Any, least: int) -> None:  # noqa: ANN401 - checked here
    if not isinstance(value, numbers.Integral):
        raise UserError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}")
