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
from localmoe.kernels.simd_planes import (
    planes_0_2,
    planes_4_6,
    q2_scales,
    q3_scales,
    third_0_1,
    third_2_3,
    third_4_5,
    third_6_7,
)
from localmoe.kernels.simd_quad import load_i8_i16x16
from quant.compiled import compiled

Q2_K, Q3_K, Q4_K, Q5_K, Q6_K = 10, 11, 12, 13, 14  # ggml's type numbers
IQ4_XS = 23
Q2_K_BYTES, Q3_K_BYTES, Q4_K_BYTES, Q5_K_BYTES, Q6_K_BYTES = 84, 110, 144, 176, 210  # of one block
IQ4_XS_BYTES = 136
Q2_K_D, Q3_K_D, Q6_K_D = 80, 108, 208  # where d stands in it; Q2_K's dmin follows


@compiled(forceinline=True)
def k_bytes(kind: int) -> int:
    """Bytes of a block of 256 weights."""
    if kind == IQ4_XS:
        return IQ4_XS_BYTES
    if kind == Q2_K:
        return Q2_K_BYTES
    if kind == Q3_K:
        return Q3_K_BYTES
    if kind == Q4_K:
        return Q4_K_BYTES
    return Q5_K_BYTES if kind == Q5_K else Q6_K_BYTES


@compiled(forceinline=True)
def is_k(kind: int) -> bool:
    """Whether the type is a K-quant."""
    return kind >= Q2_K and kind <= Q6_K


@compiled(forceinline=True)
def in_blocks_of_256(kind: int) -> bool:
    """Whether the type is a K-quant or IQ4_XS, which has their kind of scales."""
    return is_k(kind) or kind == IQ4_XS


@compiled(forceinline=True)
def has_16_scales(kind: int) -> bool:
    """Whether 16 weights share a scale, and codes come in order; of the other K-quants 32 do."""
    return kind == Q2_K or kind == Q3_K or kind == Q6_K


@compiled(forceinline=True)
def has_minima(kind: int) -> bool:
    """Whether sub-blocks have a minimum; the codes of the other K-quants have an offset."""
    return kind != Q3_K and kind != Q6_K and kind != IQ4_XS


@compiled(forceinline=True)
def code_offset(kind: int) -> int:
    """What the codes of Q3_K and Q6_K stand above the weights."""
    return 4 if kind == Q3_K else 32


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
def codes_16(kind: int, b: int):
    """The 256 codes of a block with 16 scales, in order: of two bits, three or six."""
    if kind == Q2_K:
        first, second = load_i8x32(b + 16), load_i8x32(b + 48)
        return planes_0_2(first), planes_4_6(first), planes_0_2(second), planes_4_6(second)
    if kind == Q3_K:
        first, second, third = load_i8x32(b + 32), load_i8x32(b + 64), load_i8x32(b)
        return (or_bytes(planes_0_2(first), third_0_1(third)), or_bytes(planes_4_6(first), third_2_3(third)),
                or_bytes(planes_0_2(second), third_4_5(third)),
                or_bytes(planes_4_6(second), third_6_7(third)))  # fmt: skip
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
def scales_16(kind: int, b: int):
    """Their 16 scales, as int16."""
    if kind == Q2_K:
        return q2_scales(b)
    return q3_scales(b + 96) if kind == Q3_K else load_i8_i16x16(b + 192)


@compiled(forceinline=True)
def pair_16(kind: int, b: int, c: int, scales, x, y, asked, quarter, times):
    """The same of the blocks at b and c, with 16 scales of each."""
    return pair(codes_16(kind, b), codes_16(kind, c), x, y, pair_0_to_3(scales), pair_4_to_7(scales),
                pair_8_to_11(scales), pair_12_to_15(scales), asked, quarter, times)  # fmt: skip
