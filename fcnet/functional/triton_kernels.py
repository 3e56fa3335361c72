"""The GPU path of the cross-entropy: two Triton kernels, one pass over the logits each, and one to join parts of a row.

C classes, x the logits of a row, t its targets, m the row's largest logit. A row is read in the tiles of
`fcnet.functional.triton_tiles`.

The loss needs R, the sum of e^(x_j − m) without the 1 of the largest logit, so that log(1 + R) keeps its digits. m is
not known until the row has been read, so each group of registers keeps its largest logit so far, its multiplicity, and
the sum of the other powers. When a larger logit comes, the former largest ones join the sum, which is rescaled.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fcnet.functional.triton_tiles import (
    exp,
    in_range,
    load_tile,
    log1p,
    row_start,
    store_tile,
    tile_offsets,
)

LABELS = tl.constexpr(0)
SMOOTHED = tl.constexpr(1)
PROBABILITIES = tl.constexpr(2)
"""Kinds of targets: labels, labels with smoothing, class probabilities."""

_INF = tl.constexpr(float("inf"))


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
    """Loads w_j ((1 − ε) t_j + ε / C), with ``own`` = 1 − ε and ``even`` = ε / C; 0 outside the row."""
    if KIND == PROBABILITIES:
        t = load_tile(start, begin, at, column, head, length, 0.0, EDGE) * own + even
    else:
        t = tl.where(column == label, own + even, even)
    if WEIGHTED:
        t *= tl.load(weight + column, mask=in_range(column, length), other=0.0)
    if EDGE:
        t = tl.where(in_range(column, length), t, 0.0)
    return t


@triton.jit
def _update_state(state: tl.tensor, x: tl.tensor, t: tl.tensor, SOFT: tl.constexpr, EXACT: tl.constexpr) -> tl.tensor:
    """Updates each group's state with a tile.

    The state is the largest logit so far, its multiplicity, the sum of the other powers; the targets of the largest
    logits, the targets of the others, and Σ_j t_j (x_j − largest).
    """
    top, number, rest, of_top, of_rest, target_dot = state
    new = tl.maximum(top, tl.max(x, axis=1))
    risen = new > top
    step = tl.where(risen, top - new, 0.0)
    scale = exp(step, EXACT)
    largest = x == new[:, None]
    d = x - new[:, None]
    powers = tl.where(largest, 0.0, exp(d, EXACT))
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
    """Loads a tile and updates each group's state."""
    begin, at, column = tile_offsets(tile, head, BLOCK, GROUP)
    logits = load_tile(x, begin, at, column, head, length, -_INF, EDGE)
    targets = 0.0
    if KIND != LABELS:
        targets = _load_targets(t, weight, label, own, even, begin, at, column, head, length, KIND, WEIGHTED, EDGE)
    return _update_state(state, logits, targets, KIND != LABELS, EXACT)


@triton.jit
def _merge_states(states: tl.tensor, EXACT: tl.constexpr) -> tl.tensor:
    """Combines the states of groups, or of parts of a row, to one."""
    tops, number, rest, of_top, of_rest, target_dot = states
    top = tl.max(tops, axis=0)
    highest = tops == top
    step = tl.where(highest, 0.0, tops - top)
    rest = tl.sum(tl.where(highest, rest, (rest + number) * exp(step, EXACT)), axis=0)
    number = tl.sum(tl.where(highest, number, 0.0), axis=0)
    total = of_top + of_rest
    target_dot = tl.sum(target_dot + tl.where(total == 0.0, 0.0, total * step), axis=0)
    of_rest = tl.sum(tl.where(highest, of_rest, total), axis=0)
    of_top = tl.sum(tl.where(highest, of_top, 0.0), axis=0)
    return top, number, rest, of_top, of_rest, target_dot


@triton.jit
def _load_label(
    target: tl.tensor,
    weight: tl.tensor,
    row: tl.tensor,
    num_classes: tl.tensor,
    ignore_index: tl.tensor,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
) -> tl.tensor:
    """Returns the row's label, its weight, and the classes to read: C, or 0 for an ignored row."""
    if KIND == PROBABILITIES:
        return -1, 1.0, num_classes
    given = tl.load(target + row)
    counts = given != ignore_index
    valid = (given >= 0) & (given < num_classes)
    tl.device_assert(valid | ~counts, "target must be in [0, C) or ignore_index")
    label = tl.where(counts & valid, given, 0).to(tl.int32)
    factor = 1.0
    if WEIGHTED:
        factor = tl.load(weight + label)
    return label, tl.where(counts, factor, 0.0), tl.where(counts, num_classes, 0)


