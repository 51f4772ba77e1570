"""`dot_tile` for rows of 32-weight blocks (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4): eight fill a
panel.
"""

from __future__ import annotations

from localmoe.kernels.ahead import prefetch_lines
from localmoe.kernels.dot_blocks import (
    IQ4_NL,
    IQ4_NL_OFFSET,
    MXFP4,
    MXFP4_OFFSET,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_0_OFFSET,
    block_bytes,
    copy_tail,
    fill_tails,
    two_blocks,
)
from localmoe.kernels.dot_steps import RUN_4, RUN_5, dots4, level_dots4
from localmoe.kernels.dot_tile import four_groups, store_row
from localmoe.kernels.geometry import (
    GROUP,
    PANEL,
    ROWS,
    SUMS,
    TAIL,
    TERMS,
    TILE,
    D,
    M,
)
from localmoe.kernels.simd import (
    add16,
    fma16,
    load_f16,
    load_f32,
    load_f32x16,
    load_i32x16,
    load_u8,
    mul16,
    splat_f32x16,
    splat_i32x16,
    store_f32,
    store_f32x16,
    store_i32,
    to_f32x16,
    zero_f32x16,
    zero_i32x16,
)
from localmoe.kernels.simd_blocks import half_powers
from localmoe.kernels.simd_dot import dot_pairs
from localmoe.kernels.simd_quad import NARROW, again
from localmoe.kernels.simd_tile import (
    as_i16x32,
    splat_2_shorts,
    transpose16,
)
from quant.compiled import compiled, compiled_once


@compiled(forceinline=True)
def _build_blocks(kind: int, rows: int, row_bytes: int, count: int, offset: int, blocks: int, table: int,
                  tile: int) -> None:
    """Unpacks eight blocks, `offset` bytes into each of `count` rows, as `dot_tile.build_k`; fewer at the
    end of a row, where zeros stand in for the others.
    """
    size = block_bytes(kind)
    if blocks < 8:
        fill_tails(tile + TAIL, 1)
    for row in range(TILE):
        b = rows + min(row, count - 1) * row_bytes + offset
        if blocks < 8:
            copy_tail(b, blocks * size, tile + TAIL)
            b = tile + TAIL
        v0, v1 = two_blocks(kind, b, size, table), two_blocks(kind, b + 2 * size, size, table)
        v2, v3 = two_blocks(kind, b + 4 * size, size, table), two_blocks(kind, b + 6 * size, size, table)
        store_row(tile + ROWS + row * GROUP, v0, v1, v2, v3)
        for k in range(8):
            if kind == MXFP4:
                store_i32(tile + D + (k * TILE + row) * 4, load_u8(b + k * size))
            else:
                store_f32(tile + D + (k * TILE + row) * 4, load_f16(b + k * size))
            if kind == Q4_1 or kind == Q5_1:
                store_f32(tile + M + (k * TILE + row) * 4, load_f16(b + k * size + 2))
    for part in range(4):
        transpose16(tile + ROWS + part * 64, GROUP, tile + PANEL + part * 1024)
    if kind == MXFP4:
        for k in range(8):
            store_f32x16(tile + D + k * 64, half_powers(load_i32x16(tile + D + k * 64)))


@compiled(forceinline=True)
def _term(has_minimum: bool, tile: int, k: int, a, sums: int):
    """Block k's float32 term for sixteen rows."""
    term = mul16(load_f32x16(tile + D + k * 64), to_f32x16(a))
    if has_minimum:
        total = dot_pairs(zero_i32x16(), as_i16x32(splat_i32x16(0x10001)), splat_2_shorts(sums + k * 4))
        term = fma16(load_f32x16(tile + M + k * 64), to_f32x16(total), term)
    return term


@compiled(forceinline=True)
def _block4(wide: bool, run: int, offset: int, has_minimum: bool, tile: int, k: int, q0, q1, q2, q3, s0, s1,
            s2, s3):  # fmt: skip
    """Block k's terms for four tokens; the offset's share of the integer dot comes first."""
    z, minus = zero_i32x16(), as_i16x32(splat_i32x16((-offset & 0xFFFF) * 0x10001))
    a0, a1, a2, a3 = z, z, z, z
    if offset:
        a0, a1 = dot_pairs(z, minus, splat_2_shorts(s0 + k * 4)), dot_pairs(z, minus,
                                                                            splat_2_shorts(s1 + k * 4))
        a2, a3 = dot_pairs(z, minus, splat_2_shorts(s2 + k * 4)), dot_pairs(z, minus,
                                                                            splat_2_shorts(s3 + k * 4))
    at = k * 32
    panel = tile + PANEL + k * 512
    if wide:
        a0, a1, a2, a3 = level_dots4(panel, q0 + at, q1 + at, q2 + at, q3 + at, a0, a1, a2, a3)
    else:
        a0, a1, a2, a3 = dots4(run, panel, q0 + at, q1 + at, q2 + at, q3 + at, a0, a1, a2, a3)
    return (_term(has_minimum, tile, k, a0, s0), _term(has_minimum, tile, k, a1, s1),
            _term(has_minimum, tile, k, a2, s2), _term(has_minimum, tile, k, a3, s3))  # fmt: skip


