"""Dot products of quantized rows with one token's float32 activations, for Triton matvec kernels.

Activations come in *planes*: value i is at `(i % 4) * (cols / 4) + i // 4`, so that the word of 4 codes
number u of a row meets x[plane s][u]: neighbouring threads read neighbouring words and neighbouring
activations, 16 bytes each where the format is aligned for it (Q4_K, Q5_K, Q5_1 partly). Q4_0, Q5_0, Q8_0 and
Q6_K blocks are only 2-byte aligned: words are put together from halves. A tile is [rows, units, words of a
unit].

Codes become float32 without a conversion: n bits masked where they are, at bit b of a word, and read as a
float32, are the denormal code * 2**(b - 149), which multiplies at full speed and exactly. Activations are
scaled by 2**(100 - b) before, so that sums of code * x come out as 2**-49 of themselves: one mask and one
multiply-add per weight.
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.gpu_formats import half_at


@triton.jit
def word_at(row: tl.tensor, start: tl.tensor, w: tl.tensor, mask: tl.tensor, WIDE: tl.constexpr) -> tl.tensor:
    """Word `w` after byte `start` of rows (uint8 pointers): one load if all is 4-byte aligned, else two of
    16 bits.

    Offsets are added to pointers of the loaded type: only so does the compiler see neighbours and load 16
    bytes at once.
    """
    if WIDE:
        return tl.load(row.to(tl.pointer_type(tl.int32)) + (start // 4 + w), mask=mask, other=0)
    else:
        halves = row.to(tl.pointer_type(tl.uint16)) + (start // 2 + w * 2)
        low = tl.load(halves, mask=mask, other=0).to(tl.int32)
        return low | (tl.load(halves + 1, mask=mask, other=0).to(tl.int32) << 16)


@triton.jit
def code_at(word: tl.tensor, AT: tl.constexpr, BITS: tl.constexpr) -> tl.tensor:
    """The BITS bits from bit AT of words, as a denormal float32: code * 2**(place(AT) - 149)."""
    # whole bytes, until the code ends within 23 bits
    back: tl.constexpr = 0 if AT <= 16 else (AT - 9) // 8 * 8
    return ((word >> back) & (((1 << BITS) - 1) << (AT - back))).to(tl.float32, bitcast=True)


@triton.jit
def lifted(x: tl.tensor, AT: tl.constexpr) -> tl.tensor:
    """Activations to multiply with `code_at(.., AT, ..)`: the product is 2**-49 of code * x."""
    back: tl.constexpr = 0 if AT <= 16 else (AT - 9) // 8 * 8
    return x * 2.0 ** (100 - AT + back)


@triton.jit
def _half_of(word: tl.tensor) -> tl.tensor:
    return (word & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _scale_pair(s0: tl.tensor, s1: tl.tensor, s2: tl.tensor, shift: tl.tensor, late: tl.tensor) -> tl.tensor:
    """Scale and minimum whose bytes are `shift` bits up in the three words of a K-quant's packed scales."""
    a, b, c = s0 >> shift, s1 >> shift, s2 >> shift
    scale = tl.where(late, (c & 15) | ((a >> 2) & 48), a & 63)
    minimum = tl.where(late, ((c >> 4) & 15) | ((b >> 2) & 48), b & 63)
    return scale.to(tl.float32), minimum.to(tl.float32)


