"""The machine's read bandwidth, measured as the kernels see it: threads reading memory far larger than the
caches.
"""

from __future__ import annotations

import time

import numpy as np

from localmoe.kernels.ahead import ALONG, BETWEEN
from localmoe.kernels.geometry import TASK
from localmoe.kernels.pool import Pool
from localmoe.kernels.simd import (
    add_i32x16,
    args4,
    load_i32x16,
    prefetch,
    prefetch_far,
    prefetch_once,
    store_i64,
    sum_i32x16,
    zero_i32x16,
)
from quant.compiled import compiled_callback

_PIECE = 1 << 18
PROBED = 1 << 30  # bytes


@compiled_callback(TASK)
def _read_task(args, item, worker):
    """Reads one piece of 256 KiB; the sum is kept so that no read is left out."""
    base, piece, sums, _ = args4(args)
    start = base + item * piece
    a, b, c, d = zero_i32x16(), zero_i32x16(), zero_i32x16(), zero_i32x16()
    for at in range(start, start + piece, 256):
        if BETWEEN:  # where a second request was measured to help: it reads 1.04 to 1.08 times as fast
            prefetch_far(at + 8192)
            prefetch_far(at + 8256)
            prefetch_far(at + 8320)
            prefetch_far(at + 8384)
        if ALONG:  # here a request for the first level alone reads 1.02 to 1.04 times as fast
            prefetch_once(at + ALONG)
            prefetch_once(at + ALONG + 64)
            prefetch_once(at + ALONG + 128)
            prefetch_once(at + ALONG + 192)
        else:
            prefetch(at + 2048)
            prefetch(at + 2112)
            prefetch(at + 2176)
            prefetch(at + 2240)
        a, b = add_i32x16(a, load_i32x16(at)), add_i32x16(b, load_i32x16(at + 64))
        c, d = add_i32x16(c, load_i32x16(at + 128)), add_i32x16(d, load_i32x16(at + 192))
    store_i64(sums + item * 8, sum_i32x16(add_i32x16(add_i32x16(a, b), add_i32x16(c, d))))


class ReadProbe:
    """Memory to be read for measuring, held so that it can be done again and again beside something else:
    where machines are shared, bandwidth changes from second to second.

    It reads with the threads of whatever it measures beside: two pools would take each other's cores for the
    millisecond that idle threads spin. `nbytes`: of 256 MiB caches still hold some when they are read
    again (2 % faster than 4 GiB on a Zen 5 with 32 MiB), of 512 MiB too (1 %), of 1 GiB nothing.
    """

    def __init__(self, pool: Pool, nbytes: int = PROBED) -> None:
        self._pool = pool
        self._pieces = max(1, nbytes // _PIECE)
        self._memory = np.ones(self._pieces * _PIECE, np.uint8)
        self._sums = np.zeros(self._pieces, np.int64)

    def measure(self, repeats: int) -> float:
        """GB/s (10⁹ bytes) of reading, over `repeats` passes over the memory."""
        memory, sums = int(self._memory.ctypes.data), int(self._sums.ctypes.data)
        self._pool.wake()
        start = time.perf_counter()
        for _ in range(repeats):
            self._pool.run(_read_task.address, self._pieces, memory, _PIECE, sums, 0)
        return repeats * self._memory.nbytes / (time.perf_counter() - start) / 1e9


def read_bandwidth(threads: int, nbytes: int = PROBED, repeats: int = 3) -> float:
    """GB/s (10⁹ bytes) at which `threads` threads read memory, over `repeats` passes over `nbytes`."""
    pool = Pool(threads)
    try:
        probe = ReadProbe(pool, nbytes)
        probe.measure(1)
        return probe.measure(repeats)
    finally:
        pool.close()
