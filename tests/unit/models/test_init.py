"""Tests of fcnet.models.init."""

from __future__ import annotations

import math

import pytest
import torch

from fcnet.models.init import GAINS, VARIANCES
from fcnet.models.layers import ACTIVATIONS, Dense


@pytest.mark.parametrize("name", ["he", "glorot", "lecun"])
def test_initial_weights_have_the_variance_of_torchs_initializers(name: str) -> None:
    weight = torch.empty(300, 500)
    ours = Dense(500, 300, activation="relu", initialization=name, generator=torch.Generator().manual_seed(0)).weight  # type: ignore[arg-type]
    {
        "he": lambda: torch.nn.init.kaiming_normal_(weight, nonlinearity="relu"),
        "glorot": lambda: torch.nn.init.xavier_normal_(weight),
        "lecun": lambda: torch.nn.init.kaiming_normal_(weight, nonlinearity="linear"),
    }[name]()
    # each of the two standard deviations of 150,000 draws is off by 0.2%
    assert ours.std().item() == pytest.approx(weight.std().item(), rel=0.015)
    assert ours.mean().item() == pytest.approx(0.0, abs=5 * ours.std().item() / math.sqrt(150_000))


@pytest.mark.parametrize("activation", [name for name in GAINS if name != "sigmoid"])
def test_auto_keeps_the_mean_square_of_a_signal(activation: str) -> None:
    z = torch.randn(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean_square = ACTIVATIONS[activation](z).square().mean().item()
    assert VARIANCES["auto"](50, 20, activation) * 50 * mean_square == pytest.approx(1.0, rel=0.01)
