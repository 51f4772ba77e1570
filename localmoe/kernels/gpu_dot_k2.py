"""Dot products of Q2_K and Q3_K rows with one token's float32 activations, for Triton matvec kernels.

A lane takes 64 weights: 16 bytes of two bits are 16 neighbouring weights of each quarter of half a block,
which have a scale of their own. Codes are multiplied where they lie in the byte, as up to 64 times
themselves.
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.gpu_codes import UNIT, dot16, half_of
from localmoe.kernels.gpu_words import by_piece, by_row, four_words


@triton.jit
def _group_q2_k(
    value: tl.tensor, least: tl.tensor, scale: tl.tensor, q0: tl.tensor, q1: tl.tensor, q2: tl.tensor,
    q3: tl.tensor, x: tl.tensor, at: tl.tensor, inside: tl.tensor, PLANE: tl.constexpr, CODE: tl.constexpr,
    UNITS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Added to `value` the dot of 16 weights, bits CODE of each byte, which are UNITS times the codes; to
    `least` their minimum's share. `scale` has both, in the lower and the upper nibble of its lowest byte.
    """
    dot, total = dot16(tl.zeros(value.shape, tl.float32), q0, q1, q2, q3, x, at, inside, PLANE, CODE)
    value += (scale & 15).to(tl.float32) * (dot * (UNIT / UNITS))
    return value, least + (scale >> 4 & 15).to(tl.float32) * total


@triton.jit
def piece_q2_k(row: tl.tensor, piece: tl.tensor, mask: tl.tensor, x: tl.tensor, inside: tl.tensor,
               PLANE: tl.constexpr) -> tl.tensor:
    """64 weights of Q2_K: see `gpu_dot.piece_dots`. Blocks of 84 bytes are read in words of 4."""
    block, half, part = piece // 4, piece % 4 // 2, piece % 2
    head = by_row(row.to(tl.pointer_type(tl.uint32))) + by_piece(block * 21)
    # one by one: of words that no wider load may take, `gpu_words.quad` makes an exchange between lanes
    codes = head + by_piece(4 + half * 8 + part * 4)
    q0, q1 = tl.load(codes, mask=mask, other=0), tl.load(codes + 1, mask=mask, other=0)
    q2, q3 = tl.load(codes + 2, mask=mask, other=0), tl.load(codes + 3, mask=mask, other=0)
    # scales and minima of quarters 0 and 2 in byte 0, of 1 and 3 in byte 2
    pair = head + by_piece(half * 2)
    first = tl.load(pair, mask=mask, other=0) >> by_piece(part * 8)
    second = tl.load(pair + 1, mask=mask, other=0) >> by_piece(part * 8)
    halves = tl.load(head + 20, mask=mask, other=0)
    at, odd = (block * 4 + half * 2) * 4 + part * (PLANE // 4), PLANE // 2
    value, least = tl.zeros(mask.shape, tl.float32), tl.zeros(mask.shape, tl.float32)
    value, least = _group_q2_k(value, least, first, q0, q1, q2, q3, x, at, inside, PLANE, 0x03, 1)
    value, least = _group_q2_k(value, least, first >> 16, q0, q1, q2, q3, x, at + odd, inside, PLANE, 0x0C,
                               4)  # fmt: skip
    value, least = _group_q2_k(value, least, second, q0, q1, q2, q3, x, at + 4, inside, PLANE, 0x30, 16)
    value, least = _group_q2_k(value, least, second >> 16, q0, q1, q2, q3, x, at + (odd + 4), inside, PLANE,
                               0xC0, 64)  # fmt: skip
    return half_of(halves) * value - half_of(halves >> 16) * least


@triton.jit
def _with_third(low: tl.tensor, third: tl.tensor, LOW: tl.constexpr) -> tl.tensor:
    """Bits LOW of `low`, the others of `third`: one instruction."""
    return third ^ ((low ^ third) & LOW)


@triton.jit
def _group_q3_k(
    value: tl.tensor, scale: tl.tensor, q0: tl.tensor, q1: tl.tensor, q2: tl.tensor, q3: tl.tensor,
    t0: tl.tensor, t1: tl.tensor, t2: tl.tensor, t3: tl.tensor, mask: tl.tensor, x: tl.tensor, at: tl.tensor,
    inside: tl.tensor, PLANE: tl.constexpr, LOW: tl.constexpr, CODE: tl.constexpr, UNITS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`value` and the dot of 16 weights, bits CODE of each byte: two of q, in LOW, and the third of t; they
    are UNITS times the codes.
    """
    u0, u1 = _with_third(q0, t0, LOW), _with_third(q1, t1, LOW)
    u2, u3 = _with_third(q2, t2, LOW), _with_third(q3, t3, LOW)
    dot, total = dot16(tl.zeros(mask.shape, tl.float32), u0, u1, u2, u3, x, at, inside, PLANE, CODE)
    return value + (scale.to(tl.float32) - 32.0) * (dot * (UNIT / UNITS) - 4.0 * total)


@triton.jit
def piece_q3_k(row: tl.tensor, piece: tl.tensor, mask: tl.tensor, x: tl.tensor, inside: tl.tensor,
               PLANE: tl.constexpr) -> tl.tensor:
    """64 weights of Q3_K: see `gpu_dot.piece_dots`."""
    block, half, part = piece // 4, piece % 4 // 2, piece % 2
    start = block * 110
    t0, t1, t2, t3 = four_words(row, start + part * 16, mask)
    q0, q1, q2, q3 = four_words(row, start + (32 + half * 32 + part * 16), mask)
    # the last 16 bytes of a block: two of codes, eight with lower bits of scales, four with upper ones, d
    w0, w1, w2, w3 = four_words(row, start + 94, mask)
    shift = by_piece(part * 8 + half * 4)
    a, b, c, d = w0 >> (shift + 16), w1 >> shift, w2 >> shift, w3 >> shift
    # third bits of quarters 0..3 at bits 4..7: where 2 has use for them, and 3 with its codes moved by one
    up = by_piece(4 - half * 4)
    t0, t1, t2, t3 = t0 << up, t1 << up, t2 << up, t3 << up
    at, odd = (block * 4 + half * 2) * 4 + part * (PLANE // 4), PLANE // 2
    value = tl.zeros(mask.shape, tl.float32)
    value = _group_q3_k(value, (a & 15) | (c >> 12 & 48), q0, q1, q2, q3, t0 >> 2, t1 >> 2, t2 >> 2, t3 >> 2,
                        mask, x, at, inside, PLANE, 0x03030303, 0x07, 1)  # fmt: skip
    value = _group_q3_k(value, (b & 15) | (d << 4 & 48), q0, q1, q2, q3, t0 >> 1, t1 >> 1, t2 >> 1, t3 >> 1,
                        mask, x, at + odd, inside, PLANE, 0x0C0C0C0C, 0x1C, 4)  # fmt: skip
    value = _group_q3_k(value, (b >> 16 & 15) | (c >> 14 & 48), q0, q1, q2, q3, t0, t1, t2, t3, mask, x,
                        at + 4, inside, PLANE, 0x30303030, 0x70, 16)  # fmt: skip
    value = _group_q3_k(value, (c & 15) | (d << 2 & 48), q0 >> 1, q1 >> 1, q2 >> 1, q3 >> 1, t0, t1, t2, t3,
                        mask, x, at + (odd + 4), inside, PLANE, 0x60606060, 0xE0, 32)  # fmt: skip
    return half_of(w3 >> 16) * value
