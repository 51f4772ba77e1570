"""Grids and tile sizes: every Triton kernel behind one method that takes tensors, matrices and counts.

Addresses are int64: of GPU memory, or of pinned host memory, which the GPU reads over the bus. On tensors of
the CPU the
same calls run in Triton's interpreter (TRITON_INTERPRET=1 before triton is imported), which is how they are
tested.
"""

from __future__ import annotations

from typing import Any

from localmoe.kernels import gpu_attention as A
from localmoe.kernels import gpu_elementwise as E
from localmoe.kernels import gpu_handshake as H
from localmoe.kernels import gpu_matvec as V
from localmoe.kernels.gpu_formats import GEOMETRY, alignment
from localmoe.kernels.gpu_launch_many import ManyLauncher
from localmoe.kernels.gpu_resolve import resolve_kernel
from localmoe.kernels.gpu_tiles import ROUTED_AT_ONCE, ExpertShape, ceil_div, power_of_two
from localmoe.kernels.gpu_words import planes_of
from localmoe.kernels.matrix import Matrix
from quant.blocks import FORMATS

Tensor = Any  # torch.Tensor, without importing torch


class Launcher(ManyLauncher):
    """Launches kernels on one device, on torch's current stream."""

    def _pieces(self, kind: int, cols: int, warps: int) -> dict[str, int]:
        """How a matvec program with so many warps walks a row. Fewer where a row has no piece for each of
        their lanes: its activations would lie otherwise than its codes, and be exchanged, all of them. Fewer
        also where more than a quarter of the lanes would have nothing to do (of 90 blocks, say).
        """
        piece = GEOMETRY[kind].piece
        count = cols // piece
        pieces = power_of_two(count)
        warps = max(1, min(warps, pieces // 32))
        while warps > 1 and 4 * count < 3 * ceil_div(count, 32 * warps) * 32 * warps:
            warps //= 2
        return {"PIECE": piece, "PIECES": min(32 * warps if self.gpu else 4096, pieces), "num_warps": warps}

    # ------------------------------------------------------------ elementwise
    def embed(self, ids: Tensor, x: Tensor, matrix: Matrix, tokens: int) -> None:
        """x float32 [tokens, cols] = rows `ids` int32 [tokens] of the embedding."""
        E.embed_kernel[(tokens, ceil_div(matrix.cols // 32, 32))](
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

    def route(
        self, h: Tensor, planes: Tensor, router: Tensor, bias: Tensor | None, logits: Tensor, chosen: Tensor,
        weights: Tensor, k: int, tokens: int,
    ) -> None:  # fmt: skip
        """chosen int32 [tokens, k] and weights float32 [tokens, k] from h float32 [tokens, cols], router
        float32 [experts, cols] and bias [experts]. The router of more than ROUTED_AT_ONCE experts is read by
        many programs: `planes` of one token's h, logits float32 [tokens, experts] for what they compute.
        """
        experts, cols = (int(n) for n in router.shape)
        padded = power_of_two(experts)
        if experts > ROUTED_AT_ONCE:
            if tokens == 1:
                at, tiles = int(bias.data_ptr()) if bias is not None else 0, self.tiles
                matrix = Matrix(int(router.data_ptr()), experts, cols, "f32", at)
                self.linear(planes, logits, matrix, rows=tiles.router_rows, warps=tiles.router_warps)
            else:
                self.logits_many(h, router, bias, logits, tokens)
            E.choose_kernel[(tokens,)](
                logits, chosen, weights, EXPERTS=experts, PADDED=padded, K=k, num_warps=1,
                enable_fp_fusion=True,
            )  # fmt: skip
            return
        E.route_kernel[(tokens,)](
            h, router, bias, chosen, weights, COLS=cols, EXPERTS=experts, PADDED=padded, K=k,
            BLOCK=min(power_of_two(cols), max(16, 32768 // padded)) if self.gpu else power_of_two(cols),
            num_warps=16,
            enable_fp_fusion=True,
        )  # fmt: skip

    # ------------------------------------------------------------ one token
    def linear(
        self, planes: Tensor, y: Tensor, matrix: Matrix, add: bool = False, rows: int = 0, warps: int = 0
    ) -> None:
        """y float32 [rows] (+)= matrix · x + its bias, x in planes; by programs of so many rows and warps, or
        of as many as other matrices.
        """
        rows, warps = rows or self.tiles.rows, warps or self.tiles.linear_warps
        V.linear_kernel[(ceil_div(matrix.rows, rows),)](
            planes, y, matrix.address, matrix.bias or None, matrix.rows, KIND=matrix.kind, COLS=matrix.cols,
            ROW_BYTES=matrix.row_bytes,
            ALIGN=alignment(matrix.row_bytes), R=rows, ADD=add,
            **self._pieces(matrix.kind, matrix.cols, warps), enable_fp_fusion=True,
        )  # fmt: skip

    def qkv(
        self, planes: Tensor, y: tuple[Tensor, Tensor, Tensor], matrices: tuple[Matrix, Matrix, Matrix]
    ) -> None:
        """Queries, keys and values, y float32 [rows] each, of x in planes; keys and values have as many
        rows.
        """
        q, k, v = matrices
        rows, options = self.tiles.rows, dict[str, int]()
        warps = min(self._pieces(m.kind, m.cols, self.tiles.linear_warps)["num_warps"] for m in matrices)
        for name, m in zip("QKV", matrices, strict=True):
            of = self._pieces(m.kind, m.cols, warps)
            options |= {
                f"{name}_KIND": m.kind, f"{name}_BYTES": m.row_bytes, f"{name}_ALIGN": alignment(m.row_bytes),
                f"{name}_PIECE": of["PIECE"], f"{name}_PIECES": of["PIECES"],
            }  # fmt: skip
        V.qkv_kernel[(ceil_div(q.rows, rows) + 2 * ceil_div(k.rows, rows),)](
            planes, *y, q.address, k.address, v.address, *(m.bias or None for m in matrices), Q_ROWS=q.rows,
            KV_ROWS=k.rows, COLS=q.cols, R=rows, **options, num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip

    def gate_up(
        self, planes: Tensor, hidden: Tensor, shape: ExpertShape, chosen: Tensor | None, source: Tensor,
        target: Tensor, rows: Tensor,
    ) -> None:  # fmt: skip
        """hidden float32 [k, ffn], each row in planes, of the chosen experts: see gpu_matvec. `chosen` int32
        [k] is asked for where there are biases.
        """
        gate, k = shape.gate, int(source.shape[0])
        at_once = max(1, self.tiles.wide_rows.get(gate.type, self.tiles.rows) // 2)
        V.gate_up_kernel[(k, ceil_div(gate.rows, at_once))](
            planes, hidden, source, target, rows, chosen if gate.bias else None, gate.bias or None,
            shape.up.bias or None, UP_START=shape.starts[1], KIND=gate.kind, COLS=gate.cols, FFN=gate.rows,
            ROW_BYTES=gate.row_bytes, ALIGN=alignment(gate.row_bytes), R=at_once,
            SPAN=self._span(gate.row_bytes, self.tiles.gate_up_warps), PLANES=planes_of(gate.rows),
            CLAMPED=shape.clamped,
            **self._pieces(gate.kind, gate.cols, self.tiles.gate_up_warps), enable_fp_fusion=True,
        )  # fmt: skip

    def down(
        self, hidden: Tensor, y: Tensor, weights: Tensor, shape: ExpertShape, chosen: Tensor | None,
        source: Tensor, target: Tensor, rows: Tensor,
    ) -> None:  # fmt: skip
        """y float32 [hidden] += the weighted sum of the chosen experts' outputs, in router order."""
        down, k = shape.down, int(source.shape[0])
        block = FORMATS[down.type]
        warps = self.tiles.few_warps.get(down.type, self.tiles.down_warps)
        at_once, pieces = self.tiles.rows, self._pieces(down.kind, down.cols, warps)
        if self.gpu and pieces["PIECES"] < 32:
            # a warp has several short rows; with one piece for every lane of four, nothing is exchanged
            warps = pieces["num_warps"] = 4
            at_once = 32 * warps // pieces["PIECES"]
        V.down_kernel[(ceil_div(down.rows, at_once),)](
            hidden, y, weights, source, target, rows, chosen if down.bias else None, down.bias or None, k,
            DOWN_START=shape.starts[2], KIND=down.kind, FFN=down.cols,
            ROWS=down.rows, ROW_BYTES=down.row_bytes, ALIGN=alignment(down.row_bytes), BLOCK=block.block_size,
            BLOCK_BYTES=block.block_bytes, R=at_once, CHOICES=power_of_two(k),
            SPAN=self._span(down.row_bytes, warps), PLANES=planes_of(down.cols), **pieces,
            enable_fp_fusion=True,
        )  # fmt: skip

    def _span(self, row_bytes: int, warps: int) -> int:
        """Words of a copy: 16 per thread, unless a row is shorter."""
        return min(warps * 32 * 16, power_of_two(row_bytes // 2)) if self.gpu else 1 << 16

    # ------------------------------------------------------------ attention
    def append(
        self, q: Tensor, k: Tensor, v: Tensor, norms: tuple[Tensor, Tensor] | None, epsilon: float,
        rope: Tensor, halves: bool, cache: Any, position: Tensor, tokens: int,
    ) -> None:  # fmt: skip
        """Norms (where there are `norms`, [head_dim] of a query and of a key) and rotates q [tokens, heads *
        head_dim] in place, and k; writes k and v into the cache at `position`. `halves`: rotary pairs are
        half a head apart, and `rope` has a position's cosines before its sines.
        """
        pairs = max(16, power_of_two(cache.head_dim // 2))
        A.append_kernel[(tokens, cache.heads + cache.kv_heads)](
            q, k, v, *(norms or (q, k)), epsilon, rope, cache.keys, cache.key_scales, cache.values,
            cache.value_scales, position, CONTEXT=cache.context,
            HEADS=cache.heads, KV_HEADS=cache.kv_heads, HEAD_DIM=cache.head_dim,
            ROPE_PAIRS=int(rope.shape[2 if halves else 1]), PAIRS=pairs, Q8=cache.q8, HALVES=halves,
            NORMED=norms is not None, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip

    def attend(
        self, q: Tensor, out: Tensor, cache: Any, position: Tensor, partial: Tensor, scale: float,
        window: int, sinks: Tensor | None, blocks: int,
    ) -> None:  # fmt: skip
        """One token: out float32 [heads * head_dim] in planes; `blocks`, or as many as a window can touch,
        are launched (those beyond the position end). `sinks` float32 [heads].
        """
        if window:
            blocks = min(blocks, ceil_div(window - 1, A.BLOCK) + 1)
        group, dims = cache.heads // cache.kv_heads, max(16, power_of_two(cache.head_dim))
        A.attend_block_kernel[(cache.kv_heads, blocks)](
            q, cache.keys, cache.key_scales, cache.values, cache.value_scales, partial, position, scale,
            window,
            CONTEXT=cache.context, GROUP=group, GROUP_PADDED=max(16, power_of_two(group)),
            HEAD_DIM=cache.head_dim, DIMS=dims,
            Q8=cache.q8, TILE=self.tiles.keys, WINDOWED=window > 0, **self._options,
        )  # fmt: skip
        A.merge_blocks_kernel[(cache.heads,)](
            partial, out, position, window, sinks, BLOCKS=cache.context // A.BLOCK, HEADS=cache.heads,
            HEAD_DIM=cache.head_dim,
            DIMS=dims, AT_ONCE=min(16, power_of_two(cache.context // A.BLOCK)), **self._options,
        )  # fmt: skip

    def attend_many(
        self, q: Tensor, out: Tensor, cache: Any, position: Tensor, tokens: int, scale: float, window: int,
        sinks: Tensor | None,
    ) -> None:  # fmt: skip
        """Many tokens: out bfloat16 [tokens, heads * head_dim]."""
        size = self.tiles.tokens
        A.attend_many_kernel[(ceil_div(tokens, size), cache.heads)](
            q, cache.keys, cache.key_scales, cache.values, cache.value_scales, out, position, tokens, scale,
            window, sinks,
            CONTEXT=cache.context, HEADS=cache.heads, GROUP=cache.heads // cache.kv_heads,
            HEAD_DIM=cache.head_dim,
            DIMS=max(16, power_of_two(cache.head_dim)), Q8=cache.q8, BM=size, BN=self.tiles.keys, num_warps=8,
            enable_fp_fusion=True,
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
        H.join_kernel[(ceil_div(hidden, block),)](
            region, results, epoch, y, weights, rows, most_polls, HIDDEN=hidden, FFN=ffn, K=k, BLOCK=block,
            GPU=self.gpu,
            num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
