"""Attention over one block of the KV cache: scores, softmax, weighted values (its layout: `attention`)."""

from __future__ import annotations

import numpy as np

from localmoe.kernels.ahead import TO_SECOND_LEVEL
from localmoe.kernels.elementwise import exp16, store_f32_at
from localmoe.kernels.geometry import BLOCK, KV_F32, KV_Q8_0, SCALED, TILE
from localmoe.kernels.simd import (
    AVX512,
    add16,
    fma16,
    load_f16,
    load_f16_f32x16,
    load_f32,
    load_f32x16,
    load_i8_f32x16,
    max16,
    max_lane16,
    mul16,
    prefetch,
    prefetch_far,
    splat_f32x16,
    store_f32x16,
    sub16,
    sum16,
    zero_f32x16,
)
from quant.compiled import compiled, compiled_once

_ONE_BLOCK = "void(" + "int64, " * 11 + "float32, int64, int64, boolean, int64, int64, int64, int64)"
_NEGATIVE = np.float32(-np.inf)
WIDE = AVX512  # with 32 registers eight sums go on at once: four wait for one another
ASKED = 64  # bytes: a line, for which weighing 32 dimensions of a value asks, for later


@compiled(forceinline=True)
def element_bytes(kind: int) -> int:
    if kind == KV_Q8_0:
        return 1
    return 4 if kind == KV_F32 else 2


@compiled(forceinline=True)
def blocks_seen(position: int, window: int) -> tuple[int, int]:
    """The first block of the cache that a token at `position` attends to, and how many there are."""
    first = max(0, position - window + 1) // BLOCK if window > 0 else 0
    return first, position // BLOCK + 1 - first


@compiled(forceinline=True)
def first_key(kind: int, keys: int, context: int, head_dim: int, head: int, block: int) -> int:
    """The address of a block's first key of one KV head."""
    return int(keys + (head * context + block * BLOCK) * head_dim * element_bytes(kind))


@compiled(forceinline=True)
def _ask(line: int) -> None:
    """Asks for a line that is needed a little later, into the level of cache that weights go to first."""
    if TO_SECOND_LEVEL:
        prefetch_far(line)
    else:
        prefetch(line)


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


@compiled(forceinline=True)
def _put4_scores(s0, s1, s2, s3, scale, p: int, tile: int) -> None:
    """Of four heads."""
    _put_scores(s0, scale, p, tile)
    _put_scores(s1, scale, p + BLOCK * 4, tile)
    _put_scores(s2, scale, p + BLOCK * 8, tile)
    _put_scores(s3, scale, p + BLOCK * 12, tile)


