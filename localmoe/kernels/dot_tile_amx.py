"""Thirty-two K-quant rows times many tokens with AMX: `dot_tile_pair`'s work, with the same bits.

Scales are integers, so scale * code is one too, of at most 14 bits. Two bytes hold it, 256 * high + low, and

    sum(scale * code * activation) = 256 * sum(high * activation) + sum(low * activation)

over all 256 of a group: two products of int8 matrices, exact in int32, with no scale between them. Sixteen
tokens meet sixteen rows in one instruction. The float32 steps that follow are `dot_tile`'s.
"""

from __future__ import annotations

from localmoe.kernels.ahead import prefetch_lines
from localmoe.kernels.dot_k_pair import has_16_scales, has_minima, k_bytes
from localmoe.kernels.dot_tile import build_k, finish4_k, four_groups
from localmoe.kernels.geometry import (
    AMX_CONFIG,
    AMX_TOKENS,
    AMX_TOTALS,
    GROUP,
    HIGH_PANELS,
    PANEL,
    SCALES,
    TILE,
    TILE_BYTES,
)
from localmoe.kernels.simd import (
    FORM,
    add_i32x16,
    load_i8x64,
    load_i32,
    load_i32x16,
    mul_i32x16,
    splat_i32x16,
    store_i8,
    store_i8x64,
)
from localmoe.kernels.simd_amx import (
    dot_0_5,
    dot_1_6,
    dot_2_7,
    dot_3_5,
    load_4,
    load_5,
    load_6,
    load_7,
    load_config,
    release,
    scaled_high,
    scaled_low,
    store_0,
    store_1,
    store_2,
    store_3,
    zero_0,
    zero_1,
    zero_2,
    zero_3,
)
from localmoe.kernels.simd_tile import twice_i16
from quant.compiled import compiled, compiled_once

AMX = FORM == "amx"
AMX_FEW = 24  # tokens from which panels of products pay


@compiled(forceinline=True)
def _configure(at: int) -> None:
    """Eight registers of 16 rows of 64 bytes. `at`: 64 bytes of scratch."""
    for i in range(64):
        store_i8(at + i, 0)
    store_i8(at, 1)
    for tile in range(8):
        store_i8(at + 16 + 2 * tile, 64)
        store_i8(at + 48 + tile, 16)
    load_config(at)


@compiled(forceinline=True)
def _build(kind: int, rows: int, row_bytes: int, count: int, offset: int, tile: int, high: int) -> None:
    """As `dot_tile.build_k`, but with scale * code: low bytes in the panel, the bytes above in `high`."""
    build_k(kind, rows, row_bytes, count, offset, 0, tile)
    steps = 4 if has_16_scales(kind) else 8  # of four codes with one scale
    for sub in range(64 // steps):
        scales = twice_i16(load_i32x16(tile + SCALES + sub * 64))
        for step in range(sub * steps, (sub + 1) * steps):
            at = step * 64
            codes = load_i8x64(tile + PANEL + at)
            store_i8x64(tile + PANEL + at, scaled_low(codes, scales))
            store_i8x64(high + at, scaled_high(codes, scales))


@compiled(forceinline=True)
def _gather(q: int, index: int, t: int, tokens: int, groups: int, g: int, to: int) -> None:
    """Group g of sixteen tokens' activations, side by side; the last token stands in for missing ones."""
    for i in range(TILE):
        x = q + (load_i32(index + min(t + i, tokens - 1) * 4) * groups + g) * GROUP
        for part in range(0, GROUP, 64):
            store_i8x64(to + i * GROUP + part, load_i8x64(x + part))


@compiled(forceinline=True)
def _multiply(x: int, low: int, high: int, low2: int, high2: int, totals: int) -> None:
    """totals [4, 16 tokens, 16 rows] = sixteen tokens times the panels of both tiles."""
    zero_0()
    zero_1()
    zero_2()
    zero_3()
    for part in range(4):
        at = part * 1024
        load_4(x + part * 64, GROUP)
        load_5(low + at, 64)
        dot_0_5()
        load_6(high + at, 64)
        dot_1_6()
        load_7(low2 + at, 64)
        dot_2_7()
        load_5(high2 + at, 64)
        dot_3_5()
    store_0(totals, 64)
    store_1(totals + 1024, 64)
    store_2(totals + 2048, 64)
    store_3(totals + 3072, 64)


@compiled(forceinline=True)
def _total(at: int):
    """One token's sums for sixteen rows."""
    return add_i32x16(load_i32x16(at), mul_i32x16(load_i32x16(at + 1024), splat_i32x16(256)))


@compiled(forceinline=True)
def _tokens(minima: bool, tile: int, groups: int, g: int, q: int, scales: int, sums: int, index: int,
            tokens: int, acc: int, other: int) -> None:
    second, more = tile + TILE_BYTES, tile + 2 * TILE_BYTES
    for first in range(0, tokens, TILE):
        _gather(q, index, first, tokens, groups, g, more + AMX_TOKENS)
        _multiply(more + AMX_TOKENS, tile + PANEL, more + HIGH_PANELS, second + PANEL,
                  more + HIGH_PANELS + 4096, more + AMX_TOTALS)  # fmt: skip
        for t in range(first, min(first + TILE, tokens), 4):
            n0, n1, n2, n3 = four_groups(index, t, tokens, groups, g)
            at = more + AMX_TOTALS + (t - first) * 64
            finish4_k(minima, tile, _total(at), _total(at + 64), _total(at + 128), _total(at + 192), n0, n1,
                      n2, n3, scales, sums, t, tokens, acc, g == 0)  # fmt: skip
            at += 2048
            finish4_k(minima, second, _total(at), _total(at + 64), _total(at + 128), _total(at + 192), n0, n1,
                      n2, n3, scales, sums, t, tokens, other, g == 0)  # fmt: skip


@compiled_once()
def tile_k_amx(kind, rows, count, second, second_count, row_bytes, cols, q, scales, sums, index, tokens, acc,
               other, tile) -> None:
    """As `dot_tile_pair.tile_k_pair`. `tile`: 2 * TILE_BYTES + AMX_BYTES of scratch."""
    groups, size = cols // GROUP, k_bytes(kind)
    tile_bytes = TILE * row_bytes
    following = 2 * tile_bytes if second == rows + tile_bytes else tile_bytes  # to the tiles of the next call
    more = tile + 2 * TILE_BYTES
    _configure(more + AMX_CONFIG)
    for g in range(groups):
        prefetch_lines(rows + following + g * TILE * size, TILE * size)
        prefetch_lines(second + following + g * TILE * size, TILE * size)
        _build(kind, rows, row_bytes, count, g * size, tile, more + HIGH_PANELS)
        _build(kind, second, row_bytes, second_count, g * size, tile + TILE_BYTES, more + HIGH_PANELS + 4096)
        if has_minima(kind):
            _tokens(True, tile, groups, g, q, scales, sums, index, tokens, acc, other)
        else:
            _tokens(False, tile, groups, g, q, scales, sums, index, tokens, acc, other)
    release()
