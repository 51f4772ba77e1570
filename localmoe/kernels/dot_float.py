"""Dot products in float32: rows of F32, F16 or BF16 weights, and the decoding of any row to float32.

Sixteen lanes times four accumulators in one fixed order, whatever the row's type; the rest of a row that is
no multiple of 64 follows in sixteens, then one by one.
"""

from __future__ import annotations

import numpy as np

from localmoe.kernels.dot_k_pair import IQ4_XS, Q2_K, Q2_K_D, Q3_K, Q3_K_D, Q4_K, Q5_K, Q6_K, Q6_K_D
from localmoe.kernels.elementwise import store_f32_at
from localmoe.kernels.geometry import GROUP, MXFP4_AT, TILE
from localmoe.kernels.simd import (
    add16,
    bits_to_f32,
    fma,
    fma16,
    load_bf16_f32x16,
    load_f16,
    load_f16_f32x16,
    load_f32,
    load_f32x16,
    load_i8,
    load_i16,
    load_i32,
    load_u8,
    load_u32,
    sum16,
    zero_f32x16,
)
from quant.compiled import compiled, compiled_once

F32, F16, BF16 = 0, 1, 30  # ggml's type numbers
Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4 = 2, 3, 6, 7, 8, 20, 39


@compiled(forceinline=True)
def _load16(kind: int, row: int, i: int):
    if kind == F32:
        return load_f32x16(row + i * 4)
    if kind == F16:
        return load_f16_f32x16(row + i * 2)
    return load_bf16_f32x16(row + i * 2)


@compiled(forceinline=True)
def _load1(kind: int, row: int, i: int):
    if kind == F32:
        return load_f32(row + i * 4)
    if kind == F16:
        return load_f16(row + i * 2)
    return bits_to_f32(load_i16(row + i * 2) << 16)


@compiled(forceinline=True)
def _dot(kind: int, row: int, n: int, x: int):
    a0, a1, a2, a3 = zero_f32x16(), zero_f32x16(), zero_f32x16(), zero_f32x16()
    whole, sixteens = n // 64 * 64, n // 16 * 16
    for i in range(0, whole, 64):
        at = x + i * 4
        a0 = fma16(_load16(kind, row, i), load_f32x16(at), a0)
        a1 = fma16(_load16(kind, row, i + 16), load_f32x16(at + 64), a1)
        a2 = fma16(_load16(kind, row, i + 32), load_f32x16(at + 128), a2)
        a3 = fma16(_load16(kind, row, i + 48), load_f32x16(at + 192), a3)
    for i in range(whole, sixteens, 16):
        a0 = fma16(_load16(kind, row, i), load_f32x16(x + i * 4), a0)
    total = sum16(add16(add16(a0, a1), add16(a2, a3)))
    for i in range(sixteens, n):
        total = fma(_load1(kind, row, i), load_f32(x + i * 4), total)
    return total


@compiled()
def dot_f32(row: int, n: int, x: int):
    """float32 row · float32 x, n values. Addresses."""
    return _dot(F32, row, n, x)


@compiled(forceinline=True)
def _dot4(kind: int, row: int, n: int, x0: int, x1: int, x2: int, x3: int, out: int, stride: int) -> None:
    """`_dot` of one row and four tokens, which share the row's loads and conversions."""
    z = zero_f32x16()
    a0, a1, a2, a3 = z, z, z, z
    b0, b1, b2, b3 = z, z, z, z
    c0, c1, c2, c3 = z, z, z, z
    d0, d1, d2, d3 = z, z, z, z
    whole, sixteens = n // 64 * 64, n // 16 * 16
    for i in range(0, whole, 64):
        at, w = i * 4, _load16(kind, row, i)
        a0, b0 = fma16(w, load_f32x16(x0 + at), a0), fma16(w, load_f32x16(x1 + at), b0)
        c0, d0 = fma16(w, load_f32x16(x2 + at), c0), fma16(w, load_f32x16(x3 + at), d0)
        at, w = at + 64, _load16(kind, row, i + 16)
        a1, b1 = fma16(w, load_f32x16(x0 + at), a1), fma16(w, load_f32x16(x1 + at), b1)
        c1, d1 = fma16(w, load_f32x16(x2 + at), c1), fma16(w, load_f32x16(x3 + at), d1)
        at, w = at + 64, _load16(kind, row, i + 32)
        a2, b2 = fma16(w, load_f32x16(x0 + at), a2), fma16(w, load_f32x16(x1 + at), b2)
        c2, d2 = fma16(w, load_f32x16(x2 + at), c2), fma16(w, load_f32x16(x3 + at), d2)
        at, w = at + 64, _load16(kind, row, i + 48)
        a3, b3 = fma16(w, load_f32x16(x0 + at), a3), fma16(w, load_f32x16(x1 + at), b3)
        c3, d3 = fma16(w, load_f32x16(x2 + at), c3), fma16(w, load_f32x16(x3 + at), d3)
    for i in range(whole, sixteens, 16):
        at, w = i * 4, _load16(kind, row, i)
        a0, b0 = fma16(w, load_f32x16(x0 + at), a0), fma16(w, load_f32x16(x1 + at), b0)
        c0, d0 = fma16(w, load_f32x16(x2 + at), c0), fma16(w, load_f32x16(x3 + at), d0)
    s0, s1 = sum16(add16(add16(a0, a1), add16(a2, a3))), sum16(add16(add16(b0, b1), add16(b2, b3)))
    s2, s3 = sum16(add16(add16(c0, c1), add16(c2, c3))), sum16(add16(add16(d0, d1), add16(d2, d3)))
    for i in range(sixteens, n):
        w1, at = _load1(kind, row, i), i * 4
        s0, s1 = fma(w1, load_f32(x0 + at), s0), fma(w1, load_f32(x1 + at), s1)
        s2, s3 = fma(w1, load_f32(x2 + at), s2), fma(w1, load_f32(x3 + at), s3)
    store_f32_at(out, 0, s0)
    store_f32_at(out + stride, 0, s1)
    store_f32_at(out + 2 * stride, 0, s2)
    store_f32_at(out + 3 * stride, 0, s3)


