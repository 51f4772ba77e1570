"""A CPU worker that computes experts for a GPU which is in the middle of a recorded step.

Both sides meet in a region of shared memory (pinned and mapped where there is a GPU). The GPU stores
activations, expert
ids and the first FFN row that is the CPU's, then raises POSTED; the worker computes with the CPU kernels,
stores one row
of results per expert and raises DONE to the same number. Every wait is bounded: the GPU gives up after a
number of looks
and raises FAILED; a worker that ends raises it too. Worker code is compiled and runs without the
interpreter's lock.

The worker looks for work while ACTIVE is set, from a step's launch to its end, and sleeps otherwise: a pause
between two
turns of a conversation costs no CPU time.

    byte 0 POSTED   128 DONE   256 FAILED   320 ACTIVE   384 header: layer, misses, first row   512 ids   640
    ranks
    1024 activations float32 [hidden], then results float32 [k, hidden], row c for the c-th choice
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from localmoe.errors import LocalMoeError
from localmoe.kernels import tasks_experts
from localmoe.kernels.atomics import load_acquire, pause, store_release
from localmoe.kernels.elementwise import quantize_row
from localmoe.kernels.geometry import GROUP, LEVELS, SUMS
from localmoe.kernels.handshake_layout import (
    ACTIVATIONS,
    ACTIVE,
    DONE,
    FAILED,
    FIRST_ROW,
    HEADER,
    IDS,
    LAYER,
    MISSES,
    MOST_CHOICES,
    POSTED,
    RANKS,
    WORKER_ENDED,
    results_start,
)
from localmoe.kernels.matrix import Matrix
from localmoe.kernels.orders import LONE, ORDERS, int8_rows
from localmoe.kernels.pool import ARGS, Pool, _run, keep_awake
from localmoe.kernels.simd import define, load_i32, load_i64, store_i64
from localmoe.kernels.task_pieces import gate_up_piece_task
from quant.compiled import compiled

PATIENCE = 400_000
"""Looks without a job before a pool thread sleeps, some 20 ms: only the next step wakes it, and a thread that
loses its core for a few milliseconds must not send all the others to sleep for the rest of this one."""
PIECE = 128  # rows of an item of gate and up: so few that many threads end their share of an expert together
SPINS = 4_000  # looks before the core is offered to others, and before sleeping pool threads are kept awake

_YIELD = "sched_yield"
yield_core = define(
    types.none(),
    lambda b: b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.IntType(32), []), _YIELD),
    []),
)


class HandshakeError(LocalMoeError):
    """The CPU's share of a GPU step did not arrive."""


@dataclass(frozen=True, slots=True)
class Region:
    """The shared memory's layout for one model. `address` is where this process sees it; it must be zero at
    first.
    """

    address: int
    hidden: int
    choices: int
    owner: object = None  # kept alive as long as the region is

    @staticmethod
    def nbytes_for(hidden: int, choices: int) -> int:
        return results_start(hidden) + choices * hidden * 4

    @property
    def results(self) -> int:
        return self.address + results_start(self.hidden)

    def flag(self, at: int) -> int:
        """The value of POSTED, DONE, FAILED or ACTIVE."""
        return int(_flag(self.address + at))

    def set_flag(self, at: int, value: int) -> None:
        _set_flag(self.address + at, value)

    def check(self) -> None:
        """Raises HandshakeError if either side gave up."""
        if self.flag(FAILED):
            raise HandshakeError(
                "the CPU did not deliver its share of the experts in time; start again, or use --mode stream"
            )


@compiled("int64(int64)")
def _flag(address: int) -> int:
    return int(load_acquire(address))


@compiled("void(int64, int64)")
def _set_flag(address: int, value: int) -> None:
    store_release(address, value)


# The worker's constants, int64 each, in the order `Worker` fills them; per layer, LAYER_WORDS more.
(_CONTROL, _REGION, _RESULTS, _LAYERS, _TABLE, _EXPERTS, _HIDDEN, _FFN, _Q, _SCALES, _Q_SUMS, _INNER,
    _INNER_Q, _INNER_SCALES,
 _INNER_SUMS, _ADDRESSES, _STARTS, _ZEROS, _FORMATS, _SCRATCH, _SCRATCH_BYTES, _GATE_UP, _DOWN, _LEVELS,
 _CHUNK, _STORED, _GATE_AND_UP, _BIASES) = range(28)  # fmt: skip
# kind, block bytes, row bytes of gate, up, down; down's weights per block; whether it wants float32 inputs;
# the biases of gate and up (0: none)
LAYER_WORDS = 13


