"""Rules of fcnet.graph: any directed graph without a way back is a network."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import fcnet
from fcnet.errors import UserError
from fcnet.graph import Graph
from fcnet.losses import CrossEntropy
from fcnet.models import ACTIVATIONS, MLP

if TYPE_CHECKING:
    from collections.abc import Sequence


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(size: int, features: int) -> Tensor:
    return torch.randn(size, features, generator=seeded(7), dtype=torch.float64)


def layered(widths: Sequence[int]) -> list[tuple[int, int]]:
    """The edges of dense layers, in the order in which W[l] is stored: row by row."""
    starts = [0, *itertools.accumulate(widths)]
    nodes = [range(start, start + width) for start, width in zip(starts, widths, strict=False)]
    return [(i, j) for below, here in itertools.pairwise(nodes) for j in here for i in below]


def graph_of(model: MLP, widths: Sequence[int]) -> Graph:
    """The same network, neuron by neuron."""
    graph = Graph(widths[0], sum(widths[1:]), layered(widths), num_outputs=widths[-1], activation="gelu").double()
    with torch.no_grad():
        graph.weight.copy_(torch.cat([layer.weight.flatten() for layer in model.dense_layers()]))
        graph.bias.copy_(torch.cat([b for layer in model.dense_layers() if (b := layer.bias) is not None]))
    return graph


@pytest.mark.parametrize("widths", [(4, 1), (4, 3), (4, 5, 3), (4, 5, 2, 6, 1)])
def test_a_layered_graph_is_an_mlp_and_so_are_its_gradients(widths: Sequence[int]) -> None:
    num_classes = max(widths[-1], 2)
    model = MLP(widths[0], widths[1:-1], num_classes, activation="gelu", generator=seeded()).double()
    with torch.no_grad():
        for layer in model.dense_layers():
            assert layer.bias is not None
            layer.bias.normal_(generator=seeded(3))
    graph = graph_of(model, widths)
    x, labels = inputs(6, 4), torch.arange(6) % num_classes
    assert len(graph.levels) == len(widths) - 1
    assert_close(graph(x), model(x), rtol=1e-13, atol=1e-14)
    ours = torch.autograd.grad(CrossEntropy()(graph(x), labels), [graph.weight, graph.bias])
    theirs = torch.autograd.grad(CrossEntropy()(model(x), labels), list(model.parameters()))
    assert_close(ours[0], torch.cat([gradient.flatten() for gradient in theirs[::2]]), rtol=1e-12, atol=1e-14)
    assert_close(ours[1], torch.cat(theirs[1::2]), rtol=1e-12, atol=1e-14)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Any graph: edges along a drawn order of its neurons, skips among them, some neurons without any."""
    features, neurons = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    order = [*range(features), *(features + k for k in draw(st.permutations(range(neurons))))]
    ways = [(i, j) for number, j in enumerate(order) if j >= features for i in order[:number]]
    edges = draw(st.lists(st.sampled_from(ways), unique=True, max_size=20))
    return {
        "in_features": features,
        "num_neurons": neurons,
        "edges": edges,
        "num_outputs": draw(st.integers(1, neurons)),
        "activation": draw(st.sampled_from(sorted(ACTIVATIONS))),
    }


