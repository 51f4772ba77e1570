"""Block formats inside Triton kernels: their geometry, and the decoding of 32 neighbouring weights in
natural order.

A format is known to kernels by ggml's type number, a compile-time constant. Layouts: `quant.blocks`, which
is the specification that the tests compare with.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 = 0, 1, 2, 3, 6, 7, 8
Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, BF16, MXFP4 = 10, 11, 12, 13, 14, 30, 39
GPU_TYPES = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k",
             "q4_k", "q5_k", "q6_k", "mxfp4")


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a matvec walks a row: in pieces of so many weights, one per lane; and the blocks' size."""

    piece: int
    block: int  # weights of a block
    block_bytes: int


GEOMETRY = {
    F32: Geometry(4, 32, 128),
    F16: Geometry(4, 32, 64),
    BF16: Geometry(4, 32, 64),
    Q4_0: Geometry(32, 32, 18),
    Q4_1: Geometry(32, 32, 20),
    Q5_0: Geometry(32, 32, 22),
    Q5_1: Geometry(32, 32, 24),
    Q8_0: Geometry(32, 32, 34),
    Q2_K: Geometry(64, 256, 84),
    Q3_K: Geometry(64, 256, 110),
    Q4_K: Geometry(64, 256, 144),
    Q5_K: Geometry(64, 256, 176),
    Q6_K: Geometry(64, 256, 210),
    MXFP4: Geometry(32, 32, 17),
}


def row_bytes(kind: int, cols: int) -> int:
    """Bytes of a row of `cols` weights."""
    g = GEOMETRY[kind]
    return cols // g.block * g.block_bytes


def alignment(nbytes: int) -> int:
    """The largest power of two up to 16 that divides a row's bytes: how wide loads from row starts may be."""
    return min(16, nbytes & -nbytes) if nbytes else 16


