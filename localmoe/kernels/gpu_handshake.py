"""The GPU's side of the handshake with the CPU worker (`handshake`, which defines the shared memory).

`post_kernel` hands a layer's CPU work over, `join_kernel` waits for its result and adds it. The memory is
pinned host
memory, so every access that the other side sees is a release or an acquire at system scope. Flags are read by
loads, never
by atomic read-modify-writes: those are not atomic towards the CPU over a PCIe bus, and could undo the CPU's
write.
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.handshake_layout import (
    ACTIVATIONS,
    DONE,
    FAILED,
    HEADER,
    IDS,
    LAYER,
    MISSES,
    POSTED,
    RANKS,
    WORKER_DEAD,
)

_POSTED, _DONE, _FAILED = tl.constexpr(POSTED), tl.constexpr(DONE), tl.constexpr(FAILED)
_LAYER, _MISSES, _FIRST_ROW = tl.constexpr(HEADER + LAYER * 4), tl.constexpr(HEADER + MISSES
    * 4), tl.constexpr(HEADER + 8)
_IDS, _RANKS, _ACTIVATIONS = tl.constexpr(IDS), tl.constexpr(RANKS), tl.constexpr(ACTIVATIONS)
_WORKER_DEAD = tl.constexpr(WORKER_DEAD)


@triton.jit
def _word(region: tl.tensor, at: tl.constexpr) -> tl.tensor:
    return (region + at).to(tl.pointer_type(tl.int32))


@triton.jit
def _acquire(flag: tl.tensor, GPU: tl.constexpr) -> tl.tensor:
    """The int32 that another processor stores to `flag`."""
    if GPU:
        return tl.inline_asm_elementwise(
            "ld.acquire.sys.global.b32 $0, [$1];", "=r,l", [flag.to(tl.int64)], dtype=tl.int32, is_pure=False,
            pack=1
        )
    else:
        return tl.load(flag, volatile=True)


@triton.jit
def _release(flag: tl.tensor, value: tl.tensor, GPU: tl.constexpr) -> None:
    """Stores `value` so that who sees it also sees what this program stored before its last barrier."""
    if GPU:
        tl.inline_asm_elementwise(
            "fence.acq_rel.sys; st.release.sys.global.b32 [$1], $2; mov.b32 $0, $2;", "=r,l,r",
            [flag.to(tl.int64), value], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
    else:
        tl.store(flag, value)


@triton.jit
def post_kernel(
    region: tl.tensor, epoch: tl.tensor, h: tl.tensor, chosen: tl.tensor, gpu_rows: tl.tensor,
    layer: tl.tensor,
    HIDDEN: tl.constexpr, FFN: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, GPU: tl.constexpr,
) -> None:  # fmt: skip
    """Posts the experts of which the CPU has rows: their ids, their places in router order and the first of
    these rows, which is the same for all of them.

    region: int64 address. `epoch` int32 [1] in device memory counts posts. Nothing is posted where the GPU
    does it all.
    """
    misses = 0
    first_row = 0
    for c in range(K):
        rows = tl.load(gpu_rows + c)
        if rows < FFN:
            tl.store(_word(region, _IDS) + misses, tl.load(chosen + c))
            tl.store(_word(region, _RANKS) + misses, c)
            first_row = rows
            misses += 1
    if misses > 0:
        x = (region + _ACTIVATIONS).to(tl.pointer_type(tl.float32))
        for first in range(0, HIDDEN, BLOCK):
            i = first + tl.arange(0, BLOCK)
            tl.store(x + i, tl.load(h + i, mask=i < HIDDEN, other=0.0), mask=i < HIDDEN)
        tl.store(_word(region, _LAYER), layer)
        tl.store(_word(region, _MISSES), misses)
        tl.store(_word(region, _FIRST_ROW), first_row)
        turn = tl.load(epoch) + 1
        tl.debug_barrier()  # all threads have read the epoch and stored their activations
        tl.store(epoch, turn)
        _release(_word(region, _POSTED), turn, GPU)


@triton.jit
def join_kernel(
    region: tl.tensor, results: tl.tensor, epoch: tl.tensor, y: tl.tensor, weights: tl.tensor,
    gpu_rows: tl.tensor,
    most_polls: tl.tensor, HIDDEN: tl.constexpr, FFN: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
    GPU: tl.constexpr,
) -> None:  # fmt: skip
    """Waits until the CPU has done what was posted last, then y += its results, in router order. Grid (hidden
    / BLOCK).

    results: int64 address of float32 [K, hidden], row c for choice c. Gives up after `most_polls` looks, or
    at once when
    something failed before: it raises FAILED, which the host reads after the step.
    """
    share = 0
    for c in range(K):
        share += (tl.load(gpu_rows + c) < FFN).to(tl.int32)
    if share > 0:
        turn = tl.load(epoch)
        polls = 0
        failed = _acquire(_word(region, _FAILED), GPU)
        done = _acquire(_word(region, _DONE), GPU)
        while (done != turn) & (failed == 0) & (polls < most_polls):
            done = _acquire(_word(region, _DONE), GPU)
            failed = _acquire(_word(region, _FAILED), GPU)
            polls += 1
        if done != turn:
            if failed == 0:
                _release(_word(region, _FAILED), tl.full([], _WORKER_DEAD, tl.int32), GPU)
        else:
            i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
            inside = i < HIDDEN
            value = tl.load(y + i, mask=inside, other=0.0)
            for c in range(K):
                if tl.load(gpu_rows + c) < FFN:
                    part = (results + c * HIDDEN * 4).to(tl.pointer_type(tl.float32))
                    value += tl.load(weights + c) * tl.load(part + i, mask=inside, other=0.0, volatile=True)
            tl.store(y + i, value, mask=inside)
