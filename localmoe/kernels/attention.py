"""Grouped-query attention over a KV cache, in blocks of 256 positions merged in fixed order.

Layout, for each layer and KV head: keys in tiles of 16 positions, dimension by dimension, so that 16 keys
are 16 lanes and a score needs no sum across lanes; values position by position. Both are float16, float32
(for exact comparison), or int8 with a float16 scale for every 32 dimensions of a position (`q8_0`).

    keys    [kv_heads, context / 16, head_dim, 16]        scales [kv_heads, context / 16, head_dim / 32, 16]
    values  [kv_heads, context, head_dim]                 scales [kv_heads, context, head_dim / 32]

A block gives (max, sum, weighted values) of its own softmax; blocks are merged one after the other
(Milakov & Gimelshein 2018). Decoding computes a token's blocks on all cores, prefill one token and head
after another: the same operations in the same order, so the same bits. Every sum runs alone, dimension by
dimension or position by position; four of them run side by side, of four heads, of two and two tiles, or of
four tiles, because one addition must wait for the last.
"""

from __future__ import annotations

import numpy as np

from localmoe.kernels.elementwise import exp16, store_f32_at
from localmoe.kernels.geometry import BLOCK, KV_F16, KV_F32, KV_Q8_0, SCALED, TILE
from localmoe.kernels.simd import (
    add16,
    args10,
    args16,
    args20,
    bits_to_f32,
    fma16,
    load_f16,
    load_f16_f32x16,
    load_f32,
    load_f32x16,
    load_i8_f32x16,
    load_i64,
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
    (q, k, v, step, heads, kv_heads, head_dim, table, pairs, context,
     keys, key_scales, values, value_scales, kind, _) = args16(args)  # fmt: skip
    position = load_i64(step) + item
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


@compiled(forceinline=True)
def _put_scores(s, scale, p: int, tile: int) -> None:
    store_f32x16(p + tile * TILE * 4, mul16(s, splat_f32x16(scale)))


@compiled()
def _scores(kind, q, head_dim, keys, key_scales, first, low, high, heads, scale, p) -> None:
    """p[h, low..high-1] = scale * q[h] · key, for one, two or four heads and tiles low..high-1 of a block
    whose first tile is `first`.
    """
    wide = head_dim * 4
    second, third, fourth = p + BLOCK * 4, p + BLOCK * 8, p + BLOCK * 12
    tile = low
    while tile < high:
        s0, s1, s2, s3 = zero_f32x16(), zero_f32x16(), zero_f32x16(), zero_f32x16()
        if heads == 4:
            for d in range(head_dim):
                at, k = q + d * 4, _keys16(kind, keys, key_scales, first + tile, head_dim, d)
                s0 = fma16(splat_f32x16(load_f32(at)), k, s0)
                s1 = fma16(splat_f32x16(load_f32(at + wide)), k, s1)
                s2 = fma16(splat_f32x16(load_f32(at + wide * 2)), k, s2)
                s3 = fma16(splat_f32x16(load_f32(at + wide * 3)), k, s3)
            _put_scores(s0, scale, p, tile)
            _put_scores(s1, scale, second, tile)
            _put_scores(s2, scale, third, tile)
            _put_scores(s3, scale, fourth, tile)
            tile += 1
        elif heads == 2:
            other = min(tile + 1, high - 1)  # the last tile of an odd number is computed twice
            for d in range(head_dim):
                a, b = splat_f32x16(load_f32(q + d * 4)), splat_f32x16(load_f32(q + wide + d * 4))
                k = _keys16(kind, keys, key_scales, first + tile, head_dim, d)
                s0, s1 = fma16(a, k, s0), fma16(b, k, s1)
                k = _keys16(kind, keys, key_scales, first + other, head_dim, d)
                s2, s3 = fma16(a, k, s2), fma16(b, k, s3)
            _put_scores(s0, scale, p, tile)
            _put_scores(s1, scale, second, tile)
            _put_scores(s2, scale, p, other)
            _put_scores(s3, scale, second, other)
            tile += 2
        else:
            t1, t2, t3 = min(tile + 1, high - 1), min(tile + 2, high - 1), min(tile + 3, high - 1)
            for d in range(head_dim):
                a = splat_f32x16(load_f32(q + d * 4))
                s0 = fma16(a, _keys16(kind, keys, key_scales, first + tile, head_dim, d), s0)
                s1 = fma16(a, _keys16(kind, keys, key_scales, first + t1, head_dim, d), s1)
                s2 = fma16(a, _keys16(kind, keys, key_scales, first + t2, head_dim, d), s2)
                s3 = fma16(a, _keys16(kind, keys, key_scales, first + t3, head_dim, d), s3)
            _put_scores(s0, scale, p, tile)
            _put_scores(s1, scale, p, t1)
            _put_scores(s2, scale, p, t2)
            _put_scores(s3, scale, p, t3)
            tile += 4


@compiled()
def _softmax(p: int, low: int, high: int, out: int) -> None:
    """p[i] = e**(p[i] - max) for low ≤ i < high, 0 elsewhere in their tiles; out[0] = max, out[1] = sum."""
    begin, end = low // TILE * TILE, (high + TILE - 1) // TILE * TILE
    for i in range(begin, low):
        store_f32_at(p, i, _NEGATIVE)
    for i in range(high, end):
        store_f32_at(p, i, _NEGATIVE)
    tops = load_f32x16(p + begin * 4)
    for i in range(begin + TILE, end, TILE):
        tops = max16(tops, load_f32x16(p + i * 4))
    top = max_lane16(tops)
    total = zero_f32x16()
    for i in range(begin, end, TILE):
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
    """out[h, d] = sum over positions low..high-1 of p[h, i] * value[i, d], for one, two or four heads; two
    need an even number of sixteens of dimensions.
    """
    d = 0
    while d < head_dim:
        o0, o1, o2, o3 = zero_f32x16(), zero_f32x16(), zero_f32x16(), zero_f32x16()
        to = out + d * 4
        if heads == 4:
            for i in range(low, high):
                at, v = p + i * 4, _values16(kind, values, value_scales, start + i, head_dim, d)
                o0 = fma16(splat_f32x16(load_f32(at)), v, o0)
                o1 = fma16(splat_f32x16(load_f32(at + BLOCK * 4)), v, o1)
                o2 = fma16(splat_f32x16(load_f32(at + BLOCK * 8)), v, o2)
                o3 = fma16(splat_f32x16(load_f32(at + BLOCK * 12)), v, o3)
            store_f32x16(to, o0)
            store_f32x16(to + stride, o1)
            store_f32x16(to + stride * 2, o2)
            store_f32x16(to + stride * 3, o3)
            d += 16
        elif heads == 2:
            for i in range(low, high):
                a, b = splat_f32x16(load_f32(p + i * 4)), splat_f32x16(load_f32(p + BLOCK * 4 + i * 4))
                v = _values16(kind, values, value_scales, start + i, head_dim, d)
                o0, o1 = fma16(a, v, o0), fma16(b, v, o1)
                v = _values16(kind, values, value_scales, start + i, head_dim, d + 16)
                o2, o3 = fma16(a, v, o2), fma16(b, v, o3)
            store_f32x16(to, o0)
            store_f32x16(to + stride, o1)
            store_f32x16(to + 64, o2)
            store_f32x16(to + stride + 64, o3)
            d += 32
        elif head_dim - d >= 64:
            for i in range(low, high):
                a = splat_f32x16(load_f32(p + i * 4))
                o0 = fma16(a, _values16(kind, values, value_scales, start + i, head_dim, d), o0)
                o1 = fma16(a, _values16(kind, values, value_scales, start + i, head_dim, d + 16), o1)
                o2 = fma16(a, _values16(kind, values, value_scales, start + i, head_dim, d + 32), o2)
                o3 = fma16(a, _values16(kind, values, value_scales, start + i, head_dim, d + 48), o3)
            store_f32x16(to, o0)
            store_f32x16(to + 64, o1)
            store_f32x16(to + 128, o2)
            store_f32x16(to + 192, o3)
            d += 64
        else:
            for i in range(low, high):
                v = _values16(kind, values, value_scales, start + i, head_dim, d)
                o0 = fma16(splat_f32x16(load_f32(p + i * 4)), v, o0)
            store_f32x16(to, o0)
            d += 16


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
        heads = 4 if group - h >= 4 else (2 if group - h >= 2 and head_dim % 32 == 0 else 1)
        _scores(kind, q + h * head_dim * 4, head_dim, keys, key_scales, block * (BLOCK // TILE), low // TILE,
                (high + TILE - 1) // TILE, heads, scale, p)
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
    (q, out, step, heads, kv_heads, head_dim, context, keys, key_scales, values, value_scales,
     kind, scale, window, scratch, scratch_bytes, _, _, _, _) = args20(args)  # fmt: skip
    token, head = item // kv_heads, item % kv_heads
    position, group = load_i64(step) + token, heads // kv_heads
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
    (q, _, step, heads, kv_heads, head_dim, context, keys, key_scales, values, value_scales,
     kind, scale, window, scratch, scratch_bytes, partial, _, _, _) = args20(args)  # fmt: skip
    position = load_i64(step)
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


@compiled_callback(TASK)
def merge_task(args: int, item: int, worker: int) -> None:
    """Merges what `block_task` left, block after block, into out [heads, head_dim]: `share` heads an item."""
    partial, step, heads, head_dim, window, out, share, _, _, _ = args10(args)
    position = load_i64(step)
    oldest = max(0, position - window + 1) if window > 0 else 0
    blocks = position // BLOCK + 1 - oldest // BLOCK
    stride = (head_dim + 2) * 4
    for h in range(item * share, min(heads, (item + 1) * share)):
        first = partial + h * stride
        for block in range(1, blocks):
            _merge(first, partial + (block * heads + h) * stride, head_dim)
        _finish(first, head_dim, out + h * head_dim * 4)
