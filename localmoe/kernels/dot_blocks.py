"""Dot products of 32-weight block rows (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4) with int8 activations,
four rows at a time.

Each block's dot with its 32 activations is an exact integer; the eight blocks of an activation group are
scaled, added in one fixed tree, and enter the row's float32 sum as one term:

    term_k = d_k * (dot_k - offset * sum_k)  [+ m_k * sum_k]          acc = fma(tree(term), activation scale,
    acc)

A row whose length is no multiple of 256 ends in a group with fewer blocks: those are copied to scratch that
holds any others beyond them, which meet activations of 0, so that nothing is read past the row. They are
copied before the row is begun: what was written just before would be slow to read. Arguments as in `dot_k`.
"""

from __future__ import annotations

from localmoe.kernels.ahead import ask_after, in_halves, requests
from localmoe.kernels.geometry import GROUP, MXFP4_AT, SUMS
from localmoe.kernels.simd import (
    flip_sign_bytes,
    fma4,
    fma16,
    high_nibbles,
    join_i8x32,
    load_f32,
    load_i8x16,
    load_i8x32,
    load_i8x64,
    load_u32,
    low_nibbles,
    mul16,
    mul_i32x16,
    or_bytes,
    or_bytes32,
    splat_f32x4,
    splat_i32x16,
    store_f32x4,
    store_i8x16,
    store_i32x16,
    sub_i32x16,
    to_f32x16,
    zero_f32x4,
    zero_i32x16,
)
from localmoe.kernels.simd_blocks import (
    first_16_of_32,
    first_fifths22,
    first_fifths24,
    gather_block_halves,
    halves_to_quads,
    high_block_sums,
    last_quarters17,
    last_quarters18,
    last_quarters20,
    last_quarters22,
    last_quarters24,
    load_two_blocks,
    low_block_sums,
    near_halves18,
    near_halves20,
    near_powers17,
    second_16_of_32,
    second_fifths22,
    second_fifths24,
)
from localmoe.kernels.simd_dot import SIGNED, dot_both, dot_levels, levels_above_127, levels_above_128
from localmoe.kernels.simd_formats import (
    bits_to_16,
    load_table,
    nibbles16,
    of_high_nibbles,
    of_low_nibbles,
    select_bytes,
)
from localmoe.kernels.simd_quad import quad_sums, tree_terms
from quant.compiled import compiled, compiled_once

Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4 = 2, 3, 6, 7, 8, 20, 39  # ggml's type numbers
BLOCK = 32
Q8_0_OFFSET, IQ4_NL_OFFSET = (0, 0) if SIGNED else (128, 127)  # what codes stand above their weights
MXFP4_OFFSET = 12  # likewise; its levels are few enough to be multiplied as codes of 5 bits are
TAIL_BYTES = 320  # eight blocks, of the largest kind, in whole vectors
_FILLER = 0x3C3C3C3C  # a float16 scale of 1.06; MXFP4's of 0 would be a subnormal, at which CPUs are slow


@compiled(forceinline=True)
def block_bytes(kind: int) -> int:
    """Bytes of one block of 32 weights."""
    if kind == MXFP4:
        return 17
    if kind == Q4_0 or kind == IQ4_NL:
        return 18
    if kind == Q4_1:
        return 20
    if kind == Q5_0:
        return 22
    return 24 if kind == Q5_1 else 34


@compiled(forceinline=True)
def _codes(kind: int, b: int):
    """The 32 unsigned codes of a 4- or 5-bit block."""
    if kind == MXFP4:
        return nibbles16(load_i8x16(b + 1))
    if kind == Q4_0 or kind == IQ4_NL:
        return nibbles16(load_i8x16(b + 2))
    if kind == Q4_1:
        return nibbles16(load_i8x16(b + 4))
    if kind == Q5_0:
        return or_bytes32(nibbles16(load_i8x16(b + 6)), bits_to_16(load_u32(b + 2)))
    return or_bytes32(nibbles16(load_i8x16(b + 8)), bits_to_16(load_u32(b + 4)))


@compiled(forceinline=True)
def _eight_bits(weights):
    """Q8_0's weights as `dot_levels` takes them."""
    return levels_above_128(flip_sign_bytes(weights))


@compiled(forceinline=True)
def _levels(kind: int, table: int):
    """The levels that IQ4_NL's or MXFP4's codes stand for."""
    return load_table(table + (MXFP4_AT if kind == MXFP4 else 0))


@compiled(forceinline=True)
def _looked_up(kind: int, levels):
    """IQ4_NL's levels as `dot_levels` takes them; MXFP4's stay unsigned."""
    return levels_above_127(levels) if kind == IQ4_NL else levels


