"""A token's pass as a program: the jobs that decoding one token takes, recorded once and run again for each
token by one compiled call.

A job is WORDS int64: the task's address, its items, an address where the items stand instead (0: none), and
from ARGUMENTS on what the task is given. Everything that differs from token to token lies in memory that jobs
point at (id, position, the items of attention), so a program is run again as it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels.pool import MOST_ARGS, Pool, run_job
from localmoe.kernels.simd import load_i64
from quant.compiled import compiled

TASK, ITEMS, ITEMS_AT, ARGUMENTS, WORDS = 0, 1, 2, 8, 8 + MOST_ARGS
Job = tuple[int, tuple[int, ...]]  # a task's address and its arguments: a job of one item


@compiled("void(int64, int64, int64)")
def _run_program(control: int, jobs: int, count: int) -> None:
    """Runs `count` jobs one after the other; returns when the last item of the last is done."""
    for job in range(jobs, jobs + count * WORDS * 8, WORDS * 8):
        items, items_at = load_i64(job + ITEMS * 8), load_i64(job + ITEMS_AT * 8)
        if items_at:
            items = load_i64(items_at)
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

    def add(self, task: int, items: int, args: tuple[int, ...], items_at: int = 0) -> None:
        """Appends a job of `items` items, or of as many as the int64 at address `items_at` says when it
        runs.
        """
        row = np.zeros(WORDS, np.int64)
        row[[TASK, ITEMS, ITEMS_AT]] = task, items, items_at
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
        self.routing = self._choices[: self._routers]
        self._rows = []

    def __len__(self) -> int:
        return self._count

    def run(self, pool: Pool) -> None:
        """Runs every job on the pool, without a return to Python in between."""
        _run_program(pool.control, self._address, self._count)
