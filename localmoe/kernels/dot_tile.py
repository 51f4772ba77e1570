"""Sixteen weight rows times many tokens: the prefill form of the dot products, with the same bits as the row
form.

Each activation group's weights of sixteen rows are unpacked once into a panel [64, 16 rows, 4 bytes], so
that sixteen rows are sixteen lanes and no sum across lanes is needed: a step is one load of the panel, and
for each token one broadcast of four activations and one dot instruction. The integers are those of `dot_k`
and `dot_blocks`, which compute them exactly, and the float32 steps that follow are the same operations in
the same order.
"""

from __future__ import annotations

from localmoe.kernels.ahead import prefetch_lines
from localmoe.kernels.dot_k_pair import (
    IQ4_XS,
    Q2_K,
    Q2_K_D,
    Q3_K,
    Q3_K_D,
    Q4_K,
    Q5_K,
    Q6_K,
    Q6_K_D,
    code_offset,
    codes_16,
    has_16_scales,
    has_minima,
    k_bytes,
)
from localmoe.kernels.dot_steps import IN_RUNS, LEVELS_RUN, RUN_3, RUN_4, RUN_5, RUN_Q6, scaled4
from localmoe.kernels.dot_xs import XS_OFFSET, levels_of_64
from localmoe.kernels.geometry import (
    GROUP,
    LOWS,
    PANEL,
    ROW_LOWS,
    ROW_SCALES,
    ROWS,
    SCALES,
    SUMS,
    TILE,
    D,
    M,
)
from localmoe.kernels.simd import (
    fma16,
    high_nibbles,
    load_f16,
    load_f32,
    load_f32x16,
    load_i8_i32x16,
    load_i8x32,
    load_i8x64,
    load_i16x32,
    load_i32,
    low_nibbles,
    mul16,
    mul_i32x16,
    or_bytes,
    splat_f32x16,
    splat_i32x16,
    store_f32,
    store_f32x16,
    store_i8x64,
    store_i32x16,
    sub_i32x16,
    to_f32x16,
    zero_f32x16,
    zero_i32x16,
)
from localmoe.kernels.simd_dot import dot_pairs
from localmoe.kernels.simd_formats import bit_planes, k_minima, k_scales, nibbles, two_bits
from localmoe.kernels.simd_planes import q2_minima32, q2_scales32, q3_scales32, xs_scales8
from localmoe.kernels.simd_quad import again
from localmoe.kernels.simd_tile import (
    double_lanes,
    first_of_pairs,
    pack_pairs,
    splat_2_shorts,
    transpose16,
)
from quant.compiled import compiled, compiled_once


@compiled(forceinline=True)
def store_row(at: int, v0, v1, v2, v3) -> None:
    store_i8x64(at, v0)
    store_i8x64(at + 64, v1)
    store_i8x64(at + 128, v2)
    store_i8x64(at + 192, v3)


