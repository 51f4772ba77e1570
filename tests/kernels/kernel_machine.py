"""How the tests call a layer's steps: a `Cpu` set up over arrays, its buffers poisoned before each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from kernel_rows import Floats, address, decoded, random_blocks
from numpy.typing import NDArray

from localmoe.kernels.buffers import Block, Rows, Shape
from localmoe.kernels.cpu import Cpu
from localmoe.kernels.matrix import Matrix
from localmoe.model.rope import rope_table
from quant.families import Family


@dataclass
class Weight:
    """A matrix of any type: its blocks, its values, and how kernels see it."""

    name: str
    blocks: NDArray[np.uint8]
    values: Floats = field(init=False)
    matrix: Matrix = field(init=False)

    def __post_init__(self) -> None:
        self.blocks = np.ascontiguousarray(self.blocks)
        self.values = decoded(self.name, self.blocks)
        self.matrix = Matrix(address(self.blocks), *self.values.shape, self.name)

    @classmethod
    def random(cls, name: str, rows: int, cols: int, rng: np.random.Generator) -> Weight:
        return cls(name, random_blocks(name, rows, cols, rng))


class Experts:
    """An `ExpertSource` over arrays; `parts` > 1 hands them out in that many batches, as a pager would."""

    def __init__(
        self, gate: list[Weight], up: list[Weight], down: list[Weight], parts: int = 1,
        biases: tuple[Floats, ...] | None = None,
    ) -> None:  # fmt: skip
        """`biases`: of gate, up and down [experts, rows]"""
        self.weights, self.parts, self.biases = (gate, up, down), parts, biases
        first = [w[0].matrix for w in self.weights]
        if biases:
            first = [replace(m, bias=address(b)) for m, b in zip(first, biases, strict=True)]
        self.gate, self.up, self.down = first
        each = zip(gate, up, down, strict=True)
        self.table = np.array([[w.matrix.address for w in three] for three in each], np.int64)
        self.observed: list[NDArray[np.int32]] = []

    def batches(
        self, chosen: NDArray[np.int32], computed: slice
    ) -> Iterator[tuple[NDArray[np.int32], int]]:
        self.observed.append(chosen.copy())
        for part in np.array_split(np.unique(chosen[computed]).astype(np.int32), self.parts):
            if len(part):
                yield np.ascontiguousarray(part), address(self.table)


def shape(**changes: Any) -> Shape:
    """A small layer's widths."""
    small = Shape(
        hidden=256, heads=4, kv_heads=2, head_dim=32, ffn=288, experts=4, experts_used=2, vocab=40,
        rope_pairs=16, epsilon=1e-5,
    )  # fmt: skip
    return replace(small, **changes)


class Machine:
    """A `Cpu` whose residual stream is set from an array; every float it holds is NaN before each step."""

    def __init__(
        self, widths: Shape, threads: int = 2, chunk: int = 16, exact: bool = False, context: int = 1024
    ) -> None:
        family = Family("llama", interleaved=not widths.rope_halves)
        config: Any = SimpleNamespace(
            rope_dim=2 * widths.rope_pairs, rope_base=10000.0, rope_scale=1.0, family=family,
            yarn=None,
        )
        self.cpu = Cpu(replace(widths, float_ffn=True), threads, chunk, rope_table(config, context), exact)
        self._kept: list[Any] = []  # a model keeps its weights alive; so must we

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu.close()

    def poison(self) -> None:
        """NaN in every float buffer, a wild value in every int8 one: nothing stale goes unnoticed."""
        for value in vars(self.cpu.buffers).values():
            for block in value._blocks if isinstance(value, Rows) else [value]:
                if not isinstance(block, Block):
                    continue
                if block.array.dtype == np.float32:
                    block.array.fill(np.nan)
                elif block.array.dtype == np.int8:
                    block.array.fill(85)
                elif value is self.cpu.buffers.scratch:
                    block.array.view(np.float32).fill(np.nan)

    def rows(self, x: Floats) -> Rows:
        """x [tokens, hidden] as the residual stream."""
        self.poison()
        self._kept.append(np.ascontiguousarray(x, np.float32))
        return self.cpu.embed(range(len(x)), Weight("f32", self._kept[-1].view(np.uint8)).matrix)

    def norm(self, rows: Rows) -> Rows:
        """Normed, all weights 1."""
        self._kept.append(np.ones(rows.cols, np.float32))
        return self.cpu.norm(rows, self._kept[-1])

    def normed(self, x: Floats) -> Rows:
        return self.norm(self.rows(x))


def taken(rows: Rows, tokens: int) -> Floats:
    """A copy of the first rows."""
    return rows.array[:tokens].copy()
