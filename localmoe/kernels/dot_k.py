"""Dot products of K-quant rows (Q2_K to Q6_K) with int8 activations, four rows at a time.

A block of 256 weights times a group of 256 activations is a sum of integers, computed exactly in any order;
each block then adds one float32 term to the row's sum, block after block:

    value = d * sum(scale_j * dot_j)  -  dmin * sum(min_j * sum_j)          acc = fma(value, activation
    scale, acc)

So a result depends on nothing but the row and the token: not on neighbours, threads, chunks or the SIMD form.
Four rows share what is not theirs alone: the activations' loads, and the steps after the integer sums, where
a row is one lane. Block layouts: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml's
block_q2_K to block_q6_K.
"""

from __future__ import annotations

from localmoe.kernels.ahead import ask, requests
from localmoe.kernels.dot_k_pair import (
    Q2_K,
    Q2_K_D,
    Q3_K,
    Q3_K_D,
    Q4_K_BYTES,
    Q5_K_BYTES,
    Q6_K,
    Q6_K_D,
    code_offset,
    codes_16,
    codes_q4_q5,
    in_order,
    in_sub_blocks,
    k_bytes,
    pair,
    pair_16,
    scales_16,
)
from localmoe.kernels.geometry import GROUP, SUMS
from localmoe.kernels.simd import (
    fma4,
    fnma4,
    load_f32,
    load_i16x16,
    mul4,
    splat_f32x4,
    store_f32x4,
    sub_i32x4,
    to_f32x4,
    zero_f32x4,
    zero_i32x16,
)
from localmoe.kernels.simd_dot import dot_pairs, multiply_pairs
from localmoe.kernels.simd_pairs import (
    IN_PAIRS,
    join_i16x16,
    pair0_0_2,
    pair0_1_3,
    pair1_0_2,
    pair1_1_3,
    sums_of_pairs,
)
from localmoe.kernels.simd_planes import q2_minima
from localmoe.kernels.simd_quad import (
    NARROW,
    again,
    dot_minima,
    dot_shorts,
    gather_halves,
    high_headers,
    load_sums32,
    low_headers,
    partial_sums,
    row_sums,
    row_sums8,
    spread_0_to_3,
    spread_4_to_7,
    spread_8_to_11,
    spread_12_to_15,
    start_d,
    start_dmin,
    times_i32x4,
)
from localmoe.kernels.simd_scales import (
    keep_scales,
    row0_0_2,
    row0_1_3,
    row0_4_6,
    row0_5_7,
    row1_0_2,
    row1_1_3,
    row1_4_6,
    row1_5_7,
    row2_0_2,
    row2_1_3,
    row2_4_6,
    row2_5_7,
    row3_0_2,
    row3_1_3,
    row3_4_6,
    row3_5_7,
)
from quant.compiled import compiled, compiled_once

TIMES = 3  # that each line is asked for, see `ahead`


@compiled(forceinline=True)
def _scaled(dot, v, x, scales):
    """Adds scale * code * activation of 64 weights to sixteen partial sums."""
    return dot_pairs(dot, multiply_pairs(v, x), scales)


@compiled(forceinline=True)
def _block_q4_q5(five: bool, b: int, s0, s1, s2, s3, x: int, shared):
    """One block's sum of scale * code * activation, as partial sums. shared: the activations, for registers
    enough to keep them from row to row; s0..s3, the scales, in the same order.
    """
    v0, v1, v2, v3 = codes_q4_q5(five, b)
    x0, x1, x2, x3 = in_sub_blocks(again(x)) if NARROW else shared
    dot = _scaled(_scaled(zero_i32x16(), v0, x0, s0), v1, x1, s1)
    return partial_sums(_scaled(_scaled(dot, v2, x2, s2), v3, x3, s3))


