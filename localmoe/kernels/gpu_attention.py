"""Grouped-query attention on the GPU over a KV cache of float16, or int8 with a float16 scale per 32
dimensions (`q8_0`).

    keys, values  [kv_heads, context, head_dim]        scales [kv_heads, context, head_dim / 32]

Decoding: one program per KV head and block of 256 positions leaves (max, sum, weighted values); another
merges the blocks in fixed order (Milakov & Gimelshein 2018). The position is read from device memory, so
that a recorded graph serves every step: its grid covers the whole context and programs beyond the position
end at once. Scores use tensor cores on float16 keys with the query split in two float16 parts, which keeps
float32's precision.
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.gpu_words import planar, plane_lift

BLOCK = 256


@triton.jit
def _q8(even: tl.tensor, odd: tl.tensor, PAIRS: tl.constexpr) -> tl.tensor:
    """The scale of each 32 dimensions, given as pairs [PAIRS]: float32 [PAIRS / 16]."""
    top = tl.maximum(tl.abs(even), tl.abs(odd))
    return tl.max(tl.reshape(top, [PAIRS // 16, 16]), 1) / 127.0


@triton.jit
def _store_vector(
    even: tl.tensor, odd: tl.tensor, at: tl.tensor, to: tl.tensor, scales: tl.tensor, HEAD_DIM: tl.constexpr,
    PAIRS: tl.constexpr, Q8: tl.constexpr,
) -> None:  # fmt: skip
    """Writes one head's vector, given as pairs, to cache row `at`."""
    i = tl.arange(0, PAIRS)
    inside = i * 2 < HEAD_DIM
    if Q8:
        scale = _q8(even, odd, PAIRS)
        part = tl.arange(0, PAIRS // 16)
        tl.store(scales + at * (HEAD_DIM // 32) + part, scale.to(tl.float16), mask=part < HEAD_DIM // 32)
        inverse = tl.where(scale == 0.0, 0.0, 1.0 / scale)
        spread = tl.reshape(tl.broadcast_to(inverse[:, None], [PAIRS // 16, 16]), [PAIRS])
        even, odd = even * spread, odd * spread
        even = tl.where(even < 0, even - 0.5, even + 0.5).to(tl.int32)
        odd = tl.where(odd < 0, odd - 0.5, odd + 0.5).to(tl.int32)
    tl.store(to + at * HEAD_DIM + i * 2, even.to(to.dtype.element_ty), mask=inside)
    tl.store(to + at * HEAD_DIM + i * 2 + 1, odd.to(to.dtype.element_ty), mask=inside)


@triton.jit
def _turned(
    head: tl.tensor, norm: tl.tensor, epsilon: tl.tensor, angles: tl.tensor, HEAD_DIM: tl.constexpr,
    ROPE_PAIRS: tl.constexpr, PAIRS: tl.constexpr, HALVES: tl.constexpr, NORMED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """One head's vector, normed where NORMED, and rotated (Su et al. 2021), as pairs."""
    i = tl.arange(0, PAIRS)
    inside, turned = i * 2 < HEAD_DIM, i < ROPE_PAIRS
    first, second = i * 2, i * 2 + 1
    cos_at, sin_at = i * 2, i * 2 + 1
    if HALVES:
        first, second = tl.where(turned, i, first), tl.where(turned, i + ROPE_PAIRS, second)
        cos_at, sin_at = i, i + ROPE_PAIRS
    a, b = tl.load(head + first, mask=inside, other=0.0), tl.load(head + second, mask=inside, other=0.0)
    if NORMED:
        scale = 1.0 / tl.sqrt(tl.sum(a * a + b * b, 0) / HEAD_DIM + epsilon)
        a = a * scale * tl.load(norm + first, mask=inside, other=0.0)
        b = b * scale * tl.load(norm + second, mask=inside, other=0.0)
    cos = tl.load(angles + cos_at, mask=turned, other=1.0)
    sin = tl.load(angles + sin_at, mask=turned, other=0.0)
    return a * cos - b * sin, a * sin + b * cos


@triton.jit
def append_kernel(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, q_norm: tl.tensor, k_norm: tl.tensor, epsilon: tl.tensor,
    rope: tl.tensor, keys: tl.tensor, key_scales: tl.tensor, values: tl.tensor, value_scales: tl.tensor,
    position: tl.tensor, CONTEXT: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, ROPE_PAIRS: tl.constexpr, PAIRS: tl.constexpr, Q8: tl.constexpr,
    HALVES: tl.constexpr, NORMED: tl.constexpr,
) -> None:  # fmt: skip
    """Norms and rotates q in place, and k; appends k and v. Grid (tokens, heads + kv heads), one warp each.

    Where rotary pairs are halves apart, q and k are stored with the two of a pair side by side: attention
    asks no more than that both have their dimensions in the same order.
    """
    token, head = tl.program_id(0), tl.program_id(1)
    at = tl.load(position) + token
    angles = rope + at * ROPE_PAIRS * 2
    i = tl.arange(0, PAIRS)
    inside = i * 2 < HEAD_DIM
    if head < HEADS:
        base = q + (token * HEADS + head) * HEAD_DIM
        a, b = _turned(base, q_norm, epsilon, angles, HEAD_DIM, ROPE_PAIRS, PAIRS, HALVES, NORMED)
        if HALVES:
            tl.debug_barrier()  # in place: what a lane stores, others have loaded
        tl.store(base + i * 2, a, mask=inside)
        tl.store(base + i * 2 + 1, b, mask=inside)
    else:
        kv = head - HEADS
        source = (token * KV_HEADS + kv) * HEAD_DIM
        row = kv.to(tl.int64) * CONTEXT + at
        a, b = _turned(k + source, k_norm, epsilon, angles, HEAD_DIM, ROPE_PAIRS, PAIRS, HALVES, NORMED)
        _store_vector(a, b, row, keys, key_scales, HEAD_DIM, PAIRS, Q8)
        a = tl.load(v + source + i * 2, mask=inside, other=0.0)
        b = tl.load(v + source + i * 2 + 1, mask=inside, other=0.0)
        _store_vector(a, b, row, values, value_scales, HEAD_DIM, PAIRS, Q8)


@triton.jit
def _cached(
    rows: tl.tensor, row_in: tl.tensor, base: tl.tensor, scales: tl.tensor, HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    Q8: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Keys or values of cache rows: float16 [rows, DIMS]."""
    d = tl.arange(0, DIMS)
    inside = row_in[:, None] & (d < HEAD_DIM)[None, :]
    value = tl.load(base + rows[:, None] * HEAD_DIM + d[None, :], mask=inside, other=0)
    if Q8:
        scale = tl.load(scales + rows[:, None] * (HEAD_DIM // 32) + (d // 32)[None, :], mask=inside,
                        other=0.0)
        value = value.to(tl.float32) * scale.to(tl.float32)
    return value.to(tl.float16)


@triton.jit
def _split_dot(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """a float32 · b float16 in float32's precision: a's upper and lower half, each as float16."""
    high = a.to(tl.float16)
    low = (a - high.to(tl.float32)).to(tl.float16)
    return tl.dot(high, b) + tl.dot(low, b)


@triton.jit
def attend_block_kernel(
    q: tl.tensor, keys: tl.tensor, key_scales: tl.tensor, values: tl.tensor, value_scales: tl.tensor,
    partial: tl.tensor,
    position: tl.tensor, scale: tl.tensor, window: tl.tensor, CONTEXT: tl.constexpr, GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, Q8: tl.constexpr,
    TILE: tl.constexpr, WINDOWED: tl.constexpr,
) -> None:  # fmt: skip
    """One block of 256 positions for the query heads of one KV head → partial [heads, blocks, 2 +
    head_dim]. The first program's is the first block that a window shows.
    """
    kv, block = tl.program_id(0), tl.program_id(1)
    at = tl.load(position)
    oldest = tl.where(window > 0, tl.maximum(0, at - window + 1), 0)
    if WINDOWED:
        block += oldest // 256
    if (block * 256 <= at) & (block * 256 + 255 >= oldest):
        g = tl.arange(0, GROUP_PADDED)
        d = tl.arange(0, DIMS)
        own = (g < GROUP)[:, None] & (d < HEAD_DIM)[None, :]
        query = tl.load(q + (kv * GROUP + g)[:, None] * HEAD_DIM + d[None, :], mask=own, other=0.0)
        top = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
        total = tl.zeros([GROUP_PADDED], tl.float32)
        mixed = tl.zeros([GROUP_PADDED, DIMS], tl.float32)
        for tile in range(256 // TILE):
            p = block * 256 + tile * TILE + tl.arange(0, TILE)
            seen = (p >= oldest) & (p <= at)
            rows = kv.to(tl.int64) * CONTEXT + p
            key = _cached(rows, seen, keys, key_scales, HEAD_DIM, DIMS, Q8)
            scores = tl.where(seen[None, :], _split_dot(query, tl.trans(key)) * scale, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, 1))
            safe = tl.where(new_top == float("-inf"), 0.0, new_top)
            weight = tl.exp(scores - safe[:, None])
            fade = tl.exp(top - safe)
            value = _cached(rows, seen, values, value_scales, HEAD_DIM, DIMS, Q8)
            total = total * fade + tl.sum(weight, 1)
            mixed = mixed * fade[:, None] + _split_dot(weight, value)
            top = new_top
        out = partial + ((kv * GROUP + g) * (CONTEXT // 256) + block) * (HEAD_DIM + 2)
        tl.store(out, top, mask=g < GROUP)
        tl.store(out + 1, total, mask=g < GROUP)
        tl.store(out[:, None] + 2 + d[None, :], mixed, mask=own)


@triton.jit
def _with_sink(sink: tl.tensor, top: tl.tensor, total: tl.tensor, mixed: tl.tensor) -> tl.tensor:
    """Sums of exp(score - top), and of values by them, once a score without a value has joined."""
    new_top = tl.maximum(top, sink)
    fade = tl.exp(top - new_top)
    total = total * fade + tl.exp(sink - new_top)
    return total, mixed * (fade if len(mixed.shape) == 1 else fade[:, None])


@triton.jit
def merge_blocks_kernel(
    partial: tl.tensor, out: tl.tensor, position: tl.tensor, window: tl.tensor, sinks: tl.tensor,
    BLOCKS: tl.constexpr, HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, AT_ONCE: tl.constexpr,
) -> None:  # fmt: skip
    """Merges one head's blocks, AT_ONCE at a time in their order → out [heads * head_dim] in planes. `sinks`
    float32 [heads]: scores that join the softmax at the end and weigh no value; or None.
    """
    head = tl.program_id(0)
    at = tl.load(position)
    oldest = tl.where(window > 0, tl.maximum(0, at - window + 1), 0)
    d = tl.arange(0, DIMS)
    top = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    mixed = tl.zeros([DIMS], tl.float32)
    for first in range(oldest // 256 // AT_ONCE * AT_ONCE, at // 256 + 1, AT_ONCE):
        block = first + tl.arange(0, AT_ONCE)
        seen = (block >= oldest // 256) & (block <= at // 256)
        row = partial + (head * BLOCKS + block) * (HEAD_DIM + 2)
        tops = tl.load(row, mask=seen, other=float("-inf"))
        new_top = tl.maximum(top, tl.max(tops, 0))
        weight = tl.where(seen, tl.exp(tops - new_top), 0.0)
        fade = tl.exp(top - new_top)
        parts = tl.load(row[:, None] + 2 + d[None, :], mask=seen[:, None] & (d < HEAD_DIM)[None, :],
                        other=0.0)
        total = total * fade + tl.sum(weight * tl.load(row + 1, mask=seen, other=0.0), 0)
        mixed = mixed * fade + tl.sum(weight[:, None] * parts, 0)
        top = new_top
    if sinks is not None:
        total, mixed = _with_sink(tl.load(sinks + head), top, total, mixed)
    i = head * HEAD_DIM + d
    tl.store(out + planar(i, HEADS * HEAD_DIM), mixed / total * plane_lift(i), mask=d < HEAD_DIM)


@triton.jit
def attend_many_kernel(
    q: tl.tensor, keys: tl.tensor, key_scales: tl.tensor, values: tl.tensor, value_scales: tl.tensor,
    out: tl.tensor,
    position: tl.tensor, tokens: tl.tensor, scale: tl.tensor, window: tl.tensor, sinks: tl.tensor,
    CONTEXT: tl.constexpr, HEADS: tl.constexpr,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, Q8: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr,
) -> None:  # fmt: skip
    """Prefill: BM tokens of one head over all positions they see → out bfloat16 [tokens, heads *
    head_dim].
    """
    first, head = tl.program_id(0) * BM, tl.program_id(1)
    start = tl.load(position)
    t = first + tl.arange(0, BM)
    d = tl.arange(0, DIMS)
    own = (t < tokens)[:, None] & (d < HEAD_DIM)[None, :]
    query = tl.load(q + (t[:, None] * HEADS + head) * HEAD_DIM + d[None, :], mask=own, other=0.0)
    query = (query * scale).to(tl.float16)
    at = start + t
    oldest = tl.where(window > 0, tl.maximum(0, at - window + 1), 0)
    low = tl.where(window > 0, tl.maximum(0, start + first - window + 1), 0)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    mixed = tl.zeros([BM, DIMS], tl.float32)
    kv = head // GROUP
    for p0 in range(low // BN * BN, start + tl.minimum(first + BM, tokens), BN):
        p = p0 + tl.arange(0, BN)
        rows = kv.to(tl.int64) * CONTEXT + p
        here = p < start + tokens
        key = _cached(rows, here, keys, key_scales, HEAD_DIM, DIMS, Q8)
        seen = (p[None, :] <= at[:, None]) & (p[None, :] >= oldest[:, None])
        scores = tl.where(seen, tl.dot(query, tl.trans(key)), float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        safe = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = tl.exp(scores - safe[:, None])
        fade = tl.exp(top - safe)
        value = _cached(rows, here, values, value_scales, HEAD_DIM, DIMS, Q8)
        total = total * fade + tl.sum(weight, 1)
        mixed = mixed * fade[:, None] + tl.dot(weight.to(tl.float16), value)
        top = new_top
    if sinks is not None:
        total, mixed = _with_sink(tl.load(sinks + head), top, total, mixed)
    value = (mixed / total[:, None]).to(tl.bfloat16)
    tl.store(out + (t[:, None] * HEADS + head) * HEAD_DIM + d[None, :], value, mask=own)
