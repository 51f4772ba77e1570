"""Programs: jobs in order, each with its own arguments, items from where they are said to stand."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_rows import address

from localmoe.kernels.ahead import NEXT, NEXT_END
from localmoe.kernels.pool import TICKET_BYTES, TICKETS, Pool
from localmoe.kernels.program import REACH, Program
from localmoe.kernels.simd import args4, load_i64, store_i64
from localmoe.kernels.starts import NOTHING, UNKNOWN
from quant.compiled import compiled_callback


@compiled_callback("void(int64, int64, int64)")
def _fold(args: int, item: int, worker: int) -> None:
    """to[item] = 3 * to[item] + sum of all of `of` [count]: in any other order the result is another."""
    to, of, count, _ = args4(args)
    total = 0
    for i in range(count):
        total += load_i64(of + i * 8)
    store_i64(to + item * 8, load_i64(to + item * 8) * 3 + total)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_jobs_run_in_order_and_wait_for_each_other(threads, rng):
    a, b, items = np.zeros(40, np.int64), np.zeros(40, np.int64), np.zeros(1, np.int64)
    program = Program(0, 0)
    jobs = [(a, b, 40), (b, a, 1), (a, b, 40), (b, a, 7), (a, b, 1), (b, a, 1)]
    for to, of, count in jobs:
        program.add(_fold.address, count, (address(to), address(of), 40, 0))
    program.add(_fold.address, 99, (address(a), address(b), 40, 0), items_at=address(items))
    program.finish()
    assert len(program) == 7
    x, y, pool = a.copy(), b.copy(), Pool(threads)
    try:
        for items[0] in (0, 1, 40, 3) * 50:
            a[:], b[:] = rng.integers(0, 100, (2, 40))
            x[:], y[:] = a, b
            pool.wake()
            program.run(pool)
            for to, _, count in [*jobs, (a, b, int(items[0]))]:
                mine, other = (x, y) if to is a else (y, x)
                mine[:count] = mine[:count] * 3 + other.sum()
            np.testing.assert_array_equal(a, x)
            np.testing.assert_array_equal(b, y)
    finally:
        pool.close()


@compiled_callback("int64(int64, int64)")
def _begin(args: int, item: int) -> int:
    """The third argument, and a thousand for each item."""
    return load_i64(args + 16) + item * 1000


@compiled_callback("void(int64, int64, int64)")
def _tell(args: int, item: int, worker: int) -> None:
    """told[thread] = what the pool says that each of two threads will read first, and how far."""
    told, control, _, _ = args4(args)
    for thread in range(2):
        place = control + TICKETS + thread * TICKET_BYTES
        store_i64(told + thread * 16, load_i64(place + NEXT))
        store_i64(told + thread * 16 + 8, load_i64(place + NEXT_END))


def test_threads_are_told_where_the_next_job_that_reads_much_begins():
    """In each job, but for those of one item, which nobody hears of; after the last comes the first."""
    pool, program, begin = Pool(2), Program(0, 0), _begin.address
    jobs = [  # items, where they begin, how that is known
        (4, 10**6, begin), (2, 0, NOTHING), (1, 0, NOTHING), (600, 2 * 10**6, begin), (3, 0, NOTHING),
        (5, 0, UNKNOWN), (2, 0, NOTHING), (1, 3 * 10**6, begin), (2, 0, NOTHING),
    ]  # fmt: skip
    told = np.full((len(jobs), 2, 2), -1, np.int64)
    for row, (items, at, start) in zip(told, jobs, strict=True):
        program.add(_tell.address, items, (address(row), pool.control, at, 0), start=start)
    program.finish()
    try:
        program.run(pool)
        first = [[10**6, 10**6 + 2000], [10**6 + 2000, 10**6 + 2000 + REACH]]
        fourth = [[2 * 10**6, 2 * 10**6 + REACH], [2 * 10**6 + 300_000, 2 * 10**6 + 300_000 + REACH]]
        nothing = [[0, 0], [0, 0]]  # not known, or a single item's: its caller does not wait
        expected = [fourth, fourth, fourth, nothing, nothing, nothing, nothing, nothing, first]
        np.testing.assert_array_equal(told, expected)
    finally:
        pool.close()


def test_each_router_has_a_row_of_its_own():
    program = Program(3, 2)
    rows = [program.choices() for _ in range(2)]  # one of three layers has no experts
    program.add(_fold.address, 0, ())
    program.finish()
    assert program.routing.shape == (2, 2)
    assert rows == [address(program.routing[0]), address(program.routing[1])]
