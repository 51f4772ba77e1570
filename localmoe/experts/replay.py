"""The compiled twins of statistics.py and policy.py, and the replay loops of simulate.py.

Integer arithmetic throughout: `observe_row` and `end_token` do to the last bit what `ExpertStatistics` does
in NumPy. Experts are numbered flat, layer * experts + expert. `Any` stands for numba-compiled callables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from localmoe.experts.policy import MARGIN, MARGIN_SHIFT
from localmoe.experts.statistics import (
    BONUS,
    BONUS_SCALE,
    BONUS_SHIFT,
    CHOICE,
    ERROR_BITS,
    LOSS,
    LOSS_SHIFT,
    ONE,
    REPEATS,
    RESIDUAL,
    SHIFTS,
    TOKENS,
)
from localmoe.kernels.atomics import pointer
from localmoe.kernels.simd import args10
from quant.compiled import compiled, compiled_callback

_FAR = np.int64(1) << 62
_MEMORIES = len(SHIFTS)


@compiled(inline="never")
def observe_row(
    ids: Any, layer: int, estimates: Any, used: Any, evidence: Any, pending: Any, clock: Any, now: Any
) -> None:
    """`ExpertStatistics.observe` without the totals; `now` is int64 [experts] scratch."""
    experts = used.shape[1]
    bits = 0
    while (clock[TOKENS] + 1) >> bits:
        bits += 1
    now[:] = 0
    for choice in range(ids.shape[0]):
        now[ids[choice]] = ONE
    repeats = 0
    for expert in range(experts):
        repeats += used[layer, expert]
    for memory in range(_MEMORIES):
        shift = min(SHIFTS[memory], bits)
        loss = residual = np.int64(0)
        bonus = evidence[BONUS, memory]
        for expert in range(experts):
            error = now[expert] - estimates[memory, layer, expert]
            surprise = (error - bonus * used[layer, expert]) >> ERROR_BITS
            loss += surprise * surprise
            residual += error * used[layer, expert]
            estimates[memory, layer, expert] += error >> shift
        pending[LOSS, memory] += loss
        pending[RESIDUAL, memory] += residual
        pending[REPEATS, memory] += repeats
    for expert in range(experts):
        used[layer, expert] = 1 if now[expert] else 0


@compiled(inline="never")
def end_token(evidence: Any, pending: Any, clock: Any) -> None:
    """`ExpertStatistics.end_token`."""
    best = 0
    for memory in range(_MEMORIES):
        evidence[LOSS, memory] += (pending[LOSS, memory] - evidence[LOSS, memory]) >> LOSS_SHIFT
        for row in (RESIDUAL, REPEATS):
            change = pending[row, memory] * BONUS_SCALE - evidence[row, memory]
            evidence[row, memory] += change >> BONUS_SHIFT
        evidence[BONUS, memory] = max(evidence[RESIDUAL, memory], 0) // max(evidence[REPEATS, memory], 1)
        if evidence[LOSS, memory] < evidence[LOSS, best]:
            best = memory
    clock[CHOICE] = best
    clock[TOKENS] += 1
    pending[:] = 0


@compiled(forceinline=True)
def _observe_token(
    ids: Any, estimates: Any, used: Any, totals: Any, evidence: Any, pending: Any, clock: Any, now: Any
) -> None:
    """One whole token, `ids` [layers, k]."""
    for layer in range(ids.shape[0]):
        observe_row(ids[layer], layer, estimates, used, evidence, pending, clock, now)
        for choice in range(ids.shape[1]):
            totals[layer, ids[layer, choice]] += 1
    end_token(evidence, pending, clock)


@compiled()
def observe_tokens(
    routing: Any, estimates: Any, used: Any, totals: Any, evidence: Any, pending: Any, clock: Any
) -> None:
    """`routing` uint8 [tokens, layers, k] into the statistics' arrays."""
    now = np.zeros(used.shape[1], np.int64)
    for token in range(routing.shape[0]):
        _observe_token(routing[token], estimates, used, totals, evidence, pending, clock, now)


@compiled_callback("void(int64, int64, int64)")
def token_task(args: int, item: int, worker: int) -> None:
    """`observe_tokens` of one token, as a job of a recorded pass. Its arguments, int64: the address of the
    routing, int32 [layers, k], then `ExpertStatistics.addresses`.
    """
    routing, layers, experts, k, estimates, used, totals, evidence, pending, clock = args10(args)
    ids = carray(pointer(routing), (layers, k), np.int32)
    now = np.zeros(experts, np.int64)
    memory = carray(pointer(estimates), (_MEMORIES, layers, experts), np.int32)
    before = carray(pointer(used), (layers, experts), np.int32)
    counts = carray(pointer(totals), (layers, experts), np.int64)
    proof = carray(pointer(evidence), (4, _MEMORIES), np.int64)
    sums = carray(pointer(pending), (3, _MEMORIES), np.int64)
    time = carray(pointer(clock), (2,), np.int64)
    _observe_token(ids, memory, before, counts, proof, sums, time, now)