@compiled()
def _unpack_k(kind: int, b: int, row: int, table: int, tile: int) -> None:
    """One row's block of 256 into the tile's row buffers, its d and dmin into place."""
    codes, scales, lows = tile + ROWS + row * GROUP, tile + ROW_SCALES + row * 64, tile + ROW_LOWS + row * 64
    if kind == Q6_K:
        first, second = load_i8x64(b), load_i8x64(b + 64)
        upper0, upper1 = load_i8x32(b + 128), load_i8x32(b + 160)
        v0 = or_bytes(low_nibbles(first), two_bits(upper0, 0))
        v1 = or_bytes(high_nibbles(first), two_bits(upper0, 4))
        v2 = or_bytes(low_nibbles(second), two_bits(upper1, 0))
        v3 = or_bytes(high_nibbles(second), two_bits(upper1, 4))
        store_row(codes, v0, v1, v2, v3)
        signed = load_i8_i32x16(b + 192)
        store_i32x16(scales, signed)
        store_i32x16(lows, pack_pairs(mul_i32x16(signed, splat_i32x16(32))))
        store_f32(tile + D + row * 4, load_f16(b + Q6_K_D))
        return
    if kind == IQ4_XS:
        store_row(codes, levels_of_64(b + 8, table), levels_of_64(b + 40, table),
                  levels_of_64(b + 72, table), levels_of_64(b + 104, table))  # fmt: skip
        eight = double_lanes(xs_scales8(b + 2))
        store_i32x16(scales, first_of_pairs(eight))
        store_i32x16(lows, pack_pairs(mul_i32x16(eight, splat_i32x16(XS_OFFSET))))
        store_f32(tile + D + row * 4, load_f16(b))
        return
    if kind == Q3_K:
        v0, v1, v2, v3 = codes_16(Q3_K, b)
        store_row(codes, v0, v1, v2, v3)
        signed = q3_scales32(b + 96)
        store_i32x16(scales, signed)
        store_i32x16(lows, pack_pairs(mul_i32x16(signed, splat_i32x16(code_offset(Q3_K)))))
        store_f32(tile + D + row * 4, load_f16(b + Q3_K_D))
        return
    if kind == Q2_K:
        v0, v1, v2, v3 = codes_16(Q2_K, b)
        store_row(codes, v0, v1, v2, v3)
        store_i32x16(scales, q2_scales32(b))
        store_i32x16(lows, pack_pairs(q2_minima32(b)))
        store_f32(tile + D + row * 4, load_f16(b + Q2_K_D))
        store_f32(tile + M + row * 4, -load_f16(b + Q2_K_D + 2))
        return
    if kind == Q4_K:
        at = b + 16
        store_row(codes, nibbles(load_i8x32(at)), nibbles(load_i8x32(at + 32)), nibbles(load_i8x32(at + 64)),
                   nibbles(load_i8x32(at + 96)))  # fmt: skip
    else:
        at, fifth = b + 48, load_i8x32(b + 16)
        store_row(codes, or_bytes(nibbles(load_i8x32(at)), bit_planes(fifth, 0)),
                   or_bytes(nibbles(load_i8x32(at + 32)), bit_planes(fifth, 2)),
                   or_bytes(nibbles(load_i8x32(at + 64)), bit_planes(fifth, 4)),
                   or_bytes(nibbles(load_i8x32(at + 96)), bit_planes(fifth, 6)))  # fmt: skip
    store_i32x16(scales, k_scales(b + 4))
    store_i32x16(lows, pack_pairs(double_lanes(k_minima(b + 4))))
    store_f32(tile + D + row * 4, load_f16(b))
    store_f32(tile + M + row * 4, -load_f16(b + 2))


@compiled()
def build_k(kind: int, rows: int, row_bytes: int, count: int, offset: int, table: int, tile: int) -> None:
    """Unpacks block `offset` bytes into each of `count` rows (≤ 16; the last stands in for missing ones)
    into the panel.
    """
    for row in range(TILE):
        _unpack_k(kind, rows + min(row, count - 1) * row_bytes + offset, row, table, tile)
    for part in range(4):
        transpose16(tile + ROWS + part * 64, GROUP, tile + PANEL + part * 1024)
    transpose16(tile + ROW_SCALES, 64, tile + SCALES)
    transpose16(tile + ROW_LOWS, 64, tile + LOWS)


@compiled(forceinline=True)
def _low(lows: int, sums: int):
    """The minima (or offsets) times the activations' sums: eight pairs of int16."""
    total = zero_i32x16()
    for k in range(8):
        total = dot_pairs(total, load_i16x32(lows + k * 64), splat_2_shorts(sums + k * 4))
    return total


@compiled(forceinline=True)
def _finish_k(minima: bool, tile: int, total, low, scale: int, acc: int, first: bool) -> None:
    d = load_f32x16(tile + D)
    if not minima:
        value = mul16(d, to_f32x16(sub_i32x16(total, low)))
    else:
        value = fma16(load_f32x16(tile + M), to_f32x16(low), mul16(d, to_f32x16(total)))
    before = zero_f32x16() if first else load_f32x16(acc)
    store_f32x16(acc, fma16(value, splat_f32x16(load_f32(scale)), before))


