"""Dot products of 32-weight block rows (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL) with int8 activations.

Each block's dot with its 32 activations is an exact integer; the eight blocks of an activation group are
scaled, added in one fixed tree, and enter the row's float32 sum as one term:

    term_k = d_k * (dot_k - offset * sum_k)  [+ m_k * sum_k]          acc = fma(tree(term), activation scale,
    acc)

A row whose length is no multiple of 256 ends in a group with fewer blocks: those are copied to a buffer that
holds zeros beyond them, so that nothing is read past the row. Arguments as in `dot_k`.
"""

from __future__ import annotations

import numpy as np

from localmoe.kernels.elementwise import store_f32_at
from localmoe.kernels.geometry import GROUP, SUMS
from localmoe.kernels.simd import (
    bits_to_16,
    dot_bytes,
    dot_bytes_wide,
    flip_sign_bytes,
    fma,
    fma8,
    fold_halves,
    join_i8x32,
    load_f32,
    load_folded_sums,
    load_halves,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_i32,
    load_u8,
    load_u32,
    mul8,
    nibbles16,
    or_bytes32,
    prefetch,
    select_bytes,
    store_i8,
    sub_scaled_i32x8,
    sum8,
    to_f32x8,
    zero_i32x16,
)
from quant.compiled import compiled

Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL = 2, 3, 6, 7, 8, 20  # ggml's type numbers
BLOCK = 32
_AHEAD = 1440


@compiled(forceinline=True)
def block_bytes(kind: int) -> int:
    """Bytes of one block of 32 weights."""
    if kind == Q4_0 or kind == IQ4_NL:
        return 18
    if kind == Q4_1:
        return 20
    if kind == Q5_0:
        return 22
    return 24 if kind == Q5_1 else 34


@compiled(forceinline=True)
def _codes(kind: int, b: int):
    """The 32 unsigned codes of a 4- or 5-bit block."""
    if kind == Q4_0 or kind == IQ4_NL:
        return nibbles16(load_i8x16(b + 2))
    if kind == Q4_1:
        return nibbles16(load_i8x16(b + 4))
    if kind == Q5_0:
        return or_bytes32(nibbles16(load_i8x16(b + 6)), bits_to_16(load_u32(b + 2)))
    return or_bytes32(nibbles16(load_i8x16(b + 8)), bits_to_16(load_u32(b + 4)))


@compiled(forceinline=True)
def two_blocks(kind: int, b: int, size: int, table: int):
    """64 unsigned codes of two neighbouring blocks."""
    if kind == Q8_0:
        return flip_sign_bytes(join_i8x32(load_i8x32(b + 2), load_i8x32(b + size + 2)))
    both = join_i8x32(_codes(kind, b), _codes(kind, b + size))
    return select_bytes(load_i8x16(table), both) if kind == IQ4_NL else both


@compiled(forceinline=True)
def _dots(wide: bool, v0, v1, v2, v3, x: int):
    """The eight blocks' integer dots, in fold order."""
    zero = zero_i32x16()
    if wide:
        return fold_halves(
            dot_bytes_wide(zero, v0, load_i8x64(x)), dot_bytes_wide(zero, v1, load_i8x64(x + 64)),
            dot_bytes_wide(zero, v2, load_i8x64(x + 128)), dot_bytes_wide(zero, v3, load_i8x64(x + 192)),
        )  # fmt: skip
    return fold_halves(
        dot_bytes(zero, v0, load_i8x64(x)), dot_bytes(zero, v1, load_i8x64(x + 64)),
        dot_bytes(zero, v2, load_i8x64(x + 128)), dot_bytes(zero, v3, load_i8x64(x + 192)),
    )  # fmt: skip


@compiled(forceinline=True)
def _group(kind, wide, offset, has_minimum, b, size, table, q, scales, sums, index, tokens, acc, groups, g):
    """Adds group g's term to every token's sum; b is the address of the group's eight blocks."""
    v0, v1 = two_blocks(kind, b, size, table), two_blocks(kind, b + 2 * size, size, table)
    v2, v3 = two_blocks(kind, b + 4 * size, size, table), two_blocks(kind, b + 6 * size, size, table)
    d = load_halves(b, size)
    for t in range(tokens):
        at = load_i32(index + t * 4) * groups + g
        folded = load_folded_sums(sums + at * SUMS * 2)
        dots = _dots(wide, v0, v1, v2, v3, q + at * GROUP)
        terms = mul8(d, to_f32x8(sub_scaled_i32x8(dots, folded, offset)))
        if has_minimum:
            terms = fma8(load_halves(b + 2, size), to_f32x8(folded), terms)
        before = load_f32(acc + t * 4) if g else np.float32(0)
        store_f32_at(acc, t, fma(sum8(terms), load_f32(scales + at * 4), before))


@compiled(forceinline=True)
def _dot(kind, wide, offset, has_minimum, row, cols, table, q, scales, sums, index, tokens, acc):
    size = block_bytes(kind)
    groups = (cols + GROUP - 1) // GROUP
    for g in range(cols // GROUP):
        b = row + g * 8 * size
        for line in range(0, 8 * size, 64):
            prefetch(b + _AHEAD + line)
        _group(kind, wide, offset, has_minimum, b, size, table, q, scales, sums, index, tokens, acc,
               groups, g)
    if cols % GROUP:
        tail = np.zeros(8 * 34, np.uint8)
        last = row + cols // GROUP * 8 * size
        for i in range(cols % GROUP // BLOCK * size):
            store_i8(tail.ctypes.data + i, load_u8(last + i))
        _group(kind, wide, offset, has_minimum, tail.ctypes.data, size, table,
               q, scales, sums, index, tokens, acc, groups, groups - 1)  # fmt: skip


@compiled()
def dot_blocks(kind, row, cols, table, q, scales, sums, index, tokens, acc) -> None:
    """acc[t] = row · x[index[t]] for one row of `cols` weights (a multiple of 32) of a 32-weight block
    type.
    """
    if kind == Q4_0:
        _dot(Q4_0, False, 8, False, row, cols, table, q, scales, sums, index, tokens, acc)
    elif kind == Q4_1:
        _dot(Q4_1, False, 0, True, row, cols, table, q, scales, sums, index, tokens, acc)
    elif kind == Q5_0:
        _dot(Q5_0, False, 16, False, row, cols, table, q, scales, sums, index, tokens, acc)
    elif kind == Q5_1:
        _dot(Q5_1, False, 0, True, row, cols, table, q, scales, sums, index, tokens, acc)
    elif kind == Q8_0:
        _dot(Q8_0, True, 128, False, row, cols, table, q, scales, sums, index, tokens, acc)
    else:
        _dot(IQ4_NL, True, 127, False, row, cols, table, q, scales, sums, index, tokens, acc)