@triton.jit
def _store_row(
    row_stats: tl.tensor,
    state: tl.tensor,
    own_x: tl.tensor,
    factor: tl.tensor,
    row: tl.tensor,
    num_rows: tl.tensor,
    num_classes: tl.tensor,
    length: tl.tensor,
    KIND: tl.constexpr,
) -> tl.tensor:
    """Writes the row's loss and statistics; returns what `_grad_tile` takes: m, R, and the two sums of targets."""
    top, number, rest, of_top, of_rest, target_dot = state
    # Elements outside the row are −∞ too. If all logits are, their number comes from C, not from counting.
    rest += tl.where(top == -_INF, (num_classes - 1).to(tl.float32), number - 1.0)
    if KIND == LABELS:
        loss = log1p(rest) - tl.where(own_x == top, 0.0, own_x - top)
        loss = tl.where((factor == 0.0) & (loss == _INF), 0.0, loss * factor)
    else:
        loss = (of_top + of_rest) * log1p(rest) - target_dot
    if KIND != PROBABILITIES:
        loss = tl.where(length > 0, loss, 0.0)
    tl.store(row_stats + row, loss)
    tl.store(row_stats + num_rows + row, factor)
    tl.store(row_stats + 2 * num_rows + row, top)
    tl.store(row_stats + 3 * num_rows + row, rest)
    if KIND != LABELS:
        tl.store(row_stats + 4 * num_rows + row, of_top)
        tl.store(row_stats + 5 * num_rows + row, of_rest)
    return top, rest, of_top, of_rest


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
    """Computes ``factor`` times S p̂_j − t_j, S = Σ_j t_j; for the largest logit, Σ_{i≠j} t_i − S R / (1 + R)."""
    largest = x == top
    power = exp(tl.where(largest, 0.0, x - top), EXACT)
    scale = 1.0 / (1.0 + rest)
    if KIND == LABELS:
        own = tl.where(largest, -rest * scale, power * scale - 1.0)
        return tl.where(column == label, own, power * scale) * factor
    share = (of_top + of_rest) * scale
    of_largest = of_rest + (of_top - t) - share * rest
    return tl.where(largest, of_largest, share * power - t) * factor