@compiled(forceinline=True)
def _dots_q4_q5(five, b0, b1, b2, b3, low, high, x, shared, asked):
    """Four blocks' sums of scale * code * activation."""
    if IN_PAIRS:
        first = pair(codes_q4_q5(five, b0), codes_q4_q5(five, b1), shared, shared, pair0_0_2(low),
                     pair0_1_3(low), pair0_0_2(high), pair0_1_3(high), asked, 0, TIMES)  # fmt: skip
        second = pair(codes_q4_q5(five, b2), codes_q4_q5(five, b3), shared, shared, pair1_0_2(low),
                      pair1_1_3(low), pair1_0_2(high), pair1_1_3(high), asked, 2, TIMES)  # fmt: skip
        return sums_of_pairs(first, second)
    kept = keep_scales(low, high)
    ask(asked, 0, TIMES)
    t0 = _block_q4_q5(five, b0, row0_0_2(low, kept), row0_1_3(low, kept), row0_4_6(high, kept),
                      row0_5_7(high, kept), x, shared)
    ask(asked, 1, TIMES)
    t1 = _block_q4_q5(five, b1, row1_0_2(low, kept), row1_1_3(low, kept), row1_4_6(high, kept),
                      row1_5_7(high, kept), x, shared)
    ask(asked, 2, TIMES)
    t2 = _block_q4_q5(five, b2, row2_0_2(low, kept), row2_1_3(low, kept), row2_4_6(high, kept),
                      row2_5_7(high, kept), x, shared)
    ask(asked, 3, TIMES)
    t3 = _block_q4_q5(five, b3, row3_0_2(low, kept), row3_1_3(low, kept), row3_4_6(high, kept),
                      row3_5_7(high, kept), x, shared)
    return row_sums(t0, t1, t2, t3)


@compiled(forceinline=True)
def _quad_q4_q5(five: bool, r0: int, r1: int, r2: int, r3: int, groups: int, q: int, scales: int, sums: int,
                out: int) -> None:
    size = Q5_K_BYTES if five else Q4_K_BYTES
    acc = zero_f32x4()
    for g in range(groups):
        b0, b1, b2, b3 = r0 + g * size, r1 + g * size, r2 + g * size, r3 + g * size
        x = q + g * GROUP
        shared = in_sub_blocks(x)
        s = load_sums32(sums + g * SUMS * 2)
        low, high = low_headers(b0, b1, b2, b3), high_headers(b0, b1, b2, b3)
        d, dmin = start_d(b0, b1, b2, b3), start_dmin(b0, b1, b2, b3)
        asked = requests(r0, g * size, size, groups * size)
        dots = _dots_q4_q5(five, b0, b1, b2, b3, low, high, x, shared, asked)
        minima = to_f32x4(dot_minima(low, high, s))
        value = fnma4(dmin, minima, mul4(d, to_f32x4(dots)))
        acc = fma4(value, splat_f32x4(load_f32(scales + g * 4)), acc)
    store_f32x4(out, acc)


@compiled_once()
def quad_q4_k(r0: int, r1: int, r2: int, r3: int, groups: int, q: int, scales: int, sums: int,
              out: int) -> None:
    """out [4] = four rows of `groups` Q4_K blocks times one token's activations (q, scales, sums).

    All are addresses but `groups`. The rows follow one another, or one stands in for some that are missing.
    """
    _quad_q4_q5(False, r0, r1, r2, r3, groups, q, scales, sums, out)


@compiled_once()
def quad_q5_k(r0: int, r1: int, r2: int, r3: int, groups: int, q: int, scales: int, sums: int,
              out: int) -> None:
    """The same for Q5_K."""
    _quad_q4_q5(True, r0, r1, r2, r3, groups, q, scales, sums, out)


@compiled(forceinline=True)
def _block_16(kind: int, b: int, scales, x: int, shared):
    """One block's sum of scale * code * activation, as partial sums."""
    v0, v1, v2, v3 = codes_16(kind, b)
    x0, x1, x2, x3 = in_order(again(x)) if NARROW else shared
    dot = _scaled(_scaled(zero_i32x16(), v0, x0, spread_0_to_3(scales)), v1, x1, spread_4_to_7(scales))
    dot = _scaled(_scaled(dot, v2, x2, spread_8_to_11(scales)), v3, x3, spread_12_to_15(scales))
    return partial_sums(dot)


