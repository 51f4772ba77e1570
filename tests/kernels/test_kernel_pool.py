"""The pool: every item of every job once, on any number of threads; asleep when there is nothing to do."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest
from kernel_rows import address

from localmoe.kernels.pool import (
    EPOCH,
    MOST_ITEMS,
    TICKET_BYTES,
    TICKETS,
    Pool,
    _ticket,
    _work,
)
from localmoe.kernels.simd import args4, load_i64, store_i64
from quant.compiled import compiled_callback


@compiled_callback("void(int64, int64, int64)")
def _count(args: int, item: int, worker: int) -> None:
    """out[item] += step + item, and spins that many turns, so that items take unequal times."""
    out, step, turns, _ = args4(args)
    total = 0
    for i in range(turns * (item % 3)):
        total += load_i64(out + item * 8) ^ i
    store_i64(out + item * 8, load_i64(out + item * 8) + step + item + (total & 0))


@compiled_callback("void(int64, int64, int64)")
def _note(args: int, item: int, worker: int) -> None:
    """out[item] = how many items were done before this one; out[-1] counts them."""
    out, items, _, _ = args4(args)
    done = load_i64(out + items * 8)
    store_i64(out + item * 8, done)
    store_i64(out + items * 8, done + 1)


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("localmoe-")]


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_item_of_every_job_runs_once(threads):
    """On more threads than cores as well: one that loses its core in the middle of anything does no harm."""
    pool, out, expected = Pool(threads), np.zeros(300, np.int64), np.zeros(300, np.int64)
    try:
        for job in range(20_000):
            items = 1 + job * 7 % (300 if job % 50 == 0 else 9)
            if job % 100 == 0:
                pool.wake()
            pool.run(_count.address, items, address(out), 1, job % 2 * 5, 0)
            expected[:items] += 1 + np.arange(items)
        np.testing.assert_array_equal(out, expected)
    finally:
        pool.close()


def order_of(worker, starts):
    """In which order one thread alone takes the items: its own, then halves of what the others have left."""
    threads = len(starts) - 1
    order = [*range(starts[worker], starts[worker + 1])]
    for step in range(1, threads):
        owner = (worker + step) % threads
        left = [*range(starts[owner], starts[owner + 1])]
        while left:
            order += left[len(left) // 2 :]
            left = left[: len(left) // 2]
    return order


@pytest.mark.parametrize(("threads", "items"), [(2, 7), (3, 100), (5, 4)])
def test_a_thread_works_through_its_own_stretch_and_then_through_halves_of_the_others(threads, items):
    """So what it asked the memory for in advance is what it reads next. The other threads sleep here."""
    pool, out = Pool(threads), np.zeros(items + 1, np.int64)
    starts = [owner * items // threads for owner in range(threads + 1)]
    try:
        time.sleep(0.05)
        pool.run(_note.address, items, address(out), items, 0, 0)
        np.testing.assert_array_equal(np.argsort(out[:items]), order_of(0, starts))
        for worker in range(threads):
            out[items], epoch = 0, int(pool._block[EPOCH // 8])
            for owner in range(threads):  # the last job again, as another thread sees it
                ticket = _ticket(epoch, starts[owner], starts[owner + 1])
                pool._block[(TICKETS + owner * TICKET_BYTES) // 8] = ticket
            assert _work(pool.control, epoch, worker) == items
            np.testing.assert_array_equal(np.argsort(out[:items]), order_of(worker, starts))
    finally:
        pool.close()


def test_a_job_of_too_many_items_is_refused():
    pool = Pool(2)
    try:
        with pytest.raises(ValueError, match="at most 262143"):
            pool.run(_count.address, MOST_ITEMS + 1, 0, 0, 0, 0)
    finally:
        pool.close()


def test_a_job_of_no_items_returns():
    pool, out = Pool(2), np.zeros(1, np.int64)
    try:
        pool.run(_count.address, 0, address(out), 1, 0, 0)
        assert out[0] == 0
    finally:
        pool.close()


def test_nobody_is_told_of_a_single_item():
    """The other threads see a job by its epoch."""
    pool, out = Pool(2), np.zeros(2, np.int64)
    try:
        for items, tells in ((2, 1), (1, 0), (0, 0), (2, 1)):
            before = int(pool._block[EPOCH // 8])
            pool.run(_count.address, items, address(out), 1, 0, 0)
            assert int(pool._block[EPOCH // 8]) - before == tells
        np.testing.assert_array_equal(out, [3, 4])
    finally:
        pool.close()


def test_a_job_needs_no_worker_that_is_awake():
    pool, out = Pool(3), np.zeros(10, np.int64)
    try:
        time.sleep(0.05)
        pool.run(_count.address, 10, address(out), 1, 0, 0)
        np.testing.assert_array_equal(out, 1 + np.arange(10))
    finally:
        pool.close()


def test_idle_workers_cost_no_processor_time():
    pool, out = Pool(4), np.zeros(10, np.int64)
    try:
        pool.wake()
        pool.run(_count.address, 10, address(out), 1, 0, 0)
        time.sleep(0.1)  # the workers spin for a millisecond, then sleep
        start = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - start < 0.02
        pool.wake()  # and they can be roused again
        pool.run(_count.address, 10, address(out), 1, 1000, 0)
    finally:
        pool.close()


def test_a_patient_pool_stays_awake_and_still_ends():
    """The GPU's: what one thread waits for must not send the others to sleep within a step."""
    pool = Pool(2, patience=1 << 40)
    try:
        pool.wake()
        time.sleep(0.1)
        start = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - start > 0.02
    finally:
        pool.close()
    assert not [t for t in workers() if t in pool._workers]


def test_closing_twice_or_not_at_all_leaves_no_thread():
    before = len(workers())
    pool = Pool(4)
    assert len(workers()) == before + 3
    pool.close()
    pool.close()
    assert len(workers()) == before
    forgotten = Pool(3)
    assert len(workers()) == before + 2
    del forgotten
    gc.collect()
    assert len(workers()) == before


def test_two_pools_do_not_meet():
    pools, outs = [Pool(2), Pool(2)], [np.zeros(50, np.int64) for _ in range(2)]

    def work(which: int) -> None:
        for _ in range(2000):
            pools[which].wake()
            pools[which].run(_count.address, 50, address(outs[which]), which, 1, 0)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which, (pool, out) in enumerate(zip(pools, outs, strict=True)):
        pool.close()
        np.testing.assert_array_equal(out, 2000 * (which + np.arange(50)))


def test_a_pool_has_at_least_one_thread():
    with pytest.raises(ValueError, match="at least one"):
        Pool(0)
