"""Elementary functions, and tiles of a row of classes, in Triton.

A tile is BLOCK classes of a row, read in groups of GROUP neighbors that start at multiples of 16 bytes in memory,
whatever C is. So the first group of a row may start in the row before, and the last may end in the row after. Elements
of other rows are read but not used, and never written.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950216293335)
_LOG2_E_REST = tl.constexpr(1.9259629911266175e-08)
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def exp(d: tl.tensor, EXACT: tl.constexpr) -> tl.tensor:
    """Computes e^d for d ≤ 0. The hardware computes 2^(d log₂e); EXACT corrects the rounding of that product."""
    if not EXACT:
        return tl.exp(d)
    d = tl.maximum(d, -1e30, propagate_nan=tl.PropagateNan.ALL)  # avoids ∞ − ∞ below
    e = d * _LOG2_E
    rest = tl.fma(d, _LOG2_E, -e) + d * _LOG2_E_REST
    power = tl.exp2(e)
    return tl.fma(power, rest * _LN_2, power)


@triton.jit
def log1p(r: tl.tensor) -> tl.tensor:
    """Computes log(1 + r) for r ≥ 0; for r ≤ 1 as 2 artanh(r / (2 + r)) by its series."""
    z = r / (2.0 + r)
    square = z * z
    series = 1.0 / 17.0
    for k in tl.static_range(8):
        series = series * square + 1.0 / (15 - 2 * k)
    return tl.where(r <= 1.0, 2.0 * z * series, tl.log(1.0 + r))


@triton.jit
def tile_offsets(tile: tl.tensor, head: tl.tensor, BLOCK: tl.constexpr, GROUP: tl.constexpr) -> tl.tensor:
    """Returns the offsets of the tile's groups and of its elements from the row's first group, and their classes."""
    begin = tile * BLOCK + tl.arange(0, BLOCK // GROUP)[:, None] * GROUP
    at = begin + tl.arange(0, GROUP)[None, :]
    return begin, at, at - head


@triton.jit
def in_range(column: tl.tensor, length: tl.tensor) -> tl.tensor:
    """Tests 0 ≤ class < length; a negative class is a large unsigned number, so one comparison suffices."""
    return column.to(tl.uint32, bitcast=True) < length.to(tl.uint32, bitcast=True)


@triton.jit
def load_tile(
    start: tl.tensor,
    begin: tl.tensor,
    at: tl.tensor,
    column: tl.tensor,
    head: tl.tensor,
    length: tl.tensor,
    fill: tl.constexpr,
    EDGE: tl.constexpr,
) -> tl.tensor:
    """Loads the tile's elements, with ``fill`` outside the row if the tile is at an edge."""
    if not EDGE:
        return tl.load(start + at).to(tl.float32)
    values = tl.load(start + at, mask=tl.broadcast_to(begin < head + length, at.shape), other=0.0)
    return tl.where(in_range(column, length), values.to(tl.float32), fill)


@triton.jit
def store_tile(
    grad_logits: tl.tensor,
    values: tl.tensor,
    begin: tl.tensor,
    at: tl.tensor,
    column: tl.tensor,
    head: tl.tensor,
    length: tl.tensor,
    EDGE: tl.constexpr,
) -> tl.tensor:
    """Stores whole groups as vectors, and the elements of a group that the row shares with another one by one."""
    values = values.to(grad_logits.dtype.element_ty)
    if EDGE:
        whole = tl.broadcast_to((begin >= head) & (begin + values.shape[1] <= head + length), at.shape)
        tl.store(grad_logits + at, values, mask=whole)
        tl.store(grad_logits + at, values, mask=in_range(column, length) & ~whole)
    else:
        tl.store(grad_logits + at, values)


@triton.jit
def row_start(x: tl.tensor, row: tl.tensor, num_classes: tl.tensor, GROUP: tl.constexpr) -> tl.tensor:
    """Returns the start of the row's first group, and the offset of the first class in it."""
    first = row.to(tl.int64) * num_classes
    head = (first % GROUP).to(tl.int32)
    return tl.multiple_of(first - head, GROUP), head
