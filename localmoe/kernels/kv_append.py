"""What happens to queries and keys before attention: the norm of each head, if there is one, the rotary
embedding, and writing keys and values into the KV cache (its layout: `kernels.attention`).
"""

from __future__ import annotations

import numpy as np

from localmoe.kernels.ahead import prefetch_lines
from localmoe.kernels.attention_block import element_bytes
from localmoe.kernels.elementwise import rms_norm, store_f32_at
from localmoe.kernels.geometry import KV_F16, KV_F32, SCALED, TASK, TILE
from localmoe.kernels.simd import (
    add16,
    args20,
    bits_to_f32,
    load_f32,
    load_f32x16,
    load_i64,
    magnitude16,
    max_i32x16,
    max_lane_i32x16,
    mul16,
    store_f16,
    store_f32x16,
    store_i8,
    sub16,
    zero_i32x16,
)
from localmoe.kernels.simd_kv import rotated, store_f16x16, store_f16x16_apart
from quant.compiled import compiled, compiled_callback


@compiled()
def _rotate_neighbours(x: int, table: int, pairs: int) -> None:
    """Rotates pairs (2i, 2i + 1) of a head by the angles at `table`: float32 cos, sin interleaved (Su et
    al. 2021).
    """
    whole = pairs // 8 * 8
    for i in range(0, whole, 8):
        at = x + 2 * i * 4
        store_f32x16(at, rotated(load_f32x16(at), load_f32x16(table + i * 8)))
    for i in range(whole, pairs):
        at = x + 2 * i * 4
        a, b = load_f32(at), load_f32(at + 4)
        cos, sin = load_f32(table + i * 8), load_f32(table + i * 8 + 4)
        store_f32_at(at, 0, a * cos - b * sin)
        store_f32_at(at, 1, a * sin + b * cos)


@compiled()
def _rotate_halves(x: int, table: int, pairs: int) -> None:
    """Rotates pairs (i, i + pairs) of a head; at `table` are all cosines, then all sines."""
    half, whole = pairs * 4, pairs // 16 * 64
    for i in range(0, whole, 64):
        a, b = load_f32x16(x + i), load_f32x16(x + half + i)
        cos, sin = load_f32x16(table + i), load_f32x16(table + half + i)
        store_f32x16(x + i, sub16(mul16(a, cos), mul16(b, sin)))
        store_f32x16(x + half + i, add16(mul16(a, sin), mul16(b, cos)))
    for i in range(whole, half, 4):
        a, b = load_f32(x + i), load_f32(x + half + i)
        cos, sin = load_f32(table + i), load_f32(table + half + i)
        store_f32_at(x + i, 0, a * cos - b * sin)
        store_f32_at(x + half + i, 0, a * sin + b * cos)


@compiled()
def _prepare(
    x: int, heads: int, head_dim: int, norm: int, epsilon: float, table: int, pairs: int, halves: int
) -> None:
    """The norm, unless it is 0, and the rotation of each head, in place."""
    for at in range(x, x + heads * head_dim * 4, head_dim * 4):
        if norm:
            rms_norm(at, norm, head_dim, epsilon, at)
        if halves:
            _rotate_halves(at, table, pairs)
        else:
            _rotate_neighbours(at, table, pairs)


@compiled()
def _scale_of(x: int, n: int):
    """The q8_0 scale of n float32 (a multiple of 16), as float16 will hold it, and its inverse."""
    top = zero_i32x16()
    for i in range(0, n * 4, 64):
        top = max_i32x16(top, magnitude16(load_f32x16(x + i)))
    scale = bits_to_f32(max_lane_i32x16(top)) / np.float32(127)
    return scale, np.float32(0) if scale == np.float32(0) else np.float32(1) / scale


@compiled(forceinline=True)
def _ask(kind, keys, values, context: int, kv_heads: int, head_dim: int, position: int) -> None:
    """Asks the memory for the lines that keys and values of a position go to. Stores wait for theirs one
    after the other, and a key's dimensions lie in as many lines as the sixteen keys of its tile.
    """
    elements, tile = element_bytes(kind), position // TILE
    for h in range(kv_heads):
        prefetch_lines(keys + (h * (context // TILE) + tile) * head_dim * TILE * elements,
                       head_dim * TILE * elements)
        prefetch_lines(values + (h * context + position) * head_dim * elements, head_dim * elements)


@compiled_callback(TASK)
def append_task(args: int, item: int, worker: int) -> None:
    """Token `item`: norms and rotates its q and k, and writes k and v into the cache at its position."""
    (q, k, v, step, heads, kv_heads, head_dim, table, pairs, context, keys, key_scales, values, value_scales,
     kind, halves, q_norm, k_norm, epsilon, _) = args20(args)  # fmt: skip
    position = load_i64(step) + item
    angles = table + position * pairs * 8
    _ask(kind, keys, values, context, kv_heads, head_dim, position)
    _prepare(q + item * heads * head_dim * 4, heads, head_dim, q_norm, bits_to_f32(epsilon), angles, pairs,
             halves)
    _prepare(k + item * kv_heads * head_dim * 4, kv_heads, head_dim, k_norm, bits_to_f32(epsilon), angles,
             pairs, halves)
    tile, lane = position // TILE, position % TILE
    for h in range(kv_heads):
        row = (item * kv_heads + h) * head_dim * 4
        key = ((h * (context // TILE) + tile) * head_dim) * TILE + lane
        value = (h * context + position) * head_dim
        if kind == KV_F32:
            for d in range(head_dim):
                store_f32_at(keys, key + d * TILE, load_f32(k + row + d * 4))
                store_f32_at(values, value + d, load_f32(v + row + d * 4))
            continue
        if kind == KV_F16:
            for d in range(0, head_dim, 16):
                store_f16x16_apart(keys + (key + d * TILE) * 2, TILE * 2, load_f32x16(k + row + d * 4))
                store_f16x16(values + (value + d) * 2, load_f32x16(v + row + d * 4))
            continue
        for part in range(head_dim // SCALED):
            at = row + part * SCALED * 4
            k_scale, k_inverse = _scale_of(k + at, SCALED)
            v_scale, v_inverse = _scale_of(v + at, SCALED)
            key_part = ((h * (context // TILE) + tile) * (head_dim // SCALED) + part) * TILE + lane
            store_f16(key_scales + key_part * 2, k_scale)
            store_f16(value_scales + ((h * context + position) * (head_dim // SCALED) + part) * 2, v_scale)
            for d in range(SCALED):
                code = np.int64(np.rint(load_f32(k + at + d * 4) * k_inverse))
                store_i8(keys + key + (part * SCALED + d) * TILE, code)
                code = np.int64(np.rint(load_f32(v + at + d * 4) * v_inverse))
                store_i8(values + value + part * SCALED + d, code)