@compiled(forceinline=True)
def two_blocks(kind: int, b: int, size: int, table: int):
    """64 codes of two neighbouring blocks, unsigned; of Q8_0 and IQ4_NL as `dot_levels` takes them."""
    if kind == Q8_0:
        return _eight_bits(join_i8x32(load_i8x32(b + 2), load_i8x32(b + size + 2)))
    both = join_i8x32(_codes(kind, b), _codes(kind, b + size))
    if kind == IQ4_NL or kind == MXFP4:
        return _looked_up(kind, select_bytes(_levels(kind, table), both))
    return both


@compiled(forceinline=True)
def _packed(kind: int, b: int):
    """The nibbles of four neighbouring blocks: each one's last 16 bytes."""
    if kind == MXFP4:
        return last_quarters17(b)
    if kind == Q4_0 or kind == IQ4_NL:
        return last_quarters18(b)
    if kind == Q4_1:
        return last_quarters20(b)
    return last_quarters22(b) if kind == Q5_0 else last_quarters24(b)


@compiled(forceinline=True)
def _halves(kind: int, b0: int, b1: int, b2: int, b3: int):
    """The float16, or MXFP4's power of two, at b0..b3 and in the three blocks after: block k of row r in lane
    4k + r.
    """
    if kind == MXFP4:
        return near_powers17(b0, b1, b2, b3)
    if kind == Q4_0 or kind == IQ4_NL:
        return near_halves18(b0, b1, b2, b3)
    if kind == Q4_1:
        return near_halves20(b0, b1, b2, b3)
    return gather_block_halves(b0, b1, b2, b3, block_bytes(kind))


@compiled(forceinline=True)
def _four_blocks(kind: int, b: int, size: int, table: int, wide: bool, x0, x1):
    """Dots of four neighbouring blocks with their activations, each as one quad of partial sums.

    x0: activations 0..15 of each block, x1: 16..31; for Q8_0 all those of two blocks, of the other two.
    """
    if kind == Q8_0:
        first = _eight_bits(load_two_blocks(b + 2, size))
        second = _eight_bits(load_two_blocks(b + 2 + 2 * size, size))
        return halves_to_quads(dot_levels(zero_i32x16(), first, x0), dot_levels(zero_i32x16(), second, x1))
    packed = _packed(kind, b)
    if kind == IQ4_NL or kind == MXFP4:
        levels = _levels(kind, table)
        first = _looked_up(kind, of_low_nibbles(levels, packed))
        second = _looked_up(kind, of_high_nibbles(levels, packed))
    else:
        first, second = low_nibbles(packed), high_nibbles(packed)
    if kind == Q5_0:
        first, second = or_bytes(first, first_fifths22(b)), or_bytes(second, second_fifths22(b))
    if kind == Q5_1:
        first, second = or_bytes(first, first_fifths24(b)), or_bytes(second, second_fifths24(b))
    if wide:
        return dot_levels(dot_levels(zero_i32x16(), first, x0), second, x1)
    return dot_both(first, x0, second, x1)


@compiled(forceinline=True)
def _activations(kind: int, x: int, arranged: bool):
    """Those of four blocks as `_four_blocks` takes them."""
    if kind == Q8_0 or arranged:
        return load_i8x64(x), load_i8x64(x + 2 * BLOCK)
    return first_16_of_32(x), second_16_of_32(x)


@compiled(forceinline=True)
def terms(kind, wide, offset, has_minimum, b0, b1, b2, b3, size, table, x, apart, s, asked, times):
    """The float32 terms of four blocks each at b0..b3: block k of the r-th four in lane 4k + r.

    x: their activations, the same for all if `apart` is 0, else so many bytes apart and ordered as `HALVES`
    (`orders`); s: the sums of these; asked: see `ahead.requests`, times: `ahead.ask`.
    """
    d = _halves(kind, b0, b1, b2, b3)
    p0, q0 = _activations(kind, x, apart > 0)
    p1, q1 = _activations(kind, x + apart, True) if apart else (p0, q0)
    p2, q2 = _activations(kind, x + 2 * apart, True) if apart else (p0, q0)
    p3, q3 = _activations(kind, x + 3 * apart, True) if apart else (p0, q0)
    t0 = _four_blocks(kind, b0, size, table, wide, p0, q0)
    ask_after(t0, asked, 0, times)
    t1 = _four_blocks(kind, b1, size, table, wide, p1, q1)
    ask_after(t1, asked, 1, times)
    t2 = _four_blocks(kind, b2, size, table, wide, p2, q2)
    ask_after(t2, asked, 2, times)
    t3 = _four_blocks(kind, b3, size, table, wide, p3, q3)
    ask_after(t3, asked, 3, times)
    dots = quad_sums(t0, t1, t2, t3)
    if offset:
        dots = sub_i32x16(dots, mul_i32x16(s, splat_i32x16(offset)))
    out = mul16(d, to_f32x16(dots))
    if has_minimum:
        out = fma16(_halves(kind, b0 + 2, b1 + 2, b2 + 2, b3 + 2), to_f32x16(s), out)
    return out


