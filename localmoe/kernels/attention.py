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

from localmoe.kernels.atomics import fetch_add, store_release
from localmoe.kernels.attention_block import ASKED, blocks_seen, element_bytes, first_key, one_block
from localmoe.kernels.elementwise import exp1, quantize_group, store_f32_at
from localmoe.kernels.geometry import BLOCK, GROUP, SCALED, TASK, TILE
from localmoe.kernels.simd import (
    args20,
    args21,
    bits_to_f32,
    fma16,
    load_f32,
    load_f32x16,
    load_i64,
    mul16,
    splat_f32x16,
    store_f32x16,
)
from quant.compiled import compiled, compiled_callback, link

link(one_block)
COUNTERS = 64  # bytes from `step`, a cache line of its own, to how many blocks of each head are done


@compiled()
def _merge(into: int, part: int, head_dim: int) -> None:
    """Merges one head's partial softmax (max, sum, values) into another."""
    m0, m1 = load_f32(into), load_f32(part)
    m = max(m0, m1)
    a, b = exp1(m0 - m), exp1(m1 - m)
    store_f32_at(into, 0, m)
    store_f32_at(into, 1, load_f32(into + 4) * a + load_f32(part + 4) * b)
    for d in range(8, 8 + head_dim * 4, 64):
        scaled = mul16(load_f32x16(part + d), splat_f32x16(b))
        store_f32x16(into + d, fma16(load_f32x16(into + d), splat_f32x16(a), scaled))


@compiled()
def _finish(part: int, head_dim: int, out: int, sink: int) -> None:
    """One head's output: its values over the sum of its softmax; the score at `sink` joins it (0: none)."""
    most, total, share = load_f32(part), load_f32(part + 4), np.float32(1)
    if sink:
        top = max(most, load_f32(sink))
        share = exp1(most - top)
        total = total * share + exp1(load_f32(sink) - top)
    inverse = share / total
    for d in range(0, head_dim * 4, 64):
        store_f32x16(out + d, mul16(load_f32x16(part + 8 + d), splat_f32x16(inverse)))


@compiled_callback(TASK)
def attend_task(args: int, item: int, worker: int) -> None:
    """One KV head of one token: all blocks in order. item = token * kv_heads + kv head; out [tokens, heads,
    head_dim].
    """
    (q, out, step, heads, kv_heads, head_dim, context, keys, key_scales, values, value_scales,
     kind, scale, window, scratch, scratch_bytes, _, _, _, _, sinks) = args21(args)  # fmt: skip
    token, head = item // kv_heads, item % kv_heads
    position, group = load_i64(step) + token, heads // kv_heads
    oldest = max(0, position - window + 1) if window > 0 else 0
    elements = element_bytes(kind)
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
        one_block(kind, query, group, head_dim, head_keys, key_scales + scales, head_values,
                   value_scales + scales,
                   block, low, high, bits_to_f32(scale), mine, target, False, 0, 0, 0, 0)  # fmt: skip
        if block != oldest // BLOCK:
            for h in range(group):
                _merge(whole + h * stride, part + h * stride, head_dim)
    for h in range(group):
        _finish(whole + h * stride, head_dim, out + (token * heads + head * group + h) * head_dim * 4,
                sinks + (head * group + h) * 4 if sinks else 0)


@compiled(forceinline=True)
def keys_of(args: int, item: int) -> tuple[int, int]:
    """Where the keys of an item of `block_task` begin, and how many bytes of them count; none behind the last
    item.
    """
    (_, _, step, _, kv_heads, head_dim, context, keys, _, _, _,
     kind, _, window, _, _, _, _, _, _) = args20(args)  # fmt: skip
    position = load_i64(step)
    first, blocks = blocks_seen(position, window)
    head, block = item // blocks, first + item % blocks
    tiles = (min(BLOCK, position + 1 - block * BLOCK) + TILE - 1) // TILE if head < kv_heads else 0
    size = tiles * TILE * head_dim * element_bytes(kind)
    return first_key(kind, keys, context, head_dim, head, block), size


@compiled(forceinline=True)
def heads_together(heads: int, kv_heads: int, head_dim: int) -> int:
    """How many KV heads are merged together: one, if its query heads are whole groups of int8, else all."""
    return 1 if heads // kv_heads * head_dim % GROUP == 0 else kv_heads


@compiled()
def _merge_heads(partial, first, end, heads, head_dim, blocks, out, q, scales, sums, sinks) -> None:
    """Merges what is known of heads first..end-1, block after block, into out [heads, head_dim], and their
    int8 form unless q is 0.
    """
    stride = (head_dim + 2) * 4
    for h in range(first, end):
        whole = partial + h * stride
        for block in range(1, blocks):
            _merge(whole, partial + (block * heads + h) * stride, head_dim)
        _finish(whole, head_dim, out + h * head_dim * 4, sinks + h * 4 if sinks else 0)
    if q:
        cols, last = heads * head_dim, end * head_dim
        for g in range(first * head_dim // GROUP, (last + GROUP - 1) // GROUP):
            quantize_group(out + g * GROUP * 4, min(GROUP, cols - g * GROUP), q, scales, sums, 0, g,
                           (cols + GROUP - 1) // GROUP)  # fmt: skip


@compiled_callback(TASK)
def block_task(args: int, item: int, worker: int) -> None:
    """One block of one KV head of one token, for decoding: item = kv head * blocks + block, counted from the
    oldest: a thread that takes the next item reads on in keys and in values. → partial [blocks, heads]

    Whoever does a head's last one merges them: → out [heads, head_dim] and its int8 form (`_merge_heads`).
    What is done is counted from `step + COUNTERS` on, int64 [kv_heads] that are zero, and zero again after.
    """
    (q, out, step, heads, kv_heads, head_dim, context, keys, key_scales, values, value_scales,
     kind, scale, window, scratch, scratch_bytes, partial, out_q, out_scales, out_sums, sinks) = args21(args)
    position = load_i64(step)
    oldest = max(0, position - window + 1) if window > 0 else 0
    first, blocks = blocks_seen(position, window)
    head, turn, group = item // blocks, item % blocks, heads // kv_heads
    block, elements = first + turn, element_bytes(kind)
    scales = head * context * (head_dim // SCALED) * 2
    low, high = max(0, oldest - block * BLOCK), min(BLOCK, position + 1 - block * BLOCK)
    later, later_bytes = keys_of(args, item + 1)
    last, last_bytes = keys_of(args, item + 2)  # too: a head's last block may be short, in keys and in time
    _, key_bytes = keys_of(args, item)  # those after them a whole block before this one has asked for in part
    asked = min(later_bytes, max(0, ASKED * BLOCK * head_dim // 32 - key_bytes)) if turn else 0
    one_block(kind, q + head * group * head_dim * 4, group, head_dim,
               keys + head * context * head_dim * elements, key_scales + scales,
               values + head * context * head_dim * elements, value_scales + scales, block, low, high,
               bits_to_f32(scale),
               scratch + worker * scratch_bytes,
               partial + (turn * heads + head * group) * (head_dim + 2) * 4,
               True, later + asked, later + later_bytes, last, last + last_bytes)  # fmt: skip
    together = heads_together(heads, kv_heads, head_dim)
    counter, first_head = step + COUNTERS + head // together * 8, head // together * together
    if fetch_add(counter, 1) == together * blocks - 1:
        store_release(counter, 0)
        _merge_heads(partial, first_head * group, (first_head + together) * group, heads, head_dim, blocks,
                     out, out_q, out_scales, out_sums, sinks)  # fmt: skip