@compiled(forceinline=True)
def finish4_k(minima: bool, tile: int, s0, s1, s2, s3, n0: int, n1: int, n2: int, n3: int, scales: int,
              sums: int, t: int, tokens: int, acc: int, first: bool) -> None:
    """Adds a group's terms to four tokens' sums, `t` the first of them: their integers are s0..s3, their
    groups n0..n3. minima: else the tile's lows are the codes' offset.
    """
    lows, wide = tile + LOWS, SUMS * 2
    low0, low1 = _low(lows, sums + n0 * wide), _low(lows, sums + n1 * wide)
    low2, low3 = _low(lows, sums + n2 * wide), _low(lows, sums + n3 * wide)
    at = acc + t * 64
    _finish_k(minima, tile, s0, low0, scales + n0 * 4, at, first)
    if t + 1 < tokens:
        _finish_k(minima, tile, s1, low1, scales + n1 * 4, at + 64, first)
    if t + 2 < tokens:
        _finish_k(minima, tile, s2, low2, scales + n2 * 4, at + 128, first)
    if t + 3 < tokens:
        _finish_k(minima, tile, s3, low3, scales + n3 * 4, at + 192, first)


@compiled(forceinline=True)
def four_groups(index: int, t: int, tokens: int, groups: int, g: int):
    """Where group g of each of four tokens from t on is among all groups; the last token stands in for
    missing ones.
    """
    last = index + (tokens - 1) * 4
    at = index + t * 4
    return (load_i32(at) * groups + g, load_i32(min(at + 4, last)) * groups + g,
            load_i32(min(at + 8, last)) * groups + g, load_i32(min(at + 12, last)) * groups + g)  # fmt: skip


@compiled(forceinline=True)
def _tokens_k(kind: int, run: int, tile: int, groups: int, g: int, q: int, scales: int, sums: int, index: int,
              tokens: int, acc: int):
    """Multiplies the panel with every token's group g, four tokens at a time. run: as for `scaled4`."""
    subs, steps = (16, 4) if has_16_scales(kind) else (8, 8)
    for t in range(0, tokens, 4):
        n0, n1, n2, n3 = four_groups(index, t, tokens, groups, g)
        q0, q1, q2, q3 = q + n0 * GROUP, q + n1 * GROUP, q + n2 * GROUP, q + n3 * GROUP
        s0, s1, s2, s3 = zero_i32x16(), zero_i32x16(), zero_i32x16(), zero_i32x16()
        for sub in range(again(subs)):
            at, scale = sub * steps * 4, tile + SCALES + sub * 64
            s0, s1, s2, s3 = scaled4(run, tile + PANEL + at * TILE, steps, q0 + at, q1 + at, q2 + at, q3 + at,
                                     scale, s0, s1, s2, s3)  # fmt: skip
        finish4_k(has_minima(kind), tile, s0, s1, s2, s3, n0, n1, n2, n3, scales, sums, t, tokens, acc,
                  g == 0)  # fmt: skip


@compiled_once()
def tile_k(kind, rows, row_bytes, count, cols, table, q, scales, sums, index, tokens, acc, tile) -> None:
    """acc [tokens, 16] = rows · x[index]: `count` ≤ 16 rows of a K-quant or IQ4_XS, whose levels `table` has.
    `tile`: TILE_BYTES of scratch.
    """
    groups, size = cols // GROUP, k_bytes(kind)
    for g in range(groups):
        prefetch_lines(rows + TILE * row_bytes + g * TILE * size, TILE * size)  # of the next sixteen rows
        build_k(kind, rows, row_bytes, count, g * size, table, tile)
        if kind == Q6_K:
            _tokens_k(Q6_K, RUN_Q6, tile, groups, g, q, scales, sums, index, tokens, acc)
        elif kind == Q3_K:
            _tokens_k(Q3_K, RUN_3, tile, groups, g, q, scales, sums, index, tokens, acc)
        elif kind == Q2_K:
            _tokens_k(Q2_K, RUN_3, tile, groups, g, q, scales, sums, index, tokens, acc)
        elif kind == IQ4_XS:
            _tokens_k(IQ4_XS, LEVELS_RUN, tile, groups, g, q, scales, sums, index, tokens, acc)
        elif IN_RUNS and kind == Q5_K:
            _tokens_k(Q5_K, RUN_5, tile, groups, g, q, scales, sums, index, tokens, acc)
        else:
            _tokens_k(Q4_K, RUN_4, tile, groups, g, q, scales, sums, index, tokens, acc)
