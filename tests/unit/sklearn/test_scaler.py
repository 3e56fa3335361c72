"""Tests of fcnet.sklearn.scaler: statistics equal NumPy's, dense or sparse, weighted, and in parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse

from fcnet.runtime.errors import UserError
from fcnet.sklearn import scaler
from fcnet.sklearn.scaler import compute_statistics, search_scales


def make_features(seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, 6)) * [1e-3, 1.0, 1e3, 1.0, 1.0, 0.0] + [0.0, 5.0, -1e5, 0.0, 0.0, 0.1]
    x[:, 3] *= rng.random(50) < 0.2
    return x


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_and_standard_deviation_are_the_weighted_ones(is_sparse: bool, dtype: type) -> None:
    x: np.ndarray[Any, Any] = make_features().astype(dtype)
    weight = np.random.default_rng(1).uniform(0.0, 3.0, 50)
    found = compute_statistics(scipy.sparse.csr_array(x) if is_sparse else x, weight)
    x = x.astype(np.float64)
    mean = np.average(x, axis=0, weights=weight)
    variance = np.average((x - mean) ** 2, axis=0, weights=weight)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.std[:5], np.sqrt(variance)[:5], rtol=1e-9)
    assert found.std[5] == 1.0  # a constant feature
    assert found.mean[5] == x[0, 5]
    assert found.total == weight.sum()


def test_rows_in_blocks_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = make_features()
    whole = compute_statistics(x)
    monkeypatch.setattr(scaler, "_BLOCK_VALUES", 7 * 6)
    np.testing.assert_allclose(compute_statistics(x).std, whole.std, rtol=1e-12)


def test_the_statistics_of_parts_merge_into_those_of_the_whole() -> None:
    x, weight = make_features(), np.random.default_rng(1).uniform(0.1, 3.0, 50)
    merged = compute_statistics(x[:1], weight[:1])
    for start, stop in ((1, 9), (9, 10), (10, 50)):
        merged = merged.merge(compute_statistics(x[start:stop], weight[start:stop]))
    whole = compute_statistics(x, weight)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.std, whole.std, rtol=1e-9)


@pytest.mark.parametrize("centred", [False, True])
def test_a_search_runs_on_columns_of_size_one_whatever_their_outliers(centred: bool) -> None:
    x = make_features()
    x[0, 1] = 1e12
    center, scale = search_scales(x, compute_statistics(x), centred=centred)
    searched = (x - center) / scale
    assert np.median(np.abs(searched[:, 1])) == pytest.approx(1.0)
    if centred:
        np.testing.assert_allclose(searched.std(0)[[0, 2, 3, 4]], 1.0, rtol=1e-6)
    else:
        assert not center.any()
        np.testing.assert_allclose((searched**2).mean(0)[[0, 2, 3, 4, 5]], 1.0, rtol=1e-6)
    sparse = search_scales(scipy.sparse.csr_array(x), compute_statistics(x), centred=centred)
    assert sparse[1][1] > 1e11


@pytest.mark.parametrize("is_sparse", [False, True])
def test_values_without_a_finite_variance_are_refused(is_sparse: bool) -> None:
    x = np.array([[1e300, 1.0], [-1e300, 2.0]])
    with pytest.raises(UserError, match=r"X must have values with a finite variance in float64, got 1\.0e\+300"):
        compute_statistics(scipy.sparse.csr_array(x) if is_sparse else x)
