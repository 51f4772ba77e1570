"""A token's pass as a program: the jobs that decoding one token takes, recorded once and run again for each
token by one compiled call.

A job is WORDS int64: the task's address, its items, an address where the items stand instead (0: none), where
an item's weights begin (`starts`), the address of the next job that reads much if it is known by then where
(else 0), and from ARGUMENTS on what the task is given. Everything that differs from token to token lies in
memory that jobs point at (id, position, the items of attention), so a program is run again as it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels.ahead import NEXT, NEXT_END
from localmoe.kernels.atomics import call_start, store_release
from localmoe.kernels.pool import MOST_ARGS, THREADS, TICKET_BYTES, TICKETS, Pool, run_job
from localmoe.kernels.simd import load_i64, store_i64
from localmoe.kernels.starts import NOTHING, UNKNOWN
from quant.compiled import compiled

TASK, ITEMS, ITEMS_AT, START, LATER, ARGUMENTS, WORDS = 0, 1, 2, 3, 4, 8, 8 + MOST_ARGS
REACH = 256 << 10  # the most bytes that a waiting thread asks for ahead: part of a second-level cache
Job = tuple[int, tuple[int, ...]]  # a task's address and its arguments: a job of one item


@compiled(forceinline=True)
def _items(job: int) -> int:
    items_at = load_i64(job + ITEMS_AT * 8)
    return int(load_i64(items_at) if items_at else load_i64(job + ITEMS * 8))


@compiled(inline="never")
def _announce(control: int, job: int) -> None:
    """Tells each thread where its share of `job` begins and how far it may ask ahead (0: no job)."""
    threads = load_i64(control + THREADS)
    start, items = (load_i64(job + START * 8), _items(job)) if job else (0, 0)
    for thread in range(threads):
        place, at, end = control + TICKETS + thread * TICKET_BYTES, 0, 0
        first, beyond = thread * items // threads, (thread + 1) * items // threads
        if first < beyond and items > 1:  # a single item is the caller's, who does not wait
            at = call_start(start, job + ARGUMENTS * 8, first)
            others = call_start(start, job + ARGUMENTS * 8, beyond) if beyond < items else 0
            end = min(at + REACH, others) if others > at else at + REACH
        store_i64(place + NEXT_END, end)
        store_release(place + NEXT, at)


@compiled("void(int64, int64, int64)")
def _run_program(control: int, jobs: int, count: int) -> None:
    """Runs `count` jobs one after the other; returns when the last item of the last is done."""
    for job in range(jobs, jobs + count * WORDS * 8, WORDS * 8):
        items = _items(job)
        if items > 1:
            _announce(control, load_i64(job + LATER * 8))
        run_job(control, load_i64(job + TASK * 8), items, job + ARGUMENTS * 8)


class Program:
    """Recorded jobs, in order. Whoever records keeps alive what their arguments point at.

    `routing` int32 [layers with experts, k]: after a run, the experts that each such layer chose.
    """

    def __init__(self, layers: int, chosen: int) -> None:
        """Room for `layers` layers whose routers choose `chosen` experts each."""
        self._rows: list[NDArray[np.int64]] = []
        self._jobs = np.zeros((0, WORDS), np.int64)
        self._address = self._count = 0
        self._choices, self._routers = np.zeros((layers, chosen), np.int32), 0
        self.routing = self._choices[:0]
        self.constant = True  # what was recorded holds for every token

    def add(
        self, task: int, items: int, args: tuple[int, ...], items_at: int = 0, start: int = NOTHING
    ) -> None:
        """Appends a job of `items` items, or of as many as the int64 at address `items_at` says when it
        runs. start: where an item's weights begin, see `starts`; threads ask for them during earlier jobs.
        """
        row = np.zeros(WORDS, np.int64)
        row[[TASK, ITEMS, ITEMS_AT, START]] = task, items, items_at, start
        row[ARGUMENTS : ARGUMENTS + len(args)] = args
        self._rows.append(row)

    @property
    def routing_at(self) -> int:
        """The address of `routing`."""
        return int(self._choices.ctypes.data)

    def choices(self) -> int:
        """The address of int32 [k] where the next layer with experts writes those that it chose."""
        row = self._choices[self._routers]
        self._routers += 1
        return int(row.ctypes.data)

    def finish(self) -> None:
        """The recording is complete: `run` may be called."""
        self._jobs = np.stack(self._rows)
        self._address, self._count = int(self._jobs.ctypes.data), len(self._jobs)
        self._look_ahead()
        self.routing = self._choices[: self._routers]
        self._rows = []

    def _look_ahead(self) -> None:
        """Writes to each job which one reads much after it; after the last one that is the first, of the next
        token.
        """
        later = NOTHING
        for job in [*range(self._count), *range(self._count)][::-1]:
            self._jobs[job, LATER] = max(NOTHING, later)
            start = self._jobs[job, START]
            if start != NOTHING:
                later = self._address + job * WORDS * 8 if start != UNKNOWN else UNKNOWN

    def __len__(self) -> int:
        return self._count

    def run(self, pool: Pool) -> None:
        """Runs every job on the pool, without a return to Python in between."""
        _run_program(pool.control, self._address, self._count)
