"""The CPU's arithmetic for one transformer: one method per step of a layer, for a chunk of tokens.

Every method takes and returns `Rows`: float32 activations [tokens, cols] together with their int8 form.
Methods run a few jobs on the pool; nothing is allocated while tokens flow. A lone token's pass can be
recorded and run again as one `Program`: the same methods, called once, make the jobs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels import attention as A
from localmoe.kernels import kv_append as K
from localmoe.kernels import starts as S
from localmoe.kernels import task_pieces as P
from localmoe.kernels import tasks as T
from localmoe.kernels import tasks_experts as E
from localmoe.kernels.buffers import Block, Buffers, Floats, Rows, Shape
from localmoe.kernels.geometry import BLOCK, GROUP, TILE
from localmoe.kernels.matrix import Heads, Matrix, Router
from localmoe.kernels.pool import Pool
from localmoe.kernels.program import Job, Program
from localmoe.kernels.sources import ExpertSource, LayerCache

POSITION = 0  # in `Buffers.step`: the first token's; then, for each window, a lone token's items in attention
ROUTED_AT_ONCE = 32  # experts: the logits of more are a job of their own, which a lone token's threads share
SMALL_ITEM = 1 << 14  # weights: about a microsecond's work, below which handing it out costs too much


def bits(x: float) -> int:
    """A float32's bits, as task arguments carry it."""
    return int(struct.unpack("<i", struct.pack("<f", x))[0])


