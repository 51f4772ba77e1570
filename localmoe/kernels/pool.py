"""A pool of threads that runs compiled tasks with microseconds of overhead.

A job is a task (the address of compiled code), an argument block and a number of items. Each thread has a
stretch of neighbouring items, which it takes one by one: a thread that reads weights reads on where it was,
so what it asked the memory for in advance is what it needs next. Done with its own, it takes over the second
half of what another one has left, and both read on: a thread that loses its core to another process delays
only the item in its hands. The thread that starts a job works on it too and returns when all items are done:
a job never depends on a sleeping worker. Workers wait between jobs by spinning for about a millisecond (or as
long as their pool's patience), then sleep until `wake`: a pause between two turns of a conversation costs no
CPU time.

A job of one item is no job for a pool: the caller runs it without telling anybody.

Who starts a job may say, behind the tickets, what each thread will read first in one that comes later;
threads ask the memory for it while they wait (`ahead`).

A stretch's ticket holds the job's epoch, the first item that nobody took, and the end. It is changed by
compare-and-swap on the whole: a worker that was delayed does not take an item of a later job for an item of
the one whose arguments it read (but after a delay of just 2**27 jobs); and because what is left stands in the
ticket itself, a finished job has nothing to take while the next is being written. `EPOCH` is written when all
tickets are: it is what workers wait for.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import ClosedError
from localmoe.kernels.ahead import ask_ahead
from localmoe.kernels.atomics import (
    call_task,
    compare_and_swap,
    fetch_add,
    load_acquire,
    pause,
    store_release,
)
from localmoe.kernels.simd import load_i64, store_i64
from quant.compiled import compiled

# Byte offsets in the control block; each shared counter has cache lines of its own.
EPOCH, DONE, STOP, TASK, ARGS_AT, THREADS, PATIENCE, ARGS = 0, 128, 256, 384, 400, 408, 416, 448
TICKETS, TICKET_BYTES, MOST_ARGS = 1024, 128, 24  # one ticket for each thread
SPINS = 20_000  # about a millisecond of pause instructions
ITEM_BITS, EPOCH_BITS = 18, 36  # where a ticket's first item and its epoch begin
MOST_ITEMS, EPOCH_MASK = (1 << ITEM_BITS) - 1, (1 << 27) - 1


@compiled(forceinline=True)
def _ticket(epoch: int, first: int, end: int) -> int:
    return (epoch & EPOCH_MASK) << EPOCH_BITS | first << ITEM_BITS | end


@compiled(forceinline=True)
def _left(ticket: int, epoch: int) -> tuple[int, int]:
    """The first item that nobody took and the end of a stretch; nothing if the ticket is of another job."""
    if ticket >> EPOCH_BITS != epoch & EPOCH_MASK:
        return 0, 0
    return ticket >> ITEM_BITS & MOST_ITEMS, ticket & MOST_ITEMS


@compiled("int64(int64, int64, int64)")
def _take_over(control: int, epoch: int, worker: int) -> int:
    """Makes the second half of what another thread has left this worker's stretch; 0 if there is nothing."""
    threads = load_i64(control + THREADS)
    for step in range(1, threads):
        at = control + TICKETS + (worker + step) % threads * TICKET_BYTES
        while True:
            ticket = load_acquire(at)
            first, end = _left(ticket, epoch)
            if first == end:
                break
            middle = first + (end - first) // 2
            if compare_and_swap(at, ticket, ticket - (end - middle)):
                store_release(control + TICKETS + worker * TICKET_BYTES, _ticket(epoch, middle, end))
                return 1
    return 0


@compiled("int64(int64, int64, int64)")
def _work(control: int, epoch: int, worker: int) -> int:
    """Takes items of the job `epoch` until none is left, its own first; returns the items done.

    They are reported together at the end: a job cannot end before, so its DONE is still the one to add to.
    """
    mine, done = control + TICKETS + worker * TICKET_BYTES, 0
    while True:
        ticket = load_acquire(mine)
        item, end = _left(ticket, epoch)
        if item == end:
            if _take_over(control, epoch, worker):
                continue
            break
        task, args = load_i64(control + TASK), load_i64(control + ARGS_AT)
        if compare_and_swap(mine, ticket, ticket + (1 << ITEM_BITS)):
            call_task(task, args, item, worker)
            done += 1
    if done:
        fetch_add(control + DONE, done)
    return done


