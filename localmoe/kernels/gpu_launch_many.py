"""Launching the kernels of a pass of many tokens: up to `Tiles.tokens` of them by `gpu_prefill`, more by
`gpu_product`.
"""

from __future__ import annotations

from typing import Any

from localmoe.kernels import gpu_elementwise as E
from localmoe.kernels import gpu_prefill as P
from localmoe.kernels import gpu_product as W
from localmoe.kernels.gpu_formats import alignment
from localmoe.kernels.gpu_tiles import INTERPRETED, ExpertShape, Tiles, ceil_div, power_of_two
from localmoe.kernels.matrix import Matrix

Tensor = Any  # torch.Tensor, without importing torch


class ManyLauncher:
    """The part of `gpu_launch.Launcher` for many tokens."""

    def __init__(self, interpreted: bool, tiles: Tiles | None = None) -> None:
        self.gpu = not interpreted
        self.tiles = tiles or (INTERPRETED if interpreted else Tiles())
        self._options: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}

    def linear_many(
        self, x: Tensor, y: Tensor, matrix: Matrix, tokens: int, scratch: Tensor, add: bool = False
    ) -> None:
        """y float32 [tokens, rows] (+)= x bfloat16 [tokens, cols] · matrixᵀ + its bias; `scratch`: bfloat16,
        at least a row.
        """
        if tokens <= self.tiles.tokens:
            bm, bn = self.tiles.tokens, self.tiles.columns
            P.linear_many_kernel[(ceil_div(tokens, bm), ceil_div(matrix.rows, bn))](
                x, y, matrix.address, matrix.bias or None, tokens, matrix.rows, KIND=matrix.kind,
                COLS=matrix.cols, ROW_BYTES=matrix.row_bytes, ALIGN=alignment(matrix.row_bytes), BM=bm, BN=bn,
                ADD=add, GPU=self.gpu, **self._options,
            )  # fmt: skip
            return
        for first, rows in self._slices(matrix, int(scratch.numel())):
            self._widen(scratch, matrix.address + first * matrix.row_bytes, matrix, rows)
            self._product(x, scratch, y[:, first:], _bias(matrix, first), tokens, rows, matrix.cols, add)

    def logits_many(
        self, h: Tensor, router: Tensor, bias: Tensor | None, logits: Tensor, tokens: int
    ) -> None:
        """logits float32 [tokens, experts] = h float32 [tokens, cols] · routerᵀ + bias, router float32
        [experts, cols].
        """
        experts, cols = (int(n) for n in router.shape)
        P.logits_many_kernel[(ceil_div(tokens, 32), ceil_div(experts, 32))](
            h, router, bias, logits, tokens, COLS=cols, EXPERTS=experts, SIDE=32, **self._options
        )

    @staticmethod
    def _slices(matrix: Matrix, room: int) -> list[tuple[int, int]]:
        """First row and rows of each part of a matrix that fits into `room` wide values."""
        at_once = room // matrix.cols
        return [(i, min(at_once, matrix.rows - i)) for i in range(0, matrix.rows, at_once)]

    def _widen(self, out: Tensor, address: int, matrix: Matrix, rows: int) -> None:
        """out bfloat16 [rows, cols] from rows of the matrix's type at `address`."""
        W.widen_kernel[(rows, ceil_div(matrix.cols // 32, 32))](
            out, address, KIND=matrix.kind, COLS=matrix.cols, ROW_BYTES=matrix.row_bytes,
            ALIGN=alignment(matrix.row_bytes), SUBS=32, **self._options,
        )  # fmt: skip

    def _product(
        self, x: Tensor, w: Tensor, y: Tensor, bias: int | None, tokens: int, rows: int, cols: int, add: bool
    ) -> None:
        bm, bn, bk = self.tiles.many
        W.product_kernel[(ceil_div(tokens, bm), ceil_div(rows, bn))](
            x, w, y, bias, tokens, rows, int(y.stride(0)), COLS=cols, BM=bm, BN=bn, BK=bk, ADD=add,
            GPU=self.gpu, num_warps=8, num_stages=self.tiles.stages, enable_fp_fusion=True,
        )  # fmt: skip

    def expert_many(
        self, x: Tensor, hidden: Tensor, out: Tensor, shape: ExpertShape, expert: int, address: int,
        token_of: Tensor, scratch: Tensor,
    ) -> None:  # fmt: skip
        """The layer's `expert`, at `address`, for the tokens int32 [pairs] of x bfloat16: hidden bfloat16
        [pairs, ffn], out float32 [pairs, hidden] are its pairs' rows. `scratch`: bfloat16, at least a row of
        each matrix.
        """
        gate, up, down, pairs = shape.gate, shape.up, shape.down, int(token_of.shape[0])
        bm, bn, bk = self.tiles.many
        half = int(scratch.numel()) // 2
        for first, rows in self._slices(gate, half):
            start = address + first * gate.row_bytes
            self._widen(scratch, start, gate, rows)
            self._widen(scratch[half:], start + shape.starts[1], up, rows)
            W.gated_product_kernel[(ceil_div(pairs, bm), ceil_div(rows, bn // 2))](
                x, scratch, scratch[half:], _bias(gate, first, expert), _bias(up, first, expert),
                hidden[:, first:], token_of, pairs, rows, int(hidden.stride(0)),
                COLS=gate.cols, BM=bm, BN=bn // 2, BK=bk, CLAMPED=shape.clamped, GPU=self.gpu,
                num_warps=8, num_stages=self.tiles.stages, enable_fp_fusion=True,
            )  # fmt: skip
        for first, rows in self._slices(down, int(scratch.numel())):
            self._widen(scratch, address + shape.starts[2] + first * down.row_bytes, down, rows)
            bias = _bias(down, first, expert)
            self._product(hidden, scratch, out[:, first:], bias, pairs, rows, down.cols, False)

    def gate_up_many(
        self, x: Tensor, hidden: Tensor, shape: ExpertShape, active: Tensor, place: Tensor, starts: Tensor,
        token_of: Tensor,
        most: int,
    ) -> None:  # fmt: skip
        """hidden bfloat16 [pairs, ffn] of the active experts, none of which has more than `most` tokens."""
        gate, bm, bn = shape.gate, self.tiles.tokens, self.tiles.columns
        P.gate_up_many_kernel[(ceil_div(most, bm), ceil_div(gate.rows, bn), int(active.shape[0]))](
            x, hidden, active, place, starts, token_of, gate.bias or None, shape.up.bias or None,
            UP_START=shape.starts[1], KIND=gate.kind, COLS=gate.cols, CLAMPED=shape.clamped,
            FFN=gate.rows, ROW_BYTES=gate.row_bytes, ALIGN=alignment(gate.row_bytes), BM=bm, BN=bn,
            GPU=self.gpu, **self._options,
        )  # fmt: skip

    def down_many(
        self, hidden: Tensor, out: Tensor, shape: ExpertShape, active: Tensor, place: Tensor, starts: Tensor,
        most: int
    ) -> None:
        """out float32 [pairs, hidden] of the active experts."""
        down, bm, bn = shape.down, self.tiles.tokens, self.tiles.columns
        P.down_many_kernel[(ceil_div(most, bm), ceil_div(down.rows, bn), int(active.shape[0]))](
            hidden, out, active, place, starts, down.bias or None, DOWN_START=shape.starts[2], KIND=down.kind,
            FFN=down.cols, ROWS=down.rows,
            ROW_BYTES=down.row_bytes, ALIGN=alignment(down.row_bytes), BM=bm, BN=bn, GPU=self.gpu,
            **self._options,
        )  # fmt: skip

    def combine(self, x: Tensor, out: Tensor, weights: Tensor, place_of: Tensor, cols: int, k: int,
        tokens: int) -> None:
        """x[token] += sum of weights * out[place_of] in router order."""
        block = min(1024, power_of_two(cols))
        E.combine_kernel[(tokens, ceil_div(cols, block))](
            x, out, weights, place_of, COLS=cols, K=k, BLOCK=block, **self._options
        )


def _bias(matrix: Matrix, first: int, expert: int = 0) -> int | None:
    """The address of the bias of an expert's rows from `first` on; None without one."""
    return matrix.bias + (expert * matrix.rows + first) * 4 if matrix.bias else None