@triton.jit
def half_at(pointer: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """The float16 at a uint8 pointer, as float32."""
    return tl.load(pointer.to(tl.pointer_type(tl.float16)), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def mx_scale(exponent: tl.tensor) -> tl.tensor:
    """2**(exponent - 128) as float32, of integers 0..255: MXFP4's levels are twice the standard's."""
    bits = tl.where(exponent < 2, 0x00200000 << exponent, (exponent - 1) << 23)
    return bits.to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def k_scales(head: tl.tensor, sub: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Scale and minimum number `sub` (0..7) of the 12 packed bytes at uint8 pointers `head`, as float32."""
    late = sub >= 4
    a = tl.load(head + sub % 4, mask=mask, other=0).to(tl.int32)
    b = tl.load(head + 4 + sub % 4, mask=mask, other=0).to(tl.int32)
    c = tl.load(head + 8 + sub % 4, mask=mask, other=0).to(tl.int32)
    scale = tl.where(late, (c & 15) | ((a >> 2) & 48), a & 63)
    minimum = tl.where(late, (c >> 4) | ((b >> 2) & 48), b & 63)
    return scale.to(tl.float32), minimum.to(tl.float32)


@triton.jit
def _five_bits(KIND: tl.constexpr, block: tl.tensor, mask: tl.tensor, lane: tl.tensor) -> tl.tensor:
    """The codes of 32 weights of Q4_0, Q4_1, Q5_0 or Q5_1 blocks at uint8 pointers [n, 1]; lane [1, 32]."""
    start: tl.constexpr = 4 if KIND == 3 or KIND == 7 else 2
    five: tl.constexpr = KIND == 6 or KIND == 7
    codes: tl.constexpr = start + 4 if five else start
    q = (tl.load(block + codes + lane % 16, mask=mask, other=0).to(tl.int32) >> (lane // 16 * 4)) & 15
    if five:
        fifth = tl.load(block + start + lane // 8, mask=mask, other=0).to(tl.int32) >> (lane % 8)
        q = q | ((fifth & 1) << 4)
    return q.to(tl.float32)


@triton.jit
def _two_or_three_bits(KIND: tl.constexpr, block: tl.tensor, j: tl.tensor, mask: tl.tensor,
                       lane: tl.tensor) -> tl.tensor:
    """The codes of 32 weights, number j (0..7) of Q2_K or Q3_K blocks at uint8 pointers [n, 1]; lane
    [1, 32].
    """
    codes: tl.constexpr = 16 if KIND == 10 else 32
    q = (tl.load(block + codes + j // 4 * 32 + lane, mask=mask, other=0).to(tl.int32) >> (j % 4 * 2)) & 3
    if KIND == 11:
        q = q | (((tl.load(block + lane, mask=mask, other=0).to(tl.int32) >> j) & 1) << 2)
    return q


@triton.jit
def decode32(KIND: tl.constexpr, row: tl.tensor, sub: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """32 weights of each row: uint8 pointers to row starts [n], number of the 32 within the row [n] →
    float32 [n, 32].
    """
    lane = tl.arange(0, 32)[None, :]
    row, sub, mask = row[:, None], sub[:, None], mask[:, None]
    if KIND == 0:
        return tl.load(row.to(tl.pointer_type(tl.float32)) + sub * 32 + lane, mask=mask, other=0.0)
    elif KIND == 1:
        return tl.load(row.to(tl.pointer_type(tl.float16)) + sub * 32 + lane, mask=mask,
                       other=0.0).to(tl.float32)
    elif KIND == 30:
        bits = tl.load(row.to(tl.pointer_type(tl.uint16)) + sub * 32 + lane, mask=mask, other=0).to(tl.uint32)
        return (bits << 16).to(tl.float32, bitcast=True)
    elif KIND == 12 or KIND == 13:
        head: tl.constexpr = 16 if KIND == 12 else 48
        block = row + sub // 8 * (144 if KIND == 12 else 176)
        j = sub % 8
        scale, minimum = k_scales(block + 4, j, mask)
        q = (tl.load(block + head + j // 2 * 32 + lane, mask=mask, other=0).to(tl.int32) >> (j % 2 * 4)) & 15
        if KIND == 13:
            q = q | (((tl.load(block + 16 + lane, mask=mask, other=0).to(tl.int32) >> j) & 1) << 4)
        return half_at(block, mask) * scale * q.to(tl.float32) - half_at(block + 2, mask) * minimum
    elif KIND == 14:
        block = row + sub // 8 * 210
        half, quarter = sub % 8 // 4, sub % 4
        low = tl.load(block + half * 64 + quarter % 2 * 32 + lane, mask=mask,
                      other=0).to(tl.int32) >> (quarter // 2 * 4)
        high = tl.load(block + 128 + half * 32 + lane, mask=mask, other=0).to(tl.int32) >> (quarter * 2)
        q = ((low & 15) | ((high & 3) << 4)) - 32
        scale = tl.load((block + 192 + sub % 8 * 2 + lane // 16).to(tl.pointer_type(tl.int8)), mask=mask,
                        other=0)
        return half_at(block + 208, mask) * scale.to(tl.float32) * q.to(tl.float32)
    elif KIND == 10:
        block, j = row + sub // 8 * 84, sub % 8
        scale = tl.load(block + j * 2 + lane // 16, mask=mask, other=0).to(tl.int32)
        q = _two_or_three_bits(KIND, block, j, mask, lane)
        least = half_at(block + 82, mask) * (scale >> 4).to(tl.float32)
        return half_at(block + 80, mask) * (scale & 15).to(tl.float32) * q.to(tl.float32) - least
    elif KIND == 11:
        block, j = row + sub // 8 * 110, sub % 8
        of = j * 2 + lane // 16
        low = tl.load(block + 96 + of % 8, mask=mask, other=0).to(tl.int32) >> (of // 8 * 4)
        high = tl.load(block + 104 + of % 4, mask=mask, other=0).to(tl.int32) >> (of // 4 * 2)
        scale = ((low & 15) | ((high & 3) << 4)) - 32
        q = _two_or_three_bits(KIND, block, j, mask, lane) - 4
        return half_at(block + 108, mask) * scale.to(tl.float32) * q.to(tl.float32)
    elif KIND == 8:
        block = row + sub * 34
        q = tl.load((block + 2 + lane).to(tl.pointer_type(tl.int8)), mask=mask, other=0)
        return half_at(block, mask) * q.to(tl.float32)
    elif KIND == 39:
        block = row + sub * 17
        q = tl.load(block + 1 + lane % 16, mask=mask, other=0).to(tl.uint32) >> (lane // 16 * 4).to(tl.uint32)
        # sign, exponent and mantissa where a float16 has its own: 2**-15 of the level
        bits = ((q & 7) << 9) | ((q & 8) << 12)
        level = bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32) * 32768.0
        return mx_scale(tl.load(block, mask=mask, other=0).to(tl.uint32)) * level
    elif KIND == 3 or KIND == 7:
        block = row + sub * (20 if KIND == 3 else 24)
        return half_at(block, mask) * _five_bits(KIND, block, mask, lane) + half_at(block + 2, mask)
    else:
        tl.static_assert(KIND == 2 or KIND == 6)
        block = row + sub * (18 if KIND == 2 else 22)
        return half_at(block, mask) * (_five_bits(KIND, block, mask, lane) - (8 if KIND == 2 else 16))


@triton.jit
def floats_at(address: tl.tensor) -> tl.tensor:
    """A float32 pointer to an int64 address."""
    return address.to(tl.int64).to(tl.pointer_type(tl.float32))


@triton.jit
def pointer8(address: tl.tensor, ALIGN: tl.constexpr) -> tl.tensor:
    """A uint8 pointer to an int64 address of known alignment."""
    return tl.multiple_of(address.to(tl.pointer_type(tl.uint8)), ALIGN)
