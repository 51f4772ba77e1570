"""Dot products of K-quant rows (Q4_K, Q5_K, Q6_K) with int8 activations.

A block of 256 weights times a group of 256 activations is a sum of integers, computed exactly in any order;
each block then adds one float32 term to the row's sum, block after block:

    value = d * sum(scale_j * dot_j)  -  dmin * sum(min_j * sum_j)          acc = fma(value, activation
    scale, acc)

So a result depends on nothing but the row and the token: not on neighbours, threads, chunks or the SIMD form.
Block layouts: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml's block_q4_K, block_q5_K,
block_q6_K.

`x` are activations (q int8, scales float32, sums int16), three addresses; token t's row is number `index[t]`
there.
"""

from __future__ import annotations

import numpy as np

from localmoe.kernels.elementwise import store_f32_at
from localmoe.kernels.geometry import GROUP, SUMS
from localmoe.kernels.simd import (
    add_i32x16,
    bit_planes,
    dot_bytes,
    fma,
    high_nibbles,
    k_minima,
    k_scales,
    load_f16,
    load_f32,
    load_i8_i32x16,
    load_i8x32,
    load_i8x64,
    load_i16_i32x16,
    load_i32,
    load_pair_sums,
    low_nibbles,
    mul_i32x8,
    mul_i32x16,
    nibbles,
    or_bytes,
    prefetch,
    repeat4,
    repeat8,
    sum_i32x8,
    sum_i32x16,
    two_bits,
    zero_i32x16,
)
from quant.compiled import compiled

Q4_K_BYTES, Q5_K_BYTES, Q6_K_BYTES = 144, 176, 210
_AHEAD = 1440  # bytes: far enough that a block has come from memory when its turn comes


@compiled(forceinline=True)
def _scaled_dots(x, v0, v1, v2, v3, s0, s1, s2, s3):
    """sum over 256 weights of scale * weight * activation: an exact integer."""
    dot = mul_i32x16(dot_bytes(zero_i32x16(), v0, load_i8x64(x)), s0)
    dot = add_i32x16(dot, mul_i32x16(dot_bytes(zero_i32x16(), v1, load_i8x64(x + 64)), s1))
    dot = add_i32x16(dot, mul_i32x16(dot_bytes(zero_i32x16(), v2, load_i8x64(x + 128)), s2))
    dot = add_i32x16(dot, mul_i32x16(dot_bytes(zero_i32x16(), v3, load_i8x64(x + 192)), s3))
    return sum_i32x16(dot)


@compiled()
def dot_q4_k(row: int, groups: int, q: int, scales: int, sums: int, index: int, tokens: int,
             acc: int) -> None:
    """acc[t] = row · x[index[t]]; row is `groups` blocks of Q4_K."""
    for g in range(groups):
        b = row + g * Q4_K_BYTES
        prefetch(b + _AHEAD)
        prefetch(b + _AHEAD + 64)
        d, dmin = load_f16(b), load_f16(b + 2)
        packed, minima = k_scales(b + 4), k_minima(b + 4)
        s0, s1, s2, s3 = repeat8(packed, 0), repeat8(packed, 2), repeat8(packed, 4), repeat8(packed, 6)
        v0, v1 = nibbles(load_i8x32(b + 16)), nibbles(load_i8x32(b + 48))
        v2, v3 = nibbles(load_i8x32(b + 80)), nibbles(load_i8x32(b + 112))
        for t in range(tokens):
            at = load_i32(index + t * 4) * groups + g
            total = _scaled_dots(q + at * GROUP, v0, v1, v2, v3, s0, s1, s2, s3)
            low = sum_i32x8(mul_i32x8(minima, load_pair_sums(sums + at * SUMS * 2)))
            value = fma(-dmin, np.float32(low), d * np.float32(total))
            before = load_f32(acc + t * 4) if g else np.float32(0)
            store_f32_at(acc, t, fma(value, load_f32(scales + at * 4), before))


@compiled()
def dot_q5_k(row: int, groups: int, q: int, scales: int, sums: int, index: int, tokens: int,
             acc: int) -> None:
    """acc[t] = row · x[index[t]]; row is `groups` blocks of Q5_K."""
    for g in range(groups):
        b = row + g * Q5_K_BYTES
        prefetch(b + _AHEAD)
        prefetch(b + _AHEAD + 64)
        prefetch(b + _AHEAD + 128)
        d, dmin = load_f16(b), load_f16(b + 2)
        packed, minima = k_scales(b + 4), k_minima(b + 4)
        s0, s1, s2, s3 = repeat8(packed, 0), repeat8(packed, 2), repeat8(packed, 4), repeat8(packed, 6)
        fifth = load_i8x32(b + 16)
        v0 = or_bytes(nibbles(load_i8x32(b + 48)), bit_planes(fifth, 0))
        v1 = or_bytes(nibbles(load_i8x32(b + 80)), bit_planes(fifth, 2))
        v2 = or_bytes(nibbles(load_i8x32(b + 112)), bit_planes(fifth, 4))
        v3 = or_bytes(nibbles(load_i8x32(b + 144)), bit_planes(fifth, 6))
        for t in range(tokens):
            at = load_i32(index + t * 4) * groups + g
            total = _scaled_dots(q + at * GROUP, v0, v1, v2, v3, s0, s1, s2, s3)
            low = sum_i32x8(mul_i32x8(minima, load_pair_sums(sums + at * SUMS * 2)))
            value = fma(-dmin, np.float32(low), d * np.float32(total))
            before = load_f32(acc + t * 4) if g else np.float32(0)
            store_f32_at(acc, t, fma(value, load_f32(scales + at * 4), before))


@compiled()
def dot_q6_k(row: int, groups: int, q: int, scales: int, sums: int, index: int, tokens: int,
             acc: int) -> None:
    """acc[t] = row · x[index[t]]; row is `groups` blocks of Q6_K: 16 int8 scales, weights offset by 32."""
    for g in range(groups):
        b = row + g * Q6_K_BYTES
        prefetch(b + _AHEAD)
        prefetch(b + _AHEAD + 64)
        prefetch(b + _AHEAD + 128)
        d = load_f16(b + 208)
        signed = load_i8_i32x16(b + 192)
        s0, s1, s2, s3 = repeat4(signed, 0), repeat4(signed, 4), repeat4(signed, 8), repeat4(signed, 12)
        first, second = load_i8x64(b), load_i8x64(b + 64)
        upper0, upper1 = load_i8x32(b + 128), load_i8x32(b + 160)
        v0 = or_bytes(low_nibbles(first), two_bits(upper0, 0))
        v1 = or_bytes(high_nibbles(first), two_bits(upper0, 4))
        v2 = or_bytes(low_nibbles(second), two_bits(upper1, 0))
        v3 = or_bytes(high_nibbles(second), two_bits(upper1, 4))
        for t in range(tokens):
            at = load_i32(index + t * 4) * groups + g
            total = _scaled_dots(q + at * GROUP, v0, v1, v2, v3, s0, s1, s2, s3)
            offset = sum_i32x16(mul_i32x16(signed, load_i16_i32x16(sums + at * SUMS * 2)))
            value = d * np.float32(total - 32 * offset)
            before = load_f32(acc + t * 4) if g else np.float32(0)
            store_f32_at(acc, t, fma(value, load_f32(scales + at * 4), before))
