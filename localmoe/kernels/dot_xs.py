"""Dot products of IQ4_XS rows: IQ4_NL's levels in blocks of 256, with a 6-bit scale for each 32.

The levels take eight bits, so four products with activations do not fit int16 as those of K-quants do: each
32 weights' dot is an int32 before its scale is multiplied. All of a block is one integer then, and float32
enters as in `dot_k`, with the same arguments:

    value = d * (sum(scale_j * dot_j)  -  offset * sum(scale_j * sum_j))
    acc = fma(value, activation scale, acc)

Block layout: ggml's block_iq4_xs.
"""

from __future__ import annotations

from localmoe.kernels.ahead import ask_after, requests
from localmoe.kernels.dot_k_pair import IQ4_XS_BYTES
from localmoe.kernels.geometry import GROUP, SUMS
from localmoe.kernels.simd import (
    add_i32x16,
    fma4,
    join_i8x32,
    load_f32,
    load_i8x16,
    load_i8x64,
    load_i16x16,
    mul4,
    mul_i32x16,
    splat_f32x4,
    store_f32x4,
    sub_i32x4,
    to_f32x4,
    zero_f32x4,
    zero_i32x16,
)
from localmoe.kernels.simd_blocks import first_16_of_32, second_16_of_32
from localmoe.kernels.simd_dot import SIGNED, dot_levels, levels_above_127
from localmoe.kernels.simd_formats import load_table, nibbles16, of_high_nibbles, of_low_nibbles, select_bytes
from localmoe.kernels.simd_planes import xs_first_scales, xs_scales, xs_second_scales
from localmoe.kernels.simd_quad import (
    dot_shorts,
    gather_halves,
    partial_sums,
    row_sums,
    row_sums8,
    times_i32x4,
)
from quant.compiled import compiled, compiled_once

XS_OFFSET = 0 if SIGNED else 127  # what codes stand above their levels
TIMES = 2  # that each line is asked for, see `ahead`


@compiled(forceinline=True)
def levels_of_64(b: int, table: int):
    """The levels of 64 weights in order, from the 32 bytes at b, as `dot_levels` takes them."""
    both = join_i8x32(nibbles16(load_i8x16(b)), nibbles16(load_i8x16(b + 16)))
    return levels_above_127(select_bytes(load_table(table), both))


@compiled(forceinline=True)
def _dots(b: int, table: int, x0, x1):
    """Dots of 128 weights at b, four sums for each 32. x0: activations 0..15 of each 32, x1: 16..31."""
    levels, packed = load_table(table), load_i8x64(b)
    dot = dot_levels(zero_i32x16(), levels_above_127(of_low_nibbles(levels, packed)), x0)
    return dot_levels(dot, levels_above_127(of_high_nibbles(levels, packed)), x1)


@compiled(forceinline=True)
def _block(b: int, table: int, scales, x0, x1, x2, x3):
    """A block's sum of scale * level * activation, as partial sums."""
    first = mul_i32x16(_dots(b + 8, table, x0, x1), xs_first_scales(scales))
    return add_i32x16(first, mul_i32x16(_dots(b + 72, table, x2, x3), xs_second_scales(scales)))


@compiled(forceinline=True)
def activations_xs(x: int, arranged: bool):
    """A group's activations as `_block` takes them; arranged: they lie in the order `HALVES` (`orders`)."""
    if arranged:
        return load_i8x64(x), load_i8x64(x + 64), load_i8x64(x + 128), load_i8x64(x + 192)
    half = GROUP // 2
    return first_16_of_32(x), second_16_of_32(x), first_16_of_32(x + half), second_16_of_32(x + half)


@compiled(forceinline=True)
def values_xs(b0, b1, b2, b3, table, xs0, xs1, xs2, xs3, sums0, sums1, sums2, sums3, asked, times):
    """What four blocks are worth before the activations' scales. xs0..: the activations each meets."""
    s0, s1, s2, s3 = xs_scales(b0 + 2), xs_scales(b1 + 2), xs_scales(b2 + 2), xs_scales(b3 + 2)
    t0 = _block(b0, table, s0, xs0[0], xs0[1], xs0[2], xs0[3])
    ask_after(t0, asked, 0, times)
    t1 = _block(b1, table, s1, xs1[0], xs1[1], xs1[2], xs1[3])
    ask_after(t1, asked, 1, times)
    t2 = _block(b2, table, s2, xs2[0], xs2[1], xs2[2], xs2[3])
    ask_after(t2, asked, 2, times)
    t3 = _block(b3, table, s3, xs3[0], xs3[1], xs3[2], xs3[3])
    ask_after(t3, asked, 3, times)
    total = row_sums(partial_sums(t0), partial_sums(t1), partial_sums(t2), partial_sums(t3))
    if XS_OFFSET:
        low = row_sums8(dot_shorts(s0, load_i16x16(sums0)), dot_shorts(s1, load_i16x16(sums1)),
                        dot_shorts(s2, load_i16x16(sums2)), dot_shorts(s3, load_i16x16(sums3)))  # fmt: skip
        total = sub_i32x4(total, times_i32x4(low, XS_OFFSET))
    return mul4(gather_halves(b0, b1, b2, b3), to_f32x4(total))


@compiled_once()
def quad_iq4_xs(r0, r1, r2, r3, groups, table, q, scales, sums, out) -> None:
    """out [4] = four rows of `groups` blocks times one token's activations; as `dot_k.quad_q4_k`, with the
    address of the levels.
    """
    acc = zero_f32x4()
    for g in range(groups):
        at = g * IQ4_XS_BYTES
        xs, s = activations_xs(q + g * GROUP, False), sums + g * SUMS * 2
        asked = requests(r0, at, IQ4_XS_BYTES, groups * IQ4_XS_BYTES)
        value = values_xs(r0 + at, r1 + at, r2 + at, r3 + at, table, xs, xs, xs, xs, s, s, s, s, asked, TIMES)
        acc = fma4(value, splat_f32x4(load_f32(scales + g * 4)), acc)
    store_f32x4(out, acc)
