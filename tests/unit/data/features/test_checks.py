"""Tests of the checks of arrays of features; their errors are tested with the splits."""

from __future__ import annotations

import pytest
import torch

from fcnet.data.features.checks import FEATURE_DTYPES, scan_features
from fcnet.runtime.errors import UserError


@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_a_digest_follows_every_bit(dtype: torch.dtype) -> None:
    x = torch.rand(9, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    digest = scan_features(x, "x")
    assert digest == scan_features(x.t().contiguous().t(), "x")
    changed = x.clone()
    changed[8, 3] = changed[8, 3] * 2 + 1
    assert scan_features(changed, "x") != digest


@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
@pytest.mark.parametrize(("value", "name"), [(torch.nan, "NaN"), (torch.inf, "infinity"), (-torch.inf, "infinity")])
def test_what_is_not_finite_is_named_in_every_dtype(dtype: torch.dtype, value: float, name: str) -> None:
    x = torch.zeros(9, 4, dtype=dtype)
    x[5, 1] = value
    with pytest.raises(UserError, match=f"x must hold finite numbers, got {name} in row 5"):
        scan_features(x, "x")
