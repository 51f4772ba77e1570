"""Grouped-query attention over a KV cache, in blocks of 256 positions merged in fixed order.

Layout, for each layer and KV head: keys in tiles of 16 positions, dimension by dimension, so that 16 keys
are 16 lanes and a score needs no sum across lanes; values position by position. Both are float16, float32
(for exact comparison), or int8 with a float16 scale for every 32 dimensions of a position (`q8_0`).

    keys    [kv_heads, context / 16, head_dim, 16]        scales [kv_heads, context / 16, head_dim / 32, 16]
    values  [kv_heads, context, head_dim]                 scales [kv_heads, context, head_dim / 32]

A block gives (max, sum, weighted values) of its own softmax; blocks are merged one after the other
(Milakov & Gimelshein 2018). Decoding computes a token's blocks on all cores, prefill one token and head
after another: the same operations in the same order, so the same bits.
"""

from __future__ import annotations

import numpy as np

from localmoe.kernels.elementwise import exp16, store_f32_at
from localmoe.kernels.geometry import BLOCK, KV_F16, KV_F32, KV_Q8_0, SCALED, TILE
from localmoe.kernels.simd import (
    add16,
    args16,
    args20,
    bits_to_f32,
    fma16,
    load_f16,
    load_f16_f32x16,
    load_f32,
    load_f32x16,
    load_i8_f32x16,
    max16,
    max_lane16,
    mul16,
    splat_f32x16,
    store_f16,
    store_f32x16,
    store_i8,
    sub16,
    sum16,
    zero_f32x16,
)
from localmoe.kernels.tasks import TASK
from quant.compiled import compiled, compiled_callback

_NEGATIVE = np.float32(-np.inf)
_SIXTEENTH = np.float32(0.0625)


@compiled(forceinline=True)
def _exp(x):
    return sum16(exp16(splat_f32x16(np.float32(x)))) * _SIXTEENTH


@compiled()
def _rotate(x: int, heads: int, head_dim: int, table: int, pairs: int) -> None:
    """Rotates pairs (2i, 2i + 1) of each head by the angles at `table`: float32 cos, sin interleaved (Su et
    al. 2021).
    """
    for h in range(heads):
        for i in range(pairs):
            at = x + (h * head_dim + 2 * i) * 4
            a, b = load_f32(at), load_f32(at + 4)
            cos, sin = load_f32(table + i * 8), load_f32(table + i * 8 + 4)
            store_f32_at(at, 0, a * cos - b * sin)
            store_f32_at(at, 1, a * sin + b * cos)


@compiled()
def _scale_of(x: int, n: int):
    """The q8_0 scale of n float32, as float16 will hold it, and its inverse."""
    top = np.float32(0)
    for i in range(n):
        top = max(top, abs(load_f32(x + i * 4)))
    scale = top / np.float32(127)
    return scale, np.float32(0) if scale == np.float32(0) else np.float32(1) / scale


@compiled_callback(TASK)
def append_task(args: int, item: int, worker: int) -> None:
    """Token `item`: rotates its q and k, and writes k and v into the cache at its position."""
    (q, k, v, position0, heads, kv_heads, head_dim, table, pairs, context,
     keys, key_scales, values, value_scales, kind, _) = args16(args)  # fmt: skip
    position = position0 + item
    angles = table + position * pairs * 8
    _rotate(q + item * heads * head_dim * 4, heads, head_dim, angles, pairs)
    _rotate(k + item * kv_heads * head_dim * 4, kv_heads, head_dim, angles, pairs)
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
            for d in range(head_dim):
                store_f16(keys + (key + d * TILE) * 2, load_f32(k + row + d * 4))
                store_f16(values + (value + d) * 2, load_f32(v + row + d * 4))
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


@compiled(forceinline=True)
def _element_bytes(kind: int) -> int:
    if kind == KV_Q8_0:
        return 1
    return 4 if kind == KV_F32 else 2


