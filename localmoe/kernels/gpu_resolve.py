"""The resolve kernel: after a layer's router, where are the chosen experts, who works on them, and who gives
way.

One warp runs it: what one thread stores, all have read before (several warps could take different branches).
It does on the device what `experts.statistics` and `experts.policy` define, in the same integers, so that a
decode step
never waits for the host. One program per layer; its tables stay in device memory between steps:

    address  int64 [layers, experts]  where an expert's bytes are now: its slot, else its home
    home     int64 [layers, experts]  pinned host memory; 0: only in the file, always work for the CPU
    slot_of  int32 [layers, experts]  its slot within its size class, or -1
    class_of int32 [layers]; slot_base, slot_bytes int64 [classes]; slots, filled int32 [classes]

`mode` 0 admits at once (the pass that reads a miss over the bus also stores it); otherwise the wish, a
newcomer, its victim (or -1: a slot is free) and by how much its score is higher, goes to `wishes`, for the
host to fulfil by background copies.
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.experts.policy import MARGIN, MARGIN_SHIFT
from localmoe.experts.statistics import (
    BONUS_SCALE,
    BONUS_SHIFT,
    ERROR_BITS,
    LOSS_SHIFT,
    ONE,
    SHIFTS,
)

HITS, MISSES, ADMITTED, WISHED, BUS_ROWS = range(5)
"""Places in `counters` int64 [8]; BUS_ROWS counts FFN rows of misses that the GPU read over the bus."""
MOST_WISHES = 1024  # more than one token's: 94 layers of 8 experts (Qwen3-235B-A22B) are 752

_ONE, _ERROR_BITS, _LOSS_SHIFT = tl.constexpr(ONE), tl.constexpr(ERROR_BITS), tl.constexpr(LOSS_SHIFT)
_BONUS_SHIFT, _BONUS_SCALE = tl.constexpr(BONUS_SHIFT), tl.constexpr(BONUS_SCALE)
_MARGIN, _MARGIN_SHIFT = tl.constexpr(MARGIN), tl.constexpr(MARGIN_SHIFT)
_MEMORIES, _FIRST_SHIFT, _SHIFT_STEP = tl.constexpr(len(SHIFTS)), tl.constexpr(SHIFTS[0]), tl.constexpr(
    SHIFTS[1] - SHIFTS[0])
_MOST_WISHES = tl.constexpr(MOST_WISHES)
_FAR = tl.constexpr(1 << 62)


@triton.jit
def _observe(
    chosen: tl.tensor, layer: tl.tensor, estimates: tl.tensor, used: tl.tensor, totals: tl.tensor,
    evidence: tl.tensor,
    pending: tl.tensor, clock: tl.tensor, LAYERS: tl.constexpr, EXPERTS: tl.constexpr, PADDED: tl.constexpr,
    K: tl.constexpr,
) -> None:  # fmt: skip
    """`ExpertStatistics.observe`."""
    m, e = tl.arange(0, 8), tl.arange(0, PADDED)
    m_in, e_in = m < _MEMORIES, e < EXPERTS
    now = tl.zeros([PADDED], tl.int64)
    for c in range(K):
        now = tl.where(e == tl.load(chosen + c), _ONE, now)
    tokens = tl.load(clock)
    length = tl.sum(((tokens + 1) >> tl.arange(0, 64).to(tl.int64) > 0).to(tl.int64), 0)
    shift = tl.minimum((m * _SHIFT_STEP + _FIRST_SHIFT).to(tl.int64), length)
    at = (m[:, None] * LAYERS + layer) * EXPERTS + e[None, :]
    both = m_in[:, None] & e_in[None, :]
    last = tl.load(used + layer * EXPERTS + e, mask=e_in, other=0).to(tl.int64)
    bonus = tl.load(evidence + 3 * _MEMORIES + m, mask=m_in, other=0)
    estimate = tl.load(estimates + at, mask=both, other=0).to(tl.int64)
    error = tl.where(both, now[None, :] - estimate, 0)
    surprise = tl.where(both, (error - bonus[:, None] * last[None, :]) >> _ERROR_BITS, 0)
    tl.store(estimates + at, (estimate + (error >> shift[:, None])).to(tl.int32), mask=both)
    loss = tl.load(pending + m, mask=m_in, other=0) + tl.sum(surprise * surprise, 1)
    tl.store(pending + m, loss, mask=m_in)
    residual = tl.load(pending + _MEMORIES + m, mask=m_in, other=0) + tl.sum(error * last[None, :], 1)
    tl.store(pending + _MEMORIES + m, residual, mask=m_in)
    repeats = tl.load(pending + 2 * _MEMORIES + m, mask=m_in, other=0) + tl.sum(last, 0)
    tl.store(pending + 2 * _MEMORIES + m, repeats, mask=m_in)
    fresh = now > 0
    tl.store(used + layer * EXPERTS + e, fresh.to(tl.int32), mask=e_in)
    total = tl.load(totals + layer * EXPERTS + e, mask=e_in, other=0)
    tl.store(totals + layer * EXPERTS + e, total + fresh.to(tl.int64), mask=e_in)
    tl.debug_barrier()


@triton.jit
def _end_token(evidence: tl.tensor, pending: tl.tensor, clock: tl.tensor) -> None:
    """`ExpertStatistics.end_token`."""
    m = tl.arange(0, 8)
    m_in = m < _MEMORIES
    loss = tl.load(evidence + m, mask=m_in, other=0)
    loss += (tl.load(pending + m, mask=m_in, other=0) - loss) >> _LOSS_SHIFT
    residual = tl.load(evidence + _MEMORIES + m, mask=m_in, other=0)
    residual += (tl.load(pending + _MEMORIES + m, mask=m_in,
        other=0) * _BONUS_SCALE - residual) >> _BONUS_SHIFT
    repeats = tl.load(evidence + 2 * _MEMORIES + m, mask=m_in, other=0)
    repeats += (tl.load(pending + 2 * _MEMORIES + m, mask=m_in,
        other=0) * _BONUS_SCALE - repeats) >> _BONUS_SHIFT
    bonus = tl.maximum(residual, 0) // tl.maximum(repeats, 1)
    tl.store(evidence + m, loss, mask=m_in)
    tl.store(evidence + _MEMORIES + m, residual, mask=m_in)
    tl.store(evidence + 2 * _MEMORIES + m, repeats, mask=m_in)
    tl.store(evidence + 3 * _MEMORIES + m, bonus, mask=m_in)
    least = tl.min(tl.where(m_in, loss, _FAR), 0)
    best = tl.min(tl.where(m_in & (loss == least), m, 8), 0)
    tokens = tl.load(clock)
    tl.store(clock + 1, best.to(tl.int64))
    tl.store(clock, tokens + 1)
    for row in range(3):
        tl.store(pending + row * _MEMORIES + m, tl.zeros([8], tl.int64), mask=m_in)


@triton.jit
def _victim(
    layer: tl.tensor, frequency: tl.tensor, bonus: tl.tensor, used: tl.tensor, slot_of: tl.tensor,
    class_of: tl.tensor, size_class: tl.tensor, LAYERS: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`policy.victim` of one size class: score << 24 | flat index, or a number beyond all if there is
    none. The layer's own used experts are those chosen just now: none gives way to another.
    """
    least = tl.full([], _FAR, tl.int64)
    for first in range(0, LAYERS * EXPERTS, BLOCK):
        i = first + tl.arange(0, BLOCK)
        inside = i < LAYERS * EXPERTS
        free = tl.load(slot_of + i, mask=inside, other=-1) >= 0
        free &= tl.load(class_of + i // EXPERTS, mask=inside, other=-1) == size_class
        last = tl.load(used + i, mask=inside, other=0)
        free &= (last == 0) | (i // EXPERTS != layer)
        score = tl.load(frequency + i, mask=inside, other=0).to(tl.int64) + bonus * last.to(tl.int64)
        least = tl.minimum(least, tl.min(tl.where(free, (score << 24) | i.to(tl.int64), _FAR), 0))
    return least


@triton.jit
def resolve_kernel(
    chosen: tl.tensor, layer: tl.tensor, estimates: tl.tensor, used: tl.tensor, totals: tl.tensor,
    evidence: tl.tensor,
    pending: tl.tensor, clock: tl.tensor, address: tl.tensor, home: tl.tensor, slot_of: tl.tensor,
    class_of: tl.tensor,
    slot_base: tl.tensor, slot_bytes: tl.tensor, slots: tl.tensor, filled: tl.tensor, staging: tl.tensor,
    mode: tl.tensor,
    share: tl.tensor, counters: tl.tensor, wishes: tl.tensor, source: tl.tensor, target: tl.tensor,
    gpu_rows: tl.tensor,
    LAYERS: tl.constexpr, EXPERTS: tl.constexpr, PADDED: tl.constexpr, K: tl.constexpr, FFN: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """chosen int32 [K] → source, target int64 [K] and gpu_rows int32 [K] for the layer's expert kernels.

    `share` int32 [K + 1]: FFN rows of a miss that the GPU computes, by the number of misses. The CPU has the
    rest, and all rows of every miss that it shares with an expert that is only in the file.
    """
    _observe(chosen, layer, estimates, used, totals, evidence, pending, clock, LAYERS, EXPERTS, PADDED, K)
    memory = tl.load(clock + 1)
    bonus = tl.load(evidence + 3 * _MEMORIES + memory)
    frequency = estimates + memory * LAYERS * EXPERTS
    size_class = tl.load(class_of + layer)
    at_once = tl.load(mode) == 0
    misses, in_file = 0, 0
    for c in range(K):
        flat = layer * EXPERTS + tl.load(chosen + c)
        missing = tl.load(slot_of + flat) < 0
        misses += missing.to(tl.int32)
        in_file += (missing & (tl.load(home + flat) == 0)).to(tl.int32)
    rows = tl.load(share + misses)
    # the CPU starts at the same row of every expert that it is handed (post_kernel)
    rows = tl.where((in_file > 0) & (rows < FFN), 0, rows)
    admitted, wished = tl.load(counters + 2), tl.load(counters + 3)
    bus_rows = tl.load(counters + 4)
    least, known = tl.full([], _FAR, tl.int64), 0  # the victim: the same until it has given way
    for c in range(K):
        flat = layer * EXPERTS + tl.load(chosen + c)
        here = tl.load(address + flat)
        come_from = tl.load(home + flat)
        if tl.load(slot_of + flat) >= 0:
            tl.store(source + c, here)
            tl.store(target + c, here)
            tl.store(gpu_rows + c, FFN)
        else:
            limit = tl.load(slots + size_class)
            taken = tl.load(filled + size_class)
            if known == 0:
                least = _victim(layer, frequency, bonus, used, slot_of, class_of, size_class, LAYERS, EXPERTS,
                                BLOCK)  # fmt: skip
                known = 1
            worth = tl.load(frequency + flat).to(tl.int64) + bonus
            better = (least != _FAR) & (worth > (least >> 24) + (bonus >> _MARGIN_SHIFT) + _MARGIN)
            admit = (limit > 0) & ((taken < limit) | better)
            victim = tl.where(taken < limit, -1, (least & 0xFFFFFF).to(tl.int32))
            place = tl.load(staging + c)
            if admit:
                if at_once & (come_from != 0):
                    slot = taken
                    if victim >= 0:
                        slot = tl.load(slot_of + victim)
                        tl.store(slot_of + victim, -1)
                        tl.store(address + victim, tl.load(home + victim))
                        known = 0
                    else:
                        tl.store(filled + size_class, taken + 1)
                    place = tl.load(slot_base + size_class) + slot * tl.load(slot_bytes + size_class)
                    tl.store(slot_of + flat, slot)
                    tl.store(address + flat, place)
                    admitted += 1
                else:
                    wish = (wished % _MOST_WISHES).to(tl.int32)
                    tl.store(wishes + wish * 3, flat)
                    tl.store(wishes + wish * 3 + 1, victim)
                    gain = worth - tl.where(victim >= 0, least >> 24, 0)
                    tl.store(wishes + wish * 3 + 2, gain.to(tl.int32))
                    wished += 1
            own_rows = tl.where(come_from == 0, 0, rows)
            tl.store(source + c, come_from)
            tl.store(target + c, place)
            tl.store(gpu_rows + c, own_rows)
            bus_rows += own_rows
        tl.debug_barrier()
    tl.store(counters, tl.load(counters) + K - misses)
    tl.store(counters + 1, tl.load(counters + 1) + misses)
    tl.store(counters + 2, admitted)
    tl.store(counters + 3, wished)
    tl.store(counters + 4, bus_rows)
    if layer == LAYERS - 1:
        _end_token(evidence, pending, clock)
