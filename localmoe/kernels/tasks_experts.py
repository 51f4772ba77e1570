"""Tasks for the pool: routing and experts. Arguments and buffers as in `tasks`."""

from __future__ import annotations

import numpy as np

from localmoe.kernels.dot import FEW, dot_rows, dot_two, place
from localmoe.kernels.dot_float import dot_f32
from localmoe.kernels.elementwise import (
    add_row,
    exp1,
    gated,
    quantize_group,
    store_f32_at,
)
from localmoe.kernels.geometry import GROUP, TASK, TILE
from localmoe.kernels.simd import (
    args10,
    args20,
    fma,
    fma16,
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    splat_f32x16,
    store_f32x16,
    store_i32,
)
from quant.compiled import compiled_callback


@compiled_callback(TASK)
def route_task(args: int, item: int, worker: int) -> None:
    """Token `item`'s experts: the k largest router logits (lowest index first on ties), softmax over
    those. All weights are NaN if a logit is not finite. The logits are there already, but for the bias (0:
    there is none), where `router` is 0.
    """
    h, cols, router, experts, k, chosen, weights, logits, bias, _ = args10(args)
    mine, doubt = logits + item * experts * 4, np.float32(0)
    for e in range(experts):
        value = load_f32(mine + e * 4)
        if router:
            value = dot_f32(router + e * cols * 4, cols, h + item * cols * 4)
        if bias:
            value += load_f32(bias + e * 4)
        doubt += value - value  # NaN, or nothing: no comparison below would choose such an expert
        store_f32_at(mine, e, value)
    largest = np.float32(0)
    for c in range(k):
        best, top = -1, np.float32(0)
        for e in range(experts):
            taken = False
            for before in range(c):
                taken = taken or load_i32(chosen + (item * k + before) * 4) == e
            value = load_f32(mine + e * 4)
            if not taken and (best < 0 or value > top):
                best, top = e, value
        store_i32(chosen + (item * k + c) * 4, best)
        largest = top if c == 0 else largest
        store_f32_at(weights, item * k + c, exp1(top - largest + doubt))
    total = np.float32(0)
    for c in range(k):
        total += load_f32(weights + (item * k + c) * 4)
    for c in range(k):
        store_f32_at(weights, item * k + c, load_f32(weights + (item * k + c) * 4) / total)


