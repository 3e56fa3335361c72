"""Tests of the mean and standard deviation of features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fcnet.data.features import statistics
from fcnet.data.features.statistics import feature_mean_and_std
from fcnet.data.sources.source import iter_slices
from fcnet.runtime.errors import UserError

X = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 4)) * [1.0, 1e-6, 1e6, 1.0] + [0.0, 1.0, 1e8, -3.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_they_are_numpys_in_float64(dtype: torch.dtype) -> None:
    x = (X if dtype == torch.float64 else X[:, [0, 3]]).to(dtype)
    mean, std = feature_mean_and_std(x, torch.arange(40))
    expected = x[:40].double().numpy()
    assert_close(mean, torch.from_numpy(expected.mean(0)).float(), rtol=1e-6, atol=1e-12)
    assert_close(std, torch.from_numpy(expected.std(0)).float(), rtol=1e-6, atol=0)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = feature_mean_and_std(X, torch.arange(50))
    monkeypatch.setattr(statistics, "iter_slices", lambda count, size: iter_slices(count, size, chunk_bytes=3 * size))
    for found, value in zip(feature_mean_and_std(X, torch.arange(50)), expected, strict=True):
        assert_close(found, value)


def test_a_constant_feature_has_the_deviation_one() -> None:
    x = torch.full((7, 1), 0.1, dtype=torch.float32)
    mean, std = feature_mean_and_std(x, torch.arange(7))
    assert (mean, std) == (x[0], torch.ones(1))


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_a_feature_beyond_float32_is_refused(scale: float) -> None:
    with pytest.raises(UserError, match=r"features must be in the range of float32, got the mean .* in column 1; "):
        feature_mean_and_std(torch.stack([X[:, 0], X[:, 0] * scale], 1), torch.arange(50))
