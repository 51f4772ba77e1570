"""Asking the memory for weights before their turn, each line twice: early, and again shortly before.

A core that waits for as many lines as it can drops what else it is asked for, so that some lines come only
when asked for again. How early is best, and into which level of cache, differs from core to core: a factor of
up to two in what a Zen 4 reads (docs/decisions/008, 018).
"""

from __future__ import annotations

from localmoe.kernels.atomics import load_acquire
from localmoe.kernels.simd import AVX512, load_i64, prefetch, prefetch_far, store_i64
from quant.compiled import compiled, cpu_name


def distances(cpu: str, avx512: bool) -> tuple[int, bool, int]:
    """For a CPU by LLVM's name: how many bytes before their turn weights are asked for; whether into the
    second level of cache (else the first); how many bytes before their turn they are again, into the first.
    """
    if cpu == "znver5":
        return 9216, False, 4608
    if avx512 and not cpu.startswith("znver"):  # Intel's: an Emerald Rapids
        return 17408, True, 4608
    return 22528, True, 0  # measured on a Zen 4, with AVX-512 and with AVX2 alone


AHEAD, TO_SECOND_LEVEL, AGAIN = distances(cpu_name(), AVX512)


@compiled(forceinline=True)
def prefetch_lines(at: int, size: int) -> None:
    """Asks for the cache lines of `size` bytes, needed much later, in the order of their addresses."""
    for line in range(0, size, 64):
        prefetch_far(at + line)


# Behind each thread's ticket in a pool: where what it will read first in a later job begins, how far it may
# ask for that, and how far it has. Nothing depends on them: an address that is out of date costs some time.
NEXT, NEXT_END, ASKED = 8, 16, 24
STEP = 512  # bytes asked for at once: a thread that waits for the memory sees a new job late


@compiled(forceinline=True)
def ask_ahead(place: int) -> None:
    """One step of asking for what the thread whose ticket is at `place` will read next, while it waits."""
    at, start, end = load_i64(place + ASKED), load_acquire(place + NEXT), load_i64(place + NEXT_END)
    if at < start or at > end:  # it asked for something else
        at = start
    if at < end:
        prefetch_lines(at, STEP)
        store_i64(place + ASKED, min(at + STEP, end))


@compiled(forceinline=True)
def _ask(line: int) -> None:
    """Asks for a cache line needed in `AHEAD` bytes, and once more for the one needed in `AGAIN` bytes."""
    if TO_SECOND_LEVEL:
        prefetch_far(line)
    else:
        prefetch(line)
    prefetch(line - (AHEAD - AGAIN))


@compiled(forceinline=True)
def prefetch_quarter(at: int, size: int, quarter: int) -> None:
    """Asks for a quarter of the cache lines of `size` bytes (at most 1,024), in the order of their addresses.
    Not a loop: the compiler would keep it as one. An address from `simd_quad.after` keeps it where it stands.
    """
    lines = (size + 63) // 64
    first = quarter * lines // 4
    count, line = (quarter + 1) * lines // 4 - first, at + first * 64
    if count > 0:
        _ask(line)
    if count > 1:
        _ask(line + 64)
    if count > 2:
        _ask(line + 128)
    if count > 3:
        _ask(line + 192)
