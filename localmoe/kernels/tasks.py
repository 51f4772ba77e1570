"""Tasks for the pool: normalisation, linear layers, routing and experts.

A task is compiled code `task(args, item, worker)`; `args` is the address of its int64 arguments, in the
order of the tuple that each one unpacks. All buffers are row-major: x [tokens, cols] float32; its int8 form
is three buffers (q [tokens, groups * 256], scales [tokens, groups], sums [tokens, groups * 16]).
"""

from __future__ import annotations

import numpy as np

from localmoe.kernels.dot import FEW, dot_rows, dot_two
from localmoe.kernels.dot_float import decode_row, dot_f32
from localmoe.kernels.elementwise import (
    exp16,
    quantize_group,
    quantize_row,
    rms_norm,
    store_f32_at,
    swiglu,
)
from localmoe.kernels.geometry import GROUP, SUMS, TASK, TILE
from localmoe.kernels.simd import (
    add16,
    args10,
    args16,
    args20,
    bits_to_f32,
    fma,
    fma16,
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    splat_f32x16,
    store_f32x16,
    store_i32,
    sum16,
)
from localmoe.kernels.starts import matrix_of
from quant.compiled import compiled, compiled_callback

_SIXTEENTH = np.float32(0.0625)


@compiled(forceinline=True)
def _exp(x):
    """e**x of one float32, the same bits as in the vector code."""
    return sum16(exp16(splat_f32x16(np.float32(x)))) * _SIXTEENTH


@compiled(forceinline=True)
def _place(tile: int, tokens: int, count: int, to: int, stride: int) -> None:
    """Copies a tile [tokens, 16], of which `count` columns count, to rows `stride` float32 apart."""
    if count == TILE:
        for t in range(tokens):
            store_f32x16(to + t * stride * 4, load_f32x16(tile + t * TILE * 4))
    else:
        for t in range(tokens):
            for i in range(count):
                store_f32_at(to, t * stride + i, load_f32(tile + (t * TILE + i) * 4))


@compiled(forceinline=True)
def _add_tile(tile: int, tokens: int, count: int, to: int, stride: int) -> None:
    """Adds a tile to rows `stride` float32 apart."""
    for t in range(tokens):
        at = to + t * stride * 4
        if count == TILE:
            store_f32x16(at, add16(load_f32x16(at), load_f32x16(tile + t * TILE * 4)))
        else:
            for i in range(count):
                store_f32_at(at, i, load_f32(at + i * 4) + load_f32(tile + (t * TILE + i) * 4))


@compiled_callback(TASK)
def embed_task(args: int, item: int, worker: int) -> None:
    """Row ids[item] of the embedding matrix → x[item]."""
    ids, matrix, row_bytes, cols, kind, size, table, x, _, _ = args10(args)
    decode_row(kind, matrix + load_i32(ids + item * 4) * row_bytes, cols, size, table, x + item * cols * 4)


@compiled_callback(TASK)
def norm_task(args: int, item: int, worker: int) -> None:
    """h[item] = rms_norm(x[item]) * weight, and its int8 form where cols allow one."""
    x, weight, cols, epsilon, h, quantized, q, scales, sums, _ = args10(args)
    groups = (cols + GROUP - 1) // GROUP
    rms_norm(x + item * cols * 4, weight, cols, bits_to_f32(epsilon), h + item * cols * 4)
    if quantized:
        quantize_row(h + item * cols * 4, cols, q + item * groups * GROUP, scales + item * groups * 4,
                     sums + item * groups * SUMS * 2)  # fmt: skip


@compiled_callback(TASK)
def quantize_task(args: int, item: int, worker: int) -> None:
    """The int8 form of x[item]."""
    x, cols, q, scales, sums, _, _, _, _, _ = args10(args)
    groups = (cols + GROUP - 1) // GROUP
    quantize_row(x + item * cols * 4, cols, q + item * groups * GROUP, scales + item * groups * 4,
                 sums + item * groups * SUMS * 2)  # fmt: skip


@compiled_callback(TASK)
def linear_task(args: int, item: int, worker: int) -> None:
    """y[t, rows of this item] (+)= W · x[t], for up to three matrices that share their input.

    `matrices` holds 8 int64 each: address, rows, row bytes, type, block bytes, y, first item, rows per item.
    """
    (
        matrices,
        count,
        cols,
        table,
        x,
        q,
        scales,
        sums,
        index,
        tokens,
        exact,
        add,
        scratch,
        scratch_bytes,
        _,
        _,
    ) = args16(args)
    mine = scratch + worker * scratch_bytes
    out = mine + scratch_bytes - tokens * 2 * TILE * 4
    other = out + tokens * TILE * 4
    m = matrix_of(matrices, count, item)
    address, rows, row_bytes, kind = load_i64(m), load_i64(m + 8), load_i64(m + 16), load_i64(m + 24)
    size, y, chunk = load_i64(m + 32), load_i64(m + 40), load_i64(m + 56)
    first = (item - load_i64(m + 48)) * chunk
    last = min(first + chunk, rows)
    for r in range(first, last, 2 * TILE):
        n, more = min(TILE, last - r), min(TILE, last - r - TILE)
        row = address + r * row_bytes
        if more > 0:
            dot_two(exact, kind, row, n, row + TILE * row_bytes, more, row_bytes, cols, size, table, x, q,
                    scales, sums, index, tokens, out, other, mine)
        else:
            dot_rows(exact, kind, row, row_bytes, n, cols, size, table, x, q, scales, sums, index, tokens,
                     out, mine)
        if add:
            _add_tile(out, tokens, n, y + r * 4, rows)
            _add_tile(other, tokens, max(0, more), y + (r + TILE) * 4, rows)
        else:
            _place(out, tokens, n, y + r * 4, rows)
            _place(other, tokens, max(0, more), y + (r + TILE) * 4, rows)


