"""Tests of fcnet.models.graph: an MLP is one kind of graph, and every graph is an MLP with masked weights."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import torch
from torch.testing import assert_close

import fcnet
from fcnet.losses import CrossEntropy
from fcnet.models.graph import Graph
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def layer_edges(widths: list[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """Returns the edges between consecutive layers, in the order of W[l], and the nodes of the last layer."""
    ends = list(itertools.accumulate(widths, initial=0))
    layers = [list(range(start, end)) for start, end in itertools.pairwise(ends)]
    return [(i, j) for before, after in itertools.pairwise(layers) for j in after for i in before], layers[-1]


def gradients(model: torch.nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    loss = CrossEntropy()(model(x), labels)
    return loss, list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "gelu"])
def test_a_graph_of_layers_equals_the_mlp_with_its_gradients(num_classes: int, activation: str) -> None:
    draws = torch.Generator().manual_seed(0)
    mlp = fcnet.MLP(3, (5, 4), num_classes, activation=activation, generator=draws).double()  # type: ignore[arg-type]
    edges, outputs = layer_edges([3, 5, 4, 1 if num_classes == 2 else num_classes])
    graph = Graph(3, edges, outputs, activation=activation).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in mlp.dense_layers():
            layer.bias.normal_(generator=draws)  # type: ignore[union-attr]
        graph.weight.copy_(torch.cat([layer.weight.flatten() for layer in mlp.dense_layers()]))
        graph.bias.copy_(torch.cat([layer.bias for layer in mlp.dense_layers()]))  # type: ignore[misc]
    x, labels = torch.randn(6, 3, dtype=torch.float64, generator=draws), torch.arange(6) % num_classes
    assert_close(graph(x), mlp(x), rtol=1e-14, atol=1e-15)
    (loss, (weight, bias)), (expected, by_layer) = gradients(graph, x, labels), gradients(mlp, x, labels)
    assert_close(loss, expected, rtol=1e-14, atol=0)
    assert_close(weight, torch.cat([part.flatten() for part in by_layer[::2]]), rtol=1e-12, atol=1e-15)
    assert_close(bias, torch.cat(by_layer[1::2]), rtol=1e-12, atol=1e-15)


def test_a_graph_with_skip_connections_equals_an_mlp_with_masked_weights() -> None:
    # Inputs 0, 1, 2; neurons 3 and 4 after the inputs; 5 after 3, 4 and input 0; the output 6 after 5, 3 and input 2.
    edges = [(0, 3), (1, 3), (1, 4), (2, 4), (3, 5), (4, 5), (0, 5), (5, 6), (3, 6), (2, 6)]
    draws = torch.Generator().manual_seed(1)
    graph = Graph(3, edges, [6], generator=draws).double()
    with torch.no_grad():
        graph.bias.normal_(generator=draws)
    # Each layer of the MLP repeats all earlier nodes: a ReLU passes their values, which are not negative, unchanged.
    layers, before = [[3, 4], [5], [6]], [0, 1, 2]
    mlp = fcnet.MLP(3, (5, 6), 2).double()
    masks = []
    for nodes, layer in zip(layers, mlp.dense_layers(), strict=True):
        repeated = before if nodes != [6] else []
        weight, bias = torch.zeros_like(layer.weight), torch.zeros(len(repeated) + len(nodes), dtype=torch.float64)
        mask = torch.zeros_like(weight, dtype=torch.bool)
        weight[: len(repeated), : len(repeated)] = torch.eye(len(repeated), dtype=torch.float64)
        for row, j in enumerate(nodes, start=len(repeated)):
            bias[row] = graph.bias[j - 3]
            for edge, (i, to) in enumerate(edges):
                if to == j:
                    weight[row, before.index(i)] = graph.weight[edge]
                    mask[row, before.index(i)] = True
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)  # type: ignore[union-attr]
        masks.append(mask)
        before = repeated + nodes
    x, labels = torch.rand(50, 3, dtype=torch.float64, generator=draws), torch.arange(50) % 2
    assert_close(graph(x), mlp(x), rtol=1e-13, atol=1e-15)
    (_, (weight, _)), (_, by_layer) = gradients(graph, x, labels), gradients(mlp, x, labels)
    through_masks = torch.cat([gradient[mask] for gradient, mask in zip(by_layer[::2], masks, strict=True)])
    assert int(sum(mask.sum() for mask in masks)) == len(edges)
    assert_close(through_masks.sort().values, weight.sort().values, rtol=1e-12, atol=1e-15)


def test_a_graph_learns_exclusive_or_by_one_hidden_neuron() -> None:
    # The inputs also lead directly to the output. A network of layers needs two hidden neurons.
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(32, 1)
    labels = (x[:, 0] != x[:, 1]).long()
    graph = Graph(
        2,
        [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)],
        [3],
        activation="sigmoid",
        generator=torch.Generator().manual_seed(0),
    )
    algorithm = fcnet.GradientDescent(torch.optim.Adam(graph.parameters(), lr=0.1), epochs=150)
    records = fcnet.fit(graph, (x, labels), algorithm, seed=0)
    assert records[-1].train_accuracy == 1.0
    with torch.no_grad():
        graph.weight[4] = 0.0  # without the hidden neuron it is logistic regression
    assert ((graph(x) > 0).long() != labels).float().mean() >= 0.25


def test_neurons_may_have_any_order_and_the_generator_determines_the_weights() -> None:
    first, second = (
        Graph(1, [(3, 2), (0, 3), (2, 1)], [1], generator=torch.Generator().manual_seed(0)) for _ in range(2)
    )
    assert first.topological_order == [3, 2, 1]
    assert torch.equal(first.weight, second.weight)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([2.0, 3.0, -5.0]))
    assert first(torch.tensor([[1.0], [-1.0]])).tolist() == [-30.0, 0.0]


@pytest.mark.parametrize(
    ("edges", "outputs", "message"),
    [
        ([(0, 2), (2, 3), (3, 2)], [3], r"edges must not form a cycle, got (2 → 3 → 2|3 → 2 → 3)"),
        ([(0, 2), (2, 2)], [2], "edges must not form a cycle, got 2 → 2"),
        ([(0, 1)], [1], r"edges must lead from a node ≥ 0 to a neuron ≥ 2, got \(0, 1\)"),
        ([(-1, 2)], [2], r"edges must lead from a node ≥ 0 to a neuron ≥ 2, got \(-1, 2\)"),
        ([(0, 2), (3, 2)], [2], "every neuron must have an incoming edge, got none for neuron 3"),
        ([(0, 4)], [4], "every neuron must have an incoming edge, got none for neuron 2"),
        ([(0, 2)], [1], r"outputs must be neurons with an incoming edge, got \[1\]"),
        ([(0, 2)], [], "outputs must be neurons with an incoming edge, got none"),
        ([], [2], "every neuron must have an incoming edge, got none for neuron 2"),
    ],
)
def test_a_graph_that_is_not_feedforward_is_an_error(
    edges: list[tuple[int, int]], outputs: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        Graph(2, edges, outputs)


def test_print_shows_inputs_edges_and_outputs() -> None:
    graph = Graph(2, [(0, 2), (1, 2), (0, 3), (2, 3)], [3], activation="elu")
    assert repr(graph) == "Graph(2, edges=4, outputs=[3], elu(alpha=1.0))"