@compiled(forceinline=True)
def _dots_16(kind, b0, b1, b2, b3, s0, s1, s2, s3, x, shared, asked):
    """Four blocks' sums of scale * code * activation."""
    if IN_PAIRS:
        first = pair_16(kind, b0, b1, join_i16x16(s0, s1), shared, shared, asked, 0, TIMES)
        second = pair_16(kind, b2, b3, join_i16x16(s2, s3), shared, shared, asked, 2, TIMES)
        return sums_of_pairs(first, second)
    ask(asked, 0, TIMES)
    t0 = _block_16(kind, b0, s0, x, shared)
    ask(asked, 1, TIMES)
    t1 = _block_16(kind, b1, s1, x, shared)
    ask(asked, 2, TIMES)
    t2 = _block_16(kind, b2, s2, x, shared)
    ask(asked, 3, TIMES)
    return row_sums(t0, t1, t2, _block_16(kind, b3, s3, x, shared))


@compiled(forceinline=True)
def of_each(kind: int, b0, b1, b2, b3, s0, s1, s2, s3, x0, x1, x2, x3):
    """Four blocks' minima (Q2_K) or scales, times the sums of their activations."""
    if kind == Q2_K:
        s0, s1, s2, s3 = q2_minima(b0), q2_minima(b1), q2_minima(b2), q2_minima(b3)
    return row_sums8(dot_shorts(s0, x0), dot_shorts(s1, x1), dot_shorts(s2, x2), dot_shorts(s3, x3))


@compiled(forceinline=True)
def value_16(kind: int, b0, b1, b2, b3, total, low):
    """What four blocks are worth before the activations' scale, of `_dots_16` and `of_each`."""
    if kind == Q2_K:
        d = gather_halves(b0 + Q2_K_D, b1 + Q2_K_D, b2 + Q2_K_D, b3 + Q2_K_D)
        at = Q2_K_D + 2
        dmin = gather_halves(b0 + at, b1 + at, b2 + at, b3 + at)
        return fnma4(dmin, to_f32x4(low), mul4(d, to_f32x4(total)))
    at = Q3_K_D if kind == Q3_K else Q6_K_D
    d = gather_halves(b0 + at, b1 + at, b2 + at, b3 + at)
    return mul4(d, to_f32x4(sub_i32x4(total, times_i32x4(low, code_offset(kind)))))


@compiled(forceinline=True)
def _quad_16(kind: int, r0: int, r1: int, r2: int, r3: int, groups: int, q: int, scales: int, sums: int,
             out: int) -> None:
    acc, size = zero_f32x4(), k_bytes(kind)
    for g in range(groups):
        at = g * size
        b0, b1, b2, b3 = r0 + at, r1 + at, r2 + at, r3 + at
        x = q + g * GROUP
        shared = in_order(x)
        s = load_i16x16(sums + g * SUMS * 2)
        s0, s1, s2, s3 = scales_16(kind, b0), scales_16(kind, b1), scales_16(kind, b2), scales_16(kind, b3)
        asked = requests(r0, at, size, groups * size)
        total = _dots_16(kind, b0, b1, b2, b3, s0, s1, s2, s3, x, shared, asked)
        low = of_each(kind, b0, b1, b2, b3, s0, s1, s2, s3, s, s, s, s)
        value = value_16(kind, b0, b1, b2, b3, total, low)
        acc = fma4(value, splat_f32x4(load_f32(scales + g * 4)), acc)
    store_f32x4(out, acc)


@compiled_once()
def quad_q6_k(r0: int, r1: int, r2: int, r3: int, groups: int, q: int, scales: int, sums: int,
              out: int) -> None:
    """The same for Q6_K: 16 int8 scales, weights offset by 32."""
    _quad_16(Q6_K, r0, r1, r2, r3, groups, q, scales, sums, out)


@compiled_once()
def quad_q3_k(r0: int, r1: int, r2: int, r3: int, groups: int, q: int, scales: int, sums: int,
              out: int) -> None:
    """The same for Q3_K: 16 scales of six bits, weights offset by 4."""
    _quad_16(Q3_K, r0, r1, r2, r3, groups, q, scales, sums, out)


@compiled_once()
def quad_q2_k(r0: int, r1: int, r2: int, r3: int, groups: int, q: int, scales: int, sums: int,
              out: int) -> None:
    """The same for Q2_K: 16 scales and minima of four bits."""
    _quad_16(Q2_K, r0, r1, r2, r3, groups, q, scales, sums, out)
