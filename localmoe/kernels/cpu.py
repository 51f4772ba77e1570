"""The CPU's arithmetic for one transformer: one method per step of a layer, for a chunk of tokens.

Every method takes and returns `Rows`: float32 activations [tokens, cols] together with their int8 form.
Methods run one or two jobs on the pool; nothing is allocated while tokens flow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels import attention as A
from localmoe.kernels import tasks as T
from localmoe.kernels.buffers import Buffers, Floats, Rows, Shape
from localmoe.kernels.geometry import BLOCK, GROUP, TILE
from localmoe.kernels.matrix import Matrix
from localmoe.kernels.pool import Pool


class LayerCache(Protocol):
    """One layer of a KV cache, in the layout of `kernels.attention`."""

    @property
    def context(self) -> int: ...
    @property
    def kind(self) -> int:
        """KV_F16, KV_Q8_0 or KV_F32 of `kernels.attention`"""

    @property
    def addresses(self) -> tuple[int, int, int, int]:
        """keys, key scales, values, value scales"""


class ExpertSource(Protocol):
    """Where a layer's experts are while they are computed."""

    gate: Matrix  # type and shape of every expert's gate; its address is not used
    up: Matrix
    down: Matrix

    def batches(self, chosen: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int32], int]]:
        """The experts that `chosen` [tokens, k] names, each once, some at a time, with the address of
        int64 [experts, 3]: where each one's gate, up and down are until the next batch is asked for.
        """


def bits(x: float) -> int:
    """A float32's bits, as task arguments carry it."""
    return int(struct.unpack("<i", struct.pack("<f", x))[0])


