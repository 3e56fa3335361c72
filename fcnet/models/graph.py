"""A neural network is any directed graph built from neurons; layers are only one way to draw it.

Nodes are numbered: first the inputs 0, …, D − 1, then the neurons. An edge (i, j) with weight w_ij carries
a_i to neuron j, which computes z_j = Σ_i w_ij a_i + b_j and a_j = g(z_j). B examples.
"""

from __future__ import annotations

import graphlib
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.models.init import VARIANCES
from fcnet.models.mlp import ACTIVATIONS, flatten_inputs
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.models.mlp import ActivationName


class Graph(nn.Module):
    """A feedforward network in which any neuron may hear any other, as long as nothing goes round.

    It computes neuron by neuron, as the lecture writes it: to be read and to try things out. A network
    whose edges run from layer to layer is an `MLP`, which is one product a layer.

    Args:
        in_features: D.
        edges: (i, j) each, from an input or a neuron i to a neuron j ≥ D; their order is that of the weights.
        outputs: the neurons whose z are the logits: one for two classes, else one for each.
        activation: g of the other neurons, by name.
        generator: what the weights are drawn from; None is torch's own.

    Attributes:
        weight: w (E,), one for each edge.
        bias: b, one for each neuron, from 0.

    Raises:
        UserError: a ValueError; there is a cycle, or an edge or an output that cannot be.

    Source:
        The lecture's general neural network.

    Example:
        >>> net = Graph(2, [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)], [3])  # the neuron 3 sees the inputs and 2
        >>> net(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        in_features: int,
        edges: Sequence[tuple[int, int]],
        outputs: Sequence[int],
        *,
        activation: ActivationName = "relu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.incoming = _incoming(in_features, edges)
        if unknown := [node for node in outputs if node not in self.incoming] or not outputs:
            raise UserError(f"outputs must be neurons that an edge leads to, got {unknown if outputs else 'none'}")
        sources = {j: [i for i, _ in edges_in] for j, edges_in in self.incoming.items()}
        try:
            ordered = graphlib.TopologicalSorter(sources).static_order()
            self.topological_order = [node for node in ordered if node >= in_features]
        except graphlib.CycleError as error:
            raise UserError(f"edges must not go round, got {' → '.join(map(str, error.args[1][::-1]))}") from None
        self.in_features, self.outputs, self.activation = in_features, list(outputs), activation
        self.num_classes = max(len(outputs), 2)
        deviations = [math.sqrt(VARIANCES["auto"](len(sources[j]), 1, activation)) for _, j in edges]
        self.weight = nn.Parameter(torch.randn(len(edges), generator=generator) * torch.tensor(deviations))
        self.bias = nn.Parameter(torch.zeros(len(self.incoming)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, …) of D values each -> (B,) of the second of two classes, else (B, C)."""
        z, a = {}, dict(enumerate(flatten_inputs(x, self.in_features).unbind(1)))
        for j in self.topological_order:
            terms = [self.weight[edge] * a[i] for i, edge in self.incoming[j]]
            z[j] = torch.stack(terms).sum(0) + self.bias[j - self.in_features]
            a[j] = ACTIVATIONS[self.activation](z[j])
        logits = torch.stack([z[j] for j in self.outputs], dim=1)
        return logits.squeeze(1) if len(self.outputs) == 1 else logits


def _incoming(in_features: int, edges: Sequence[tuple[int, int]]) -> dict[int, list[tuple[int, int]]]:
    """For each neuron the nodes it hears, each with the place of the edge."""
    incoming: dict[int, list[tuple[int, int]]] = {}
    for place, (i, j) in enumerate(edges):
        if i < 0 or j < in_features:
            raise UserError(f"edges must lead from a node 0, 1, … to a neuron from {in_features} on, got ({i}, {j})")
        incoming.setdefault(j, []).append((i, place))
    neurons = range(in_features, 1 + max((node for edge in edges for node in edge), default=in_features))
    if unreachable := [node for node in neurons if node not in incoming]:
        raise UserError(f"an edge must lead to every neuron from {in_features} on, got none to {unreachable[0]}")
    return incoming
