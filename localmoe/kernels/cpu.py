"""The CPU's arithmetic for one transformer: buffers for a chunk of tokens, and one method per step of a
layer.

Every method takes and returns `Rows`: float32 activations [tokens, cols] together with their int8 form.
Methods run one or two jobs on the pool; nothing is allocated while tokens flow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels import attention as A
from localmoe.kernels import tasks as T
from localmoe.kernels.dot import scratch_bytes
from localmoe.kernels.dot_blocks import IQ4_NL_TABLE
from localmoe.kernels.dot_tile import TILE
from localmoe.kernels.elementwise import GROUP, SUMS
from localmoe.kernels.matrix import Matrix
from localmoe.kernels.pool import Pool

Floats = NDArray[np.float32]


def bits(x: float) -> int:
    """A float32's bits, as task arguments carry it."""
    return int(struct.unpack("<i", struct.pack("<f", x))[0])


class Rows:
    """Room for `most` rows of `cols` float32 and their int8 form."""

    def __init__(self, most: int, cols: int, quantized: bool) -> None:
        self.cols = cols
        self.quantized = quantized and cols % 32 == 0
        groups = -(-cols // GROUP)
        self.array: Floats = np.zeros((most, cols), np.float32)
        # The int8 form also exists, one row of it, where it is never written: tasks want an address.
        rows = most if self.quantized else 1
        self._q = np.zeros((rows, groups * GROUP), np.int8)
        self._scales = np.zeros((rows, groups), np.float32)
        self._sums = np.zeros((rows, groups * SUMS), np.int16)
        self.x, self.q, self.scales, self.sums = (_address(a) for a in (self.array, self._q, self._scales,
                                                                        self._sums))

    @property
    def nbytes(self) -> int:
        return self.array.nbytes + self._q.nbytes + self._scales.nbytes + self._sums.nbytes


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
    window: int  # 0: attention sees every position


class LayerCache(Protocol):
    """One layer of a KV cache, in the layout of `kernels.attention`."""

    @property
    def context(self) -> int: ...
    @property
    def q8(self) -> bool: ...
    @property
    def addresses(self) -> tuple[int, int, int, int]:
        """keys, key scales, values, value scales"""


class ExpertSource(Protocol):
    """Where a layer's experts are while they are computed."""

    gate: Matrix  # type and shape of every expert's gate; its address is not used
    up: Matrix
    down: Matrix

    def observe(self, chosen: NDArray[np.int32]) -> None:
        """The routing of these tokens [tokens, k] has been decided."""

    def batches(self, used: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int32], int]]:
        """The experts in use, some at a time, with the address of int64 [experts, 3]: where each one's gate,
        up and down rows are until the next batch is asked for."""


def _address(array: NDArray[np.generic]) -> int:
    return int(array.ctypes.data)