@compiled_callback(TASK)
def route_task(args: int, item: int, worker: int) -> None:
    """Token `item`'s experts: the k largest router logits (lowest index first on ties), softmax over
    those.
    """
    h, cols, router, experts, k, chosen, weights, logits, _, _ = args10(args)
    mine = logits + item * experts * 4
    for e in range(experts):
        store_f32_at(mine, e, dot_f32(router + e * cols * 4, cols, h + item * cols * 4))
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
        store_f32_at(weights, item * k + c, _exp(top - largest))
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
    """256 rows of one expert's FFN for all of its tokens: hidden = silu(gate · x) * (up · x), and its int8
    form.

    `active` lists the experts in hand, `addresses` int64 [experts, 3] where their gate, up and down weights
    are.
    """
    (active, chunks, addresses, starts, token_of, cols, ffn, kind, size, row_bytes,
     table, x, q, scales, sums, hidden, exact, scratch, scratch_bytes, formats) = args20(args)  # fmt: skip
    expert, first = load_i32(active + item // chunks * 4), item % chunks * GROUP
    start = load_i32(starts + expert * 4)
    tokens = load_i32(starts + expert * 4 + 4) - start
    gate, up = load_i64(addresses + expert * 24), load_i64(addresses + expert * 24 + 8)
    up_kind, up_size, up_bytes = load_i64(formats), load_i64(formats + 8), load_i64(formats + 16)
    keep_float, hq = load_i64(formats + 24), load_i64(formats + 32)
    hscales, hsums = load_i64(formats + 40), load_i64(formats + 48)
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
                    tokens, out, other, mine)
            _place(out, tokens, n, gates + r * 4, GROUP)
            _place(other, tokens, n, ups + r * 4, GROUP)
    else:  # one after the other: the memory is read in two long stretches, not in many short ones
        for r in range(0, rows, TILE):
            n = min(TILE, rows - r)
            dot_rows(exact, kind, gate + (first + r) * row_bytes, row_bytes, n, cols, size, table, x, q,
                     scales, sums, index, tokens, out, mine)
            _place(out, tokens, n, gates + r * 4, GROUP)
        for r in range(0, rows, TILE):
            n = min(TILE, rows - r)
            dot_rows(exact, up_kind, up + (first + r) * up_bytes, up_bytes, n, cols, up_size, table, x, q,
                     scales, sums, index, tokens, other, mine)
            _place(other, tokens, n, ups + r * 4, GROUP)
    groups = (ffn + GROUP - 1) // GROUP
    for t in range(tokens):
        row = ups + t * GROUP * 4
        swiglu(gates + t * GROUP * 4, row, (rows + 15) // 16 * 16)
        pair, g = start + t, first // GROUP
        if keep_float:
            for r in range(rows):
                store_f32_at(hidden, pair * ffn + first + r, load_f32(row + r * 4))
        else:
            at = pair * groups + g
            quantize_group(row, rows, hq + at * GROUP, hscales + at * 4, hsums + at * SUMS * 2)


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
        if more > 0:
            dot_two(exact, kind, row, n, row + TILE * row_bytes, more, row_bytes, ffn, size, table, hidden,
                    hq, hscales, hsums, index, tokens, tile, other, mine)
        else:
            dot_rows(exact, kind, row, row_bytes, n, ffn, size, table, hidden, hq, hscales, hsums, index,
                     tokens, tile, mine)
        _place(tile, tokens, n, to, rows)
        _place(other, tokens, max(0, more), to + TILE * 4, rows)


@compiled_callback(TASK)
def combine_task(args: int, item: int, worker: int) -> None:
    """x[t] += sum over the chosen experts, in router order, of weight * out[its pair]."""
    x, cols, k, weights, place_of, out, _, _, _, _ = args10(args)
    whole, to = cols // TILE * TILE, x + item * cols * 4
    for c in range(k):
        weight = load_f32(weights + (item * k + c) * 4)
        row = out + load_i32(place_of + (item * k + c) * 4) * cols * 4
        for i in range(0, whole * 4, TILE * 4):
            store_f32x16(to + i, fma16(splat_f32x16(weight), load_f32x16(row + i), load_f32x16(to + i)))
        for i in range(whole, cols):
            store_f32_at(to, i, fma(weight, load_f32(row + i * 4), load_f32(to + i * 4)))


@compiled_callback(TASK)
def swiglu_task(args: int, item: int, worker: int) -> None:
    """A dense model's FFN: up[item] = silu(gate[item]) * up[item], and its int8 form."""
    gate, up, ffn, quantized, q, scales, sums, _, _, _ = args10(args)
    groups = (ffn + GROUP - 1) // GROUP
    swiglu(gate + item * ffn * 4, up + item * ffn * 4, ffn)
    if quantized:
        quantize_row(up + item * ffn * 4, ffn, q + item * groups * GROUP, scales + item * groups * 4,
                     sums + item * groups * SUMS * 2)  # fmt: skip
