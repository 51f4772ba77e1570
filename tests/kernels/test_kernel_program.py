"""Programs: jobs in order, each with its own arguments, items from where they are said to stand."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_rows import address

from localmoe.kernels.pool import Pool
from localmoe.kernels.program import Program
from localmoe.kernels.simd import args4, load_i64, store_i64
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


def test_each_router_has_a_row_of_its_own():
    program = Program(3, 2)
    rows = [program.choices() for _ in range(2)]  # one of three layers has no experts
    program.add(_fold.address, 0, ())
    program.finish()
    assert program.routing.shape == (2, 2)
    assert rows == [address(program.routing[0]), address(program.routing[1])]
