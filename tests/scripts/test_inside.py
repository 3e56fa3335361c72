"""Tests of scripts/inside.py, on few images."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from fcnet.data import sources
from fcnet.data.batches import normalize
from fcnet.data.store.store import mean_and_std, open_store
from fcnet.models.layers import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_NETWORKS = 100


def print_tables(
    program: Callable[[str], Any], flag: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> list[list[str]]:
    """Runs the script with ``--quick`` and returns the cells of its tables, without the rules below the heads."""
    monkeypatch.setattr(sys, "argv", ["inside.py", flag, "--quick"])
    assert program("inside").main() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if not line.startswith("| ---")]


def mean(cell: str) -> float:
    return float(cell.split(" ± ")[0])


def test_backpropagation_agrees_with_autograd_on_100_random_networks(program: Callable[[str], Any]) -> None:
    inside = program("inside")
    assert inside.TORCH_ACTIVATIONS.keys() == ACTIVATIONS.keys()
    assert max(inside.gradient_error(number) for number in range(NUM_NETWORKS)) < 1e-12


@pytest.mark.usefixtures("isolated_cache")
def test_gradients_vanish_in_deep_sigmoids_and_large_weights_saturate_them(
    program: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rows = print_tables(program, "--saturation", monkeypatch, capsys)
    depth = program("inside").DEPTH
    assert [row[0] for row in rows] == 2 * ["layer", *map(str, range(1, depth + 2)), "loss"]
    first, last = rows[1], rows[depth + 1]
    assert mean(first[2]) < 1e-4 * mean(last[2])  # sigmoid
    assert mean(first[6]) > 1e-1 * mean(last[6])  # ReLU
    assert mean(first[1]) == 0.0
    assert mean(first[3]) > 50.0  # weights times 10


@pytest.mark.usefixtures("isolated_cache")
def test_low_biases_kill_relu_units_and_no_leaky_relu_units(
    program: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    _, *rows = print_tables(program, "--dead", monkeypatch, capsys)
    dead = {(row[0], row[1]): (mean(row[2]), mean(row[3])) for row in rows}
    assert min(dead["b = −5", "relu"]) > 90.0
    assert dead["b = −5", "leaky_relu"] == (0.0, 0.0)
    assert max(dead["nothing", "relu"]) < 10.0


@pytest.mark.usefixtures("isolated_cache")
def test_smaller_batches_make_more_progress_per_epoch(
    program: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rows = print_tables(program, "--descent", monkeypatch, capsys)
    lrs, by_lr, (_, *by_epoch) = program("inside").LRS, rows[1:4], rows[4:]
    losses = [mean(row[3]) for row in by_epoch]
    assert losses == sorted(losses, reverse=True)
    for (name, *held_out_losses), (same_name, lr, *_) in zip(by_lr, by_epoch, strict=True):
        assert name == same_name
        assert float(lr) == min(zip(map(float, held_out_losses), lrs, strict=True))[1]


@pytest.mark.usefixtures("isolated_cache")
def test_held_out_images_are_other_training_images(
    program: Callable[[str], Any],
) -> None:
    images = program("inside").load(None, 200)
    store = open_store(sources.digits())
    mean, std = mean_and_std(store.train.moments, store.shape[1] * store.shape[2])
    halves = [{tuple(row) for row in x.tolist()} for x in (images.x, images.held_out_x)]
    known = {tuple(row) for row in normalize(store.train.pixels, mean, std).flatten(1).tolist()}
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] < known
    assert len(images.y) == len(images.x)
    assert len(images.held_out_y) == len(images.held_out_x)
    assert max(len(images.y), len(images.held_out_y)) <= 200
    assert min(images.y.bincount().tolist()) > 0


@pytest.mark.usefixtures("isolated_cache")
def test_the_table_of_gradients_has_a_row_for_each_depth(
    program: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    _, *rows = print_tables(program, "--gradients", monkeypatch, capsys)
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
    assert all(float(row[3]) < 1e-12 for row in rows)