@compiled("void(int64, int64, int64, int64)")
def run_job(control: int, task: int, items: int, args: int) -> None:
    """Publishes a job whose arguments are at `args`, works on it, returns when every item is done."""
    if items == 1:
        call_task(task, args, 0, 0)
    if items <= 1:
        return
    store_i64(control + TASK, task)
    store_i64(control + ARGS_AT, args)
    store_release(control + DONE, 0)
    epoch, threads = load_acquire(control + EPOCH) + 1, load_i64(control + THREADS)
    for owner in range(threads):
        stretch = _ticket(epoch, owner * items // threads, (owner + 1) * items // threads)
        store_release(control + TICKETS + owner * TICKET_BYTES, stretch)
    store_release(control + EPOCH, epoch)
    _work(control, epoch, 0)
    while load_acquire(control + DONE) < items:
        ask_ahead(control + TICKETS)
        pause()


@compiled("void(int64, int64, int64)")
def _run(control: int, task: int, items: int) -> None:
    """A job whose arguments are in the control block."""
    run_job(control, task, items, control + ARGS)


@compiled("void(int64)")
def keep_awake(control: int) -> None:
    """Publishes a job without items, so that workers do not fall asleep although there is nothing to do."""
    store_release(control + EPOCH, load_acquire(control + EPOCH) + 1)


@compiled("int64(int64, int64, int64)")
def _serve(control: int, worker: int, seen: int) -> int:
    """Works on every job that appears; returns the last epoch seen once nothing came for PATIENCE turns."""
    idle, patience = 0, load_i64(control + PATIENCE)
    while idle < patience and load_acquire(control + STOP) == 0:
        epoch = load_acquire(control + EPOCH)
        if epoch != seen:
            seen = epoch
            _work(control, epoch, worker)
            idle = 0
        else:
            ask_ahead(control + TICKETS + worker * TICKET_BYTES)
            pause()
            idle += 1
    return seen


class Pool:
    """`threads` threads, the caller's among them. One job at a time; not for use by two callers at once."""

    def __init__(self, threads: int, patience: int = SPINS) -> None:
        """`patience`: how many looks without a job before a worker sleeps until `wake`."""
        if threads < 1:
            raise ValueError(f"a pool needs at least one thread, not {threads}")
        self.threads = threads
        words = (TICKETS + threads * TICKET_BYTES) // 8
        block = np.zeros(words + 16, np.int64)
        skip = -block.ctypes.data % 128 // 8  # align to two cache lines
        self._block = block[skip : skip + words]
        self._block[THREADS // 8], self._block[PATIENCE // 8] = threads, patience
        self.control = int(self._block.ctypes.data)  # the address that compiled code starts jobs by
        self._arguments = self._block[ARGS // 8 : ARGS // 8 + MOST_ARGS]
        self._wakeups = [threading.Event() for _ in range(threads - 1)]
        self._workers = [
            threading.Thread(
                target=_worker, args=(self._block, i + 1, wakeup), name=f"localmoe-{i + 1}", daemon=True
            )
            for i, wakeup in enumerate(self._wakeups)
        ]
        for worker in self._workers:
            worker.start()
        self._closed = False
        self._close = weakref.finalize(self, _stop, self._block, self._wakeups, self._workers)

    def wake(self) -> None:
        """Rouses the workers that sleep; call it before a burst of jobs. ClosedError after `close`."""
        if self._closed:
            raise ClosedError
        for wakeup in self._wakeups:
            if not wakeup.is_set():
                wakeup.set()

    def run(self, task: int, items: int, *args: int) -> None:
        """Runs `task(args block, item, worker)` for every item in range(items); blocks until all are done.
        ValueError for more than MOST_ITEMS.
        """
        if items > MOST_ITEMS:
            raise ValueError(f"a job of {items} items: at most {MOST_ITEMS}")
        self._arguments[: len(args)] = args
        _run(self.control, task, items)

    def close(self) -> None:
        """Ends the workers. Safe to call twice."""
        self._closed = True
        self._close()


def _worker(block: NDArray[np.int64], number: int, wakeup: threading.Event) -> None:
    control, seen = int(block.ctypes.data), 0
    while not block[STOP // 8]:
        wakeup.wait()
        wakeup.clear()  # before serving: a wake that comes meanwhile costs one more round, never a lost one
        seen = _serve(control, number, seen)


def _stop(block: NDArray[np.int64], wakeups: list[threading.Event], workers: list[threading.Thread]) -> None:
    block[STOP // 8] = 1
    for wakeup in wakeups:
        wakeup.set()
    for worker in workers:
        if worker is not threading.current_thread():
            worker.join(timeout=5)