@compiled()
def dot_float4(kind: int, row: int, n: int, x0: int, x1: int, x2: int, x3: int, out: int,
               stride: int) -> None:
    """out[i * stride bytes] = row of F32, F16 or BF16 · x_i, i < 4: the bits of four `dot_float`s."""
    if kind == F32:
        _dot4(F32, row, n, x0, x1, x2, x3, out, stride)
    elif kind == F16:
        _dot4(F16, row, n, x0, x1, x2, x3, out, stride)
    else:
        _dot4(BF16, row, n, x0, x1, x2, x3, out, stride)


@compiled()
def dot_float(kind: int, row: int, n: int, x: int):
    """Row of F32, F16 or BF16 · float32 x, n values. Addresses."""
    if kind == F32:
        return _dot(F32, row, n, x)
    if kind == F16:
        return _dot(F16, row, n, x)
    return _dot(BF16, row, n, x)


@compiled()
def _k_scale(b: int, j: int):
    """Scale and minimum number j (0..7) of the 12 packed bytes at b."""
    if j < 4:
        return load_u8(b + j) & 63, load_u8(b + j + 4) & 63
    low = load_u8(b + j + 4)
    return (low & 15) | ((load_u8(b + j - 4) >> 6) << 4), (low >> 4) | ((load_u8(b + j) >> 6) << 4)


