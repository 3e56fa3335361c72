"""Rules of fcnet.functional.triton_tiles; ``test_triton_tiles.py`` runs them in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from torch.testing import assert_close

from fcnet.functional.triton_tiles import exp, load_tile, log1p, row_start, store_tile, tile_offsets
from tests.unit.functional.helpers import INF, NAN

pytestmark = [
    pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="TRITON_INTERPRET is not set"),
    # NumPy warns where ∞ / ∞ is computed, though the result is discarded.
    pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow):RuntimeWarning"),
    # Triton 3.5 converts arrays of one element to numbers.
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
]


@triton.jit
def evaluate(x: tl.tensor, powers: tl.tensor, logarithms: tl.tensor, BLOCK: tl.constexpr) -> None:  # noqa: N803
    at = tl.arange(0, BLOCK)
    values = tl.load(x + at)
    tl.store(powers + at, exp(-values, True))
    tl.store(logarithms + at, log1p(values))


@triton.jit
def copy_rows(
    x: tl.tensor,
    out: tl.tensor,
    num_classes: tl.tensor,
    BLOCK: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
) -> None:
    start, head = row_start(x, tl.program_id(0), num_classes, GROUP)
    for tile in range(tl.cdiv(head + num_classes, BLOCK)):
        begin, at, column = tile_offsets(tile, head, BLOCK, GROUP)
        values = load_tile(x + start, begin, at, column, head, num_classes, 5.0, True)
        store_tile(out + start, values, begin, at, column, head, num_classes, True)


def test_powers_and_logarithms_keep_their_relative_precision() -> None:
    x = torch.cat([torch.logspace(-30, 30, 2040), torch.tensor([0.0, 1.0, 50.0, 87.0, INF, NAN, 0.5, 2.0])])
    powers, logarithms = torch.empty_like(x), torch.empty_like(x)
    evaluate[(1,)](x, powers, logarithms, BLOCK=2048)
    exact = x.double()
    # The interpreter rounds the product in a fused multiply-add, so e^−x carries x times the rounding of float32.
    assert_close(powers.double(), (-exact).exp(), rtol=6e-6, atol=1.2e-38, equal_nan=True)
    assert_close(logarithms.double(), exact.log1p(), rtol=5e-7, atol=0, equal_nan=True)


@pytest.mark.parametrize("num_classes", [1, 3, 4, 7, 8, 13])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_tiles_copy_every_row_and_write_nothing_outside(num_classes: int, groups: int) -> None:
    rows = 5
    x = torch.arange(float(rows * num_classes))
    around = torch.full((64 + x.numel() + 64,), -1.0)
    out = around[64 : 64 + x.numel()]
    copy_rows[(rows,)](x, out, num_classes, BLOCK=4 * groups, GROUP=4)
    assert_close(out, x, rtol=0, atol=0)
    assert (around[:64] == -1.0).all()
    assert (around[64 + x.numel() :] == -1.0).all()