@compiled_callback(TASK)
def group_task(args: int, item: int, worker: int) -> None:
    """Sorts the (token, choice) pairs by expert, in token order within each: one item.

    chosen int32 [tokens, k] → token_of int32 [pairs]: the token of each sorted pair; place_of int32 [tokens,
    k]: where each pair went; starts int32 [experts + 1].
    """
    chosen, tokens, k, experts, token_of, place_of, starts, _, _, _ = args10(args)
    for e in range(experts + 1):
        store_i32(starts + e * 4, 0)
    for p in range(tokens * k):
        e = load_i32(chosen + p * 4) + 1
        store_i32(starts + e * 4, load_i32(starts + e * 4) + 1)
    for e in range(experts):
        store_i32(starts + (e + 1) * 4, load_i32(starts + (e + 1) * 4) + load_i32(starts + e * 4))
    for p in range(tokens * k):
        e = load_i32(chosen + p * 4)
        place = load_i32(starts + e * 4)
        store_i32(starts + e * 4, place + 1)
        store_i32(token_of + place * 4, p // k)
        store_i32(place_of + p * 4, place)
    for e in range(experts, 0, -1):
        store_i32(starts + e * 4, load_i32(starts + (e - 1) * 4))
    store_i32(starts, 0)


@compiled_callback(TASK)
def gate_up_task(args: int, item: int, worker: int) -> None:
    """256 rows of one expert's FFN for all of its tokens: hidden = the gated unit of gate · x and up · x, and
    its int8 form.

    `active` lists the experts in hand, `addresses` int64 [experts, 3] where their gate, up and down weights
    are; what `formats` is, `Cpu._formats_of` says.
    """
    (active, _, addresses, starts, token_of, cols, ffn, kind, size, row_bytes,
     table, x, q, scales, sums, hidden, exact, scratch, scratch_bytes, formats) = args20(args)  # fmt: skip
    groups = (ffn + GROUP - 1) // GROUP
    expert, first = load_i32(active + item // groups * 4), item % groups * GROUP
    start = load_i32(starts + expert * 4)
    tokens = load_i32(starts + expert * 4 + 4) - start
    gate, up = load_i64(addresses + expert * 24), load_i64(addresses + expert * 24 + 8)
    up_kind, up_size, up_bytes = load_i64(formats), load_i64(formats + 8), load_i64(formats + 16)
    keep_float, hq = load_i64(formats + 24), load_i64(formats + 32)
    hscales, hsums = load_i64(formats + 40), load_i64(formats + 48)
    biases, clamped = load_i64(formats + 72), load_i64(formats + 80)
    index, rows = token_of + start * 4, min(GROUP, ffn - first)
    mine = scratch + worker * scratch_bytes
    out = mine + scratch_bytes - tokens * 2 * (TILE + GROUP) * 4
    other = out + tokens * TILE * 4
    gates = other + tokens * TILE * 4
    ups = gates + tokens * GROUP * 4
    if up_kind == kind and tokens >= FEW:  # tiles of both share the activations
        for r in range(0, rows, TILE):
            n = min(TILE, rows - r)
            row, beside = gate + (first + r) * row_bytes, up + (first + r) * up_bytes
            dot_two(exact, kind, row, n, beside, n, row_bytes, cols, size, table, x, q, scales, sums, index,
                    tokens, out, other, mine, 0)
            place(out, tokens, n, gates + r * 4, GROUP)
            place(other, tokens, n, ups + r * 4, GROUP)
    else:  # one after the other: the memory is read in two long stretches, not in many short ones
        for r in range(0, rows, TILE):
            n = min(TILE, rows - r)
            row = gate + (first + r) * row_bytes
            then = row + n * row_bytes if r + n < rows else up + first * up_bytes
            dot_rows(exact, kind, row, row_bytes, n, cols, size, table, x, q, scales, sums, index, tokens,
                     out, mine, then)
            place(out, tokens, n, gates + r * 4, GROUP)
        for r in range(0, rows, TILE):
            n = min(TILE, rows - r)
            row = up + (first + r) * up_bytes
            then = row + n * up_bytes if r + n < rows else gate + (first + rows) * row_bytes
            dot_rows(exact, up_kind, row, up_bytes, n, cols, up_size, table, x, q, scales, sums, index,
                     tokens, other, mine, then)
            place(other, tokens, n, ups + r * 4, GROUP)
    for t in range(tokens):
        row = ups + t * GROUP * 4
        if biases:
            add_row(gates + t * GROUP * 4, load_i64(biases + expert * 16) + first * 4, rows)
            add_row(row, load_i64(biases + expert * 16 + 8) + first * 4, rows)
        gated(clamped, gates + t * GROUP * 4, row, (rows + 15) // 16 * 16)
        pair, g = start + t, first // GROUP
        if keep_float:
            for r in range(rows):
                store_f32_at(hidden, pair * ffn + first + r, load_f32(row + r * 4))
        else:
            quantize_group(row, rows, hq, hscales, hsums, pair, g, groups)


@compiled_callback(TASK)
def down_task(args: int, item: int, worker: int) -> None:
    """Some rows of one expert's down projection for all of its tokens: out [pairs, cols out]."""
    (active, chunks, addresses, starts, pair_index, ffn, rows, kind, size, row_bytes,
     table, hidden, hq, hscales, hsums, out, exact, scratch, scratch_bytes, chunk) = args20(args)  # fmt: skip
    expert, first = load_i32(active + item // chunks * 4), item % chunks * chunk
    start = load_i32(starts + expert * 4)
    tokens = load_i32(starts + expert * 4 + 4) - start
    down = load_i64(addresses + expert * 24 + 16)
    mine = scratch + worker * scratch_bytes
    tile = mine + scratch_bytes - tokens * 2 * TILE * 4
    other, last, index = tile + tokens * TILE * 4, min(first + chunk, rows), pair_index + start * 4
    for r in range(first, last, 2 * TILE):
        n, more = min(TILE, last - r), min(TILE, last - r - TILE)
        row, to = down + r * row_bytes, out + (start * rows + r) * 4
        then = row + (n + max(0, more)) * row_bytes
        if more > 0:
            dot_two(exact, kind, row, n, row + TILE * row_bytes, more, row_bytes, ffn, size, table, hidden,
                    hq, hscales, hsums, index, tokens, tile, other, mine, then)
        else:
            dot_rows(exact, kind, row, row_bytes, n, ffn, size, table, hidden, hq, hscales, hsums, index,
                     tokens, tile, mine, then)
        place(tile, tokens, n, to, rows)
        place(other, tokens, max(0, more), to + TILE * 4, rows)


@compiled_callback(TASK)
def combine_task(args: int, item: int, worker: int) -> None:
    """x[t] += sum over the chosen experts, in router order, of weight * (out[its pair] + its bias).

    bias: address of float32 [experts, cols], 0 if there is none.
    """
    x, cols, k, weights, place_of, out, chosen, bias, _, _ = args10(args)
    whole, to = cols // TILE * TILE, x + item * cols * 4
    for c in range(k):
        weight = load_f32(weights + (item * k + c) * 4)
        row = out + load_i32(place_of + (item * k + c) * 4) * cols * 4
        if bias:
            add_row(row, bias + load_i32(chosen + (item * k + c) * 4) * cols * 4, cols)
        for i in range(0, whole * 4, TILE * 4):
            store_f32x16(to + i, fma16(splat_f32x16(weight), load_f32x16(row + i), load_f32x16(to + i)))
        for i in range(whole, cols):
            store_f32_at(to, i, fma(weight, load_f32(row + i * 4), load_f32(to + i * 4)))
