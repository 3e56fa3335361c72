"""A neural network is any directed graph built from neurons, as long as no way leads back.

D inputs and N neurons are nodes 0 to D + N − 1, in this order. Neuron j computes z_j = Σ_i w_ij a_i + b_j over the
edges (i, j) that end in it, and a_j = g(z_j). A neuron's level is the longest way to it from a node that nothing
leads to; neurons of one level are computed together.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcnet.errors import UserError
from fcnet.initialization import VARIANCES
from fcnet.models import ACTIVATIONS, as_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.models import ActivationName


class Graph(nn.Module):
    """A feedforward network with an edge wherever one is wanted, across layers too.

    Args:
        in_features: D, the number of input nodes.
        num_neurons: N.
        edges: pairs (i, j), from node i to neuron j ≥ D, in any order.
        num_outputs: the last neurons, which give logits: their g is the identity. One is the logit of the
            second of two classes.
        activation: g of the other neurons.
        generator: what the first weights are drawn from; None is torch's own.

    Attributes:
        weight: (E,), w_ij in the order of ``edges``.
        bias: (N,), from 0.
        levels: the neurons of each level.

    Raises:
        UserError: a ValueError; an edge leads nowhere, is there twice, or is part of a cycle.

    Source:
        The lecture's definition of a neural network; its w_ij of a neuron stands in row j of a layer's W.

    Example:
        >>> net = Graph(2, 2, [(0, 2), (1, 2), (2, 3), (0, 3)])  # one hidden neuron, and an edge past it
        >>> net.levels, net(torch.zeros(5, 2)).shape
        ([[2], [3]], torch.Size([5]))
    """

    rows: Tensor
    columns: Tensor
    order: Tensor
    outputs: Tensor
    is_output: Tensor

    def __init__(
        self,
        in_features: int,
        num_neurons: int,
        edges: Sequence[tuple[int, int]],
        *,
        num_outputs: int = 1,
        activation: ActivationName = "relu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UserError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if not 1 <= num_outputs <= num_neurons:
            raise UserError(f"num_outputs must be 1 to {num_neurons}, the number of neurons, got {num_outputs}")
        self.in_features, self.num_outputs, self.activation = in_features, num_outputs, activation
        self.num_classes = max(num_outputs, 2)
        self.levels = levels(in_features, num_neurons, edges)
        order = [*range(in_features), *itertools.chain.from_iterable(self.levels)]
        place = {node: number for number, node in enumerate(order)}
        neurons = torch.tensor(order[in_features:])
        self.register_buffer("rows", torch.tensor([place[j] - in_features for _, j in edges]).long(), persistent=False)
        self.register_buffer("columns", torch.tensor([place[i] for i, _ in edges]).long(), persistent=False)
        self.register_buffer("order", neurons - in_features, persistent=False)
        self.register_buffer("outputs", neurons.argsort()[-num_outputs:], persistent=False)
        self.register_buffer("is_output", neurons >= in_features + num_neurons - num_outputs, persistent=False)
        fan_in = torch.bincount(self.rows, minlength=num_neurons)[self.rows]
        gains = [math.sqrt(VARIANCES["auto"](inputs, 1, activation)) for inputs in fan_in.tolist()]
        self.weight = nn.Parameter(torch.randn(len(edges), generator=generator) * torch.tensor(gains))
        self.bias = nn.Parameter(torch.zeros(num_neurons))

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, …) -> (B,) with one output, else (B, C)."""
        a, start = as_rows(x, self.in_features), 0
        matrix = self.matrix()
        for level in self.levels:
            here = slice(start, start + len(level))
            z = nn.functional.linear(a, matrix[here, : a.shape[1]], self.bias[self.order[here]])
            a = torch.cat([a, torch.where(self.is_output[here], z, ACTIVATIONS[self.activation](z))], 1)
            start = here.stop
        logits = a[:, self.in_features + self.outputs]
        return logits.squeeze(1) if self.num_outputs == 1 else logits

    def matrix(self) -> Tensor:
        """(N, D + N): w_ij at the places of j and i in the order of computation, 0 where there is no edge."""
        empty = self.weight.new_zeros(len(self.bias), self.in_features + len(self.bias))
        return empty.index_put((self.rows, self.columns), self.weight)


def levels(in_features: int, num_neurons: int, edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The neurons in an order of computation, those of one level together.

    Raises:
        UserError: a ValueError; an edge leads nowhere, is there twice, or is part of a cycle.

    Example:
        >>> levels(1, 3, [(0, 3), (3, 1), (0, 2)])
        [[2, 3], [1]]
    """
    num_nodes = in_features + num_neurons
    for i, j in edges:
        if not (0 <= i < num_nodes and in_features <= j < num_nodes):
            raise UserError(f"edges must go from 0 … {num_nodes - 1} to {in_features} … {num_nodes - 1}, got {(i, j)}")
    if len(set(edges)) < len(edges):
        raise UserError(f"edges must be there once, got {next(e for e in edges if edges.count(e) > 1)} twice")
    waiting: dict[int, set[int]] = {node: set() for node in range(in_features, num_nodes)}
    for i, j in edges:
        waiting[j].add(i)
    done, found = set(range(in_features)), []
    while waiting:
        level = [node for node, sources in waiting.items() if sources <= done]
        if not level:
            raise UserError(f"edges must not lead back, got {' → '.join(map(str, _cycle(waiting)))}")
        found.append(level)
        done.update(level)
        waiting = {node: sources for node, sources in waiting.items() if node not in done}
    return found


def _cycle(waiting: dict[int, set[int]]) -> list[int]:
    """A way back to where it starts, among neurons that each wait for another one of them."""
    way = [min(waiting)]
    while way[0] not in way[1:]:
        before = min(waiting[way[0]] & waiting.keys())
        way.insert(0, before)
    return way[: way.index(way[0], 1) + 1]
