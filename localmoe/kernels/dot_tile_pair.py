"""Thirty-two weight rows times many tokens: two tiles of `dot_tile` at once, for CPUs with 32 wide registers.

Four activations that were fetched for one tile serve the other too, and twice as many sums are under way;
each tile's operations and their order are those of `dot_tile`, so the bits are the same.
"""

from __future__ import annotations

from localmoe.kernels.ahead import prefetch_lines
from localmoe.kernels.dot_k_pair import IQ4_XS, Q2_K, Q3_K, Q4_K, Q6_K, has_16_scales, has_minima, k_bytes
from localmoe.kernels.dot_tile import build_k, finish4_k, four_groups
from localmoe.kernels.geometry import GROUP, PANEL, SCALES, TILE, TILE_BYTES
from localmoe.kernels.simd import (
    AVX512,
    add_i32x16,
    load_i8x64,
    load_i32x16,
    mul_i32x16,
    zero_i32x16,
)
from localmoe.kernels.simd_dot import dot_bytes
from localmoe.kernels.simd_tile import splat_4_bytes
from quant.compiled import compiled, compiled_once

PAIRED = AVX512  # sixteen sums and their operands need more than sixteen registers


@compiled(forceinline=True)
def _scaled(total, dots, scale):
    return add_i32x16(total, mul_i32x16(dots, scale))


@compiled(forceinline=True)
def _tokens_k(kind: int, tile: int, groups: int, g: int, q: int, scales: int, sums: int, index: int,
              tokens: int, acc: int, other: int) -> None:
    """Multiplies both panels with every token's group g, four tokens at a time."""
    subs, steps = (16, 4) if has_16_scales(kind) else (8, 8)
    for t in range(0, tokens, 4):
        n0, n1, n2, n3 = four_groups(index, t, tokens, groups, g)
        q0, q1, q2, q3 = q + n0 * GROUP, q + n1 * GROUP, q + n2 * GROUP, q + n3 * GROUP
        z = zero_i32x16()
        r0, r1, r2, r3, s0, s1, s2, s3 = z, z, z, z, z, z, z, z  # the first tile's sums, the second's
        for sub in range(subs):
            at = sub * steps * 4
            panel = tile + PANEL + at * TILE
            a0, a1, a2, a3, b0, b1, b2, b3 = z, z, z, z, z, z, z, z
            for k in range(steps):
                v, w = load_i8x64(panel + k * 64), load_i8x64(panel + TILE_BYTES + k * 64)
                x0, x1 = splat_4_bytes(q0 + at + k * 4), splat_4_bytes(q1 + at + k * 4)
                x2, x3 = splat_4_bytes(q2 + at + k * 4), splat_4_bytes(q3 + at + k * 4)
                a0, a1 = dot_bytes(a0, v, x0), dot_bytes(a1, v, x1)
                a2, a3 = dot_bytes(a2, v, x2), dot_bytes(a3, v, x3)
                b0, b1 = dot_bytes(b0, w, x0), dot_bytes(b1, w, x1)
                b2, b3 = dot_bytes(b2, w, x2), dot_bytes(b3, w, x3)
            scale = load_i32x16(tile + SCALES + sub * 64)
            r0, r1 = _scaled(r0, a0, scale), _scaled(r1, a1, scale)
            r2, r3 = _scaled(r2, a2, scale), _scaled(r3, a3, scale)
            scale = load_i32x16(tile + TILE_BYTES + SCALES + sub * 64)
            s0, s1 = _scaled(s0, b0, scale), _scaled(s1, b1, scale)
            s2, s3 = _scaled(s2, b2, scale), _scaled(s3, b3, scale)
        finish4_k(has_minima(kind), tile, r0, r1, r2, r3, n0, n1, n2, n3, scales, sums, t, tokens, acc,
                  g == 0)  # fmt: skip
        finish4_k(has_minima(kind), tile + TILE_BYTES, s0, s1, s2, s3, n0, n1, n2, n3, scales, sums, t,
                  tokens, other, g == 0)  # fmt: skip


@compiled_once()
def tile_k_pair(kind, rows, count, second, second_count, row_bytes, cols, table, q, scales, sums, index,
                tokens, acc, other, tile) -> None:
    """acc [tokens, 16] = `count` rows · x[index], other [tokens, 16] = `second_count` other rows · x[index],
    all of one K-quant, or of IQ4_XS. `tile`: 2 * TILE_BYTES of scratch.
    """
    groups, size = cols // GROUP, k_bytes(kind)
    tile_bytes = TILE * row_bytes
    following = 2 * tile_bytes if second == rows + tile_bytes else tile_bytes  # to the tiles of the next call
    for g in range(groups):
        prefetch_lines(rows + following + g * TILE * size, TILE * size)
        prefetch_lines(second + following + g * TILE * size, TILE * size)
        build_k(kind, rows, row_bytes, count, g * size, table, tile)
        build_k(kind, second, row_bytes, second_count, g * size, table, tile + TILE_BYTES)
        if kind == Q6_K or kind == Q3_K:  # unpacked they are alike
            _tokens_k(Q6_K, tile, groups, g, q, scales, sums, index, tokens, acc, other)
        elif kind == IQ4_XS:
            _tokens_k(IQ4_XS, tile, groups, g, q, scales, sums, index, tokens, acc, other)
        elif kind == Q2_K:
            _tokens_k(Q2_K, tile, groups, g, q, scales, sums, index, tokens, acc, other)
        else:
            _tokens_k(Q4_K, tile, groups, g, q, scales, sums, index, tokens, acc, other)
