"""Tests of fcnet.data.features.joined_rows: every read is that of a matrix which was built."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fcnet.data.features.joined_rows import JoinedRows
from fcnet.data.features.statistics import feature_mean_and_std
from fcnet.data.transforms.pipeline import l2_normalize
from fcnet.linear_model import fit_path
from fcnet.linear_model.arguments import check_features

SIZES = (7, 1, 12)
N = sum(SIZES)


def draw_parts(*dtypes: torch.dtype) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [
        torch.randn(size, 3, generator=draws, dtype=torch.float64).to(dtype)
        for size, dtype in zip(SIZES, dtypes, strict=True)
    ]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "dtypes",
    [
        *([dtype] * 3 for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)),
        [torch.float16, torch.float32, torch.float64],
        [torch.float16, torch.bfloat16, torch.float16],
    ],
)
def test_reads_are_those_of_the_built_matrix(dtypes: list[torch.dtype], *, normalize: bool) -> None:
    parts = draw_parts(*dtypes)
    built = torch.cat([l2_normalize(part) if normalize else part for part in parts])
    x = JoinedRows(parts, normalize=normalize)
    assert (len(x), x.shape, x.ndim, x.dtype) == (N, built.shape, 2, built.dtype)
    ends = range(N + 2)
    for rows in (slice(None), slice(-3, None), slice(1, 19, 4), *(slice(a, b) for a in ends for b in ends)):
        assert torch.equal(x[rows], built[rows]), rows
        assert x[rows].dtype == built.dtype
    draws = torch.Generator().manual_seed(1)
    for numbers in (*(torch.randint(N, (size,), generator=draws) for size in (0, 1, 9)), torch.arange(N)):
        assert torch.equal(x[numbers], built[numbers])


def test_a_single_part_that_is_used_as_it_is_is_not_copied() -> None:
    part = torch.randn(9, 3)
    assert JoinedRows([part])[2:5].data_ptr() == part[2:].data_ptr()
    assert JoinedRows([torch.randn(4, 3), part])[4:].data_ptr() == part.data_ptr()


def test_rows_of_zeros_stay() -> None:
    x = JoinedRows([torch.zeros(2, 3), torch.tensor([[3.0, 0.0, 4.0]])], normalize=True)
    torch.testing.assert_close(x[:], torch.tensor([[0.0] * 3, [0.0] * 3, [0.6, 0.0, 0.8]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [None, torch.arange(0, N, 2)])
def test_a_path_and_the_statistics_are_those_of_the_built_matrix(dtype: torch.dtype, rows: Tensor | None) -> None:
    x, y = JoinedRows(draw_parts(dtype, dtype, dtype), normalize=True), np.arange(N) % 3
    path, expected = (fit_path(each, y, [0.01, 1.0], rows=rows) for each in (x, x[:]))
    assert torch.equal(path.coef, expected.coef)
    assert torch.equal(path.gap, expected.gap)
    every = torch.arange(N)
    for found, wanted in zip(feature_mean_and_std(x, every), feature_mean_and_std(x[:], every), strict=True):
        assert torch.equal(found, wanted)


def test_features_that_were_checked_when_they_were_opened_are_not_read_to_be_checked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(JoinedRows, "__getitem__", lambda x, rows: pytest.fail("the features are read"))
    x = JoinedRows([torch.ones(4, 2)])
    assert check_features(x, None) == (x, torch.device("cpu"))
    assert check_features(x, "cpu") == (x, torch.device("cpu"))
