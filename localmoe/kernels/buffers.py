"""The CPU's working memory for one transformer: activations of a chunk of tokens, routing, scratch for
threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels.geometry import BLOCK, GROUP, LEVELS, SUMS, TILE, scratch_bytes
from localmoe.kernels.orders import LONE, ORDERS, reorder

Floats = NDArray[np.float32]
LINE = 64  # bytes of a cache line


@dataclass(frozen=True, slots=True)
class Shape:
    """What the buffers depend on: the model's widths. `ffn` is one expert's (or the dense FFN's) inner
    width.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    experts: int  # 0: a dense model
    experts_used: int
    vocab: int
    rope_pairs: int
    epsilon: float
    rope_halves: bool = False  # a head's rotary pairs are (i, i + rope_pairs), not (2i, 2i + 1)
    clamped: bool = False  # the gated unit is `elementwise.clamped_swiglu`
    float_ffn: bool = False  # the FFN's inner activations are kept in float32 too


class Block:
    """An array and its address, which NumPy takes a microsecond to tell."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.at = array, int(array.ctypes.data)

    @classmethod
    def zeros(cls, shape: tuple[int, ...], kind: Any) -> Block:
        """Memory that is taken from the system only as it is written, from the start of a cache line on."""
        size = math.prod(shape) * np.dtype(kind).itemsize
        memory = np.zeros(size + LINE, np.uint8)
        skip = -memory.ctypes.data % LINE  # numpy aligns to 16 bytes: vectors of 64 would span two lines
        return cls(memory[skip : skip + size].view(kind).reshape(shape))


class Rows:
    """Room for `most` rows of `cols` float32 and, where `quantized`, their int8 form.

    A form that is never written is one row: tasks want an address.
    """

    def __init__(self, most: int, cols: int, quantized: bool, floats: bool = True) -> None:
        self.cols = cols
        self.quantized = quantized and cols % 32 == 0
        groups, rows = -(-cols // GROUP), most if self.quantized else 1
        before = LONE * ORDERS if self.quantized else 0
        self._int8 = Block.zeros((before + rows, groups * GROUP), np.int8).array
        self._blocks = (
            Block.zeros((most if floats else 1, cols), np.float32),
            Block(self._int8[before:]),
            Block.zeros((rows, groups), np.float32),
            Block.zeros((rows, groups * SUMS), np.int16),
        )
        self.array: Floats = self._blocks[0].array
        self.x, self.q, self.scales, self.sums = (block.at for block in self._blocks)

    @property
    def nbytes(self) -> int:
        before = self._int8.nbytes - self._blocks[1].array.nbytes
        return before + sum(block.array.nbytes for block in self._blocks)

    def to_front(self, row: int) -> None:
        """Copies a row, in each of its forms, over the first."""
        for block in self._blocks:
            if len(block.array) > 1:
                block.array[0] = block.array[row]
        if self.quantized:
            reorder(self._int8, 0)


class Buffers:
    """Every buffer of `kernels.cpu.Cpu`; `nbytes` is what they take once all of them were written."""

    def __init__(self, shape: Shape, threads: int, chunk: int, context: int, exact: bool) -> None:
        s, int8 = shape, not exact
        attention_cols, kv_cols = s.heads * s.head_dim, s.kv_heads * s.head_dim
        self.residual, self.normed = Rows(chunk, s.hidden, False), Rows(chunk, s.hidden, int8)
        self.q, self.k, self.v = (Rows(chunk, cols, False) for cols in (attention_cols, kv_cols, kv_cols))
        self.attended = Rows(chunk, attention_cols, int8)
        self.logits = Rows(1, s.vocab, False)
        self.table = Block(LEVELS)
        self.ids = Block.zeros((chunk,), np.int32)
        self.step = Block.zeros((8 + s.kv_heads,), np.int64)  # `kernels.cpu.POSITION`, `attention.COUNTERS`
        self.identity = Block(np.arange(chunk * max(1, s.experts_used), dtype=np.int32))
        # A mixture: one row of inner activations per (token, expert) pair. A dense model: gate and up.
        pairs = chunk * s.experts_used
        if s.experts:
            self.inner = Rows(pairs, s.ffn, int8, floats=s.float_ffn)
            groups = -(-s.ffn // GROUP)
            self.gate_up = Block.zeros((s.experts_used, 2, groups * GROUP), np.float32)  # a lone token's
            self.stored = Block.zeros((s.experts_used, groups), np.int64)  # see `kernels.task_pieces`
        else:
            self.gate, self.up = Rows(chunk, s.ffn, False), Rows(chunk, s.ffn, int8)
        self.chosen = Block.zeros((chunk, s.experts_used), np.int32)
        self.weights = Block.zeros((chunk, s.experts_used), np.float32)
        self.router_logits = Rows(chunk, s.experts, False)
        self.token_of, self.place_of = Block.zeros((pairs,), np.int32), Block.zeros((pairs,), np.int32)
        self.starts = Block.zeros((s.experts + 1,), np.int32)
        self.out = Block.zeros((pairs, s.hidden), np.float32)
        blocks = context // BLOCK + 2
        self.partials = Block.zeros((blocks * s.heads * (s.head_dim + 2),), np.float32)
        widest = max(s.hidden, attention_cols, s.ffn)
        dots = scratch_bytes(widest, chunk) + chunk * 2 * (TILE + GROUP) * 4
        attention = 4 * BLOCK * 4 + 2 * (s.heads // s.kv_heads) * (s.head_dim + 2) * 4
        self.scratch_bytes = -(-max(dots, attention) // 4096) * 4096  # of one thread
        self.scratch = Block.zeros((threads, self.scratch_bytes), np.uint8)

    @property
    def nbytes(self) -> int:
        rows = sum(value.nbytes for value in vars(self).values() if isinstance(value, Rows))
        return rows + sum(value.array.nbytes for value in vars(self).values() if isinstance(value, Block))


def scratch_for(shape: Shape, threads: int, chunk: int, context: int, exact: bool = False) -> int:
    """Bytes that `Buffers` of these sizes take: made and dropped, since untouched memory costs nothing."""
    return Buffers(shape, threads, chunk, context, exact).nbytes
