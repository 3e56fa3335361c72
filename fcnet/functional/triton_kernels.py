"""The cross-entropy of C classes and its derivative, one pass over the logits each, in Triton.

C classes, x the logits of a row, t its targets, m the row's largest logit. A row is read in tiles of
``BLOCK`` classes, and a tile in groups of ``GROUP`` neighbours that lie 16 bytes apart in memory whatever
C is: the first group of a row may begin in the row before, the last may end in the next one, and what
belongs to others is read but not used, and not written.

What a row's logits amount to is R, the sum of e^(x_j − m) without the largest one's 1, so that log(1 + R)
keeps its digits. Each group of registers holds the largest it has met, how often, and the sum of the
smaller ones' powers; when a larger comes, the dethroned ones join the others at their new, lower powers.
"""

from __future__ import annotations

import triton
import triton.language as tl

LABELS = tl.constexpr(0)
SMOOTHED = tl.constexpr(1)
PROBABILITIES = tl.constexpr(2)
"""What the targets are."""

_LOG2_E = tl.constexpr(1.4426950216293335)
_LOG2_E_REST = tl.constexpr(1.9259629911266175e-08)
_LN_2 = tl.constexpr(0.6931471805599453)
_INF = tl.constexpr(float("inf"))


@triton.jit
def _exp(d: tl.tensor, EXACT: tl.constexpr) -> tl.tensor:
    """e^d for d ≤ 0. The hardware takes 2^(d log₂e): EXACT makes up for the rounding of that product."""
    if not EXACT:
        return tl.exp(d)
    d = tl.maximum(d, -1e30, propagate_nan=tl.PropagateNan.ALL)  # no ∞ − ∞ below
    e = d * _LOG2_E
    rest = tl.fma(d, _LOG2_E, -e) + d * _LOG2_E_REST
    power = tl.exp2(e)
    return tl.fma(power, rest * _LN_2, power)


@triton.jit
def _log1p(r: tl.tensor) -> tl.tensor:
    """log(1 + r) for r ≥ 0: 2 artanh(r / (2 + r)) by its series for small ones."""
    z = r / (2.0 + r)
    square = z * z
    series = 1.0 / 17.0
    for k in tl.static_range(8):
        series = series * square + 1.0 / (15 - 2 * k)
    return tl.where(r <= 1.0, 2.0 * z * series, tl.log(1.0 + r))


