"""A feedforward network as a directed acyclic graph of neurons. Layers are one such graph.

Nodes have numbers: first the inputs 0, …, D − 1, then the neurons. An edge (i, j) with weight w_ij carries a_i to
neuron j, which computes z_j = Σ_i w_ij a_i + b_j and a_j = g(z_j). B examples, C classes.
"""

from __future__ import annotations

import graphlib
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.models.init import VARIANCES
from fcnet.models.layers import ACTIVATIONS, describe_activation, flatten_inputs
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.models.layers import ActivationName


class Graph(nn.Module):
    """A feedforward network with an edge between any two neurons, as long as the edges form no cycle.

    The forward pass computes neuron by neuron, as the lecture writes it. It is meant for reading and for experiments.
    Use `MLP` for a network with edges from layer to layer only: it computes one matrix product per layer.

    Args:
        in_features: D.
        edges: pairs (i, j) from an input or a neuron i to a neuron j ≥ D. The weights have the same order.
        outputs: the neurons with the logits as their z: one neuron for two classes, else one per class.
        activation: the name of g of the other neurons.
        generator: the source of the initial weights. None uses torch's global generator.

    Attributes:
        weight: w, (E,), one per edge.
        bias: b, one per neuron, initially 0.

    Raises:
        UserError: a ValueError; the edges form a cycle or leave a neuron without input, or a node does not exist.

    Source:
        The lecture's general neural network.

    Example:
        >>> net = Graph(2, [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)], [3])  # 0, 1 and 2 lead to neuron 3
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
            raise UserError(f"outputs must be neurons with an incoming edge, got {unknown if outputs else 'none'}")
        sources = {j: [i for i, _ in edges_in] for j, edges_in in self.incoming.items()}
        try:
            ordered = graphlib.TopologicalSorter(sources).static_order()
            self.topological_order = [node for node in ordered if node >= in_features]
        except graphlib.CycleError as error:
            raise UserError(f"edges must not form a cycle, got {' → '.join(map(str, error.args[1][::-1]))}") from None
        self.in_features, self.outputs, self.activation = in_features, list(outputs), activation
        self.num_classes = max(len(outputs), 2)
        deviations = [math.sqrt(VARIANCES["auto"](len(sources[j]), 1, activation)) for _, j in edges]
        self.weight = nn.Parameter(torch.randn(len(edges), generator=generator) * torch.tensor(deviations))
        self.bias = nn.Parameter(torch.zeros(len(self.incoming)))

    def extra_repr(self) -> str:
        """Returns the inputs, the number of edges, the outputs and the activation, as `print` shows them."""
        edges = f"{self.in_features}, edges={len(self.weight)}, outputs={self.outputs}"
        return f"{edges}, {describe_activation(self.activation)}"

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits: (B, …) of D values each -> (B,), those of the second of two classes, or (B, C)."""
        z, a = {}, dict(enumerate(flatten_inputs(x, self.in_features).unbind(1)))
        for j in self.topological_order:
            terms = [self.weight[edge] * a[i] for i, edge in self.incoming[j]]
            z[j] = torch.stack(terms).sum(0) + self.bias[j - self.in_features]
            a[j] = ACTIVATIONS[self.activation](z[j])
        logits = torch.stack([z[j] for j in self.outputs], dim=1)
        return logits.squeeze(1) if len(self.outputs) == 1 else logits


def _incoming(in_features: int, edges: Sequence[tuple[int, int]]) -> dict[int, list[tuple[int, int]]]:
    """Maps each neuron to its incoming edges, as pairs (source node, index of the edge)."""
    incoming: dict[int, list[tuple[int, int]]] = {}
    for edge, (i, j) in enumerate(edges):
        if i < 0 or j < in_features:
            raise UserError(f"edges must lead from a node ≥ 0 to a neuron ≥ {in_features}, got ({i}, {j})")
        incoming.setdefault(j, []).append((i, edge))
    neurons = range(in_features, 1 + max((node for edge in edges for node in edge), default=in_features))
    if unreachable := [node for node in neurons if node not in incoming]:
        raise UserError(f"every neuron must have an incoming edge, got none for neuron {unreachable[0]}")
    return incoming
