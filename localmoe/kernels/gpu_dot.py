"""Dot products of quantized rows with one token's float32 activations, for Triton matvec kernels.

A lane takes a *piece* of a row: 64 weights of a K-quant, or a block of 32; `gpu_words` says how it reads,
`gpu_codes` how it multiplies.
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.gpu_codes import UNIT, dot16, half_of
from localmoe.kernels.gpu_dot_k2 import piece_q2_k, piece_q3_k
from localmoe.kernels.gpu_dot_mx import piece_mxfp4
from localmoe.kernels.gpu_formats import half_at
from localmoe.kernels.gpu_words import (
    DROP0,
    DROP1,
    DROP2,
    by_piece,
    by_row,
    four_words,
    quad,
    sum_pieces,
    two_words,
)


@triton.jit
def _half_of_64(
    KIND: tl.constexpr, low: tl.tensor, high: tl.tensor, row: tl.tensor, codes_at: tl.tensor,
    fifth_at: tl.tensor, up: tl.tensor, mask: tl.tensor, x: tl.tensor, at: tl.tensor, inside: tl.tensor,
    PLANE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """16 bytes of codes: 16 weights each of two sub-blocks, added to `low` and `high` (of Q4_K, 16 times as
    much), and the sums of their activations.
    """
    q0, q1, q2, q3 = quad(row, codes_at, mask)
    if KIND == 12:
        low, sum0 = dot16(low, q0, q1, q2, q3, x, at, inside, PLANE, 0x0F)
        high, sum1 = dot16(high, q0, q1, q2, q3, x, at + PLANE // 2, inside, PLANE, 0xF0)
    else:
        f0, f1, f2, f3 = quad(row, fifth_at, mask)
        f0, f1, f2, f3 = f0 >> up, f1 >> up, f2 >> up, f3 >> up
        l0 = (q0 & 0x0F0F0F0F) | ((f0 << 4) & 0x10101010)
        l1 = (q1 & 0x0F0F0F0F) | ((f1 << 4) & 0x10101010)
        l2 = (q2 & 0x0F0F0F0F) | ((f2 << 4) & 0x10101010)
        l3 = (q3 & 0x0F0F0F0F) | ((f3 << 4) & 0x10101010)
        low, sum0 = dot16(low, l0, l1, l2, l3, x, at, inside, PLANE, 0x1F)
        h0 = ((q0 >> 4) & 0x0F0F0F0F) | ((f0 << 3) & 0x10101010)
        h1 = ((q1 >> 4) & 0x0F0F0F0F) | ((f1 << 3) & 0x10101010)
        h2 = ((q2 >> 4) & 0x0F0F0F0F) | ((f2 << 3) & 0x10101010)
        h3 = ((q3 >> 4) & 0x0F0F0F0F) | ((f3 << 3) & 0x10101010)
        high, sum1 = dot16(high, h0, h1, h2, h3, x, at + PLANE // 2, inside, PLANE, 0x1F)
    return low, high, sum0, sum1


@triton.jit
def _piece_k45(KIND: tl.constexpr, row: tl.tensor, piece: tl.tensor, mask: tl.tensor, x: tl.tensor,
               inside: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """Q4_K, Q5_K: 64 weights, two sub-blocks of 32 that share bytes."""
    words: tl.constexpr = 36 if KIND == 12 else 44
    codes: tl.constexpr = 4 if KIND == 12 else 12
    block, part = piece // 4, piece % 4
    row = row.to(tl.pointer_type(tl.uint32))
    halves, a, b, c = quad(row, block * words, mask)
    # two sub-blocks' scales and minima, 6 bits each, as bytes 0 and 1
    shift, late = by_piece(part % 2 * 16), by_piece(part >= 2)
    a, b, c = a >> shift, b >> shift, c >> shift
    scales = tl.where(late, (c & 0x0F0F) | ((a >> 2) & 0x3030), a & 0x3F3F)
    minima = tl.where(late, ((c >> 4) & 0x0F0F) | ((b >> 2) & 0x3030), b & 0x3F3F)
    none = tl.zeros(mask.shape, tl.float32)
    start, fifth = block * words + (part * 8 + codes), block * words + 4
    at, up = piece * 4, by_piece(part * 2)
    low, high, sum0, sum1 = _half_of_64(KIND, none, none, row, start, fifth, up, mask, x, at, inside, PLANE)
    low, high, sum2, sum3 = _half_of_64(KIND, low, high, row, start + 4, fifth + 4, up, mask, x,
                                        at + PLANE // 4, inside, PLANE)
    upper: tl.constexpr = 0.0625 if KIND == 12 else 1.0
    value = (scales & 0xFF).to(tl.float32) * low + (scales >> 8 & 0xFF).to(tl.float32) * upper * high
    least = (minima & 0xFF).to(tl.float32) * (sum0 + sum2)
    least += (minima >> 8 & 0xFF).to(tl.float32) * (sum1 + sum3)
    return half_of(halves) * UNIT * value - half_of(halves >> 16) * least


@triton.jit
def _group_q6_k(low: tl.tensor, q0: tl.tensor, q1: tl.tensor, q2: tl.tensor, q3: tl.tensor, t0: tl.tensor,
                t1: tl.tensor, t2: tl.tensor, t3: tl.tensor, scale: tl.tensor, mask: tl.tensor, x: tl.tensor,
                at: tl.tensor, inside: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """`low` and the dot of 16 weights with one scale (a signed byte, the word's lowest): nibbles in q,
    upper bits at bits 4 and 5 of the bytes of t.
    """
    u0 = (q0 & 0x0F0F0F0F) | (t0 & 0x30303030)
    u1 = (q1 & 0x0F0F0F0F) | (t1 & 0x30303030)
    u2 = (q2 & 0x0F0F0F0F) | (t2 & 0x30303030)
    u3 = (q3 & 0x0F0F0F0F) | (t3 & 0x30303030)
    dot, total = dot16(tl.zeros(mask.shape, tl.float32), u0, u1, u2, u3, x, at, inside, PLANE, 0x3F)
    signed = (scale & 0xFF).to(tl.uint8).to(tl.int8, bitcast=True).to(tl.float32)
    return low + signed * (dot * UNIT - 32.0 * total)


@triton.jit
def _piece_q6_k(row: tl.tensor, piece: tl.tensor, mask: tl.tensor, x: tl.tensor, inside: tl.tensor,
                PLANE: tl.constexpr) -> tl.tensor:
    """Q6_K: 16 weights of each quarter of half a block; quarters share bytes of upper bits."""
    block, half, part = piece // 4, piece % 4 // 2, piece % 2
    start = block * 210
    a0, a1, a2, a3 = four_words(row, start + (half * 64 + part * 16), mask)
    b0, b1, b2, b3 = four_words(row, start + (half * 64 + part * 16 + 32), mask)
    t0, t1, t2, t3 = four_words(row, start + (128 + half * 32 + part * 16), mask)
    first, second = two_words(row, start + (192 + half * 8), mask)  # scales by quarter and part
    first, second = first >> by_piece(part * 8), second >> by_piece(part * 8)
    quad: tl.constexpr = PLANE // 4
    at = (block * 4 + half * 2) * 4 + part * quad
    value = tl.zeros(mask.shape, tl.float32)
    value = _group_q6_k(value, a0, a1, a2, a3, t0 << 4, t1 << 4, t2 << 4, t3 << 4, first, mask, x, at, inside,
                        PLANE)
    value = _group_q6_k(value, b0, b1, b2, b3, t0 << 2, t1 << 2, t2 << 2, t3 << 2, first >> 16, mask, x,
                        at + 2 * quad, inside, PLANE)
    value = _group_q6_k(value, a0 >> 4, a1 >> 4, a2 >> 4, a3 >> 4, t0, t1, t2, t3, second, mask, x, at + 4,
                        inside, PLANE)
    value = _group_q6_k(value, b0 >> 4, b1 >> 4, b2 >> 4, b3 >> 4, t0 >> 2, t1 >> 2, t2 >> 2, t3 >> 2,
                        second >> 16, mask, x, at + (2 * quad + 4), inside, PLANE)
    return half_at(by_row(row) + by_piece(start + 208), mask) * value


@triton.jit
def _with_fifth(codes: tl.tensor, bits: tl.tensor) -> tl.tensor:
    """Four nibbles and bits 0..3 of `bits` as their fifth ones. The factor sends bit k to bit 8 k + 4."""
    return (codes & 0x0F0F0F0F) | (((bits & 15) * 0x02040810) & 0x10101010)


@triton.jit
def _piece_nibbles(KIND: tl.constexpr, row: tl.tensor, piece: tl.tensor, mask: tl.tensor, x: tl.tensor,
                   inside: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """Q4_0, Q4_1, Q5_0, Q5_1: one block."""
    head: tl.constexpr = 4 if KIND == 3 or KIND == 7 else 2
    five: tl.constexpr = KIND == 6 or KIND == 7
    codes: tl.constexpr = head + 4 if five else head
    start = piece * (codes + 16)
    if head == 4:
        words = row.to(tl.pointer_type(tl.uint32))
        q0, q1, q2, q3 = quad(words, piece * ((codes + 16) // 4) + codes // 4, mask)
    else:
        q0, q1, q2, q3 = four_words(row, start + codes, mask)
    none = tl.zeros(mask.shape, tl.float32)
    at = piece // 2 * 4 + piece % 2 * (PLANE // 2)
    if five:
        bits, _ = two_words(row, start + head, mask)
        l0, l1 = _with_fifth(q0, bits), _with_fifth(q1, bits >> 4)
        l2, l3 = _with_fifth(q2, bits >> 8), _with_fifth(q3, bits >> 12)
        low, sum0 = dot16(none, l0, l1, l2, l3, x, at, inside, PLANE, 0x1F)
        h0, h1 = _with_fifth(q0 >> 4, bits >> 16), _with_fifth(q1 >> 4, bits >> 20)
        h2, h3 = _with_fifth(q2 >> 4, bits >> 24), _with_fifth(q3 >> 4, bits >> 28)
        high, sum1 = dot16(none, h0, h1, h2, h3, x, at + PLANE // 4, inside, PLANE, 0x1F)
    else:
        low, sum0 = dot16(none, q0, q1, q2, q3, x, at, inside, PLANE, 0x0F)
        high, sum1 = dot16(none, q0, q1, q2, q3, x, at + PLANE // 4, inside, PLANE, 0xF0)
        high *= 0.0625
    block = by_row(row) + by_piece(start)
    dot, total = (low + high) * UNIT, sum0 + sum1
    if head == 4:
        return half_at(block, mask) * dot + half_at(block + 2, mask) * total
    return half_at(block, mask) * (dot - (16.0 if five else 8.0) * total)


@triton.jit
def _piece_q8_0(row: tl.tensor, piece: tl.tensor, mask: tl.tensor, x: tl.tensor, inside: tl.tensor,
                PLANE: tl.constexpr) -> tl.tensor:
    """Q8_0: one block; signed bytes become codes of 0..255 by turning their sign bit."""
    q0, q1, q2, q3 = four_words(row, piece * 34 + 2, mask)
    r0, r1, r2, r3 = four_words(row, piece * 34 + 18, mask)
    sign: tl.constexpr = 0x80808080
    at = piece // 2 * 4 + piece % 2 * (PLANE // 2)
    dot = tl.zeros(mask.shape, tl.float32)
    dot, sum0 = dot16(dot, q0 ^ sign, q1 ^ sign, q2 ^ sign, q3 ^ sign, x, at, inside, PLANE, 0xFF)
    dot, sum1 = dot16(dot, r0 ^ sign, r1 ^ sign, r2 ^ sign, r3 ^ sign, x, at + PLANE // 4, inside, PLANE,
                       0xFF)
    dot = dot * UNIT - 128.0 * (sum0 + sum1)
    return half_at(by_row(row) + by_piece(piece * 34), mask) * dot


@triton.jit
def _piece_plain(KIND: tl.constexpr, row: tl.tensor, piece: tl.tensor, mask: tl.tensor, x: tl.tensor,
                 inside: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """F32, F16, BF16: four neighbouring weights."""
    if KIND == 0:
        row = row.to(tl.pointer_type(tl.float32))
    elif KIND == 1:
        row = row.to(tl.pointer_type(tl.float16))
    else:
        tl.static_assert(KIND == 30)
        row = row.to(tl.pointer_type(tl.uint16))
    a, b, c, d = quad(row, piece * 4, mask)
    if KIND == 30:
        a = (a.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
        b = (b.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
        c = (c.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
        d = (d.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    at = by_piece(x + piece // 4 % 4 * (PLANE // 4) + piece // 16 * 4 + piece % 4)
    here = by_piece(inside)
    value = a.to(tl.float32) * (tl.load(at, mask=here, other=0.0) * DROP0)
    value += b.to(tl.float32) * (tl.load(at + PLANE, mask=here, other=0.0) * DROP1)
    value += c.to(tl.float32) * (tl.load(at + 2 * PLANE, mask=here, other=0.0) * DROP2)
    return value + d.to(tl.float32) * (tl.load(at + 3 * PLANE, mask=here, other=0.0) * DROP2)


@triton.jit
def piece_dots(KIND: tl.constexpr, row: tl.tensor, piece: tl.tensor, mask: tl.tensor, x: tl.tensor,
               inside: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """Partial dots pieces by rows: uint8 row pointers [rows], piece numbers [pieces], planes with PLANE
    values for each byte.
    """
    if KIND == 12 or KIND == 13:
        return _piece_k45(KIND, row, piece, mask, x, inside, PLANE)
    elif KIND == 14:
        return _piece_q6_k(row, piece, mask, x, inside, PLANE)
    elif KIND == 10:
        return piece_q2_k(row, piece, mask, x, inside, PLANE)
    elif KIND == 11:
        return piece_q3_k(row, piece, mask, x, inside, PLANE)
    elif KIND == 8:
        return _piece_q8_0(row, piece, mask, x, inside, PLANE)
    elif KIND == 39:
        return piece_mxfp4(row, piece, mask, x, inside, PLANE)
    elif KIND == 0 or KIND == 1 or KIND == 30:
        return _piece_plain(KIND, row, piece, mask, x, inside, PLANE)
    else:
        return _piece_nibbles(KIND, row, piece, mask, x, inside, PLANE)


@triton.jit
def row_dots(
    KIND: tl.constexpr, row: tl.tensor, rows_in: tl.tensor, x: tl.tensor, pieces: tl.tensor,
    COLS: tl.constexpr, R: tl.constexpr, PIECES: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Dot products of R rows with x over the first `pieces` pieces, PIECES at a time → float32 [R]."""
    total = by_piece(tl.zeros([PIECES], tl.float32)) + by_row(tl.zeros([R], tl.float32))
    for first in range(0, pieces, PIECES):
        piece = first + tl.arange(0, PIECES)
        inside = piece < pieces
        total += piece_dots(KIND, row, piece, by_row(rows_in) & by_piece(inside), x, inside,
                            (COLS + 63) // 64 * 16)
    return sum_pieces(total)
