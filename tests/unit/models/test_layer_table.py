"""The table of layers against counts by hand and against torch's own modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fcnet
from fcnet.models import Graph, ModelSummary, summary
from fcnet.runtime.errors import UserError


def test_rows_of_a_network_have_the_lectures_counts_and_a_total() -> None:
    result = summary(fcnet.MLP(64, (32, 16), 10))
    assert [row.output_shape for row in result.layers] == ["(B, 32)", "(B, 16)", "(B, 10)"]
    assert [row.num_parameters for row in result.layers] == [64 * 32 + 32, 32 * 16 + 16, 16 * 10 + 10]
    assert result.num_parameters == result.num_trainable == 2080 + 528 + 170
    assert str(result).splitlines()[0] == "MLP: (B, 64) -> (B, 10)"
    assert str(result).splitlines()[-1].split() == ["total", f"{result.num_parameters:,}"]
    assert repr(result) == str(result)


def test_logistic_regression_has_one_output_node_for_two_classes() -> None:
    result = summary(fcnet.LogisticRegression(64))
    assert result.title == "LogisticRegression: (B, 64) -> (B,)"
    assert [(row.output_shape, row.num_parameters) for row in result.layers] == [("(B, 1)", 65)]


def test_a_dense_layer_is_one_row_with_its_parts_and_their_parameters() -> None:
    model = fcnet.MLP(8, (8,), 3, normalization="batch", dropout=0.5, residual=True, activation="elu")
    first = summary(model).layers[0]
    assert first.kind == "Dense, BatchNorm, elu, residual, dropout"
    assert first.num_parameters == 8 * 8 + 2 * 8


def test_models_of_torch_give_each_layer_and_need_a_shape_only_where_it_cannot_be_told() -> None:
    dense = nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.ReLU(), nn.Linear(5, 2))
    assert [row.num_parameters for row in summary(dense).layers] == [0, 784 * 5 + 5, 0, 12]
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(UserError, match=r"^input_shape must be given for a Sequential: the shape of one example, such"):
        summary(convolution)
    rows = summary(convolution, (3, 5, 5)).layers
    assert [row.output_shape for row in rows] == ["(B, 4, 3, 3)", "(B, 36)", "(B, 2)"]
    assert [row.num_parameters for row in rows] == [4 * 27 + 4, 0, 74]
    with pytest.raises(
        UserError, match=r"^input_shape must be the shape of one example that Sequential takes, got \(3"
    ):
        summary(dense, 3)


def test_shared_frozen_and_unused_parameters_count_once_and_the_rows_add_up() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.layer, self.unused = nn.Linear(4, 4), nn.Linear(4, 2)
            self.unused.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.layer(self.layer(x)) * self.scale
            return scores

    result = summary(Own(), 4)
    rows = [(row.name, row.output_shape, row.num_parameters) for row in result.layers]
    assert rows == [("layer", "(B, 4)", 20), ("layer", "(B, 4)", 0), ("Own", "(B, 4)", 4), ("unused", "-", 10)]
    assert (result.num_parameters, result.num_trainable) == (34, 24)
    assert str(result).splitlines()[-1].split() == ["trainable", "24"]


def test_a_table_fits_80_columns() -> None:
    nested = nn.ModuleDict({"a_name_of_a_block_that_never_ends_and_goes_on": nn.Sequential(nn.Linear(4, 4))})
    nested.forward = nested["a_name_of_a_block_that_never_ends_and_goes_on"].forward
    with torch.device("meta"):
        wide = fcnet.MLP(3 * 224 * 224, (10_000, 10_000), 1000, normalization="layer", residual=True, dropout=0.1)
    for model in (wide, nested):
        lines = str(summary(model)).splitlines()
        assert max(map(len, lines)) <= 80
        assert len({len(line) for line in lines[1:]}) == 1


def test_a_summary_changes_neither_the_model_nor_the_random_numbers() -> None:
    model = fcnet.MLP(4, (3,), 2, normalization="batch", dropout=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert isinstance(summary(model), ModelSummary)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.modules())


def test_graphs_are_one_row_and_what_is_no_model_is_refused() -> None:
    graph = Graph(2, [(0, 2), (1, 2), (0, 3), (2, 3)], [3])
    assert [(row.name, row.num_parameters) for row in summary(graph).layers] == [("Graph", 6)]
    with pytest.raises(UserError, match=r"^model must be a torch.nn.Module such as fcnet.MLP"):
        summary("digits")  # type: ignore[arg-type]