@triton.jit
def _tile_offsets(tile: tl.tensor, head: tl.tensor, BLOCK: tl.constexpr, GROUP: tl.constexpr) -> tl.tensor:
    """Where the tile's groups begin, from the row's first whole group on, and its elements' classes."""
    begin = tile * BLOCK + tl.arange(0, BLOCK // GROUP)[:, None] * GROUP
    at = begin + tl.arange(0, GROUP)[None, :]
    return begin, at, at - head


@triton.jit
def _in_range(column: tl.tensor, length: tl.tensor) -> tl.tensor:
    """0 ≤ class < length, by one comparison."""
    return column.to(tl.uint32, bitcast=True) < length.to(tl.uint32, bitcast=True)


@triton.jit
def _load_tile(
    start: tl.tensor,
    begin: tl.tensor,
    at: tl.tensor,
    column: tl.tensor,
    head: tl.tensor,
    length: tl.tensor,
    fill: tl.constexpr,
    EDGE: tl.constexpr,
) -> tl.tensor:
    """The tile's elements; at an edge ``fill`` outside the row."""
    if not EDGE:
        return tl.load(start + at).to(tl.float32)
    values = tl.load(start + at, mask=tl.broadcast_to(begin < head + length, at.shape), other=0.0)
    return tl.where(_in_range(column, length), values.to(tl.float32), fill)


@triton.jit
def _load_targets(
    start: tl.tensor,
    weight: tl.tensor,
    label: tl.tensor,
    own: tl.tensor,
    even: tl.tensor,
    begin: tl.tensor,
    at: tl.tensor,
    column: tl.tensor,
    head: tl.tensor,
    length: tl.tensor,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    EDGE: tl.constexpr,
) -> tl.tensor:
    """w_j ((1 − ε) t_j + ε / C), with ``own`` = 1 − ε and ``even`` = ε / C; 0 outside the row."""
    if KIND == PROBABILITIES:
        t = _load_tile(start, begin, at, column, head, length, 0.0, EDGE) * own + even
    else:
        t = tl.where(column == label, own + even, even)
    if WEIGHTED:
        t *= tl.load(weight + column, mask=_in_range(column, length), other=0.0)
    if EDGE:
        t = tl.where(_in_range(column, length), t, 0.0)
    return t


@triton.jit
def _update_state(state: tl.tensor, x: tl.tensor, t: tl.tensor, SOFT: tl.constexpr, EXACT: tl.constexpr) -> tl.tensor:
    """Takes a tile into what each group knows.

    That is the largest logit, how many there are of it, the sum of the others' powers; the targets of the
    largest, those of the others, and Σ_j t_j (x_j − largest).
    """
    top, number, rest, of_top, of_rest, target_dot = state
    new = tl.maximum(top, tl.max(x, axis=1))
    risen = new > top
    step = tl.where(risen, top - new, 0.0)
    scale = _exp(step, EXACT)
    largest = x == new[:, None]
    d = x - new[:, None]
    powers = tl.where(largest, 0.0, _exp(d, EXACT))
    rest = (rest + tl.where(risen, number, 0.0)) * scale + tl.sum(powers, axis=1)
    number = tl.where(risen, 0.0, number) + tl.sum(largest.to(tl.float32), axis=1)
    if SOFT:
        before = of_top + of_rest
        target_dot += tl.where(before == 0.0, 0.0, before * step)
        target_dot += tl.sum(tl.where(largest | (t == 0.0), 0.0, t * d), axis=1)
        of_rest += tl.where(risen, of_top, 0.0) + tl.sum(tl.where(largest, 0.0, t), axis=1)
        of_top = tl.where(risen, 0.0, of_top) + tl.sum(tl.where(largest, t, 0.0), axis=1)
    return new, number, rest, of_top, of_rest, target_dot


@triton.jit
def _accumulate_tile(
    state: tl.tensor,
    x: tl.tensor,
    t: tl.tensor,
    weight: tl.tensor,
    label: tl.tensor,
    own: tl.tensor,
    even: tl.tensor,
    tile: tl.tensor,
    head: tl.tensor,
    length: tl.tensor,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    EDGE: tl.constexpr,
) -> tl.tensor:
    """Reads a tile and takes it into what each group knows."""
    begin, at, column = _tile_offsets(tile, head, BLOCK, GROUP)
    logits = _load_tile(x, begin, at, column, head, length, -_INF, EDGE)
    targets = 0.0
    if KIND != LABELS:
        targets = _load_targets(t, weight, label, own, even, begin, at, column, head, length, KIND, WEIGHTED, EDGE)
    return _update_state(state, logits, targets, KIND != LABELS, EXACT)


@triton.jit
def _reduce_state(state: tl.tensor, num_classes: tl.tensor, EXACT: tl.constexpr) -> tl.tensor:
    """The row's largest logit, R, and the rest of the state, from those of the groups."""
    tops, number, rest, of_top, of_rest, target_dot = state
    top = tl.max(tops, axis=0)
    highest = tops == top
    step = tl.where(highest, 0.0, tops - top)
    others = tl.sum(tl.where(highest, rest, (rest + number) * _exp(step, EXACT)), axis=0)
    ties = tl.sum(tl.where(highest, number, 0.0), axis=0) - 1.0
    # Outside the row lies −∞ too, so that only the number of classes says how many there are of it.
    others += tl.where(top == -_INF, (num_classes - 1).to(tl.float32), ties)
    total = of_top + of_rest
    target_dot = tl.sum(target_dot + tl.where(total == 0.0, 0.0, total * step), axis=0)
    of_rest = tl.sum(tl.where(highest, of_rest, total), axis=0)
    of_top = tl.sum(tl.where(highest, of_top, 0.0), axis=0)
    return top, others, of_top, of_rest, target_dot


@triton.jit
def _grad_tile(
    x: tl.tensor,
    t: tl.tensor,
    column: tl.tensor,
    label: tl.tensor,
    top: tl.tensor,
    rest: tl.tensor,
    of_top: tl.tensor,
    of_rest: tl.tensor,
    factor: tl.tensor,
    KIND: tl.constexpr,
    EXACT: tl.constexpr,
) -> tl.tensor:
    """S p̂_j − t_j with S = Σ_j t_j; where x_j is the largest, Σ_{i≠j} t_i − S R / (1 + R). By a factor."""
    largest = x == top
    power = _exp(tl.where(largest, 0.0, x - top), EXACT)
    scale = 1.0 / (1.0 + rest)
    if KIND == LABELS:
        own = tl.where(largest, -rest * scale, power * scale - 1.0)
        return tl.where(column == label, own, power * scale) * factor
    share = (of_top + of_rest) * scale
    of_largest = of_rest + (of_top - t) - share * rest
    return tl.where(largest, of_largest, share * power - t) * factor


@triton.jit
def _store_tile(
    grad_logits: tl.tensor,
    values: tl.tensor,
    begin: tl.tensor,
    at: tl.tensor,
    column: tl.tensor,
    head: tl.tensor,
    length: tl.tensor,
    EDGE: tl.constexpr,
) -> tl.tensor:
    """Whole groups in one go, and what of a group is in the row one by one."""
    values = values.to(grad_logits.dtype.element_ty)
    if EDGE:
        whole = tl.broadcast_to((begin >= head) & (begin + values.shape[1] <= head + length), at.shape)
        tl.store(grad_logits + at, values, mask=whole)
        tl.store(grad_logits + at, values, mask=_in_range(column, length) & ~whole)
    else:
        tl.store(grad_logits + at, values)


@triton.jit
def _write_grad_tile(
    x: tl.tensor,
    t: tl.tensor,
    weight: tl.tensor,
    grad_logits: tl.tensor,
    label: tl.tensor,
    own: tl.tensor,
    even: tl.tensor,
    found: tl.tensor,
    factor: tl.tensor,
    tile: tl.tensor,
    head: tl.tensor,
    read: tl.tensor,
    length: tl.tensor,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    EDGE: tl.constexpr,
) -> tl.tensor:
    """Writes a tile of the derivative; of ``read`` classes it is found, of the others 0."""
    begin, at, column = _tile_offsets(tile, head, BLOCK, GROUP)
    top, rest, of_top, of_rest = found
    logits = _load_tile(x, begin, at, column, head, read, -_INF, EDGE)
    targets = 0.0
    if KIND != LABELS:
        targets = _load_targets(t, weight, label, own, even, begin, at, column, head, read, KIND, WEIGHTED, EDGE)
    values = _grad_tile(logits, targets, column, label, top, rest, of_top, of_rest, factor, KIND, EXACT)
    if EDGE:
        values = tl.where(_in_range(column, read), values, 0.0)
    _store_tile(grad_logits, values, begin, at, column, head, length, EDGE)


@triton.jit
def _write_grad(
    x: tl.tensor,
    t: tl.tensor,
    weight: tl.tensor,
    grad_logits: tl.tensor,
    label: tl.tensor,
    own: tl.tensor,
    even: tl.tensor,
    found: tl.tensor,
    factor: tl.tensor,
    tile: tl.tensor,
    head: tl.tensor,
    read: tl.tensor,
    length: tl.tensor,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
) -> tl.tensor:
    """Writes a tile, with masks only where some of it is outside the row."""
    if (tile == 0) | ((tile + 1) * BLOCK > head + read):
        _write_grad_tile(
            x, t, weight, grad_logits, label, own, even, found, factor, tile, head, read, length,
            KIND, WEIGHTED, EXACT, BLOCK, GROUP, True,
        )  # fmt: skip
    else:
        _write_grad_tile(
            x, t, weight, grad_logits, label, own, even, found, factor, tile, head, read, length,
            KIND, WEIGHTED, EXACT, BLOCK, GROUP, False,
        )  # fmt: skip


@triton.jit
def _row_start(x: tl.tensor, row: tl.tensor, num_classes: tl.tensor, GROUP: tl.constexpr) -> tl.tensor:
    """Where the row's first group begins, and how far its first class lies behind."""
    first = row.to(tl.int64) * num_classes
    head = (first % GROUP).to(tl.int32)
    return tl.multiple_of(first - head, GROUP), head


@triton.jit(
    debug=True, do_not_specialize=["num_classes", "ignore_index"]
)  # for the assertion, as torch's kernels have one
def cross_entropy_forward(
    x: tl.tensor,
    target: tl.tensor,
    weight: tl.tensor,
    row_stats: tl.tensor,
    grad_logits: tl.tensor,
    num_classes: tl.tensor,
    ignore_index: tl.tensor,
    own: tl.tensor,
    even: tl.tensor,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WRITE_GRAD: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """One row's loss, in one pass; with WRITE_GRAD its derivative too, in a second one while the row is near.

    Args:
        x: logits (N, C), contiguous, at a multiple of 16 bytes; so are ``target`` and ``grad_logits``.
        target: labels (N), or probabilities (N, C).
        weight: class weights (C), float32, or anything.
        row_stats: float32 (6, N), written: the loss; the weight in a mean; m, R, and for smoothed labels and
            probabilities the targets of the largest logits and of the others.
        grad_logits: (N, C), written with WRITE_GRAD alone, may be ``x``.
        num_classes: C.
        ignore_index: the label of rows that cost nothing.
        own: 1 − ε.
        even: ε / C.
        KIND: one of the three above.
        WEIGHTED: whether there are class weights.
        WRITE_GRAD: whether the derivative is wanted.
        EXACT: whether powers are as exact as float32 can be.
        BLOCK: classes in a tile.
        GROUP: elements in 16 bytes.
    """
    row = tl.program_id(0)
    num_rows = tl.num_programs(0)
    start, head = _row_start(x, row, num_classes, GROUP)
    length = num_classes
    label = -1
    factor = 1.0
    t = target
    if KIND == PROBABILITIES:
        t = target + start
    else:
        given = tl.load(target + row)
        counts = given != ignore_index
        valid = (given >= 0) & (given < num_classes)
        tl.device_assert(valid | ~counts, "target must be in [0, C) or ignore_index")
        length = tl.where(counts, num_classes, 0)
        label = tl.where(counts & valid, given, 0).to(tl.int32)
        if WEIGHTED:
            factor = tl.load(weight + label)
        factor = tl.where(counts, factor, 0.0)
        own_x = tl.load(x + start + (head + label)).to(tl.float32)
    none = tl.zeros([BLOCK // GROUP], tl.float32)
    state = (none - _INF, none, none, none, none, none)
    num_tiles = tl.cdiv(head + length, BLOCK)
    state = _accumulate_tile(
        state, x + start, t, weight, label, own, even, 0, head, length, KIND, WEIGHTED, EXACT, BLOCK, GROUP, True
    )
    for tile in range(1, num_tiles - 1):
        state = _accumulate_tile(
            state, x + start, t, weight, label, own, even, tile, head, length,
            KIND, WEIGHTED, EXACT, BLOCK, GROUP, False,
        )  # fmt: skip
    if num_tiles > 1:
        state = _accumulate_tile(
            state, x + start, t, weight, label, own, even, num_tiles - 1, head, length,
            KIND, WEIGHTED, EXACT, BLOCK, GROUP, True,
        )  # fmt: skip
    top, rest, of_top, of_rest, target_dot = _reduce_state(state, num_classes, EXACT)
    if KIND == LABELS:
        loss = _log1p(rest) - tl.where(own_x == top, 0.0, own_x - top)
        loss = tl.where((factor == 0.0) & (loss == _INF), 0.0, loss * factor)
    else:
        loss = (of_top + of_rest) * _log1p(rest) - target_dot
    if KIND != PROBABILITIES:
        loss = tl.where(counts, loss, 0.0)
    tl.store(row_stats + row, loss)
    tl.store(row_stats + num_rows + row, factor)
    tl.store(row_stats + 2 * num_rows + row, top)
    tl.store(row_stats + 3 * num_rows + row, rest)
    if KIND != LABELS:
        tl.store(row_stats + 4 * num_rows + row, of_top)
        tl.store(row_stats + 5 * num_rows + row, of_rest)
    if WRITE_GRAD:
        found = (top, rest, of_top, of_rest)
        if KIND != LABELS:
            factor = 1.0
        for tile in range(tl.cdiv(head + num_classes, BLOCK)):
            _write_grad(
                x + start, t, weight, grad_logits + start, label, own, even, found, factor, tile, head, length,
                num_classes, KIND, WEIGHTED, EXACT, BLOCK, GROUP,
            )  # fmt: skip


@triton.jit(do_not_specialize=["num_classes", "ignore_index", "grad_stride"])
def cross_entropy_backward(
    x: tl.tensor,
    target: tl.tensor,
    weight: tl.tensor,
    row_stats: tl.tensor,
    grad: tl.tensor,
    grad_stride: tl.tensor,
    total: tl.tensor,
    grad_logits: tl.tensor,
    num_classes: tl.tensor,
    ignore_index: tl.tensor,
    own: tl.tensor,
    even: tl.tensor,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MEAN: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """A tile of one row's derivative in the logits, written to ``grad_logits``.

    What it shares with `cross_entropy_forward` is as there, ``row_stats`` what that has written. The row's derivative is multiplied
    by its number in ``grad``, ``grad_stride`` apart (0: one number for all), and with MEAN divided by ``total``.
    """
    row = tl.program_id(0)
    tile = tl.program_id(1)
    num_rows = tl.num_programs(0)
    start, head = _row_start(x, row, num_classes, GROUP)
    factor = tl.load(grad + row * grad_stride)
    if MEAN:
        factor /= tl.load(total)
    length = num_classes
    label = -1
    t = target
    if KIND == PROBABILITIES:
        t = target + start
    else:
        given = tl.load(target + row)
        counts = given != ignore_index
        length = tl.where(counts, num_classes, 0)
        label = tl.where(counts, given, 0).to(tl.int32)
        if KIND == LABELS:
            factor *= tl.load(row_stats + num_rows + row)
    top = tl.load(row_stats + 2 * num_rows + row)
    rest = tl.load(row_stats + 3 * num_rows + row)
    of_top = 0.0
    of_rest = 0.0
    if KIND != LABELS:
        of_top = tl.load(row_stats + 4 * num_rows + row)
        of_rest = tl.load(row_stats + 5 * num_rows + row)
    found = (top, rest, of_top, of_rest)
    _write_grad(
        x + start, t, weight, grad_logits + start, label, own, even, found, factor, tile, head, length, num_classes,
        KIND, WEIGHTED, EXACT, BLOCK, GROUP,
    )  # fmt: skip