@compiled(forceinline=True)
def _store6(at: int, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
    store_i64(at, a)
    store_i64(at + 8, b)
    store_i64(at + 16, c)
    store_i64(at + 24, d)
    store_i64(at + 32, e)
    store_i64(at + 40, f)


@compiled("void(int64, int64)")
def _work(me: int, region: int) -> None:
    """Computes what was posted; `me` is the address of the worker's constants."""
    control, results = load_i64(me + _CONTROL * 8), load_i64(me + _RESULTS * 8)
    layer, misses = load_i32(region + HEADER + LAYER * 4), load_i32(region + HEADER + MISSES * 4)
    first_row = load_i32(region + HEADER + FIRST_ROW * 4)
    hidden, ffn = load_i64(me + _HIDDEN * 8), load_i64(me + _FFN * 8) - first_row
    x, q, scales = region + ACTIVATIONS, load_i64(me + _Q * 8), load_i64(me + _SCALES * 8)
    sums, formats = load_i64(me + _Q_SUMS * 8), load_i64(me + _FORMATS * 8)
    addresses, starts = load_i64(me + _ADDRESSES * 8), load_i64(me + _STARTS * 8)
    f, biases = load_i64(me + _LAYERS * 8) + layer * LAYER_WORDS * 8, load_i64(me + _BIASES * 8)
    quantize_row(x, hidden, q, scales, sums, 0)
    for i in range(misses):
        expert, rank = load_i32(region + IDS + i * 4), load_i32(region + RANKS + i * 4)
        home = load_i64(me + _TABLE * 8) + (layer * load_i64(me + _EXPERTS * 8) + expert) * 24
        store_i64(addresses + rank * 24, load_i64(home) + first_row * load_i64(f + 16))
        store_i64(addresses + rank * 24 + 8, load_i64(home + 8) + first_row * load_i64(f + 40))
        blocks = first_row // load_i64(f + 72)  # a row of down starts with the GPU's share of its columns
        store_i64(addresses + rank * 24 + 16, load_i64(home + 16) + blocks * load_i64(f + 56))
        row = (expert * load_i64(me + _FFN * 8) + first_row) * 4
        store_i64(biases + rank * 16, load_i64(f + 88) + row)
        store_i64(biases + rank * 16 + 8, load_i64(f + 96) + row)
    store_i64(formats, load_i64(f + 24))
    store_i64(formats + 8, load_i64(f + 32))
    store_i64(formats + 16, load_i64(f + 40))
    store_i64(formats + 24, load_i64(f + 80))
    store_i64(formats + 72, biases if load_i64(f + 88) else 0)
    args = control + ARGS
    _store6(args, region + RANKS, PIECE, addresses, starts, load_i64(me + _ZEROS * 8), hidden)
    _store6(args + 48, ffn, load_i64(f), load_i64(f + 8), load_i64(f + 16), load_i64(me + _LEVELS * 8), x)
    _store6(args + 96, q, scales, sums, load_i64(me + _INNER * 8), 0, load_i64(me + _SCRATCH * 8))
    store_i64(args + 144, load_i64(me + _SCRATCH_BYTES * 8))
    store_i64(args + 152, formats)
    _run(control, load_i64(me + _GATE_UP * 8), misses * 2 * ((ffn + PIECE - 1) // PIECE))
    chunk = load_i64(me + _CHUNK * 8)
    chunks = (hidden + chunk - 1) // chunk
    _store6(args, region + RANKS, chunks, addresses, starts, starts, ffn)
    _store6(args + 48, hidden, load_i64(f + 48), load_i64(f + 56), load_i64(f + 64),
        load_i64(me + _LEVELS * 8),
            load_i64(me + _INNER * 8))  # fmt: skip
    _store6(args + 96, load_i64(me + _INNER_Q * 8), load_i64(me + _INNER_SCALES * 8),
        load_i64(me + _INNER_SUMS * 8), results,
            0, load_i64(me + _SCRATCH * 8))  # fmt: skip
    store_i64(args + 144, load_i64(me + _SCRATCH_BYTES * 8))
    store_i64(args + 152, chunk)
    _run(control, load_i64(me + _DOWN * 8), misses * chunks)


@compiled("int64(int64)")
def _serve(me: int) -> int:
    """Computes what is posted until ACTIVE is 0 and nothing is left; returns how many posts were answered."""
    control, region = load_i64(me + _CONTROL * 8), load_i64(me + _REGION * 8)
    idle = answered = 0
    while True:
        active = load_acquire(region + ACTIVE)  # before POSTED: what was posted while it was set is seen
        turn = load_acquire(region + POSTED)
        if turn != load_acquire(region + DONE):
            _work(me, region)
            store_release(region + DONE, turn)
            answered += 1
            idle = 0
        elif active == 0:
            return answered
        else:
            pause()
            idle += 1
            if idle % SPINS == 0:
                keep_awake(control)  # while the GPU works
                yield_core()


@dataclass(frozen=True, slots=True)
class LayerFormats:
    """What the worker must know of one layer's experts. Biases are in the host's memory; that of `down` is
    not used, the GPU adds it.
    """

    gate: Matrix
    up: Matrix
    down: Matrix

    def words(self) -> list[int]:
        from quant.blocks import FORMATS

        words = [n for m in (self.gate, self.up, self.down) for n in (m.kind, m.block_bytes, m.row_bytes)]
        floats = int(self.down.type in ("f32", "f16", "bf16"))
        return [*words, FORMATS[self.down.type].block_size, floats, self.gate.bias, self.up.bias]


class Worker:
    """The CPU worker: one thread that leads a pool. `addresses` int64 [layers, experts, 3] say where experts
    are in RAM or
    in the mapped file; they may change between steps, in place."""

    def __init__(
        self, region: Region, pool: Pool, layers: list[LayerFormats], addresses: NDArray[np.int64], ffn: int,
        clamped: bool = False,
    ) -> None:  # fmt: skip
        """`clamped`: the gated unit is `elementwise.clamped_swiglu`."""
        if region.choices > MOST_CHOICES:
            raise ValueError(f"{region.choices} experts per token are more than the region has room for")
        hidden, k = region.hidden, region.choices
        groups, inner_groups = -(-hidden // GROUP), -(-ffn // GROUP)
        scratch = -(-(max(hidden, ffn) * 4 + 4 * GROUP * 4 + 4096) // 4096) * 4096
        self.region, self.pool = region, pool
        self._arrays: dict[int, NDArray[Any]] = {
            _LAYERS: np.array([layer.words() for layer in layers], np.int64),
            _TABLE: addresses,
            _Q: int8_rows(np.zeros((LONE * ORDERS + 1, groups * GROUP), np.int8)),
            _SCALES: np.zeros(groups, np.float32),
            _Q_SUMS: np.zeros(groups * SUMS, np.int16),
            _INNER: np.zeros(k * ffn, np.float32),
            _INNER_Q: int8_rows(np.zeros((LONE * ORDERS + k, inner_groups * GROUP), np.int8)),
            _INNER_SCALES: np.zeros(k * inner_groups, np.float32),
            _INNER_SUMS: np.zeros(k * inner_groups * SUMS, np.int16),
            _ADDRESSES: np.zeros((k, 3), np.int64),
            _STARTS: np.arange(k + 1, dtype=np.int32),
            _ZEROS: np.zeros(k, np.int32),
            _FORMATS: np.zeros(11, np.int64),
            _SCRATCH: np.zeros(pool.threads * scratch // 4, np.float32),
            _LEVELS: LEVELS,
            _STORED: np.zeros(k * inner_groups, np.int64),
            _GATE_AND_UP: np.zeros(k * 2 * inner_groups * GROUP, np.float32),
            _BIASES: np.zeros((k, 2), np.int64),
        }
        if not addresses.flags.c_contiguous or addresses.dtype != np.int64:
            raise ValueError("expert addresses are int64 [layers, experts, 3], contiguous")
        pool_control = pool.control  # the pool's control block: compiled code starts jobs through it
        words = {
            _CONTROL: pool_control, _REGION: region.address, _RESULTS: region.results,
            _EXPERTS: addresses.shape[1],
            _HIDDEN: hidden, _FFN: ffn, _SCRATCH_BYTES: scratch, _GATE_UP: gate_up_piece_task.address,
            _DOWN: tasks_experts.down_task.address, _CHUNK: max(8, min(64, -(-hidden // (pool.threads * 8)))),
        }  # fmt: skip
        words.update({place: int(array.ctypes.data) for place, array in self._arrays.items()})
        kept = (_INNER_Q, _INNER_SCALES, _INNER_SUMS, _STORED, _GATE_AND_UP)
        self._arrays[_FORMATS][4:9] = [words[i] for i in kept]
        self._arrays[_FORMATS][10] = clamped
        self._words = np.array([words[i] for i in range(len(words))], np.int64)
        self._wakeup, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=_serve_forever, args=(self._words, self._arrays, region, self._wakeup, self._ending),
            name="localmoe-gpu-worker", daemon=True,
        )  # fmt: skip
        self._thread.start()
        self._close = weakref.finalize(self, _end, region, self._wakeup, self._ending, self._thread)

    def begin_step(self) -> None:
        """The GPU may post from now on."""
        self.region.check()
        self.region.set_flag(ACTIVE, 1)
        self.pool.wake()
        self._wakeup.set()

    def end_step(self) -> None:
        """The GPU has ended its step: the worker may sleep. Raises HandshakeError if its share was missed."""
        self.region.set_flag(ACTIVE, 0)
        self.region.check()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread. Safe to call twice; a GPU that still waits is told."""
        self._close()


def _serve_forever(
    words: NDArray[np.int64], arrays: dict[int, NDArray[Any]], region: Region, wakeup: threading.Event,
    ending: threading.Event,
) -> None:  # fmt: skip
    """The worker's thread; `arrays` are what `words` points to."""
    try:
        while True:
            wakeup.wait()
            # before serving: a wake that comes meanwhile costs one more round, never a lost one
            wakeup.clear()
            if ending.is_set():
                return
            _serve(int(words.ctypes.data))
    finally:
        if not region.flag(FAILED):
            region.set_flag(FAILED, WORKER_ENDED)


def _end(region: Region, wakeup: threading.Event, ending: threading.Event, thread: threading.Thread) -> None:
    region.set_flag(ACTIVE, 0)
    ending.set()
    wakeup.set()
    if thread is not threading.current_thread():
        thread.join(timeout=5)