class Cpu:
    """Arithmetic on a pool of threads. `exact` keeps activations in float32 (slow: for tests and reference).

    rope: float32 [context, rope_pairs, 2], cos and sin of every position; [context, 2, rope_pairs] where the
    shape says `rope_halves`.
    """

    def __init__(self, shape: Shape, threads: int, chunk: int, rope: Floats, exact: bool = False) -> None:
        self.shape, self.chunk, self.exact, self.rope = shape, chunk, exact, rope
        self.buffers = Buffers(shape, threads, chunk, rope.shape[0], exact)
        self.pool = Pool(threads)
        self.tokens = 0
        self._epsilon, self._scale = bits(shape.epsilon), bits(shape.head_dim**-0.5)
        self._recording: Program | None = None
        self._linears: dict[tuple[int, ...], tuple[NDArray[np.int64], int, int]] = {}
        self._formats: dict[tuple[int, ...], tuple[Block, ...]] = {}
        self._windows: dict[int, int] = {}  # each layer's, and their places in `Buffers.step`
        self._addresses: dict[int, int] = {}  # of norms and routers, by id: the model keeps them alive

    def close(self) -> None:
        self.pool.close()

    def _at(self, weight: Floats) -> int:
        found = self._addresses.get(id(weight))
        if found is None:
            found = self._addresses[id(weight)] = int(weight.ctypes.data)
        return found

    def _run(self, task: int, items: int, *args: int, items_at: int = 0, start: int = S.NOTHING) -> None:
        """Runs a job, or records it; in a program its items are read from `items_at`, if that is given, and
        `start` says where their weights begin.
        """
        if self._recording is None:
            self.pool.run(task, items, *args)
        else:
            self._recording.add(task, items, args, items_at, start)

    # -- a lone token's pass as a program --------------------------------------------------------------------

    def record(
        self, forward: Callable[[], object], layers: int, last: Callable[[int], Job] | None = None
    ) -> Program | None:
        """The jobs that `forward` makes of one token, from `embed` to `last_logits`; none of them is run.
        `last` makes one more, given the address of the program's `routing`.

        The program holds as long as the weights and the cache that `forward` uses stay where they are. None
        if jobs differ from token to token, because experts move, or if `exact`.
        """
        if self.exact:
            return None
        program = self._recording = Program(layers, self.shape.experts_used)
        try:
            forward()
        finally:
            self._recording = None
        if last is not None:
            task, args = last(program.routing_at)
            program.add(task, 1, args)
        program.finish()
        return program if program.constant else None

    def replay(self, program: Program, token: int, position: int) -> Floats:
        """Runs a program for the id `token` at `position`: what `last_logits` returns."""
        self.pool.wake()
        b, self.tokens = self.buffers, 1
        b.ids.array[0] = token
        self._begin_at(position)
        program.run(self.pool)
        row: Floats = b.logits.array[0]
        return row

    def _begin_at(self, position: int) -> None:
        """Tells attention's tasks the position of the first token, and a lone token's items."""
        step = self.buffers.step.array
        step[POSITION] = position
        for window, place in self._windows.items():
            oldest = max(0, position - window + 1) if window else 0
            step[place] = (position // BLOCK + 1 - oldest // BLOCK) * self.shape.kv_heads

    # -- the steps of a layer --------------------------------------------------------------------------------

    def embed(self, ids: Sequence[int], matrix: Matrix) -> Rows:
        """The embeddings of the ids: the residual stream [tokens, hidden]. A pass begins here."""
        self.pool.wake()
        b, x, self.tokens = self.buffers, self.buffers.residual, len(ids)
        b.ids.array[: self.tokens] = ids
        self._run(
            T.embed_task.address, self.tokens, b.ids.at, matrix.address, matrix.row_bytes, matrix.cols,
            matrix.kind, matrix.block_bytes, b.table.at, x.x,
        )  # fmt: skip
        return x

    def norm(self, x: Rows, weight: Floats) -> Rows:
        """RMSNorm, row by row."""
        h = self.buffers.normed
        self._run(
            T.norm_task.address, self.tokens, x.x, self._at(weight), x.cols, self._epsilon,
            h.x, h.quantized, h.q, h.scales, h.sums,
        )  # fmt: skip
        return h

    def qkv(self, h: Rows, q: Matrix, k: Matrix, v: Matrix) -> tuple[Rows, Rows, Rows]:
        """Queries, keys and values of each token."""
        b = self.buffers
        self._linear(h, (q, k, v), (b.q, b.k, b.v), self.tokens)
        return b.q, b.k, b.v

    def attend(self, q: Rows, k: Rows, v: Rows, cache: LayerCache, position: int, heads: Heads) -> Rows:
        """Norms, where there are norms, and rotates each head of q and k, appends k and v at `position`..,
        attends. → [tokens, heads * head_dim]
        """
        s, b, out = self.shape, self.buffers, self.buffers.attended
        int8 = (out.q, out.scales, out.sums) if out.quantized else (0, 0, 0)
        q_norm, k_norm = map(self._at, heads.norms) if heads.norms else (0, 0)
        sinks = self._at(heads.sinks) if heads.sinks is not None else 0
        place = self._windows.setdefault(heads.window, len(self._windows) + 1)
        self._begin_at(position)
        self._run(
            K.append_task.address, self.tokens, q.x, k.x, v.x, b.step.at, s.heads, s.kv_heads, s.head_dim,
            self._at(self.rope), s.rope_pairs, cache.context, *cache.addresses, cache.kind,
            int(s.rope_halves), q_norm, k_norm, self._epsilon,
        )  # fmt: skip
        alone = self.tokens == 1  # then its blocks go to all threads
        task = A.block_task if alone else A.attend_task
        items = int(b.step.array[place]) if alone else self.tokens * s.kv_heads
        self._run(
            task.address, items, q.x, out.x, b.step.at, s.heads, s.kv_heads, s.head_dim,
            cache.context, *cache.addresses, cache.kind, self._scale, heads.window, b.scratch.at,
            b.scratch_bytes, b.partials.at, *int8, sinks,
            items_at=b.step.at + place * 8, start=S.block_start.address,
        )  # fmt: skip
        if out.quantized and not alone:
            self._run(
                T.quantize_task.address, self.tokens, out.x, out.cols, out.q, out.scales, out.sums
            )
        return out

    def add_linear(self, x: Rows, h: Rows, matrix: Matrix) -> None:
        """x += matrix · h, token by token."""
        self._linear(h, (matrix,), (x,), self.tokens, add=True)

    def add_dense(
        self, x: Rows, h: Rows, gate: Matrix, up: Matrix, down: Matrix, last_only: bool = False
    ) -> None:
        """x += down · (silu(gate · h) * (up · h)): the FFN of a model without experts. `last_only` as in
        `add_experts`.
        """
        b, inner = self.buffers, self.buffers.up
        if last_only:
            self._narrow(x, h)
        self._linear(h, (gate, up), (b.gate, inner), self.tokens)
        self._run(
            T.gated_task.address, self.tokens, b.gate.x, inner.x, inner.cols, inner.quantized,
            inner.q, inner.scales, inner.sums, int(self.shape.clamped),
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

    def _narrow(self, *rows: Rows) -> None:
        """From here on the pass is the chunk's last token's, whose rows become the first ones."""
        for each in rows:
            each.to_front(self.tokens - 1)
        self.tokens = 1

    def _linear(
        self, h: Rows, matrices: tuple[Matrix, ...], outputs: tuple[Rows, ...], tokens: int, *,
        add: bool = False, first: int = 0, keep: bool = True,
    ) -> None:  # fmt: skip
        """Multiplies matrices that share their input; `keep` remembers how, for the next token."""
        b = self.buffers
        key = (*(m.address for m in matrices), outputs[0].x, tokens == 1)
        found = self._linears.get(key) if keep else None
        if found is None:
            found = self._describe(matrices, outputs, tokens == 1)
            if keep:
                self._linears[key] = found
        _, description, items = found
        self._run(
            T.linear_task.address, items, description, len(matrices), h.cols, b.table.at,
            h.x, h.q, h.scales, h.sums, b.identity.at + first * 4, tokens, int(self.exact), int(add),
            b.scratch.at, b.scratch_bytes, start=S.linear_start.address,
        )  # fmt: skip

    def _describe(
        self, matrices: tuple[Matrix, ...], outputs: tuple[Rows, ...], alone: bool
    ) -> tuple[NDArray[np.int64], int, int]:
        """What `linear_task` reads of each matrix: the array, its address, and the number of items. A lone
        token's have as many rows as the smallest matrix's: threads begin with equally many items, and one
        that is done early takes every other item of one that reads on.
        """
        rows, items = [], 0
        chunks = [self._rows_per_item(m, alone) for m in matrices]
        if alone:
            chunks = [min(chunks)] * len(chunks)
        for m, y, chunk in zip(matrices, outputs, chunks, strict=True):
            rows.append((m.address, m.rows, m.row_bytes, m.kind, m.block_bytes, y.x, items, chunk, m.bias))
            items += -(-m.rows // chunk)
        description = np.array(rows, np.int64)
        return description, int(description.ctypes.data), items

    def _rows_per_item(self, matrix: Matrix, alone: bool) -> int:
        """Few enough that a thread which is held up costs little, whole tiles so that nothing is unpacked
        twice; for a lone token enough to be worth an item, if every thread still gets two.
        """
        rows, threads = matrix.rows, self.pool.threads
        fair = max(TILE, min(64, -(-rows // (threads * 8)) // TILE * TILE))
        if not alone:
            return fair
        return max(fair, min(SMALL_ITEM // matrix.cols, rows // (threads * 2)) // TILE * TILE)

    # -- mixture of experts ----------------------------------------------------------------------------------

    def add_experts(
        self, x: Rows, h: Rows, router: Router, source: ExpertSource, last_only: bool = False
    ) -> None:
        """x += the weighted sum of the chosen experts' FFNs, in router order.

        last_only: every token is routed, but the last one's experts alone are computed, and from here on the
        pass is that token's: row 0 of the residual stream.
        """
        s, b, program = self.shape, self.buffers, self._recording
        k, chosen = s.experts_used, b.chosen.at if program is None else program.choices()
        many = s.experts > ROUTED_AT_ONCE
        if many:
            matrix = Matrix(self._at(router.weight), s.experts, h.cols, "f32")
            self._linear(h, (matrix,), (b.router_logits,), self.tokens)
        bias = self._at(router.bias) if router.bias is not None else 0
        self._run(
            E.route_task.address, self.tokens, h.x, h.cols, 0 if many else self._at(router.weight), s.experts,
            k, chosen, b.weights.at, b.router_logits.x, bias,
        )  # fmt: skip
        routed, computed = b.chosen.array[: self.tokens], slice(0, self.tokens)
        if last_only and self.tokens > 1:
            routed, computed = routed.copy(), slice(self.tokens - 1, self.tokens)
            for array in (b.chosen.array, b.weights.array):
                array[0] = array[self.tokens - 1]
            self._narrow(x, h)
        tokens = self.tokens
        self._run(
            E.group_task.address, 1, chosen, tokens, k, s.experts, b.token_of.at, b.place_of.at, b.starts.at
        )
        if program is None:
            for active, addresses in source.batches(routed, computed):
                self.pool.wake()  # reading an expert may have taken so long that the threads fell asleep
                self._experts(h, int(active.ctypes.data), len(active), addresses, source)
        elif (table := source.constant_table) is not None:
            self._experts(h, chosen, k, table, source)
        else:
            program.constant = False
        self._run(
            E.combine_task.address, tokens, x.x, s.hidden, k, b.weights.at, b.place_of.at, b.out.at, chosen,
            source.down.bias,
        )  # fmt: skip

    def _experts(self, h: Rows, active: int, count: int, addresses: int, source: ExpertSource) -> None:
        """out[pair] = the FFN of each pair of a token and one of the `count` experts int32 at `active`."""
        self._gate_up(h, active, count, addresses, source)
        s, b, inner, down = self.shape, self.buffers, self.buffers.inner, source.down
        chunk = self._rows_per_item(down, self.tokens == 1)
        chunks = -(-s.hidden // chunk)
        self._run(
            E.down_task.address, count * chunks, active, chunks, addresses, b.starts.at, b.identity.at,
            s.ffn, s.hidden, down.kind, down.block_bytes, down.row_bytes, b.table.at,
            inner.x, inner.q, inner.scales, inner.sums, b.out.at, int(self.exact), b.scratch.at,
            b.scratch_bytes, chunk, start=S.down_start.address,
        )  # fmt: skip

    def _gate_up(self, h: Rows, active: int, count: int, addresses: int, source: ExpertSource) -> None:
        """inner[pair] = the gated unit of gate · h and up · h, for the same. A lone token's items are
        half an item of more tokens: of one matrix, and shorter where a thread would have fewer than eight.
        """
        s, b, gate, inner = self.shape, self.buffers, source.gate, self.buffers.inner
        task, rows, items = E.gate_up_task, GROUP, count * -(-s.ffn // GROUP)
        if self.tokens == 1 and not self.exact:
            rows = GROUP if 2 * items >= 8 * self.pool.threads else GROUP // 2
            task, items = P.gate_up_piece_task, 2 * count * -(-s.ffn // rows)
        self._run(
            task.address, items, active, rows, addresses, b.starts.at, b.token_of.at,
            h.cols, s.ffn, gate.kind, gate.block_bytes, gate.row_bytes, b.table.at,
            h.x, h.q, h.scales, h.sums, inner.x, int(self.exact), b.scratch.at, b.scratch_bytes,
            self._formats_of(source), start=S.UNKNOWN,
        )  # fmt: skip

    def _formats_of(self, source: ExpertSource) -> int:
        """The address of what else `_gate_up` tells, int64 each: up's type, block and row bytes, whether
        inner rows are kept in float32, the three parts of their int8 form, what `task_pieces` needs, where
        biases are (0: nowhere), whether the unit is clamped.
        """
        s, b, up = self.shape, self.buffers, source.up
        floats = self.exact or source.down.type in ("f32", "f16", "bf16")
        key = (up.kind, up.block_bytes, up.row_bytes, int(floats), source.gate.bias, up.bias)
        if key not in self._formats:
            steps = np.arange(s.experts, dtype=np.int64)[:, None] * (s.ffn * 4)
            biases = Block(np.array([source.gate.bias, up.bias]) + steps)  # [experts, 2]
            words = (
                *key[:4], b.inner.q, b.inner.scales, b.inner.sums, b.stored.at, b.gate_up.at,
                biases.at if up.bias else 0, int(s.clamped),
            )  # fmt: skip
            self._formats[key] = Block(np.array(words, np.int64)), biases
        return self._formats[key][0].at