@compiled(forceinline=True)
def _keys16(kind: int, keys: int, scales: int, tile: int, head_dim: int, d: int):
    """Dimension d of 16 keys."""
    at = (tile * head_dim + d) * TILE
    if kind == KV_F32:
        return load_f32x16(keys + at * 4)
    if kind == KV_Q8_0:
        scale = load_f16_f32x16(scales + (tile * (head_dim // SCALED) + d // SCALED) * TILE * 2)
        return mul16(load_i8_f32x16(keys + at), scale)
    return load_f16_f32x16(keys + at * 2)


@compiled(forceinline=True)
def _values16(kind: int, values: int, scales: int, position: int, head_dim: int, d: int):
    """Dimensions d..d+15 of one value."""
    at = position * head_dim + d
    if kind == KV_F32:
        return load_f32x16(values + at * 4)
    if kind == KV_Q8_0:
        scale = load_f16(scales + (position * (head_dim // SCALED) + d // SCALED) * 2)
        return mul16(load_i8_f32x16(values + at), splat_f32x16(scale))
    return load_f16_f32x16(values + at * 2)


@compiled()
def _scores(kind, q, head_dim, keys, key_scales, first, heads, scale, p) -> None:
    """p[h, 0..255] = scale * q[h] · key, for four heads (or one) and a block's 256 keys (16 tiles from
    `first`).
    """
    for tile in range(BLOCK // TILE):
        if heads == 4:
            s0, s1, s2, s3 = zero_f32x16(), zero_f32x16(), zero_f32x16(), zero_f32x16()
            for d in range(head_dim):
                k = _keys16(kind, keys, key_scales, first + tile, head_dim, d)
                at = q + d * 4
                s0 = fma16(splat_f32x16(load_f32(at)), k, s0)
                s1 = fma16(splat_f32x16(load_f32(at + head_dim * 4)), k, s1)
                s2 = fma16(splat_f32x16(load_f32(at + head_dim * 8)), k, s2)
                s3 = fma16(splat_f32x16(load_f32(at + head_dim * 12)), k, s3)
            out = p + tile * TILE * 4
            store_f32x16(out, mul16(s0, splat_f32x16(scale)))
            store_f32x16(out + BLOCK * 4, mul16(s1, splat_f32x16(scale)))
            store_f32x16(out + BLOCK * 8, mul16(s2, splat_f32x16(scale)))
            store_f32x16(out + BLOCK * 12, mul16(s3, splat_f32x16(scale)))
        else:
            s0 = zero_f32x16()
            for d in range(head_dim):
                k = _keys16(kind, keys, key_scales, first + tile, head_dim, d)
                s0 = fma16(splat_f32x16(load_f32(q + d * 4)), k, s0)
            store_f32x16(p + tile * TILE * 4, mul16(s0, splat_f32x16(scale)))


@compiled(forceinline=True)
def _hide(p: int, low: int, high: int) -> None:
    """Sets the scores outside low..high-1 to minus infinity."""
    for i in range(low):
        store_f32_at(p, i, _NEGATIVE)
    for i in range(high, BLOCK):
        store_f32_at(p, i, _NEGATIVE)


@compiled()
def _softmax(p: int, low: int, high: int, out: int) -> None:
    """p[i] = e**(p[i] - max) for low ≤ i < high, 0 elsewhere in the block; out[0] = max, out[1] = sum."""
    _hide(p, low, high)
    tops = load_f32x16(p)
    for i in range(TILE, BLOCK, TILE):
        tops = max16(tops, load_f32x16(p + i * 4))
    top = max_lane16(tops)
    total = zero_f32x16()
    for i in range(0, BLOCK, TILE):
        e = exp16(sub16(load_f32x16(p + i * 4), splat_f32x16(top)))
        store_f32x16(p + i * 4, e)
        if i < low or i + TILE > high:  # e**-infinity came out as e**-87: make it nothing
            for lane in range(i, i + TILE):
                if lane < low or lane >= high:
                    store_f32_at(p, lane, np.float32(0))
            e = load_f32x16(p + i * 4)
        total = add16(total, e)
    store_f32_at(out, 0, top)
    store_f32_at(out, 1, sum16(total))


@compiled()
def _weigh(kind, p, low, high, values, value_scales, start, head_dim, heads, out, stride) -> None:
    """out[h, d] = sum over positions low..high-1 of p[h, i] * value[i, d], for four heads or one."""
    for d in range(0, head_dim, 16):
        if heads == 4:
            o0, o1, o2, o3 = zero_f32x16(), zero_f32x16(), zero_f32x16(), zero_f32x16()
            for i in range(low, high):
                v = _values16(kind, values, value_scales, start + i, head_dim, d)
                at = p + i * 4
                o0 = fma16(splat_f32x16(load_f32(at)), v, o0)
                o1 = fma16(splat_f32x16(load_f32(at + BLOCK * 4)), v, o1)
                o2 = fma16(splat_f32x16(load_f32(at + BLOCK * 8)), v, o2)
                o3 = fma16(splat_f32x16(load_f32(at + BLOCK * 12)), v, o3)
            store_f32x16(out + d * 4, o0)
            store_f32x16(out + stride + d * 4, o1)
            store_f32x16(out + stride * 2 + d * 4, o2)
            store_f32x16(out + stride * 3 + d * 4, o3)
        else:
            o0 = zero_f32x16()
            for i in range(low, high):
                v = _values16(kind, values, value_scales, start + i, head_dim, d)
                o0 = fma16(splat_f32x16(load_f32(p + i * 4)), v, o0)
            store_f32x16(out + d * 4, o0)


@compiled()
def _one_block(kind, q, group, head_dim, keys, key_scales, values, value_scales, block, low, high, scale, p,
               out) -> None:
    """One block of positions for the `group` query heads of a KV head → out [group, 2 + head_dim]: max, sum,
    values.

    low and high bound the positions that count, relative to the block's first.
    """
    stride = (head_dim + 2) * 4
    h = 0
    while h < group:
        heads = 4 if group - h >= 4 else 1
        _scores(kind, q + h * head_dim * 4, head_dim, keys, key_scales, block * (BLOCK // TILE), heads,
                scale, p)
        for i in range(heads):
            _softmax(p + i * BLOCK * 4, low, high, out + (h + i) * stride)
        _weigh(kind, p, low, high, values, value_scales, block * BLOCK, head_dim, heads,
               out + h * stride + 8, stride)
        h += heads


@compiled()
def _merge(into: int, part: int, head_dim: int) -> None:
    """Merges one head's partial softmax (max, sum, values) into another."""
    m0, m1 = load_f32(into), load_f32(part)
    m = max(m0, m1)
    a, b = _exp(m0 - m), _exp(m1 - m)
    store_f32_at(into, 0, m)
    store_f32_at(into, 1, load_f32(into + 4) * a + load_f32(part + 4) * b)
    for d in range(8, 8 + head_dim * 4, 64):
        scaled = mul16(load_f32x16(part + d), splat_f32x16(b))
        store_f32x16(into + d, fma16(load_f32x16(into + d), splat_f32x16(a), scaled))


@compiled()
def _finish(part: int, head_dim: int, out: int) -> None:
    inverse = np.float32(1) / load_f32(part + 4)
    for d in range(0, head_dim * 4, 64):
        store_f32x16(out + d, mul16(load_f32x16(part + 8 + d), splat_f32x16(inverse)))


@compiled_callback(TASK)
def attend_task(args: int, item: int, worker: int) -> None:
    """One KV head of one token: all blocks in order. item = token * kv_heads + kv head; out [tokens, heads,
    head_dim].
    """
    (q, out, position0, heads, kv_heads, head_dim, context, keys, key_scales, values, value_scales,
     kind, scale, window, scratch, scratch_bytes, _, _, _, _) = args20(args)  # fmt: skip
    token, head = item // kv_heads, item % kv_heads
    position, group = position0 + token, heads // kv_heads
    oldest = max(0, position - window + 1) if window > 0 else 0
    elements = _element_bytes(kind)
    head_keys = keys + head * context * head_dim * elements
    head_values = values + head * context * head_dim * elements
    scales = head * context * (head_dim // SCALED) * 2
    query = q + (token * heads + head * group) * head_dim * 4
    mine = scratch + worker * scratch_bytes
    part = mine + 4 * BLOCK * 4
    stride = (head_dim + 2) * 4
    whole = part + group * stride
    for block in range(oldest // BLOCK, position // BLOCK + 1):
        target = whole if block == oldest // BLOCK else part
        low, high = max(0, oldest - block * BLOCK), min(BLOCK, position + 1 - block * BLOCK)
        _one_block(kind, query, group, head_dim, head_keys, key_scales + scales, head_values,
                   value_scales + scales,
                   block, low, high, bits_to_f32(scale), mine, target)  # fmt: skip
        if block != oldest // BLOCK:
            for h in range(group):
                _merge(whole + h * stride, part + h * stride, head_dim)
    for h in range(group):
        _finish(whole + h * stride, head_dim, out + (token * heads + head * group + h) * head_dim * 4)


@compiled_callback(TASK)
def block_task(args: int, item: int, worker: int) -> None:
    """One block of one KV head of one token, for decoding: item = block * kv_heads + kv head, counted from
    the oldest.
    """
    (q, _, position, heads, kv_heads, head_dim, context, keys, key_scales, values, value_scales,
     kind, scale, window, scratch, scratch_bytes, partial, _, _, _) = args20(args)  # fmt: skip
    oldest = max(0, position - window + 1) if window > 0 else 0
    block, head, group = oldest // BLOCK + item // kv_heads, item % kv_heads, heads // kv_heads
    elements = _element_bytes(kind)
    scales = head * context * (head_dim // SCALED) * 2
    low, high = max(0, oldest - block * BLOCK), min(BLOCK, position + 1 - block * BLOCK)
    _one_block(kind, q + head * group * head_dim * 4, group, head_dim,
               keys + head * context * head_dim * elements, key_scales + scales,
               values + head * context * head_dim * elements, value_scales + scales, block, low, high,
               bits_to_f32(scale),
               scratch + worker * scratch_bytes, partial + item * group * (head_dim + 2) * 4)  # fmt: skip


@compiled("void(int64, int64, int64, int64, int64, int64)")
def merge_blocks(partial: int, blocks: int, heads: int, kv_heads: int, head_dim: int, out: int) -> None:
    """Merges what `block_task` left, block after block, into out [heads, head_dim]."""
    group = heads // kv_heads
    stride = (head_dim + 2) * 4
    for h in range(heads):
        first = partial + h * stride
        for block in range(1, blocks):
            _merge(first, partial + (block * kv_heads * group + h) * stride, head_dim)
        _finish(first, head_dim, out + h * head_dim * 4)