class Cpu:
    """Arithmetic on a pool of threads. `exact` keeps activations in float32 (slow: for tests and reference).

    rope: float32 [context, rope_pairs, 2], cos and sin of every position.
    """

    def __init__(self, shape: Shape, threads: int, chunk: int, rope: Floats, exact: bool = False) -> None:
        self.shape, self.chunk, self.exact, self.rope = shape, chunk, exact, rope
        self.buffers = Buffers(shape, threads, chunk, rope.shape[0], exact)
        self.pool = Pool(threads)
        self.tokens = 0
        self._epsilon, self._scale = bits(shape.epsilon), bits(shape.head_dim**-0.5)
        self._linears: dict[tuple[int, ...], tuple[NDArray[np.int64], int, int]] = {}
        self._addresses: dict[int, int] = {}  # of norms and routers, by id: the model keeps them alive

    def close(self) -> None:
        self.pool.close()

    def _at(self, weight: Floats) -> int:
        found = self._addresses.get(id(weight))
        if found is None:
            found = self._addresses[id(weight)] = int(weight.ctypes.data)
        return found

    # -- the steps of a layer --------------------------------------------------------------------------------

    def embed(self, ids: Sequence[int], matrix: Matrix) -> Rows:
        """The embeddings of the ids: the residual stream [tokens, hidden]. A pass begins here."""
        self.pool.wake()
        b, x, self.tokens = self.buffers, self.buffers.residual, len(ids)
        b.ids.array[: self.tokens] = ids
        self.pool.run(
            T.embed_task.address, self.tokens, b.ids.at, matrix.address, matrix.row_bytes, matrix.cols,
            matrix.kind, matrix.block_bytes, b.table.at, x.x,
        )  # fmt: skip
        return x

    def norm(self, x: Rows, weight: Floats) -> Rows:
        """RMSNorm, row by row."""
        h = self.buffers.normed
        self.pool.run(
            T.norm_task.address, self.tokens, x.x, self._at(weight), x.cols, self._epsilon,
            h.x, h.quantized, h.q, h.scales, h.sums,
        )  # fmt: skip
        return h

    def qkv(self, h: Rows, q: Matrix, k: Matrix, v: Matrix) -> tuple[Rows, Rows, Rows]:
        """Queries, keys and values of each token."""
        b = self.buffers
        self._linear(h, (q, k, v), (b.q, b.k, b.v), self.tokens)
        return b.q, b.k, b.v

    def attend(self, q: Rows, k: Rows, v: Rows, cache: LayerCache, position: int) -> Rows:
        """Rotates q and k, appends k and v at `position`.., attends. → [tokens, heads * head_dim]"""
        s, b, out = self.shape, self.buffers, self.buffers.attended
        self.pool.run(
            A.append_task.address, self.tokens, q.x, k.x, v.x, position, s.heads, s.kv_heads, s.head_dim,
            self._at(self.rope), s.rope_pairs, cache.context, *cache.addresses, cache.kind,
        )  # fmt: skip
        oldest = max(0, position - s.window + 1) if s.window else 0
        blocks = position // BLOCK + 1 - oldest // BLOCK
        split = self.tokens == 1 and blocks > 1  # a lone token's blocks go to all threads
        task, items = (A.block_task, blocks) if split else (A.attend_task, self.tokens)
        self.pool.run(
            task.address, items * s.kv_heads, q.x, out.x, position, s.heads, s.kv_heads, s.head_dim,
            cache.context, *cache.addresses, cache.kind, self._scale, s.window, b.scratch.at, b.scratch_bytes,
            b.partials.at,
        )  # fmt: skip
        if split:
            A.merge_blocks(b.partials.at, blocks, s.heads, s.kv_heads, s.head_dim, out.x)
        if out.quantized:
            self.pool.run(
                T.quantize_task.address, self.tokens, out.x, out.cols, out.q, out.scales, out.sums
            )
        return out

    def add_linear(self, x: Rows, h: Rows, matrix: Matrix) -> None:
        """x += matrix · h, token by token."""
        self._linear(h, (matrix,), (x,), self.tokens, add=True)

    def add_dense(self, x: Rows, h: Rows, gate: Matrix, up: Matrix, down: Matrix) -> None:
        """x += down · (silu(gate · h) * (up · h)): the FFN of a model without experts."""
        b, inner = self.buffers, self.buffers.up
        self._linear(h, (gate, up), (b.gate, inner), self.tokens)
        self.pool.run(
            T.swiglu_task.address, self.tokens, b.gate.x, inner.x, inner.cols, inner.quantized,
            inner.q, inner.scales, inner.sums,
        )  # fmt: skip
        self._linear(inner, (down,), (x,), self.tokens, add=True)

    def last_logits(self, h: Rows, output: Matrix) -> Floats:
        """float32 [vocab] of the chunk's last token; the array is overwritten by the next call."""
        logits = self.buffers.logits
        self._linear(h, (output,), (logits,), 1, first=self.tokens - 1)
        row: Floats = logits.array[0]
        return row

    def all_logits(self, h: Rows, output: Matrix) -> Floats:
        """float32 [tokens, vocab]"""
        rows = Rows(self.tokens, output.rows, False)
        self._linear(h, (output,), (rows,), self.tokens, keep=False)
        return rows.array

    def _linear(
        self, h: Rows, matrices: tuple[Matrix, ...], outputs: tuple[Rows, ...], tokens: int, *,
        add: bool = False, first: int = 0, keep: bool = True,
    ) -> None:  # fmt: skip
        """Multiplies matrices that share their input; `keep` remembers how, for the next token."""
        b = self.buffers
        key = (*(m.address for m in matrices), outputs[0].x)
        found = self._linears.get(key) if keep else None
        if found is None:
            found = self._describe(matrices, outputs)
            if keep:
                self._linears[key] = found
        _, description, items = found
        self.pool.run(
            T.linear_task.address, items, description, len(matrices), h.cols, b.table.at,
            h.x, h.q, h.scales, h.sums, b.identity.at + first * 4, tokens, int(self.exact), int(add),
            b.scratch.at, b.scratch_bytes,
        )  # fmt: skip

    def _describe(
        self, matrices: tuple[Matrix, ...], outputs: tuple[Rows, ...]
    ) -> tuple[NDArray[np.int64], int, int]:
        """What `linear_task` reads of each matrix: the array, its address, and the number of items."""
        rows, items = [], 0
        for m, y in zip(matrices, outputs, strict=True):
            chunk = self._rows_per_item(m.rows)
            rows.append((m.address, m.rows, m.row_bytes, m.kind, m.block_bytes, y.x, items, chunk))
            items += -(-m.rows // chunk)
        description = np.array(rows, np.int64)
        return description, int(description.ctypes.data), items

    def _rows_per_item(self, rows: int) -> int:
        """Few enough that a thread which is held up costs little, whole tiles so that nothing is unpacked
        twice.
        """
        return max(TILE, min(64, -(-rows // (self.pool.threads * 8)) // TILE * TILE))

    # -- mixture of experts ----------------------------------------------------------------------------------

    def add_experts(self, x: Rows, h: Rows, router: Floats, source: ExpertSource) -> None:
        """x += the weighted sum of the chosen experts' FFNs, in router order."""
        s, b, tokens = self.shape, self.buffers, self.tokens
        k = s.experts_used
        self.pool.run(
            T.route_task.address, tokens, h.x, h.cols, self._at(router), s.experts, k,
            b.chosen.at, b.weights.at, b.router_logits.at,
        )  # fmt: skip
        T.group_by_expert(
            b.chosen.at, tokens, k, s.experts, b.token_of.at, b.place_of.at, b.starts.at
        )
        for active, addresses in source.batches(b.chosen.array[:tokens]):
            self.pool.wake()  # reading an expert may have taken so long that the threads fell asleep
            self._experts(h, active, addresses, source)
        self.pool.run(
            T.combine_task.address, tokens, x.x, s.hidden, k, b.weights.at, b.place_of.at, b.out.at
        )

    def _experts(self, h: Rows, active: NDArray[np.int32], addresses: int, source: ExpertSource) -> None:
        """out[pair] = the FFN of each pair of a token and one of the `active` experts."""
        s, b, gate, up, down = self.shape, self.buffers, source.gate, source.up, source.down
        inner, first = b.inner, int(active.ctypes.data)
        floats = self.exact or down.type in ("f32", "f16", "bf16")
        b.formats.array[:7] = (
            up.kind, up.block_bytes, up.row_bytes, floats, inner.q, inner.scales, inner.sums
        )  # fmt: skip
        chunks = -(-s.ffn // GROUP)
        self.pool.run(
            T.gate_up_task.address, len(active) * chunks, first, chunks, addresses, b.starts.at,
            b.token_of.at, h.cols, s.ffn, gate.kind, gate.block_bytes, gate.row_bytes, b.table.at,
            h.x, h.q, h.scales, h.sums, inner.x, int(self.exact), b.scratch.at, b.scratch_bytes,
            b.formats.at,
        )  # fmt: skip
        chunk = self._rows_per_item(s.hidden)
        chunks = -(-s.hidden // chunk)
        self.pool.run(
            T.down_task.address, len(active) * chunks, first, chunks, addresses, b.starts.at, b.identity.at,
            s.ffn, s.hidden, down.kind, down.block_bytes, down.row_bytes, b.table.at,
            inner.x, inner.q, inner.scales, inner.sums, b.out.at, int(self.exact), b.scratch.at,
            b.scratch_bytes, chunk,
        )  # fmt: skip
