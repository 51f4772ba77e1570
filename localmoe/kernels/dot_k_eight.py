"""Dot products of K-quant rows with int8 activations, eight rows at a time: the same sums as `dot_k.py`, bit
for bit, where registers of 64 bytes hold two rows' sums (`simd_eight.py`).

Eight rows share what four share there, and more of it: the sums of activations that minima meet, and the
last steps. Q4_K's and Q5_K's minima meet them in place, between the scales: each sum is cut into two bytes,
so that one product of bytes takes all of a block's minima. Q6_K's offset is where the sums start.
"""

from __future__ import annotations

from localmoe.kernels.dot_k import (
    Q4_K_BYTES,
    Q5_K_BYTES,
    Q6_K_BYTES,
    _codes_q4_q5,
    _codes_q6,
    _in_order,
    _in_sub_blocks,
)
from localmoe.kernels.geometry import GROUP, SUMS
from localmoe.kernels.simd import (
    fma8,
    fnma8,
    load_f32,
    mul8,
    splat_f32x8,
    store_f32x8,
    to_f32x8,
    zero_f32x8,
    zero_i32x16,
)
from localmoe.kernels.simd_dot import dot_bytes, dot_pairs
from localmoe.kernels.simd_eight import (
    asking,
    eight_d,
    eight_dmin,
    four_starts,
    gather_halves8,
    header_bytes,
    high_sums,
    low_sums,
    minima8,
    negative,
    pack_sums,
    pair_0_to_3,
    pair_4_to_7,
    pair_8_to_11,
    pair_12_to_15,
    pair_scales,
    scales0_0_2,
    scales0_1_3,
    scales0_4_6,
    scales0_5_7,
    scales1_0_2,
    scales1_1_3,
    scales1_4_6,
    scales1_5_7,
    splat_32,
    sums_of_pairs8,
    times128,
)
from localmoe.kernels.simd_quad import load_sums32
from quant.compiled import compiled


@compiled(forceinline=True)
def _step(dot, start, v, w, x, scales, ask: int, size: int, quarter: int):
    """Adds scale * (start + code * activation) of 64 weights v of one row and w of another: two lanes for the
    one, two for the other, four times (scales: likewise, four and four). And asks for a quarter of the cache
    lines, four to eight, of 2 * `size` bytes from `ask` on.
    """
    first, lines = dot_bytes(start, v, x), (2 * size + 63) // 64
    at, end = quarter * lines // 4, (quarter + 1) * lines // 4
    first = asking(first, ask + 64 * at)
    if end - at > 1:
        first = asking(first, ask + 64 * at + 64)
    return dot_pairs(dot, pack_sums(first, dot_bytes(start, w, x)), scales)


@compiled(forceinline=True)
def _pair_q4_q5(five: bool, b: int, c: int, s0, s1, s2, s3, shared, ask: int):
    """Two blocks' sums of scale * code * activation, as `_step` leaves them."""
    size, z = Q5_K_BYTES if five else Q4_K_BYTES, zero_i32x16()
    v0, v1, v2, v3 = _codes_q4_q5(five, b)
    w0, w1, w2, w3 = _codes_q4_q5(five, c)
    x0, x1, x2, x3 = shared
    dot = _step(z, z, v0, w0, x0, s0, ask, size, 0)
    dot = _step(dot, z, v1, w1, x1, s1, ask, size, 1)
    dot = _step(dot, z, v2, w2, x2, s2, ask, size, 2)
    dot = _step(dot, z, v3, w3, x3, s3, ask, size, 3)
    return dot, ask + 2 * size


@compiled(forceinline=True)
def _four_q4_q5(five: bool, b: int, stride: int, shared, low, high, ask: int):
    """Four blocks: their starts, two pairs' sums, products of their minima as `minima8` takes them, and the
    next address to ask for.
    """
    c = b + 2 * stride
    starts = four_starts(b, b + stride, c, c + stride)
    header = header_bytes(starts)
    minima = dot_bytes(times128(dot_bytes(zero_i32x16(), header, high)), header, low)
    first, ask = _pair_q4_q5(five, b, b + stride, scales0_0_2(header), scales0_1_3(header),
                             scales0_4_6(header), scales0_5_7(header), shared, ask)
    second, ask = _pair_q4_q5(five, c, c + stride, scales1_0_2(header), scales1_1_3(header),
                              scales1_4_6(header), scales1_5_7(header), shared, ask)
    return starts, first, second, minima, ask