class Cpu:
    """Arithmetic on a pool of threads. `exact` keeps activations in float32 (slow: for tests and
    reference).
    """

    def __init__(self, shape: Shape, threads: int, chunk: int, rope: Floats, exact: bool = False) -> None:
        s = self.shape = shape
        self.chunk, self.exact, self.rope = chunk, exact, rope
        self.pool = Pool(threads)
        quantized = not exact
        attention_cols, kv_cols = s.heads * s.head_dim, s.kv_heads * s.head_dim
        self.residual = Rows(chunk, s.hidden, False)
        self.normed = Rows(chunk, s.hidden, quantized)
        self.q = Rows(chunk, attention_cols, False)
        self.k, self.v = Rows(chunk, kv_cols, False), Rows(chunk, kv_cols, False)
        self.attended = Rows(chunk, attention_cols, quantized)
        self.logits = Rows(1, s.vocab, False)
        self._linears: dict[tuple[int, ...], tuple[NDArray[np.int64], int]] = {}
        self._table = IQ4_NL_TABLE
        self._identity = np.arange(max(chunk * max(1, s.experts_used), 1), dtype=np.int32)
        self._ids = np.zeros(chunk, np.int32)
        if s.experts:
            self._experts_buffers()
        else:
            self.gate, self.up = Rows(chunk, s.ffn, False), Rows(chunk, s.ffn, quantized)
        group = s.heads // s.kv_heads
        widest = max(s.hidden, attention_cols, s.ffn)
        rows = scratch_bytes(widest, chunk) + chunk * (TILE + 2 * GROUP) * 4
        needed = max(rows, 4 * A.BLOCK * 4 + 2 * group * (s.head_dim + 2) * 4)
        self._scratch_bytes = -(-needed // 4096) * 4096
        self._scratch = np.zeros(threads * self._scratch_bytes // 4, np.float32)
        self._partials = np.zeros(0, np.float32)

    def _experts_buffers(self) -> None:
        s, pairs = self.shape, self.chunk * self.shape.experts_used
        self._chosen = np.zeros((self.chunk, s.experts_used), np.int32)
        self._weights = np.zeros((self.chunk, s.experts_used), np.float32)
        self._router_logits = np.zeros((self.chunk, s.experts), np.float32)
        self._token_of, self._place_of = np.zeros(pairs, np.int32), np.zeros(pairs, np.int32)
        self._starts = np.zeros(s.experts + 1, np.int32)
        self._hidden: Rows | None = None  # made at the first layer, when the experts' types are known
        self._out = np.zeros((pairs, s.hidden), np.float32)
        self._formats = np.zeros(8, np.int64)

    def close(self) -> None:
        self.pool.close()

    # ------------------------------------------------------------ the steps of a layer
    def embed(self, ids: Sequence[int], matrix: Matrix) -> Rows:
        """The embeddings of the ids: the residual stream [tokens, hidden]. Wakes the pool: a step begins
        here.
        """
        self.pool.wake()
        self.tokens = len(ids)
        self._ids[: self.tokens] = ids
        self.pool.run(T.embed_task.address, self.tokens, _address(self._ids), matrix.address,
                      matrix.row_bytes, matrix.cols,
                      matrix.kind, matrix.block_bytes, _address(self._table), self.residual.x, 0,
                      0)  # fmt: skip
        return self.residual

    def norm(self, x: Rows, weight: Floats) -> Rows:
        h = self.normed
        self.pool.run(T.norm_task.address, self.tokens, x.x, _address(weight), x.cols,
                      bits(self.shape.epsilon),
                      h.x, h.quantized, h.q, h.scales, h.sums, 0)  # fmt: skip
        return h

    def qkv(self, h: Rows, q: Matrix, k: Matrix, v: Matrix) -> tuple[Rows, Rows, Rows]:
        self._linear(h, (q, k, v), (self.q, self.k, self.v), self.tokens)
        return self.q, self.k, self.v

    def attend(self, q: Rows, k: Rows, v: Rows, cache: LayerCache, position: int) -> Rows:
        """Rotates q and k, appends k and v at `position`.., attends. → [tokens, heads * head_dim]"""
        s = self.shape
        keys, key_scales, values, value_scales = cache.addresses
        self.pool.run(A.append_task.address, self.tokens, q.x, k.x, v.x, position, s.heads, s.kv_heads,
                      s.head_dim,
                      _address(self.rope), s.rope_pairs, cache.context, keys, key_scales, values,
                      value_scales,
                      int(cache.q8), 0)  # fmt: skip
        out, scale = self.attended, bits(s.head_dim**-0.5)
        oldest = max(0, position - s.window + 1) if s.window else 0
        blocks = position // A.BLOCK + 1 - oldest // A.BLOCK
        split = self.tokens == 1 and blocks > 1
        self._room_for_partials(blocks if split else 0)
        task, items = (A.block_task, blocks * s.kv_heads) if split else (A.attend_task,
                                                                         self.tokens * s.kv_heads)
        self.pool.run(task.address, items, q.x, out.x, position, s.heads, s.kv_heads, s.head_dim,
                      cache.context,
                      keys, key_scales, values, value_scales, int(cache.q8), scale, s.window,
                      _address(self._scratch), self._scratch_bytes, _address(self._partials), 0, 0,
                      0)  # fmt: skip
        if split:
            A.merge_blocks(_address(self._partials), blocks, s.heads, s.kv_heads, s.head_dim, out.x)
        if out.quantized:
            self.pool.run(T.quantize_task.address, self.tokens, out.x, out.cols, out.q, out.scales,
                          out.sums, 0, 0, 0, 0, 0)
        return out

    def _room_for_partials(self, blocks: int) -> None:
        needed = blocks * self.shape.heads * (self.shape.head_dim + 2)
        if needed > self._partials.size:
            self._partials = np.zeros(2 * needed, np.float32)

    def add_linear(self, x: Rows, h: Rows, matrix: Matrix) -> None:
        """x += matrix · h, token by token."""
        self._linear(h, (matrix,), (x,), self.tokens, add=True)

    def add_dense(self, x: Rows, h: Rows, gate: Matrix, up: Matrix, down: Matrix) -> None:
        """x += down · (silu(gate · h) * (up · h)): the FFN of a model without experts."""
        self._linear(h, (gate, up), (self.gate, self.up), self.tokens)
        u = self.up
        self.pool.run(T.swiglu_task.address, self.tokens, self.gate.x, u.x, u.cols, u.quantized, u.q,
                      u.scales, u.sums, 0, 0, 0)
        self._linear(u, (down,), (x,), self.tokens, add=True)

    def last_logits(self, h: Rows, output: Matrix) -> Floats:
        """float32 [vocab] of the chunk's last token; the array is overwritten by the next call."""
        self._linear(h, (output,), (self.logits,), 1, first=self.tokens - 1)
        logits: Floats = self.logits.array[0]
        return logits

    def all_logits(self, h: Rows, output: Matrix) -> Floats:
        """float32 [tokens, vocab]"""
        rows = Rows(self.tokens, output.rows, False)
        self._linear(h, (output,), (rows,), self.tokens)
        return rows.array

    def _linear(self, h: Rows, matrices: tuple[Matrix, ...], outputs: tuple[Rows, ...], tokens: int,
                add: bool = False,
                first: int = 0) -> None:  # fmt: skip
        key = tuple(m.address for m in matrices) + tuple(y.x for y in outputs)
        found = self._linears.get(key)
        if found is None:
            found = self._describe(matrices, outputs)
            if outputs[0].array.shape[0] == self.chunk or outputs[0] is self.logits:
                self._linears[key] = found
        description, items = found
        self.pool.run(T.linear_task.address, items, _address(description), len(matrices), h.cols,
                      _address(self._table),
                      h.x, h.q, h.scales, h.sums, _address(self._identity) + first * 4, tokens,
                      int(self.exact), int(add),
                      _address(self._scratch), self._scratch_bytes, 0, 0)  # fmt: skip

    def _describe(self, matrices: tuple[Matrix, ...], outputs: tuple[Rows,
                                                                     ...]) -> tuple[NDArray[np.int64], int]:
        rows, items = [], 0
        for m, y in zip(matrices, outputs, strict=True):
            chunk = self._rows_per_item(m.rows)
            rows.append((m.address, m.rows, m.row_bytes, m.kind, m.block_bytes, y.x, items, chunk))
            items += -(-m.rows // chunk)
        return np.array(rows, np.int64), items

    def _rows_per_item(self, rows: int) -> int:
        """Small enough that a thread which is held up costs little, large enough that taking an item costs
        nothing.
        """
        return max(TILE, min(64, -(-rows // (self.pool.threads * 8)) // TILE * TILE))

    # ------------------------------------------------------------ mixture of experts
    def add_experts(self, x: Rows, h: Rows, router: Floats, source: ExpertSource) -> None:
        """x += the weighted sum of the chosen experts' FFNs, in router order."""
        s, tokens = self.shape, self.tokens
        k = s.experts_used
        self.pool.run(T.route_task.address, tokens, h.x, h.cols, _address(router), s.experts, k,
                      _address(self._chosen),
                      _address(self._weights), _address(self._router_logits), 0, 0)  # fmt: skip
        chosen = self._chosen[:tokens]
        source.observe(chosen)
        T.group_by_expert(_address(self._chosen), tokens, k, s.experts, _address(self._token_of),
                          _address(self._place_of),
                          _address(self._starts))  # fmt: skip
        used = np.flatnonzero(np.diff(self._starts)).astype(np.int32)
        for active, addresses in source.batches(used):
            self._experts(h, active, addresses, source)
        self.pool.run(T.combine_task.address, tokens, x.x, s.hidden, k, _address(self._weights),
                      _address(self._place_of),
                      _address(self._out), 0, 0, 0, 0)  # fmt: skip

    def _experts(self, h: Rows, active: NDArray[np.int32], addresses: int, source: ExpertSource) -> None:
        s, gate, up, down = self.shape, source.gate, source.up, source.down
        float_down = self.exact or down.type in ("f32", "f16", "bf16")
        if self._hidden is None:
            self._hidden = Rows(self.chunk * s.experts_used, s.ffn, True)
        hidden, pairs, starts = self._hidden, _address(self._token_of), _address(self._starts)
        self._formats[:7] = (up.kind, up.block_bytes, up.row_bytes, float_down, hidden.q, hidden.scales,
                             hidden.sums)
        chunks = -(-s.ffn // GROUP)
        self.pool.run(T.gate_up_task.address, len(active) * chunks, _address(active), chunks, addresses,
                      starts, pairs, h.cols,
                      s.ffn, gate.kind, gate.block_bytes, gate.row_bytes, _address(self._table), h.x, h.q,
                      h.scales, h.sums,
                      hidden.x, int(self.exact), _address(self._scratch), self._scratch_bytes,
                      _address(self._formats))  # fmt: skip
        chunk = self._rows_per_item(s.hidden)
        chunks = -(-s.hidden // chunk)
        self.pool.run(T.down_task.address, len(active) * chunks, _address(active), chunks, addresses, starts,
                      _address(self._identity), s.ffn, s.hidden, down.kind, down.block_bytes, down.row_bytes,
                      _address(self._table), hidden.x, hidden.q, hidden.scales, hidden.sums,
                      _address(self._out),
                      int(self.exact), _address(self._scratch), self._scratch_bytes, chunk)  # fmt: skip