def masked_network(graph: Graph, edges: Sequence[tuple[int, int]], x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Every neuron sees every node through a mask; as often repeated as there are neurons, nothing changes any more."""
    features, neurons = graph.in_features, len(bias)
    mask, dense = torch.zeros(2, neurons, features + neurons, dtype=torch.float64).unbind()
    for number, (i, j) in enumerate(edges):
        mask[j - features, i] = 1.0
        dense = dense + weight[number] * torch.nn.functional.one_hot(
            torch.tensor((j - features) * (features + neurons) + i), dense.numel()
        ).view(dense.shape)
    first_output = neurons - graph.num_outputs
    a = torch.zeros(len(x), neurons, dtype=torch.float64)
    for _ in range(neurons):
        z = torch.cat([x, a], 1) @ (mask * dense).T + bias
        a = torch.cat([ACTIVATIONS[graph.activation](z[:, :first_output]), z[:, first_output:]], 1)
    logits = a[:, first_output:]
    return logits[:, 0] if graph.num_outputs == 1 else logits


@given(graphs(), st.integers(0, 100))
def test_a_graph_with_skips_is_a_dense_network_over_all_nodes_with_a_mask(settings: dict[str, Any], seed: int) -> None:
    graph = Graph(**settings, generator=seeded(seed)).double()
    with torch.no_grad():
        graph.bias.normal_(generator=seeded(seed))
    x = inputs(3, graph.in_features)
    logits, expected = graph(x), masked_network(graph, settings["edges"], x, graph.weight, graph.bias)
    assert_close(logits, expected, rtol=1e-12, atol=1e-13)
    upstream = torch.linspace(0.5, 1.5, logits.numel(), dtype=torch.float64).view(logits.shape)
    ours = torch.autograd.grad(logits, [graph.weight, graph.bias], upstream)
    theirs = torch.autograd.grad(expected, [graph.weight, graph.bias], upstream, allow_unused=True)
    for mine, other, parameter in zip(ours, theirs, (graph.weight, graph.bias), strict=True):
        assert_close(mine, torch.zeros_like(parameter) if other is None else other, rtol=1e-11, atol=1e-12)


def test_a_neuron_is_its_sum() -> None:
    graph = Graph(3, 1, [(2, 3), (0, 3)])
    with torch.no_grad():
        graph.weight.copy_(torch.tensor([10.0, 2.0]))
        graph.bias.fill_(0.5)
    assert graph(torch.tensor([[1.0, 7.0, 3.0]])).tolist() == [1.0 * 2.0 + 3.0 * 10.0 + 0.5]


def test_levels_are_the_longest_ways() -> None:
    graph = Graph(1, 4, [(0, 4), (4, 2), (0, 2), (2, 1), (0, 3)])
    assert graph.levels == [[3, 4], [2], [1]]


def test_exclusive_or_needs_one_hidden_neuron_and_edges_past_it() -> None:
    graph = Graph(2, 2, [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)], generator=seeded(1))
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    labels = torch.tensor([0, 1, 1, 0])
    algorithm = fcnet.GradientDescent(torch.optim.Adam(graph.parameters(), lr=0.05), epochs=300)
    records = list(fcnet.fit(graph, (x, labels), algorithm))
    assert (graph(x) > 0).long().tolist() == labels.tolist()
    assert records[-1].train_loss < 0.1 < records[0].train_loss


def test_a_graph_is_copied_and_stored_like_any_module() -> None:
    graph = Graph(2, 3, [(0, 3), (1, 3), (3, 4), (0, 4), (4, 2)], generator=seeded())
    assert sorted(graph.state_dict()) == ["bias", "weight"]
    other = Graph(2, 3, [(0, 3), (1, 3), (3, 4), (0, 4), (4, 2)], generator=seeded(9))
    other.load_state_dict(graph.state_dict())
    x = inputs(4, 2).float()
    assert_close(other(x), graph(x), rtol=0, atol=0)
    assert_close(copy.deepcopy(graph)(x), graph(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, 2, [(1, 2), (2, 1)]), "edges must not lead back, got 1 → 2 → 1"),
        ((1, 1, [(0, 1), (1, 1)]), "edges must not lead back, got 1 → 1"),
        ((1, 4, [(4, 2), (2, 3), (3, 4), (3, 1), (0, 2)]), "edges must not lead back, got 3 → 4 → 2 → 3"),
        ((2, 1, [(0, 1)]), "edges must go from 0 … 2 to 2 … 2, got (0, 1)"),
        ((2, 1, [(3, 2)]), "edges must go from 0 … 2 to 2 … 2, got (3, 2)"),
        ((1, 1, [(0, 1), (0, 1)]), "edges must be there once, got (0, 1) twice"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(
    arguments: tuple[int, int, list[tuple[int, int]]], text: str
) -> None:
    with pytest.raises(UserError) as refusal:
        Graph(*arguments)
    assert str(refusal.value) == text


def test_other_mistakes_likewise() -> None:
    with pytest.raises(UserError, match="num_outputs must be 1 to 1, the number of neurons, got 2"):
        Graph(1, 1, [], num_outputs=2)
    with pytest.raises(UserError, match=r"activation must be one of identity, sigmoid, .*, got 'tan'"):
        Graph(1, 1, [], activation="tan")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"expected a batch of inputs .* with 2 values each, got \(4, 3\)"):
        Graph(2, 1, [(0, 2)])(torch.zeros(4, 3))
