"""fcnet.modules without samples in torch; ``functional/test_torch_samples.py`` has the others."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import fcnet.functional as F
from fcnet import modules


def test_score_losses_are_their_functions() -> None:
    h, y = torch.tensor([[0.5, -2.0], [3.0, 0.0]]), torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    for module, function in (
        (modules.LogisticLoss, F.logistic_loss),
        (modules.HingeLoss, F.hinge_loss),
        (modules.QuadraticLoss, F.quadratic_loss),
    ):
        for reduction in ("none", "mean", "sum"):
            assert_close(module(reduction)(h, y), function(h, y, reduction), rtol=0, atol=0)


def test_the_weights_of_a_loss_move_and_are_saved_with_it() -> None:
    entropy = modules.CrossEntropyLoss(torch.tensor([1.0, 2.0]), label_smoothing=0.1)
    binary = modules.BCEWithLogitsLoss(torch.ones(3), pos_weight=torch.full((3,), 2.0))
    assert set(entropy.state_dict()) == {"weight"}
    assert set(binary.state_dict()) == {"weight", "pos_weight"}
    assert entropy.double().weight is not None
    assert entropy(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1])).dtype == torch.float64


def test_repr_shows_the_arguments() -> None:
    assert [repr(module) for module in (modules.ELU(2.0), modules.LeakyReLU(0.2), modules.GELU("tanh"))] == [
        "ELU(alpha=2.0)",
        "LeakyReLU(negative_slope=0.2)",
        "GELU(approximate='tanh')",
    ]
    expected = "CrossEntropyLoss(reduction='mean', label_smoothing=0.1)"
    assert repr(modules.CrossEntropyLoss(label_smoothing=0.1)) == expected
    assert repr(modules.Softmax(1)) == "Softmax(dim=1)"
    assert repr(modules.HingeLoss("sum")) == "HingeLoss(reduction='sum')"


def test_an_unknown_reduction_is_refused_by_the_constructor() -> None:
    with pytest.raises(ValueError, match="reduction must be one of none, mean, sum, got 'avg'"):
        modules.CrossEntropyLoss(reduction="avg")