@compiled(forceinline=True)
def _scores(kind, q, head_dim, keys, key_scales, first, low, high, heads, scale, p, values) -> None:
    """p[h, low..high-1] = scale * q[h] · key, for one, two or four heads and tiles low..high-1 of a block
    whose first tile is `first`. values: where the values of these positions begin, to be asked for meanwhile
    with the keys that follow; 0: they are near.
    """
    wide, two_keys = head_dim * 4, 2 * TILE * element_bytes(kind)  # bytes of one dimension of two tiles
    second = p + BLOCK * 4
    tile = low
    while tile < high:
        s0, s1, s2, s3 = zero_f32x16(), zero_f32x16(), zero_f32x16(), zero_f32x16()
        if heads == 4 and WIDE:
            other = min(tile + 1, high - 1)  # the last tile of an odd number is computed twice
            s4, s5, s6, s7 = zero_f32x16(), zero_f32x16(), zero_f32x16(), zero_f32x16()
            here = tile * head_dim * TILE * element_bytes(kind)
            for d in range(head_dim):
                if values:
                    _ask(values + here + d * two_keys)
                    prefetch(keys + first * head_dim * TILE * element_bytes(kind) + here
                             + (head_dim // 2 + d) * two_keys)  # fmt: skip
                at, k = q + d * 4, _keys16(kind, keys, key_scales, first + tile, head_dim, d)
                a, b = splat_f32x16(load_f32(at)), splat_f32x16(load_f32(at + wide))
                c, e = splat_f32x16(load_f32(at + wide * 2)), splat_f32x16(load_f32(at + wide * 3))
                s0, s1, s2, s3 = fma16(a, k, s0), fma16(b, k, s1), fma16(c, k, s2), fma16(e, k, s3)
                k = _keys16(kind, keys, key_scales, first + other, head_dim, d)
                s4, s5, s6, s7 = fma16(a, k, s4), fma16(b, k, s5), fma16(c, k, s6), fma16(e, k, s7)
            _put4_scores(s0, s1, s2, s3, scale, p, tile)
            _put4_scores(s4, s5, s6, s7, scale, p, other)
            tile += 2
        elif heads == 4:
            for d in range(head_dim):
                at, k = q + d * 4, _keys16(kind, keys, key_scales, first + tile, head_dim, d)
                s0 = fma16(splat_f32x16(load_f32(at)), k, s0)
                s1 = fma16(splat_f32x16(load_f32(at + wide)), k, s1)
                s2 = fma16(splat_f32x16(load_f32(at + wide * 2)), k, s2)
                s3 = fma16(splat_f32x16(load_f32(at + wide * 3)), k, s3)
            _put4_scores(s0, s1, s2, s3, scale, p, tile)
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


@compiled(forceinline=True)
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


@compiled(forceinline=True)
def _put4_values(o0, o1, o2, o3, to: int, stride: int) -> None:
    """Of four heads."""
    store_f32x16(to, o0)
    store_f32x16(to + stride, o1)
    store_f32x16(to + stride * 2, o2)
    store_f32x16(to + stride * 3, o3)


@compiled(forceinline=True)
def _weigh(kind, p, low, high, values, value_scales, start, head_dim, heads, out, stride, later,
           later_end, last, last_end) -> None:
    """out[h, d] = sum over positions low..high-1 of p[h, i] * value[i, d], for one, two or four heads; two
    need an even number of sixteens of dimensions. later..later_end and then last..last_end: what to ask the
    memory for meanwhile.
    """
    d = 0
    while d < head_dim:
        o0, o1, o2, o3 = zero_f32x16(), zero_f32x16(), zero_f32x16(), zero_f32x16()
        to = out + d * 4
        if heads == 4 and WIDE and head_dim - d >= 32:
            o4, o5, o6, o7 = zero_f32x16(), zero_f32x16(), zero_f32x16(), zero_f32x16()
            for i in range(low, high):
                if later < later_end:
                    _ask(later)
                    later += ASKED
                    if later >= later_end:
                        later, later_end, last = last, last_end, last_end
                at, v = p + i * 4, _values16(kind, values, value_scales, start + i, head_dim, d)
                a, b = splat_f32x16(load_f32(at)), splat_f32x16(load_f32(at + BLOCK * 4))
                c, e = splat_f32x16(load_f32(at + BLOCK * 8)), splat_f32x16(load_f32(at + BLOCK * 12))
                o0, o1, o2, o3 = fma16(a, v, o0), fma16(b, v, o1), fma16(c, v, o2), fma16(e, v, o3)
                v = _values16(kind, values, value_scales, start + i, head_dim, d + 16)
                o4, o5, o6, o7 = fma16(a, v, o4), fma16(b, v, o5), fma16(c, v, o6), fma16(e, v, o7)
            _put4_values(o0, o1, o2, o3, to, stride)
            _put4_values(o4, o5, o6, o7, to + 64, stride)
            d += 32
        elif heads == 4:
            for i in range(low, high):
                at, v = p + i * 4, _values16(kind, values, value_scales, start + i, head_dim, d)
                o0 = fma16(splat_f32x16(load_f32(at)), v, o0)
                o1 = fma16(splat_f32x16(load_f32(at + BLOCK * 4)), v, o1)
                o2 = fma16(splat_f32x16(load_f32(at + BLOCK * 8)), v, o2)
                o3 = fma16(splat_f32x16(load_f32(at + BLOCK * 12)), v, o3)
            _put4_values(o0, o1, o2, o3, to, stride)
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


@compiled_once(_ONE_BLOCK)
def one_block(kind, q, group, head_dim, keys, key_scales, values, value_scales, block, low, high, scale, p,
              out, far, later, later_end, last, last_end) -> None:
    """One block of positions for the `group` query heads of a KV head → out [group, 2 + head_dim]: max, sum,
    values.

    low and high bound the positions that count, relative to the block's first. far: keys and values come from
    memory, not from a cache; later..later_end and last..last_end: likewise what is needed after them.
    """
    stride = (head_dim + 2) * 4
    ask = values + block * BLOCK * head_dim * element_bytes(kind) if far else 0
    h = 0
    while h < group:
        heads = 4 if group - h >= 4 else (2 if group - h >= 2 and head_dim % 32 == 0 else 1)
        _scores(kind, q + h * head_dim * 4, head_dim, keys, key_scales, block * (BLOCK // TILE), low // TILE,
                (high + TILE - 1) // TILE, heads, scale, p, ask if h == 0 else 0)
        for i in range(heads):
            _softmax(p + i * BLOCK * 4, low, high, out + (h + i) * stride)
        _weigh(kind, p, low, high, values, value_scales, block * BLOCK, head_dim, heads,
               out + h * stride + 8, stride, later, later_end if h == 0 else later, last, last_end)
        h += heads