@compiled(forceinline=True)
def _group(kind, wide, offset, has_minimum, b0, b1, b2, b3, table, x, scale, sums, acc, r0, at, row_bytes):
    """Adds one group's term to four rows' sums; b0..b3: the group's eight blocks in each row, which starts
    `at` bytes into the row; r0: the first row.
    """
    size = block_bytes(kind)
    half = 4 * size
    if kind == Q8_0:  # most bytes for its arithmetic: that each half asks for all lines it touches pays
        asked, asked2 = requests(r0, at, half, row_bytes), requests(r0, at + half, half, row_bytes)
    else:
        asked, asked2 = in_halves(requests(r0, at, 2 * half, row_bytes))
    times = 3 if kind == Q8_0 else 2  # each line is asked for; others have more to compute for their bytes
    first = terms(kind, wide, offset, has_minimum, b0, b1, b2, b3, size, table, x, 0, low_block_sums(sums),
                  asked, times)
    second = terms(kind, wide, offset, has_minimum, b0 + half, b1 + half, b2 + half, b3 + half, size, table,
                   x + GROUP // 2, 0, high_block_sums(sums), asked2, times)
    return fma4(tree_terms(first, second), splat_f32x4(load_f32(scale)), acc)


@compiled(forceinline=True)
def fill_tails(to: int, count: int) -> None:
    """Fills the room for `count` tails with what is a block of any type, with scales of ordinary size."""
    for i in range(0, count * TAIL_BYTES, 64):
        store_i32x16(to + i, splat_i32x16(_FILLER))


@compiled(forceinline=True)
def copy_tail(b: int, nbytes: int, to: int) -> None:
    """The nbytes (of at least one block) at b, to room for a tail."""
    last = nbytes - 16
    for i in range(0, last, 16):
        store_i8x16(to + i, load_i8x16(b + i))
    store_i8x16(to + last, load_i8x16(b + last))


@compiled(forceinline=True)
def _quad(kind, wide, offset, has_minimum, r0, r1, r2, r3, cols, table, q, scales, sums, out, scratch):
    size = block_bytes(kind)
    row_bytes = cols // BLOCK * size
    acc, first = zero_f32x4(), r0
    g, end, groups = 0, cols // GROUP, (cols + GROUP - 1) // GROUP
    if end < groups:
        at, nbytes = end * 8 * size, cols % GROUP // BLOCK * size
        fill_tails(scratch, 4)
        copy_tail(r0 + at, nbytes, scratch)
        copy_tail(r1 + at, nbytes, scratch + TAIL_BYTES)
        copy_tail(r2 + at, nbytes, scratch + 2 * TAIL_BYTES)
        copy_tail(r3 + at, nbytes, scratch + 3 * TAIL_BYTES)
    while g < groups:
        if g == end:
            at, end = g * 8 * size, groups
            r0, r1 = scratch - at, scratch + TAIL_BYTES - at
            r2, r3 = scratch + 2 * TAIL_BYTES - at, scratch + 3 * TAIL_BYTES - at
        while g < end:
            at = g * 8 * size
            acc = _group(kind, wide, offset, has_minimum, r0 + at, r1 + at, r2 + at, r3 + at, table,
                         q + g * GROUP, scales + g * 4, sums + g * SUMS * 2, acc, first, at, row_bytes)
            g += 1
    store_f32x4(out, acc)


@compiled_once()
def quad_blocks(kind, r0, r1, r2, r3, cols, table, q, scales, sums, out, scratch) -> None:
    """out [4] = four rows of `cols` weights (a multiple of 32) of a 32-weight block type times one token's
    activations. scratch: 4 * TAIL_BYTES.
    """
    if kind == Q4_0:
        _quad(Q4_0, False, 8, False, r0, r1, r2, r3, cols, table, q, scales, sums, out, scratch)
    elif kind == Q4_1:
        _quad(Q4_1, False, 0, True, r0, r1, r2, r3, cols, table, q, scales, sums, out, scratch)
    elif kind == Q5_0:
        _quad(Q5_0, False, 16, False, r0, r1, r2, r3, cols, table, q, scales, sums, out, scratch)
    elif kind == Q5_1:
        _quad(Q5_1, False, 0, True, r0, r1, r2, r3, cols, table, q, scales, sums, out, scratch)
    elif kind == Q8_0:
        _quad(Q8_0, True, Q8_0_OFFSET, False, r0, r1, r2, r3, cols, table, q, scales, sums, out,
              scratch)  # fmt: skip
    elif kind == IQ4_NL:
        _quad(IQ4_NL, True, IQ4_NL_OFFSET, False, r0, r1, r2, r3, cols, table, q, scales, sums, out,
              scratch)  # fmt: skip
    else:
        _quad(MXFP4, False, MXFP4_OFFSET, False, r0, r1, r2, r3, cols, table, q, scales, sums, out,
              scratch)  # fmt: skip