@compiled(forceinline=True)
def _pair(terms: int, k: int):
    return add16(load_f32x16(terms + k * 64), load_f32x16(terms + k * 64 + 64))


@compiled(forceinline=True)
def _finish_block(terms: int, scale: int, acc: int, first: bool) -> None:
    """Adds one token's eight terms as `simd_quad.tree_terms` does: ((0+1)+(4+5)) +
    ((2+3)+(6+7)).
    """
    value = add16(add16(_pair(terms, 0), _pair(terms, 4)), add16(_pair(terms, 2), _pair(terms, 6)))
    before = zero_f32x16() if first else load_f32x16(acc)
    store_f32x16(acc, fma16(value, splat_f32x16(load_f32(scale)), before))


@compiled(forceinline=True)
def _tokens_blocks(wide, run, offset, has_minimum, tile, groups, g, q, scales, sums, index, tokens, acc):
    for t in range(0, tokens, 4):
        n0, n1, n2, n3 = four_groups(index, t, tokens, groups, g)
        q0, q1, q2, q3 = q + n0 * GROUP, q + n1 * GROUP, q + n2 * GROUP, q + n3 * GROUP
        w = SUMS * 2
        s0, s1, s2, s3 = sums + n0 * w, sums + n1 * w, sums + n2 * w, sums + n3 * w
        terms = tile + TERMS
        for k in range(again(8) if NARROW else 8):
            x0, x1, x2, x3 = _block4(wide, run, offset, has_minimum, tile, k, q0, q1, q2, q3, s0, s1, s2, s3)
            store_f32x16(terms + k * 64, x0)
            store_f32x16(terms + 512 + k * 64, x1)
            store_f32x16(terms + 1024 + k * 64, x2)
            store_f32x16(terms + 1536 + k * 64, x3)
        at = acc + t * 64
        _finish_block(terms, scales + n0 * 4, at, g == 0)
        if t + 1 < tokens:
            _finish_block(terms + 512, scales + n1 * 4, at + 64, g == 0)
        if t + 2 < tokens:
            _finish_block(terms + 1024, scales + n2 * 4, at + 128, g == 0)
        if t + 3 < tokens:
            _finish_block(terms + 1536, scales + n3 * 4, at + 192, g == 0)


@compiled_once()
def tile_blocks(kind, rows, row_bytes, count, cols, table, q, scales, sums, index, tokens, acc, tile) -> None:
    """acc [tokens, 16] = rows · x[index]: `count` ≤ 16 rows of `cols` weights, a multiple of 32. `tile`:
    TILE_BYTES of scratch.
    """
    groups, size = (cols + GROUP - 1) // GROUP, block_bytes(kind)
    for g in range(groups):
        blocks = min(8, (cols - g * GROUP) // 32)
        prefetch_lines(rows + TILE * row_bytes + g * TILE * 8 * size, TILE * blocks * size)
        _build_blocks(kind, rows, row_bytes, count, g * 8 * size, blocks, table, tile)
        if kind == Q4_0:
            _tokens_blocks(False, RUN_4, 8, False, tile, groups, g, q, scales, sums, index, tokens, acc)
        elif kind == Q4_1 or kind == Q5_1:
            _tokens_blocks(False, RUN_5, 0, True, tile, groups, g, q, scales, sums, index, tokens, acc)
        elif kind == Q5_0:
            _tokens_blocks(False, RUN_5, 16, False, tile, groups, g, q, scales, sums, index, tokens, acc)
        elif kind == Q8_0:
            _tokens_blocks(True, 0, Q8_0_OFFSET, False, tile, groups, g, q, scales, sums, index, tokens, acc)
        elif kind == IQ4_NL:
            _tokens_blocks(True, 0, IQ4_NL_OFFSET, False, tile, groups, g, q, scales, sums, index, tokens,
                           acc)  # fmt: skip
        else:
            _tokens_blocks(False, RUN_5, MXFP4_OFFSET, False, tile, groups, g, q, scales, sums, index, tokens,
                           acc)  # fmt: skip