@triton.jit
def _dots_k45(KIND: tl.constexpr, row: tl.tensor, rows_in: tl.tensor, unit: tl.tensor, units_in: tl.tensor,
              x: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """Q4_K, Q5_K: units of 64 weights, two sub-blocks that share bytes."""
    block_bytes: tl.constexpr = 144 if KIND == 12 else 176
    codes: tl.constexpr = 16 if KIND == 12 else 48
    w = tl.arange(0, 8)
    block, part = unit // 4, unit % 4
    mask2 = rows_in[:, None] & units_in[None, :]
    mask3 = mask2[:, :, None] & (w[None, None, :] < 8)
    head = row[:, None].to(tl.pointer_type(tl.int32)) + (block * (block_bytes // 4))[None, :]
    words = row[:, None, None]
    # in words, so that no division hides the alignment
    start = (block * (block_bytes // 4) + part * 8)[None, :, None]
    q = tl.load(words.to(tl.pointer_type(tl.int32)) + (start + codes // 4 + w[None, None, :]), mask=mask3,
                other=0)
    if KIND == 13:
        start = (block * (block_bytes // 4) + 4)[None, :, None]
        fifth = tl.load(words.to(tl.pointer_type(tl.int32)) + (start + w[None, None, :]), mask=mask3, other=0)
        # bit 0 of each byte for the low codes, bit 1 for the high ones
        fifth = fifth >> (part * 2)[None, :, None]
        fifth = (fifth & 0x01010101) | ((fifth & 0x02020202) << 3)  # as far apart as the codes
    halves = tl.load(head, mask=mask2, other=0)
    s0, s1 = tl.load(head + 1, mask=mask2, other=0), tl.load(head + 2, mask=mask2, other=0)
    s2 = tl.load(head + 3, mask=mask2, other=0)
    late, shift = (part >= 2)[None, :], (part % 2 * 16)[None, :]
    scale0, minimum0 = _scale_pair(s0, s1, s2, shift, late)
    scale1, minimum1 = _scale_pair(s0, s1, s2, shift + 8, late)
    d, dmin = _half_of(halves), _half_of(halves >> 16)
    at = unit[:, None] * 16 + w[None, :]
    in2 = units_in[:, None] & (w[None, :] < 8)
    low = tl.zeros(q.shape, tl.float32)
    high = tl.zeros(q.shape, tl.float32)
    sum0 = tl.zeros(at.shape, tl.float32)
    sum1 = tl.zeros(at.shape, tl.float32)
    for s in tl.static_range(4):
        x0 = tl.load(x + s * PLANE + at, mask=in2, other=0.0)
        x1 = tl.load(x + s * PLANE + at + 8, mask=in2, other=0.0)
        lifted0, lifted1 = lifted(x0, 8 * s), lifted(x1, 8 * s + 4)
        low += code_at(q, 8 * s, 4) * lifted0[None]
        high += code_at(q, 8 * s + 4, 4) * lifted1[None]
        if KIND == 13:
            low += code_at(fifth, 8 * s, 1) * (lifted0 * 16.0)[None]
            high += code_at(fifth, 8 * s + 4, 1) * (lifted1 * 16.0)[None]
        sum0 += x0
        sum1 += x1
    d *= 2.0**49
    value = (d * scale0)[:, :, None] * low + (d * scale1)[:, :, None] * high
    return value - (dmin * minimum0)[:, :, None] * sum0[None] - (dmin * minimum1)[:, :, None] * sum1[None]


@triton.jit
def _dots_q6_k(row: tl.tensor, rows_in: tl.tensor, unit: tl.tensor, units_in: tl.tensor, x: tl.tensor,
               PLANE: tl.constexpr) -> tl.tensor:
    """Q6_K: units of 128 weights, half a block."""
    w = tl.arange(0, 16)
    block, half = unit // 2, unit % 2
    mask2 = rows_in[:, None] & units_in[None, :]
    mask3 = mask2[:, :, None] & (w[None, None, :] < 16)
    start, words = (block * 210)[:, None], row[:, None, None]
    q = word_at(words, (block * 210 + half * 64)[None, :, None], w[None, None, :], mask3, False)
    top = word_at(words, (block * 210 + 128 + half * 32)[None, :, None], (w % 8)[None, None, :], mask3, False)
    top = top >> (w // 8 * 2)[None, None, :]
    scales = words + (start + 192 + (half * 8)[:, None] + (w // 4)[None, :])[None]
    scale0 = tl.load(scales.to(tl.pointer_type(tl.int8)), mask=mask3, other=0).to(tl.float32)
    scale1 = tl.load((scales + 4).to(tl.pointer_type(tl.int8)), mask=mask3, other=0).to(tl.float32)
    d = half_at(row[:, None] + (block * 210 + 208)[None, :], mask2)
    at = unit[:, None] * 32 + w[None, :]
    in2 = units_in[:, None] & (w[None, :] < 16)
    low = tl.zeros(q.shape, tl.float32)
    high = tl.zeros(q.shape, tl.float32)
    sum0 = tl.zeros(at.shape, tl.float32)
    sum1 = tl.zeros(at.shape, tl.float32)
    for s in tl.static_range(4):
        x0 = tl.load(x + s * PLANE + at, mask=in2, other=0.0)
        x1 = tl.load(x + s * PLANE + at + 16, mask=in2, other=0.0)
        lifted0, lifted1 = lifted(x0, 8 * s), lifted(x1, 8 * s + 4)
        low += code_at(q, 8 * s, 4) * lifted0[None]
        low += code_at(top, 8 * s, 2) * (lifted0 * 16.0)[None]
        high += code_at(q, 8 * s + 4, 4) * lifted1[None]
        high += code_at(top, 8 * s + 4, 2) * (lifted1 * 16.0)[None]
        sum0 += x0
        sum1 += x1
    low, high = low * 2.0**49 - 32.0 * sum0[None], high * 2.0**49 - 32.0 * sum1[None]
    return d[:, :, None] * (scale0 * low + scale1 * high)


@triton.jit
def _dots_nibbles(KIND: tl.constexpr, row: tl.tensor, rows_in: tl.tensor, unit: tl.tensor,
                  units_in: tl.tensor, x: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """Q4_0, Q4_1, Q5_0, Q5_1: units of 32 weights, one block."""
    start: tl.constexpr = 4 if KIND == 3 or KIND == 7 else 2
    five: tl.constexpr = KIND == 6 or KIND == 7
    codes: tl.constexpr = start + 4 if five else start
    block_bytes: tl.constexpr = codes + 16
    wide: tl.constexpr = start == 4
    offset: tl.constexpr = 16.0 if five else 8.0
    w = tl.arange(0, 4)
    mask2 = rows_in[:, None] & units_in[None, :]
    mask3 = mask2[:, :, None] & (w[None, None, :] < 4)
    block = row[:, None] + (unit * block_bytes)[None, :]
    q = word_at(row[:, None, None], (unit * block_bytes + codes)[None, :, None], w[None, None, :], mask3,
                wide)
    d = half_at(block, mask2)
    at = unit[:, None] * 8 + w[None, :]
    in2 = units_in[:, None] & (w[None, :] < 4)
    if five:
        fifth = word_at(block, start, 0, mask2, wide)[:, :, None] >> (w * 4)[None, None, :]
    total = tl.zeros(q.shape, tl.float32)
    sums = tl.zeros(at.shape, tl.float32)
    for s in tl.static_range(4):
        x0 = tl.load(x + s * PLANE + at, mask=in2, other=0.0)
        x1 = tl.load(x + s * PLANE + at + 4, mask=in2, other=0.0)
        total += code_at(q, 8 * s, 4) * lifted(x0, 8 * s)[None]
        total += code_at(q, 8 * s + 4, 4) * lifted(x1, 8 * s + 4)[None]
        if five:
            total += code_at(fifth, s, 1) * lifted(x0 * 16.0, s)[None]
            total += code_at(fifth, s + 16, 1) * lifted(x1 * 16.0, s + 16)[None]
        sums += x0 + x1
    total *= 2.0**49
    if wide:
        return d[:, :, None] * total + half_at(block + 2, mask2)[:, :, None] * sums[None]
    else:
        return d[:, :, None] * (total - offset * sums[None])


@triton.jit
def _dots_plain(KIND: tl.constexpr, row: tl.tensor, rows_in: tl.tensor, unit: tl.tensor,
                units_in: tl.tensor, x: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """F32, F16, BF16 and Q8_0: units of 32 weights, one word of four values after another."""
    w = tl.arange(0, 8)
    mask2 = rows_in[:, None] & units_in[None, :]
    mask3 = mask2[:, :, None] & (w[None, None, :] < 8)
    at = unit[:, None] * 8 + w[None, :]
    in2 = units_in[:, None] & (w[None, :] < 8)
    total = tl.zeros(mask3.shape, tl.float32)
    if KIND == 8:
        q = word_at(row[:, None, None], (unit * 34 + 2)[None, :, None], w[None, None, :], mask3, False)
    for s in tl.static_range(4):
        x0 = tl.load(x + s * PLANE + at, mask=in2, other=0.0)
        if KIND == 8:
            value = ((q << (24 - 8 * s)) >> 24).to(tl.float32)
        elif KIND == 0:
            value = tl.load(row[:, None, None].to(tl.pointer_type(tl.float32)) + (at * 4 + s)[None],
                            mask=mask3, other=0.0)
        elif KIND == 1:
            value = tl.load(row[:, None, None].to(tl.pointer_type(tl.float16)) + (at * 4 + s)[None],
                            mask=mask3, other=0.0)
            value = value.to(tl.float32)
        else:
            tl.static_assert(KIND == 30)
            bits = tl.load(row[:, None, None].to(tl.pointer_type(tl.uint16)) + (at * 4 + s)[None],
                           mask=mask3, other=0)
            value = (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
        total += value * x0[None]
    if KIND == 8:
        total = half_at(row[:, None] + (unit * 34)[None, :], mask2)[:, :, None] * total
    return total


@triton.jit
def unit_dots(KIND: tl.constexpr, row: tl.tensor, rows_in: tl.tensor, unit: tl.tensor, units_in: tl.tensor,
              x: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """Partial dots [rows, units, words]: uint8 row pointers [rows], unit numbers [units], x planes of PLANE
    values.
    """
    if KIND == 12 or KIND == 13:
        return _dots_k45(KIND, row, rows_in, unit, units_in, x, PLANE)
    elif KIND == 14:
        return _dots_q6_k(row, rows_in, unit, units_in, x, PLANE)
    elif KIND == 0 or KIND == 1 or KIND == 8 or KIND == 30:
        return _dots_plain(KIND, row, rows_in, unit, units_in, x, PLANE)
    else:
        return _dots_nibbles(KIND, row, rows_in, unit, units_in, x, PLANE)


@triton.jit
def row_dots(
    KIND: tl.constexpr, row: tl.tensor, rows_in: tl.tensor, x: tl.tensor, units: tl.tensor,
    COLS: tl.constexpr, R: tl.constexpr, UNITS: tl.constexpr, WORDS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Dot products of R rows with x over the first `units` units, UNITS at a time → float32 [R]."""
    total = tl.zeros([R, UNITS, WORDS], tl.float32)
    for first in range(0, units, UNITS):
        unit = first + tl.arange(0, UNITS)
        total += unit_dots(KIND, row, rows_in, unit, unit < units, x, COLS // 4)
    return tl.sum(tl.reshape(total, [R, UNITS * WORDS]), 1)
