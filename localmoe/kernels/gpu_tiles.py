"""Sizes of tiles for Triton kernels, and how an expert lies in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from localmoe.kernels.matrix import Matrix


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
    # of down, by type: Q6_K was faster so on the GPU measured, Q3_K reads as it does (not measured), the
    # others spill registers with more
    few_warps: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("q3_k", "q6_k", "q4_0", "q4_1", "q5_0", "q5_1", "mxfp4"), 1)
    )
    # rows and warps of a program of the router's logits, where experts are many: not measured yet
    router_rows: int = 1
    router_warps: int = 4
    # prefill of up to so many tokens decodes weights tile by tile: tokens and rows of a tile
    tokens: int = 64
    columns: int = 64
    # so does that of experts whose tokens times weights are no more: a small one alone leaves most of a GPU
    # idle, and its launches take longer than its work (not measured yet)
    alone: int = 1 << 33
    # prefill of more widens them first: tokens, rows and columns of a tile, and how many are loaded ahead
    many: tuple[int, int, int] = (128, 128, 64)
    stages: int = 3
    keys: int = 64  # attention: positions of a tile


ROUTED_AT_ONCE = 32  # experts: one program has a token's logits of no more

INTERPRETED = Tiles(
    rows=64, wide_rows={}, router_rows=64, tokens=32, columns=128, alone=0, keys=128, many=(64, 128, 128)
)


def power_of_two(n: int) -> int:
    """The least power of two that is not under n."""
    return 1 << max(0, n - 1).bit_length()


def ceil_div(n: int, size: int) -> int:
    return -(-n // size)


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """How one expert lies in memory, gate, up and down one after another: types, widths and where up and
    down begin; and what its layer's biases and gated unit are.
    """

    gate: Matrix  # addresses are not used, but the biases': float32 [experts, rows] on the device
    up: Matrix
    down: Matrix
    starts: tuple[int, int, int]
    clamped: bool = False  # the gated unit is gpt-oss's: `gpu_elementwise.gated`

    @property
    def nbytes(self) -> int:
        return self.starts[2] + self.down.nbytes
