"""Grids and tile sizes: every Triton kernel behind one method that takes tensors, matrices and counts.

Addresses are int64: of GPU memory, or of pinned host memory, which the GPU reads over the bus. On tensors of
the CPU the
same calls run in Triton's interpreter (TRITON_INTERPRET=1 before triton is imported), which is how they are
tested.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from localmoe.kernels import gpu_attention as A
from localmoe.kernels import gpu_elementwise as E
from localmoe.kernels import gpu_handshake as H
from localmoe.kernels import gpu_matvec as V
from localmoe.kernels import gpu_prefill as P
from localmoe.kernels import gpu_product as W
from localmoe.kernels.gpu_formats import GEOMETRY, alignment
from localmoe.kernels.gpu_resolve import resolve_kernel
from localmoe.kernels.matrix import Matrix
from quant.blocks import FORMATS

Tensor = Any  # torch.Tensor, without importing torch


@dataclass(frozen=True, slots=True)
class Tiles:
    """Sizes of tiles: a matvec program has `rows` rows, and its lanes take that many pieces at once.

    Measured on an H200 (benchmarks/results/gpu.json, decision 064).
    """

    rows: int = 4
    # rows of gate and up together where a type does well with more
    wide_rows: dict[str, int] = field(default_factory=lambda: {"q4_k": 8})
    # warps that share a row's columns
    linear_warps: int = 2
    gate_up_warps: int = 1
    down_warps: int = 4
    few_warps: dict[str, int] = field(default_factory=lambda: {"q6_k": 1})  # of down, by type
    # prefill of up to so many tokens decodes weights tile by tile: tokens and rows of a tile
    tokens: int = 64
    columns: int = 64
    # prefill of more widens them first: tokens, rows and columns of a tile, and how many are loaded ahead
    many: tuple[int, int, int] = (128, 128, 64)
    stages: int = 3
    keys: int = 64  # attention: positions of a tile


INTERPRETED = Tiles(rows=64, wide_rows={}, tokens=32, columns=128, keys=128, many=(64, 128, 128))


def power_of_two(n: int) -> int:
    """The least power of two that is not under n."""
    return 1 << max(0, n - 1).bit_length()


def _ceil(n: int, size: int) -> int:
    return -(-n // size)


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """How one expert lies in memory, gate, up and down one after another: types, widths and where up and
    down begin.
    """

    gate: Matrix  # addresses are not used
    up: Matrix
    down: Matrix
    starts: tuple[int, int, int]

    @property
    def nbytes(self) -> int:
        return self.starts[2] + self.down.nbytes


class Launcher:
    """Launches kernels on one device, on torch's current stream."""

    def __init__(self, interpreted: bool, tiles: Tiles | None = None) -> None:
        self.gpu = not interpreted
        self.tiles = tiles or (INTERPRETED if interpreted else Tiles())
        self._options: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}

    def _pieces(self, kind: int, cols: int, warps: int) -> dict[str, int]:
        """How a matvec program with so many warps walks a row."""
        piece = GEOMETRY[kind].piece
        at_once = min(32 * warps if self.gpu else 4096, power_of_two(cols // piece))
        return {"PIECE": piece, "PIECES": at_once, "num_warps": warps}

    # ------------------------------------------------------------ elementwise
    def embed(self, ids: Tensor, x: Tensor, matrix: Matrix, tokens: int) -> None:
        """x float32 [tokens, cols] = rows `ids` int32 [tokens] of the embedding."""
        E.embed_kernel[(tokens, _ceil(matrix.cols // 32, 32))](
            ids, x, matrix.address, KIND=matrix.kind, COLS=matrix.cols, ROW_BYTES=matrix.row_bytes, SUBS=32,
            **self._options
        )

    def norm(self, x: Tensor, weight: Tensor, h: Tensor, planes: Tensor, half: Tensor, epsilon: float,
        tokens: int) -> None:
        """RMS norm of float32 rows into h, and into planes [cols] (one token) or half bfloat16 [tokens,
        cols].
        """
        cols = int(weight.shape[0])
        E.norm_kernel[(tokens,)](
            x, weight, h, planes, half, epsilon, COLS=cols, BLOCK=power_of_two(cols), DECODE=tokens == 1,
            num_warps=8, enable_fp_fusion=True,
        )  # fmt: skip

    def route(self, h: Tensor, router: Tensor, chosen: Tensor, weights: Tensor, k: int, tokens: int) -> None:
        """chosen int32 [tokens, k] and weights float32 [tokens, k] from h float32 and router float32
        [experts, cols].
        """
        experts, cols = (int(n) for n in router.shape)
        padded = power_of_two(experts)
        E.route_kernel[(tokens,)](
            h, router, chosen, weights, COLS=cols, EXPERTS=experts, PADDED=padded, K=k,
            BLOCK=min(power_of_two(cols), max(16, 32768 // padded)) if self.gpu else power_of_two(cols),
            num_warps=16,
            enable_fp_fusion=True,
        )  # fmt: skip

    def combine(self, x: Tensor, out: Tensor, weights: Tensor, place_of: Tensor, cols: int, k: int,
        tokens: int) -> None:
        """x[token] += sum of weights * out[place_of] in router order."""
        block = min(1024, power_of_two(cols))
        E.combine_kernel[(tokens, _ceil(cols, block))](x, out, weights, place_of, COLS=cols, K=k, BLOCK=block,
            **self._options)

    # ------------------------------------------------------------ one token
    def linear(self, planes: Tensor, y: Tensor, matrix: Matrix, add: bool = False) -> None:
        """y float32 [rows] (+)= matrix · x, x in planes."""
        rows = self.tiles.rows
        V.linear_kernel[(_ceil(matrix.rows, rows),)](
            planes, y, matrix.address, matrix.rows, KIND=matrix.kind, COLS=matrix.cols,
            ROW_BYTES=matrix.row_bytes,
            ALIGN=alignment(matrix.row_bytes), R=rows, ADD=add,
            **self._pieces(matrix.kind, matrix.cols, self.tiles.linear_warps), enable_fp_fusion=True,
        )  # fmt: skip

    def qkv(
        self, planes: Tensor, y: tuple[Tensor, Tensor, Tensor], matrices: tuple[Matrix, Matrix, Matrix]
    ) -> None:
        """Queries, keys and values, y float32 [rows] each, of x in planes; keys and values have as many
        rows.
        """
        q, k, v = matrices
        rows, warps, options = self.tiles.rows, self.tiles.linear_warps, {}
        for name, m in zip("QKV", matrices, strict=True):
            of = self._pieces(m.kind, m.cols, warps)
            options |= {
                f"{name}_KIND": m.kind, f"{name}_BYTES": m.row_bytes, f"{name}_ALIGN": alignment(m.row_bytes),
                f"{name}_PIECE": of["PIECE"], f"{name}_PIECES": of["PIECES"],
            }  # fmt: skip
        V.qkv_kernel[(_ceil(q.rows, rows) + 2 * _ceil(k.rows, rows),)](
            planes, *y, q.address, k.address, v.address, Q_ROWS=q.rows, KV_ROWS=k.rows, COLS=q.cols, R=rows,
            **options, num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip

    def gate_up(self, planes: Tensor, hidden: Tensor, shape: ExpertShape, source: Tensor, target: Tensor,
        rows: Tensor) -> None:
        """hidden float32 [k, ffn], each row in planes, of the chosen experts: see gpu_matvec."""
        gate, k = shape.gate, int(source.shape[0])
        at_once = max(1, self.tiles.wide_rows.get(gate.type, self.tiles.rows) // 2)
        V.gate_up_kernel[(k, _ceil(gate.rows, at_once))](
            planes, hidden, source, target, rows, UP_START=shape.starts[1], KIND=gate.kind, COLS=gate.cols,
            FFN=gate.rows,
            ROW_BYTES=gate.row_bytes, ALIGN=alignment(gate.row_bytes), R=at_once,
            SPAN=self._span(gate.row_bytes, self.tiles.gate_up_warps),
            **self._pieces(gate.kind, gate.cols, self.tiles.gate_up_warps), enable_fp_fusion=True,
        )  # fmt: skip

    def down(
        self, hidden: Tensor, y: Tensor, weights: Tensor, shape: ExpertShape, source: Tensor, target: Tensor,
        rows: Tensor
    ) -> None:
        """y float32 [hidden] += the weighted sum of the chosen experts' outputs, in router order."""
        down, k = shape.down, int(source.shape[0])
        block = FORMATS[down.type]
        warps = self.tiles.few_warps.get(down.type, self.tiles.down_warps)
        V.down_kernel[(_ceil(down.rows, self.tiles.rows),)](
            hidden, y, weights, source, target, rows, DOWN_START=shape.starts[2], KIND=down.kind,
            FFN=down.cols,
            ROWS=down.rows, ROW_BYTES=down.row_bytes, ALIGN=alignment(down.row_bytes), BLOCK=block.block_size,
            BLOCK_BYTES=block.block_bytes, K=k, R=self.tiles.rows,
            SPAN=self._span(down.row_bytes, warps),
            **self._pieces(down.kind, down.cols, warps), enable_fp_fusion=True,
        )  # fmt: skip

    def _span(self, row_bytes: int, warps: int) -> int:
        """Words of a copy: 16 per thread, unless a row is shorter."""
        return min(warps * 32 * 16, power_of_two(row_bytes // 2)) if self.gpu else 1 << 16

    # ------------------------------------------------------------ attention
    def append(self, q: Tensor, k: Tensor, v: Tensor, rope: Tensor, cache: Any, position: Tensor,
        tokens: int) -> None:
        """Rotates q [tokens, heads * head_dim] in place; rotates k and writes k and v into the cache at
        `position`.
        """
        pairs = max(16, power_of_two(cache.head_dim // 2))
        A.append_kernel[(tokens, cache.heads + cache.kv_heads)](
            q, k, v, rope, cache.keys, cache.key_scales, cache.values, cache.value_scales, position,
            CONTEXT=cache.context,
            HEADS=cache.heads, KV_HEADS=cache.kv_heads, HEAD_DIM=cache.head_dim,
            ROPE_PAIRS=int(rope.shape[1]), PAIRS=pairs,
            Q8=cache.q8, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip

    def attend(
        self, q: Tensor, out: Tensor, cache: Any, position: Tensor, partial: Tensor, scale: float,
        window: int, blocks: int
    ) -> None:
        """One token: out float32 [heads * head_dim] in planes; `blocks` are launched (those beyond the
        position end).
        """
        group, dims = cache.heads // cache.kv_heads, max(16, power_of_two(cache.head_dim))
        A.attend_block_kernel[(cache.kv_heads, blocks)](
            q, cache.keys, cache.key_scales, cache.values, cache.value_scales, partial, position, scale,
            window,
            CONTEXT=cache.context, GROUP=group, GROUP_PADDED=max(16, power_of_two(group)),
            HEAD_DIM=cache.head_dim, DIMS=dims,
            Q8=cache.q8, TILE=self.tiles.keys, **self._options,
        )  # fmt: skip
        A.merge_blocks_kernel[(cache.heads,)](
            partial, out, position, window, BLOCKS=cache.context // A.BLOCK, HEADS=cache.heads,
            HEAD_DIM=cache.head_dim,
            DIMS=dims, AT_ONCE=min(16, power_of_two(cache.context // A.BLOCK)), **self._options,
        )  # fmt: skip

    def attend_many(
        self, q: Tensor, out: Tensor, cache: Any, position: Tensor, tokens: int, scale: float, window: int
    ) -> None:
        """Many tokens: out bfloat16 [tokens, heads * head_dim]."""
        size = self.tiles.tokens
        A.attend_many_kernel[(_ceil(tokens, size), cache.heads)](
            q, cache.keys, cache.key_scales, cache.values, cache.value_scales, out, position, tokens, scale,
            window,
            CONTEXT=cache.context, HEADS=cache.heads, GROUP=cache.heads // cache.kv_heads,
            HEAD_DIM=cache.head_dim,
            DIMS=max(16, power_of_two(cache.head_dim)), Q8=cache.q8, BM=size, BN=self.tiles.keys, num_warps=8,
            enable_fp_fusion=True,
        )  # fmt: skip

    # ------------------------------------------------------------ many tokens
    def linear_many(
        self, x: Tensor, y: Tensor, matrix: Matrix, tokens: int, scratch: Tensor, add: bool = False
    ) -> None:
        """y float32 [tokens, rows] (+)= x bfloat16 [tokens, cols] · matrixᵀ; `scratch`: bfloat16, at least a
        row.
        """
        if tokens <= self.tiles.tokens:
            bm, bn = self.tiles.tokens, self.tiles.columns
            P.linear_many_kernel[(_ceil(tokens, bm), _ceil(matrix.rows, bn))](
                x, y, matrix.address, tokens, matrix.rows, KIND=matrix.kind, COLS=matrix.cols,
                ROW_BYTES=matrix.row_bytes, ALIGN=alignment(matrix.row_bytes), BM=bm, BN=bn, ADD=add,
                GPU=self.gpu, **self._options,
            )  # fmt: skip
            return
        for first, rows in self._slices(matrix, int(scratch.numel())):
            self._widen(scratch, matrix.address + first * matrix.row_bytes, matrix, rows)
            self._product(x, scratch, y[:, first:], tokens, rows, matrix.cols, add)

    @staticmethod
    def _slices(matrix: Matrix, room: int) -> list[tuple[int, int]]:
        """First row and rows of each part of a matrix that fits into `room` wide values."""
        at_once = room // matrix.cols
        return [(i, min(at_once, matrix.rows - i)) for i in range(0, matrix.rows, at_once)]

    def _widen(self, out: Tensor, address: int, matrix: Matrix, rows: int) -> None:
        """out bfloat16 [rows, cols] from rows of the matrix's type at `address`."""
        W.widen_kernel[(rows, _ceil(matrix.cols // 32, 32))](
            out, address, KIND=matrix.kind, COLS=matrix.cols, ROW_BYTES=matrix.row_bytes,
            ALIGN=alignment(matrix.row_bytes), SUBS=32, **self._options,
        )  # fmt: skip

    def _product(
        self, x: Tensor, w: Tensor, y: Tensor, tokens: int, rows: int, cols: int, add: bool
    ) -> None:
        bm, bn, bk = self.tiles.many
        W.product_kernel[(_ceil(tokens, bm), _ceil(rows, bn))](
            x, w, y, tokens, rows, int(y.stride(0)), COLS=cols, BM=bm, BN=bn, BK=bk, ADD=add, GPU=self.gpu,
            num_warps=8, num_stages=self.tiles.stages, enable_fp_fusion=True,
        )  # fmt: skip

    def expert_many(
        self, x: Tensor, hidden: Tensor, out: Tensor, shape: ExpertShape, address: int, token_of: Tensor,
        scratch: Tensor,
    ) -> None:  # fmt: skip
        """One expert at `address` for the tokens int32 [pairs] of x bfloat16: hidden bfloat16 [pairs,
        ffn], out float32 [pairs, hidden] are its pairs' rows. `scratch`: bfloat16, at least a row of each
        matrix.
        """
        gate, up, down, pairs = shape.gate, shape.up, shape.down, int(token_of.shape[0])
        bm, bn, bk = self.tiles.many
        half = int(scratch.numel()) // 2
        for first, rows in self._slices(gate, half):
            start = address + first * gate.row_bytes
            self._widen(scratch, start, gate, rows)
            self._widen(scratch[half:], start + shape.starts[1], up, rows)
            W.swiglu_product_kernel[(_ceil(pairs, bm), _ceil(rows, bn // 2))](
                x, scratch, scratch[half:], hidden[:, first:], token_of, pairs, rows, int(hidden.stride(0)),
                COLS=gate.cols, BM=bm, BN=bn // 2, BK=bk, GPU=self.gpu,
                num_warps=8, num_stages=self.tiles.stages, enable_fp_fusion=True,
            )  # fmt: skip
        for first, rows in self._slices(down, int(scratch.numel())):
            self._widen(scratch, address + shape.starts[2] + first * down.row_bytes, down, rows)
            self._product(hidden, scratch, out[:, first:], pairs, rows, down.cols, False)

    def gate_up_many(
        self, x: Tensor, hidden: Tensor, shape: ExpertShape, active: Tensor, place: Tensor, starts: Tensor,
        token_of: Tensor,
        most: int,
    ) -> None:  # fmt: skip
        """hidden bfloat16 [pairs, ffn] of the active experts, none of which has more than `most` tokens."""
        gate, bm, bn = shape.gate, self.tiles.tokens, self.tiles.columns
        P.gate_up_many_kernel[(_ceil(most, bm), _ceil(gate.rows, bn), int(active.shape[0]))](
            x, hidden, active, place, starts, token_of, UP_START=shape.starts[1], KIND=gate.kind,
            COLS=gate.cols,
            FFN=gate.rows, ROW_BYTES=gate.row_bytes, ALIGN=alignment(gate.row_bytes), BM=bm, BN=bn,
            GPU=self.gpu, **self._options,
        )  # fmt: skip

    def down_many(
        self, hidden: Tensor, out: Tensor, shape: ExpertShape, active: Tensor, place: Tensor, starts: Tensor,
        most: int
    ) -> None:
        """out float32 [pairs, hidden] of the active experts."""
        down, bm, bn = shape.down, self.tiles.tokens, self.tiles.columns
        P.down_many_kernel[(_ceil(most, bm), _ceil(down.rows, bn), int(active.shape[0]))](
            hidden, out, active, place, starts, DOWN_START=shape.starts[2], KIND=down.kind, FFN=down.cols,
            ROWS=down.rows,
            ROW_BYTES=down.row_bytes, ALIGN=alignment(down.row_bytes), BM=bm, BN=bn, GPU=self.gpu,
            **self._options,
        )  # fmt: skip

    # ------------------------------------------------------------ residency and the CPU
    def resolve(self, tables: Any, chosen: Tensor, layer: int, work: Any, ffn: int) -> None:
        """Looks the chosen experts up and decides: see gpu_resolve. `tables` and `work` hold the tensors by
        its names.
        """
        layers, experts = (int(n) for n in tables.slot_of.shape)
        t = tables
        resolve_kernel[(1,)](
            chosen, layer, t.estimates, t.used, t.totals, t.evidence, t.pending, t.clock, t.address, t.home,
            t.slot_of,
            t.class_of, t.slot_base, t.slot_bytes, t.slots, t.filled, t.staging, t.mode, t.share, t.counters,
            t.wishes,
            work.source, work.target, work.rows, LAYERS=layers, EXPERTS=experts, PADDED=power_of_two(experts),
            K=int(work.source.shape[0]), FFN=ffn, BLOCK=min(1024, power_of_two(layers * experts)),
            num_warps=1,
        )  # fmt: skip

    def post(self, region: int, epoch: Tensor, h: Tensor, chosen: Tensor, rows: Tensor, layer: int,
        ffn: int) -> None:
        """Hands the CPU's share of a layer over."""
        hidden, k = int(h.shape[-1]), int(rows.shape[0])
        H.post_kernel[(1,)](
            region, epoch, h, chosen, rows, layer, HIDDEN=hidden, FFN=ffn, K=k,
            BLOCK=min(2048, power_of_two(hidden)),
            GPU=self.gpu, num_warps=1,
        )  # fmt: skip

    def join(
        self, region: int, results: int, epoch: Tensor, y: Tensor, weights: Tensor, rows: Tensor, ffn: int,
        most_polls: int
    ) -> None:
        """Waits for the CPU's share and adds it to y float32 [hidden]."""
        hidden, k = int(y.shape[-1]), int(rows.shape[0])
        block = min(1024, power_of_two(hidden))
        H.join_kernel[(_ceil(hidden, block),)](
            region, results, epoch, y, weights, rows, most_polls, HIDDEN=hidden, FFN=ffn, K=k, BLOCK=block,
            GPU=self.gpu,
            num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