@compiled(forceinline=True)
def _eight_q4_q5(five: bool, rows: int, stride: int, ahead: int, groups: int, q: int, scales: int, sums: int,
                 out: int) -> None:
    size = Q5_K_BYTES if five else Q4_K_BYTES
    acc = zero_f32x8()
    for g in range(groups):
        b, ask = rows + g * size, rows + ahead + 8 * g * size
        shared = _in_sub_blocks(q + g * GROUP)
        s = load_sums32(sums + g * SUMS * 2)
        low, high = low_sums(s), high_sums(s)
        starts0, dots0, dots1, minima0, ask = _four_q4_q5(five, b, stride, shared, low, high, ask)
        starts1, dots2, dots3, minima1, _ = _four_q4_q5(five, b + 4 * stride, stride, shared, low, high, ask)
        dots = to_f32x8(sums_of_pairs8(dots0, dots1, dots2, dots3))
        minima = to_f32x8(minima8(minima0, minima1))
        value = fnma8(eight_dmin(starts0, starts1), minima, mul8(eight_d(starts0, starts1), dots))
        acc = fma8(value, splat_f32x8(load_f32(scales + g * 4)), acc)
    store_f32x8(out, acc)


@compiled()
def eight_q4_k(rows: int, stride: int, ahead: int, groups: int, q: int, scales: int, sums: int,
               out: int) -> None:
    """out [8] = eight rows, `stride` bytes apart, of `groups` Q4_K blocks times one token's activations (q,
    scales, sums).

    All others are addresses but `ahead`, the distance in bytes of what to ask the memory for.
    """
    _eight_q4_q5(False, rows, stride, ahead, groups, q, scales, sums, out)


@compiled()
def eight_q5_k(rows: int, stride: int, ahead: int, groups: int, q: int, scales: int, sums: int,
               out: int) -> None:
    """The same for Q5_K."""
    _eight_q4_q5(True, rows, stride, ahead, groups, q, scales, sums, out)


@compiled(forceinline=True)
def _offsets(shared):
    """What codes of 32, which stand for 0, add to the sums of four: to be taken off."""
    x0, x1, x2, x3 = shared
    z, level = zero_i32x16(), splat_32()
    return (negative(dot_bytes(z, level, x0)), negative(dot_bytes(z, level, x1)),
            negative(dot_bytes(z, level, x2)), negative(dot_bytes(z, level, x3)))  # fmt: skip


@compiled(forceinline=True)
def _pair_q6(b: int, c: int, shared, offsets, ask: int):
    """Two blocks' sums of scale * weight * activation, as `_step` leaves them."""
    size, scales = Q6_K_BYTES, pair_scales(b + 192, c + 192)
    v0, v1, v2, v3 = _codes_q6(b)
    w0, w1, w2, w3 = _codes_q6(c)
    x0, x1, x2, x3 = shared
    o0, o1, o2, o3 = offsets
    dot = _step(zero_i32x16(), o0, v0, w0, x0, pair_0_to_3(scales), ask, size, 0)
    dot = _step(dot, o1, v1, w1, x1, pair_4_to_7(scales), ask, size, 1)
    dot = _step(dot, o2, v2, w2, x2, pair_8_to_11(scales), ask, size, 2)
    dot = _step(dot, o3, v3, w3, x3, pair_12_to_15(scales), ask, size, 3)
    return dot, ask + 2 * size


@compiled()
def eight_q6_k(rows: int, stride: int, ahead: int, groups: int, q: int, scales: int, sums: int,
               out: int) -> None:
    """The same for Q6_K: 16 int8 scales, weights offset by 32. `sums` are not needed."""
    acc = zero_f32x8()
    for g in range(groups):
        b = rows + g * Q6_K_BYTES
        c, ask = b + 4 * stride, rows + ahead + 8 * g * Q6_K_BYTES
        shared = _in_order(q + g * GROUP)
        offsets = _offsets(shared)
        dots0, ask = _pair_q6(b, b + stride, shared, offsets, ask)
        dots1, ask = _pair_q6(b + 2 * stride, b + 3 * stride, shared, offsets, ask)
        dots2, ask = _pair_q6(c, c + stride, shared, offsets, ask)
        dots3, _ = _pair_q6(c + 2 * stride, c + 3 * stride, shared, offsets, ask)
        value = mul8(gather_halves8(b + 208, stride), to_f32x8(sums_of_pairs8(dots0, dots1, dots2, dots3)))
        acc = fma8(value, splat_f32x8(load_f32(scales + g * 4)), acc)
    store_f32x8(out, acc)