@triton.jit
def _write_grad_tile(
    x: tl.tensor,
    t: tl.tensor,
    weight: tl.tensor,
    grad_logits: tl.tensor,
    label: tl.tensor,
    own: tl.tensor,
    even: tl.tensor,
    row_state: tl.tensor,
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
    """Writes a tile of the gradient: ``read`` is C, or 0 for an ignored row, which gets 0."""
    begin, at, column = tile_offsets(tile, head, BLOCK, GROUP)
    top, rest, of_top, of_rest = row_state
    logits = load_tile(x, begin, at, column, head, read, -_INF, EDGE)
    targets = 0.0
    if KIND != LABELS:
        targets = _load_targets(t, weight, label, own, even, begin, at, column, head, read, KIND, WEIGHTED, EDGE)
    values = _grad_tile(logits, targets, column, label, top, rest, of_top, of_rest, factor, KIND, EXACT)
    if EDGE:
        values = tl.where(in_range(column, read), values, 0.0)
    store_tile(grad_logits, values, begin, at, column, head, length, EDGE)


@triton.jit
def _write_grad(
    x: tl.tensor,
    t: tl.tensor,
    weight: tl.tensor,
    grad_logits: tl.tensor,
    label: tl.tensor,
    own: tl.tensor,
    even: tl.tensor,
    row_state: tl.tensor,
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
    """Writes a tile of the gradient, with masks only if a part of it is outside the row."""
    if (tile == 0) | ((tile + 1) * BLOCK > head + read):
        _write_grad_tile(
            x, t, weight, grad_logits, label, own, even, row_state, factor, tile, head, read, length,
            KIND, WEIGHTED, EXACT, BLOCK, GROUP, True,
        )  # fmt: skip
    else:
        _write_grad_tile(
            x, t, weight, grad_logits, label, own, even, row_state, factor, tile, head, read, length,
            KIND, WEIGHTED, EXACT, BLOCK, GROUP, False,
        )  # fmt: skip


# debug enables the assertion on labels; torch's kernels have one too.
@triton.jit(debug=True, do_not_specialize=["num_classes", "ignore_index"])
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
    PARTS: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """Computes one row's loss in one pass; with WRITE_GRAD also its gradient, in a second pass over the cached row.

    With PARTS > 1, computes the state of one part of a row, for `cross_entropy_join`.

    Args:
        x: logits (N, C), contiguous, starting at a multiple of 16 bytes, as do ``target`` and ``grad_logits``.
        target: labels (N), or probabilities (N, C).
        weight: class weights (C), float32; any pointer without WEIGHTED.
        row_stats: float32 (6, N), written: the loss; the weight in a mean; m; R; and, for smoothed labels and
            probabilities, the targets of the largest logits and of the others. With PARTS > 1, (6, N, PARTS): each
            part's state.
        grad_logits: (N, C), written with WRITE_GRAD alone; may be ``x``.
        num_classes: C.
        ignore_index: the label of rows with loss 0.
        own: 1 − ε.
        even: ε / C.
        KIND: LABELS, SMOOTHED or PROBABILITIES.
        WEIGHTED: there are class weights.
        WRITE_GRAD: the gradient is wanted; with PARTS = 1 alone.
        PARTS: blocks that share a row.
        EXACT: powers are correct to float32's last place or so.
        BLOCK: classes in a tile.
        GROUP: elements in 16 bytes.
    """
    row = tl.program_id(0).to(tl.int64)  # a multiple of it passes 2^31 from 429 million rows on
    num_rows = tl.num_programs(0).to(tl.int64)
    start, head = row_start(x, row, num_classes, GROUP)
    label, factor, length = _load_label(target, weight, row, num_classes, ignore_index, KIND, WEIGHTED)
    t = target
    own_x = 0.0
    if KIND == PROBABILITIES:
        t = target + start
    elif PARTS == 1:
        own_x = tl.load(x + start + (head + label)).to(tl.float32)
    none = tl.zeros([BLOCK // GROUP], tl.float32)
    state = (none - _INF, none, none, none, none, none)
    first = 0
    last = tl.cdiv(head + length, BLOCK)
    if PARTS > 1:
        per_part = tl.cdiv(last, PARTS)
        first = tl.program_id(1) * per_part
        last = tl.minimum(first + per_part, last)
    # A part without a tile reads nothing here.
    state = _accumulate_tile(
        state, x + start, t, weight, label, own, even, first, head, length, KIND, WEIGHTED, EXACT, BLOCK, GROUP, True
    )
    for tile in range(first + 1, last - 1):
        state = _accumulate_tile(
            state, x + start, t, weight, label, own, even, tile, head, length,
            KIND, WEIGHTED, EXACT, BLOCK, GROUP, False,
        )  # fmt: skip
    if last > first + 1:
        state = _accumulate_tile(
            state, x + start, t, weight, label, own, even, last - 1, head, length,
            KIND, WEIGHTED, EXACT, BLOCK, GROUP, True,
        )  # fmt: skip
    state = _merge_states(state, EXACT)
    if PARTS > 1:
        at = row_stats + row * PARTS + tl.program_id(1)
        for k in tl.static_range(6):
            tl.store(at + k * num_rows * PARTS, state[k])
    else:
        row_state = _store_row(row_stats, state, own_x, factor, row, num_rows, num_classes, length, KIND)
        if WRITE_GRAD:
            if KIND != LABELS:
                factor = 1.0
            for tile in range(tl.cdiv(head + num_classes, BLOCK)):
                _write_grad(
                    x + start, t, weight, grad_logits + start, label, own, even, row_state, factor, tile, head, length,
                    num_classes, KIND, WEIGHTED, EXACT, BLOCK, GROUP,
                )  # fmt: skip


@triton.jit(do_not_specialize=["num_classes", "ignore_index"])
def cross_entropy_join(
    x: tl.tensor,
    target: tl.tensor,
    weight: tl.tensor,
    states: tl.tensor,
    row_stats: tl.tensor,
    num_classes: tl.tensor,
    ignore_index: tl.tensor,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    PARTS: tl.constexpr,
    EXACT: tl.constexpr,
) -> None:
    """Computes one row's loss and statistics from the states of its parts, (6, N, PARTS).

    Arguments are those of `cross_entropy_forward`, which wrote ``states``.
    """
    row = tl.program_id(0).to(tl.int64)
    num_rows = tl.num_programs(0).to(tl.int64)
    label, factor, length = _load_label(target, weight, row, num_classes, ignore_index, KIND, WEIGHTED)
    own_x = 0.0
    if KIND != PROBABILITIES:
        own_x = tl.load(x + row * num_classes + label).to(tl.float32)
    at = states + row * PARTS + tl.arange(0, PARTS)
    size = num_rows * PARTS
    state = (
        tl.load(at), tl.load(at + size), tl.load(at + 2 * size),
        tl.load(at + 3 * size), tl.load(at + 4 * size), tl.load(at + 5 * size),
    )  # fmt: skip
    state = _merge_states(state, EXACT)
    _store_row(row_stats, state, own_x, factor, row, num_rows, num_classes, length, KIND)


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
    """Writes a tile of one row's gradient in the logits to ``grad_logits``.

    Arguments are those of `cross_entropy_forward`, which wrote ``row_stats``. The row's gradient is multiplied by its
    element of ``grad``, with the stride ``grad_stride`` (0: one element for all rows), and with MEAN divided by
    ``total``.
    """
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    num_rows = tl.num_programs(0).to(tl.int64)
    start, head = row_start(x, row, num_classes, GROUP)
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
    row_state = (top, rest, of_top, of_rest)
    _write_grad(
        x + start, t, weight, grad_logits + start, label, own, even, row_state, factor, tile, head, length, num_classes,
        KIND, WEIGHTED, EXACT, BLOCK, GROUP,
    )  # fmt: skip
