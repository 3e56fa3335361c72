"""Tests of fcnet.training.fit_checks; test_fit has the sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fcnet.losses import CrossEntropy
from fcnet.runtime.errors import UserError
from fcnet.training.fit_checks import check_loss, check_settings

CPU = torch.device("cpu")


def test_whole_numbers_and_rates_of_numpy_are_taken() -> None:
    check_settings(epochs=np.int64(3), lr=np.float32(0.1), batch_size=np.int32(8), seed=np.uint8(1))
    check_settings(epochs=None, lr=None, batch_size=None, seed=0)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_loss_that_sums_is_taken_and_a_mean_is_not(num_classes: int) -> None:
    check_loss(lambda logits, labels: CrossEntropy()(logits, labels), num_classes, CPU)
    check_loss(lambda logits, labels: 0.0 * logits.sum(), num_classes, CPU)
    with pytest.raises(UserError, match=r"^loss must return the sum of a batch, got the mean"):
        check_loss(lambda logits, labels: CrossEntropy()(logits, labels) / len(labels), num_classes, CPU)
