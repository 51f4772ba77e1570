"""The codes of K-quant blocks, and two blocks at once where two blocks' sums share a register
(`simd_pairs`).
"""

from __future__ import annotations

from localmoe.kernels.ahead import ask_after
from localmoe.kernels.simd import (
    high_nibbles,
    join_i8x32,
    load_i8x32,
    load_i8x64,
    low_nibbles,
    or_bytes,
    zero_i32x16,
)
from localmoe.kernels.simd_bits import (
    fifth_0_2,
    fifth_1_3,
    fifth_4_6,
    fifth_5_7,
    upper_0_2,
    upper_4_6,
    upper_nibbles,
)
from localmoe.kernels.simd_pairs import pair_0_to_3, pair_4_to_7, pair_8_to_11, pair_12_to_15, scaled_pair
from quant.compiled import compiled

Q4_K_BYTES, Q5_K_BYTES, Q6_K_BYTES = 144, 176, 210


@compiled(forceinline=True)
def in_sub_blocks(x: int):
    """The activations as `codes_q4_q5` come: sub-blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7."""
    return (join_i8x32(load_i8x32(x), load_i8x32(x + 64)), join_i8x32(load_i8x32(x + 32), load_i8x32(x + 96)),
            join_i8x32(load_i8x32(x + 128), load_i8x32(x + 192)),
            join_i8x32(load_i8x32(x + 160), load_i8x32(x + 224)))  # fmt: skip


@compiled(forceinline=True)
def in_order(x: int):
    """The activations in order, 64 by 64."""
    return load_i8x64(x), load_i8x64(x + 64), load_i8x64(x + 128), load_i8x64(x + 192)


@compiled(forceinline=True)
def codes_q4_q5(five: bool, b: int):
    """A block's 256 codes. A load of 64 bytes holds sub-blocks 0 and 2 in its low nibbles, 1 and 3 in the
    high ones.
    """
    codes = b + 48 if five else b + 16
    first, second = load_i8x64(codes), load_i8x64(codes + 64)
    if five:
        fifth = load_i8x32(b + 16)
        return (or_bytes(low_nibbles(first), fifth_0_2(fifth)),
                or_bytes(upper_nibbles(first), fifth_1_3(fifth)),
                or_bytes(low_nibbles(second), fifth_4_6(fifth)),
                or_bytes(upper_nibbles(second), fifth_5_7(fifth)))  # fmt: skip
    return low_nibbles(first), high_nibbles(first), low_nibbles(second), high_nibbles(second)


@compiled(forceinline=True)
def codes_q6(b: int):
    """A block's 256 codes, 0..63, in order."""
    first, second = load_i8x64(b), load_i8x64(b + 64)
    upper0, upper1 = load_i8x32(b + 128), load_i8x32(b + 160)
    return (or_bytes(low_nibbles(first), upper_0_2(upper0)),
            or_bytes(upper_nibbles(first), upper_4_6(upper0)),
            or_bytes(low_nibbles(second), upper_0_2(upper1)),
            or_bytes(upper_nibbles(second), upper_4_6(upper1)))  # fmt: skip


@compiled(forceinline=True)
def pair(v, w, x, y, s0, s1, s2, s3, asked, quarter, times):
    """The sums of scale * code * activation of two blocks, v times x and w times y, as `scaled_pair` leaves
    them; s0..s3: their scales. Between products, two quarters of what comes next are asked for.
    """
    v0, v1, v2, v3 = v
    w0, w1, w2, w3 = w
    x0, x1, x2, x3 = x
    y0, y1, y2, y3 = y
    dot = scaled_pair(zero_i32x16(), v0, w0, x0, y0, s0)
    ask_after(dot, asked, quarter, times)
    dot = scaled_pair(scaled_pair(dot, v1, w1, x1, y1, s1), v2, w2, x2, y2, s2)
    ask_after(dot, asked, quarter + 1, times)
    return scaled_pair(dot, v3, w3, x3, y3, s3)


@compiled(forceinline=True)
def pair_q6(b: int, c: int, scales, x, y, asked, quarter, times):
    """The same of the Q6_K blocks at b and c; scales: 16 of each."""
    return pair(codes_q6(b), codes_q6(c), x, y, pair_0_to_3(scales), pair_4_to_7(scales),
                pair_8_to_11(scales), pair_12_to_15(scales), asked, quarter, times)  # fmt: skip