@compiled()
def _decode_q4_q5_k(five: bool, b: int, out: int) -> None:
    d, dmin = load_f16(b), load_f16(b + 2)
    codes = b + 48 if five else b + 16
    for j in range(8):
        scale, minimum = _k_scale(b + 4, j)
        step, low = d * np.float32(scale), dmin * np.float32(minimum)
        for i in range(32):
            code = (load_u8(codes + j // 2 * 32 + i) >> (4 * (j % 2))) & 15
            if five:
                code |= ((load_u8(b + 16 + i) >> j) & 1) << 4
            store_f32_at(out, j * 32 + i, step * np.float32(code) - low)


@compiled()
def _decode_q6_k(b: int, out: int) -> None:
    d = load_f16(b + Q6_K_D)
    for i in range(256):
        half, at = i // 128, i % 128
        quarter, l = at // 32, at % 32  # noqa: E741  # ggml's own name for the position in a quarter
        low = (load_u8(b + half * 64 + quarter % 2 * 32 + l) >> (4 * (quarter // 2))) & 15
        high = (load_u8(b + 128 + half * 32 + l) >> (2 * quarter)) & 3
        step = d * np.float32(load_i8(b + 192 + i // 16))
        store_f32_at(out, i, step * np.float32((low | (high << 4)) - 32))


@compiled()
def _decode_q2_k(b: int, out: int) -> None:
    d, dmin = load_f16(b + Q2_K_D), load_f16(b + Q2_K_D + 2)
    for i in range(256):
        half, plane = i // 128, i % 128 // 32
        code, both = (load_u8(b + 16 + half * 32 + i % 32) >> (2 * plane)) & 3, load_u8(b + i // 16)
        step, low = d * np.float32(both & 15), dmin * np.float32(both >> 4)
        store_f32_at(out, i, step * np.float32(code) - low)


@compiled()
def _decode_q3_k(b: int, out: int) -> None:
    d = load_f16(b + Q3_K_D)
    for i in range(256):
        half, plane, j = i // 128, i % 128 // 32, i // 16
        code = (load_u8(b + 32 + half * 32 + i % 32) >> (2 * plane)) & 3
        code |= ((load_u8(b + i % 32) >> (i // 32)) & 1) << 2
        scale = (load_u8(b + 96 + j % 8) >> (4 * (j // 8))) & 15
        scale |= ((load_u8(b + 104 + j % 4) >> (2 * (j // 4))) & 3) << 4
        store_f32_at(out, i, d * np.float32(scale - 32) * np.float32(code - 4))


@compiled()
def _decode_iq4_xs(b: int, table: int, out: int) -> None:
    d, upper, lower = load_f16(b), load_u8(b + 2) | (load_u8(b + 3) << 8), np.int64(load_u32(b + 4))
    for j in range(8):
        scale = ((lower >> (4 * j)) & 15) | (((upper >> (2 * j)) & 3) << 4)
        for i in range(32):
            code = (load_u8(b + 8 + j * 16 + i % 16) >> (4 * (i // 16))) & 15
            level = np.float32(load_u8(table + code) - 127)
            store_f32_at(out, j * 32 + i, d * np.float32(scale - 32) * level)


@compiled()
def _decode_block32(kind: int, b: int, table: int, out: int) -> None:
    if kind == MXFP4:
        e = load_u8(b)
        power = bits_to_f32(max((e - 1) << 23, (e + 1) << 21))  # 2^(e - 128), see `simd_blocks.half_powers`
        for i in range(32):
            code = (load_u8(b + 1 + i % 16) >> (4 * (i // 16))) & 15
            store_f32_at(out, i, power * np.float32(load_u8(table + MXFP4_AT + code) - 12))
        return
    d = load_f16(b)
    if kind == Q8_0:
        for i in range(32):
            store_f32_at(out, i, d * np.float32(load_i8(b + 2 + i)))
        return
    has_minimum, five = kind == Q4_1 or kind == Q5_1, kind == Q5_0 or kind == Q5_1
    at = b + 2 + (2 if has_minimum else 0)
    fifth = np.int64(load_u32(at)) if five else np.int64(0)
    at += 4 if five else 0
    for i in range(32):
        code = (load_u8(at + i % 16) >> (4 * (i // 16))) & 15
        code |= ((fifth >> i) & 1) << 4
        if has_minimum:
            store_f32_at(out, i, d * np.float32(code) + load_f16(b + 2))
        elif kind == IQ4_NL:
            store_f32_at(out, i, d * np.float32(load_u8(table + code) - 127))
        else:
            store_f32_at(out, i, d * np.float32(code - (16 if five else 8)))


@compiled()
def decode_row(kind: int, row: int, n: int, size: int, table: int, out: int) -> None:
    """Any row of n weights → float32 at `out`; `size` is the bytes of one block of its type. Bit-exact with
    ggml.
    """
    if kind == F32 or kind == F16 or kind == BF16:
        for i in range(n):
            store_f32_at(out, i, _load1(kind, row, i))
    elif kind == Q4_K or kind == Q5_K:
        for g in range(n // GROUP):
            _decode_q4_q5_k(kind == Q5_K, row + g * size, out + g * GROUP * 4)
    elif kind == Q6_K:
        for g in range(n // GROUP):
            _decode_q6_k(row + g * size, out + g * GROUP * 4)
    elif kind == Q3_K:
        for g in range(n // GROUP):
            _decode_q3_k(row + g * size, out + g * GROUP * 4)
    elif kind == Q2_K:
        for g in range(n // GROUP):
            _decode_q2_k(row + g * size, out + g * GROUP * 4)
    elif kind == IQ4_XS:
        for g in range(n // GROUP):
            _decode_iq4_xs(row + g * size, table, out + g * GROUP * 4)
    else:
        for g in range(n // 32):
            _decode_block32(kind, row + g * size, table, out + g * 128)


@compiled_once()
def float_rows(exact, kind, rows, row_bytes, count, cols, size, table, x, index, tokens, out,
                scratch) -> None:
    """Rows that meet the float32 activations x [*, cols]: F32, F16 and BF16; when `exact`, all others too,
    which are decoded to `scratch` (cols float32) first.
    """
    floats, four = kind == F32 or kind == F16 or kind == BF16, tokens // 4 * 4
    form = kind if floats else F32
    for r in range(count):
        row, to = rows + r * row_bytes, out + r * 4
        if not floats:
            decode_row(kind, row, cols, size, table, scratch)
            row = scratch
        for t in range(0, four, 4):
            at = index + t * 4
            dot_float4(
                form, row, cols, x + load_i32(at) * cols * 4, x + load_i32(at + 4) * cols * 4,
                x + load_i32(at + 8) * cols * 4, x + load_i32(at + 12) * cols * 4, to + t * TILE * 4,
                TILE * 4,
            )  # fmt: skip
        for t in range(four, tokens):
            store_f32_at(to, t * TILE, dot_float(form, row, cols, x + load_i32(index + t * 4) * cols * 4))
