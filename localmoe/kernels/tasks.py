"""Tasks for the pool: embedding, normalisation, linear layers, a dense FFN (experts: `tasks_experts`).

A task is compiled code `task(args, item, worker)`; `args` is the address of its int64 arguments, in the
order of the tuple that each one unpacks. All buffers are row-major: x [tokens, cols] float32; its int8 form
is three buffers (q [tokens, groups * 256], scales [tokens, groups], sums [tokens, groups * 16]).
"""

from __future__ import annotations

from localmoe.kernels.dot import dot_rows, dot_two, place
from localmoe.kernels.dot_float import decode_row
from localmoe.kernels.elementwise import (
    add_row,
    gated,
    quantize_row,
    rms_norm,
    store_f32_at,
)
from localmoe.kernels.geometry import TASK, TILE
from localmoe.kernels.simd import (
    add16,
    args10,
    args16,
    bits_to_f32,
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    store_f32x16,
)
from localmoe.kernels.starts import matrix_of
from quant.compiled import compiled, compiled_callback


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


@compiled(forceinline=True)
def _add_bias(tile: int, tokens: int, count: int, bias: int) -> None:
    """Adds float32 [count] at `bias` to each token's part of a tile."""
    for t in range(tokens):
        add_row(tile + t * TILE * 4, bias, count)


@compiled_callback(TASK)
def embed_task(args: int, item: int, worker: int) -> None:
    """Row ids[item] of the embedding matrix → x[item]."""
    ids, matrix, row_bytes, cols, kind, size, table, x, _, _ = args10(args)
    decode_row(kind, matrix + load_i32(ids + item * 4) * row_bytes, cols, size, table, x + item * cols * 4)


@compiled_callback(TASK)
def norm_task(args: int, item: int, worker: int) -> None:
    """h[item] = rms_norm(x[item]) * weight, and its int8 form where cols allow one."""
    x, weight, cols, epsilon, h, quantized, q, scales, sums, _ = args10(args)
    rms_norm(x + item * cols * 4, weight, cols, bits_to_f32(epsilon), h + item * cols * 4)
    if quantized:
        quantize_row(h + item * cols * 4, cols, q, scales, sums, item)


@compiled_callback(TASK)
def quantize_task(args: int, item: int, worker: int) -> None:
    """The int8 form of x[item]."""
    x, cols, q, scales, sums, _, _, _, _, _ = args10(args)
    quantize_row(x + item * cols * 4, cols, q, scales, sums, item)


@compiled_callback(TASK)
def linear_task(args: int, item: int, worker: int) -> None:
    """y[t, rows of this item] (+)= W · x[t], for up to three matrices that share their input.

    `matrices` holds 9 int64 each: address, rows, row bytes, type, block bytes, y, first item, rows per item,
    bias (0: none).
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
    size, y, chunk, bias = load_i64(m + 32), load_i64(m + 40), load_i64(m + 56), load_i64(m + 64)
    first = (item - load_i64(m + 48)) * chunk
    last = min(first + chunk, rows)
    for r in range(first, last, 2 * TILE):
        n, more = min(TILE, last - r), min(TILE, last - r - TILE)
        row = address + r * row_bytes
        then = row + (n + max(0, more)) * row_bytes
        if more > 0:
            dot_two(exact, kind, row, n, row + TILE * row_bytes, more, row_bytes, cols, size, table, x, q,
                    scales, sums, index, tokens, out, other, mine, then)
        else:
            dot_rows(exact, kind, row, row_bytes, n, cols, size, table, x, q, scales, sums, index, tokens,
                     out, mine, then)
        if bias:
            _add_bias(out, tokens, n, bias + r * 4)
            _add_bias(other, tokens, max(0, more), bias + (r + TILE) * 4)
        if add:
            _add_tile(out, tokens, n, y + r * 4, rows)
            _add_tile(other, tokens, max(0, more), y + (r + TILE) * 4, rows)
        else:
            place(out, tokens, n, y + r * 4, rows)
            place(other, tokens, max(0, more), y + (r + TILE) * 4, rows)


@compiled_callback(TASK)
def gated_task(args: int, item: int, worker: int) -> None:
    """A dense model's FFN: up[item] = its gated unit, and its int8 form."""
    gate, up, ffn, quantized, q, scales, sums, clamped, _, _ = args10(args)
    gated(clamped, gate + item * ffn * 4, up + item * ffn * 4, ffn)
    if quantized:
        quantize_row(up + item * ffn * 4, ffn, q, scales, sums, item)
