"""Sparse features: the same products as those of a standardised matrix, in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse
import torch

from fcnet.linear_model import sparse_blocks
from fcnet.linear_model.sparse_blocks import SparseBlocks

if TYPE_CHECKING:
    from torch import Tensor


def make_features(dtype: type = np.float64, rows: Tensor | None = None) -> tuple[SparseBlocks, Tensor]:
    """Returns sparse features, and the same as a standardised matrix."""
    rng = np.random.default_rng(0)
    x = scipy.sparse.random(700, 5, 0.3, format="csr", random_state=rng, dtype=dtype)
    mean, std = torch.from_numpy(rng.normal(size=5)), torch.from_numpy(rng.uniform(0.5, 3.0, 5))
    dense = (torch.from_numpy(x.toarray()).double() - mean) / std
    return SparseBlocks(x, mean, std, rows), dense if rows is None else dense[rows]


@pytest.mark.parametrize("given", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", [1, 3])
def test_products_are_those_of_the_standardised_matrix(
    given: type, dtype: torch.dtype, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_blocks, "_BLOCK_VALUES", 1)
    rows = torch.arange(0, 700, 2)
    features, dense = make_features(given, rows)
    assert (features.num_rows, features.num_features) == (350, 5)
    generator = torch.Generator().manual_seed(0)
    weights, residuals = (torch.randn(4, n, generator=generator).to(dtype) for n in (5, 350))
    intercepts, s = torch.randn(4, generator=generator).to(dtype), torch.rand(350, generator=generator).to(dtype)
    seen: list[slice] = []
    tol = 1e-5 if dtype == torch.float32 else 1e-12
    for some, block in features.blocks(dtype, num_columns=4, step=step):
        expected, seen = dense[some][::step], [*seen, some]
        torch.testing.assert_close(block.to_dense(), expected.to(dtype), rtol=tol, atol=tol)
        logits = weights.double() @ expected.T
        torch.testing.assert_close(block.forward(weights), logits.to(dtype), rtol=tol, atol=tol)
        torch.testing.assert_close(
            block.forward(weights, intercepts), (logits + intercepts[:, None]).to(dtype), rtol=tol, atol=tol
        )
        part = residuals[:, some][:, ::step]
        sums = part.double() @ expected
        torch.testing.assert_close(block.adjoint(part), sums.to(dtype), rtol=1e-4, atol=1e-4)
        squares = s[some][::step].double() @ expected.square()
        torch.testing.assert_close(block.square_sums(s[some][::step]), squares.to(dtype), rtol=1e-4, atol=1e-4)
    assert seen == [slice(0, 256), slice(256, 350)]


def test_the_matrix_stays_as_it_is_and_its_values_are_shared() -> None:
    x = scipy.sparse.random(30, 5, 0.3, format="csr", dtype=np.float32)
    features = SparseBlocks(x, torch.zeros(5).double(), torch.ones(5).double())
    ((_, block),) = features.blocks(torch.float32)
    assert np.shares_memory(block.x.data, x.data)
    ((_, block),) = features.blocks(torch.float64)
    assert block.x.dtype == np.float64
    assert x.dtype == np.float32
