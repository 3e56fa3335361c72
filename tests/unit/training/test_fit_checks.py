"""Tests of fcnet.training.fit_checks; test_fit has the sentences."""

from __future__ import annotations

import numpy as np

from fcnet.training.fit_checks import check_settings


def test_whole_numbers_and_rates_of_numpy_are_taken() -> None:
    check_settings(epochs=np.int64(3), lr=np.float32(0.1), batch_size=np.int32(8), seed=np.uint8(1))
    check_settings(epochs=None, lr=None, batch_size=None, seed=0)
