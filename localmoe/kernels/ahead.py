"""Asking the memory for weights before their turn, each line two to four times: early, and again until
shortly before; only once where rows are read one after another (docs/decisions/070).

A core that waits for as many lines as it can drops what else it is asked for, so that some lines come only
when asked for again. How early is best, and into which level of cache, differs from core to core: a factor of
up to two in what a Zen 4 reads (docs/decisions/008, 018). Four rows are read at once and lie one after the
other. In the order of addresses the last request for four long rows comes so early that the first level has
lost their lines again when their turn comes; so for those it is made in each row.
"""

from __future__ import annotations

from typing import NamedTuple

from localmoe.kernels.atomics import load_acquire
from localmoe.kernels.simd import AVX512, load_i64, prefetch, prefetch_far, prefetch_once, store_i64
from localmoe.kernels.simd_quad import after
from quant.compiled import compiled, cpu_name

LONG_ROW = 2200  # bytes


class Distances(NamedTuple):
    """How many bytes before their turn weights are asked for."""

    ahead: int  # first
    to_second_level: bool  # of cache, the first time; else into the first
    between: tuple[int, int]  # the second and third time, into the second level; 0: not
    again: int  # the last time, into the first level, in the order of addresses
    in_row: int  # likewise, at most, for rows of `LONG_ROW` and more, in each of four rows; 0: as for others
    along: int  # about; once, into the first level only, where rows are read along; 0: four are read at once


def distances(cpu: str, avx512: bool) -> Distances:
    """What was measured on a CPU, by LLVM's name, or on its like."""
    if cpu == "znver5":
        return Distances(9216, False, (0, 0), 4608, 0, 11264 if avx512 else 0)
    if avx512 and not cpu.startswith("znver"):  # Intel's: an Emerald Rapids
        return Distances(17408, True, (0, 0), 4608, 0, 0)
    return Distances(22528, True, (11264, 5632), 0, 1024 if avx512 else 0, 0)  # a Zen 4, both ways


AHEAD, TO_SECOND_LEVEL, (BETWEEN, BETWEEN_2), AGAIN, IN_ROW, ALONG = distances(cpu_name(), AVX512)
ONCE = 0  # how often a line is asked for (`ask`) where rows are read one after another


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
def _ask(line: int, times: int) -> None:
    """Asks for the cache line needed in `AHEAD` bytes and again for those needed sooner; times: how often
    each is asked for, at most, before the last time; `ONCE`: neither before nor again.
    """
    if times == ONCE:
        prefetch_once(line)
    elif TO_SECOND_LEVEL:
        prefetch_far(line)
    else:
        prefetch(line)
    if BETWEEN and times > 1:
        prefetch_far(line - (AHEAD - BETWEEN))
    if BETWEEN_2 and times > 2:
        prefetch_far(line - (AHEAD - BETWEEN_2))
    if not IN_ROW and times != ONCE:
        prefetch(line - (AHEAD - AGAIN))


@compiled(forceinline=True)
def _ask_for_quarter(at: int, size: int, quarter: int, times: int) -> None:
    """Asks for a quarter of the cache lines of `size` bytes (at most 1,024), in the order of their addresses.
    Not a loop: the compiler would keep it as one.
    """
    lines = (size + 63) // 64
    first = quarter * lines // 4
    count, line = (quarter + 1) * lines // 4 - first, at + first * 64
    if count > 0:
        _ask(line, times)
    if count > 1:
        _ask(line + 64, times)
    if count > 2:
        _ask(line + 128, times)
    if count > 3:
        _ask(line + 192, times)


@compiled(forceinline=True)
def _ask_again(at: int, size: int) -> None:
    """Asks for `size` bytes (at most 320) once more, into the first level."""
    if size > 0:
        prefetch(at)
    if size > 64:
        prefetch(at + 64)
    if size > 128:
        prefetch(at + 128)
    if size > 192:
        prefetch(at + 192)
    if size > 256:
        prefetch(at + 256)


@compiled(forceinline=True)
def requests(r0: int, at: int, size: int, row_bytes: int):
    """What to ask for while `size` bytes of each of four rows are read, from byte `at` on; r0: the first row.
    Returns where to ask first, for how many bytes of a row (four times as many in all); where to ask again in
    the first of four places, for how many bytes in each, how far they are apart.
    """
    last = r0 + 3 * row_bytes + 4 * at  # in the next four rows' last, as far as has been read of all four
    if row_bytes < LONG_ROW:
        return last + AHEAD, size, last + AGAIN, size, size
    later = at + IN_ROW // size * size  # in each row, near its end in that of the next four
    place = r0 + (later if later < row_bytes else later + 3 * row_bytes)
    return last + AHEAD, size, place, size, row_bytes


@compiled(forceinline=True)
def requests_along(at: int, size: int, end: int, then: int):
    """What to ask for, `ONCE`, while `4 * size` bytes of a row are read from address `at` on; as `requests`
    says it. Rows end at address `end`, and what is read after them begins at `then`: what is asked for into
    the first level only, and not needed, would have to be read again.
    """
    step = 4 * size  # a row is whole steps: so is the distance, and the end is met exactly
    line = at + (ALONG + step // 2) // step * step
    return line if line < end else line + (then - end), size, 0, 0, 0


@compiled(forceinline=True)
def in_halves(asked):
    """`requests` in two steps of half of the bytes each: all that is asked for again belongs to the first."""
    first, size, again, again_size, apart = asked
    half = size // 2
    return (first, half, again, again_size, apart), (first + 4 * half, half, again, 0, apart)


@compiled(forceinline=True)
def ask(asked, quarter: int, times: int) -> None:
    """A quarter of what `requests` says; times: see `_ask`."""
    first, size, again, again_size, apart = asked
    _ask_for_quarter(first, 4 * size, quarter, times)
    if IN_ROW and times != ONCE:
        _ask_again(again + quarter * apart, again_size)


@compiled(forceinline=True)
def ask_after(v, asked, quarter: int, times: int) -> None:
    """The same once the sums v are made: the compiler leaves it between the products (`simd_quad.after`)."""
    first, size, again, again_size, apart = asked
    place = quarter * apart
    ask((after(first, v), size, after(again + place, v) - place, again_size, apart), quarter, times)
