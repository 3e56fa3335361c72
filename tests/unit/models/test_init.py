"""Rules of fcnet.models.init."""

from __future__ import annotations

import math

import pytest
import torch

from fcnet.models.init import GAINS, VARIANCES
from fcnet.models.mlp import ACTIVATIONS, Dense


@pytest.mark.parametrize("name", ["he", "glorot", "lecun"])
def test_the_first_weights_have_torchs_variance(name: str) -> None:
    weight = torch.empty(300, 500)
    drawn = Dense(500, 300, activation="relu", initialization=name, generator=torch.Generator().manual_seed(0)).weight  # type: ignore[arg-type]
    {
        "he": lambda: torch.nn.init.kaiming_normal_(weight, nonlinearity="relu"),
        "glorot": lambda: torch.nn.init.xavier_normal_(weight),
        "lecun": lambda: torch.nn.init.kaiming_normal_(weight, nonlinearity="linear"),
    }[name]()
    # 150,000 draws: a standard deviation is off by 0.2 %, and these are two.
    assert drawn.std().item() == pytest.approx(weight.std().item(), rel=0.015)
    assert drawn.mean().item() == pytest.approx(0.0, abs=5 * drawn.std().item() / math.sqrt(150_000))


@pytest.mark.parametrize("activation", [name for name in GAINS if name != "sigmoid"])
def test_auto_keeps_the_size_of_a_signal(activation: str) -> None:
    z = torch.randn(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    size = ACTIVATIONS[activation](z).square().mean().item()
    assert VARIANCES["auto"](50, 20, activation) * 50 * size == pytest.approx(1.0, rel=0.01)