@compiled(inline="never")
def _lowest(keys: Any) -> int:
    """The first index of the least key, or -1 if all are _FAR. Two plain passes: LLVM vectorises the
    first.
    """
    least = _FAR
    for index in range(keys.shape[0]):
        least = min(least, keys[index])
    if least == _FAR:
        return -1
    for index in range(keys.shape[0]):
        if keys[index] == least:
            return index
    return -1


@compiled()
def replay_ours(
    routing: Any, slots: int, estimates: Any, used: Any, evidence: Any, pending: Any, clock: Any
) -> tuple[int, int]:
    """Hits and admissions of policy.py over `routing`, on fresh statistics' arrays; one pool, empty at the
    start.
    """
    tokens, layers, chosen = routing.shape
    experts = used.shape[1]
    resident = np.zeros(layers * experts, np.bool_)
    keys = np.empty(layers * experts, np.int64)
    now = np.zeros(experts, np.int64)
    filled = hits = admitted = 0
    for token in range(tokens):
        for layer in range(layers):
            ids = routing[token, layer]
            observe_row(ids, layer, estimates, used, evidence, pending, clock, now)
            memory = clock[CHOICE]
            bonus = evidence[BONUS, memory]
            frequency, last = estimates[memory].reshape(-1), used.reshape(-1)
            first = layer * experts
            for choice in range(chosen):
                expert = first + ids[choice]
                if resident[expert]:
                    hits += 1
                    continue
                if filled < slots:
                    filled += 1
                elif slots:
                    for index in range(keys.shape[0]):
                        keys[index] = frequency[index] + bonus * last[index] if resident[index] else _FAR
                    for other in range(chosen):
                        keys[first + ids[other]] = _FAR  # this layer reads them
                    victim = _lowest(keys)
                    worth = frequency[expert] + bonus
                    if victim < 0 or worth <= keys[victim] + (bonus >> MARGIN_SHIFT) + MARGIN:
                        continue
                    resident[victim] = False
                else:
                    continue
                resident[expert] = True
                admitted += 1
        end_token(evidence, pending, clock)
    return hits, admitted


@compiled()
def replay_lru(accesses: Any, total: int, slots: int) -> int:
    """Hits of least recently used over flat `accesses` int64 [n]; every miss is admitted."""
    keys = np.full(total, _FAR, np.int64)
    filled = hits = 0
    for time in range(accesses.shape[0]):
        expert = accesses[time]
        if keys[expert] != _FAR:
            hits += 1
        elif filled < slots:
            filled += 1
        elif slots:
            keys[_lowest(keys)] = _FAR
        else:
            continue
        keys[expert] = time
    return hits


@compiled()
def replay_lfu(accesses: Any, total: int, slots: int) -> int:
    """Hits of least frequently used: counts over all that was seen, of equals the least recent; all are
    admitted.
    """
    counts = np.zeros(total, np.int64)
    keys = np.full(total, _FAR, np.int64)
    filled = hits = 0
    for time in range(accesses.shape[0]):
        expert = accesses[time]
        counts[expert] += 1
        if keys[expert] != _FAR:
            hits += 1
        elif filled < slots:
            filled += 1
        elif slots:
            keys[_lowest(keys)] = _FAR
        else:
            continue
        keys[expert] = counts[expert] << 32 | time
    return hits


@compiled()
def replay_static(accesses: Any, total: int, slots: int, first_half: int) -> int:
    """Hits of the most frequent set of `accesses[:first_half]` (of equals the first), each loaded at its
    first use.
    """
    counts = np.zeros(total, np.int64)
    for time in range(first_half):
        counts[accesses[time]] += 1
    member = np.zeros(total, np.bool_)
    member[np.argsort(-counts, kind="mergesort")[:slots]] = True
    loaded = np.zeros(total, np.bool_)
    hits = 0
    for time in range(accesses.shape[0]):
        expert = accesses[time]
        if loaded[expert]:
            hits += 1
        loaded[expert] = member[expert]
    return hits


@compiled()
def replay_belady(accesses: Any, total: int, slots: int) -> int:
    """Hits of the clairvoyant: evict what is needed furthest ahead, and bypass what is needed even later."""
    count = accesses.shape[0]
    following = np.empty(count, np.int64)  # when the expert of each access is accessed again
    seen = np.full(total, count, np.int64)
    for time in range(count - 1, -1, -1):
        following[time] = seen[accesses[time]]
        seen[accesses[time]] = time
    keys = np.full(total, _FAR, np.int64)  # minus the next use of residents, so that the furthest is lowest
    filled = hits = 0
    for time in range(count):
        expert = accesses[time]
        if keys[expert] != _FAR:
            hits += 1
        elif filled < slots:
            filled += 1
        elif slots:
            furthest = _lowest(keys)
            if -keys[furthest] <= following[time]:
                continue
            keys[furthest] = _FAR
        else:
            continue
        keys[expert] = -following[time]
    return hits
