"""How the tests call kernels: arrays in, arrays out; the addresses and buffers in between are here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels.cpu import Cpu, Rows, Shape
from localmoe.kernels.dot import dot_row
from localmoe.kernels.dot_blocks import IQ4_NL_TABLE
from localmoe.kernels.elementwise import quantize_row
from localmoe.kernels.matrix import KERNEL_TYPES, Matrix
from localmoe.model.decoder import rope_table
from quant.blocks import FORMATS

FLOAT_TYPES = ("f32", "f16", "bf16")
QUANTIZED = tuple(name for name in KERNEL_TYPES if name not in FLOAT_TYPES)
Floats = NDArray[np.float32]


def address(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


def random_blocks(name: str, rows: int, cols: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Rows whose codes, scales and minima take every value their bits can hold; the f16 scales are of ordinary size."""
    kind = FORMATS[name]
    if name in FLOAT_TYPES:
        return kind.encode(rng.standard_normal((rows, cols)).astype(np.float32))
    blocks = rng.integers(0, 256, (rows, cols // kind.block_size, kind.block_bytes), dtype=np.uint8)
    halves = {"q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "q4_1": (0, 2), "q5_1": (0, 2)}.get(name, (0,))
    for at in halves:
        scales = (rng.standard_normal(blocks.shape[:2]) * 0.01).astype(np.float16)
        blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def decoded(name: str, blocks: NDArray[np.uint8]) -> Floats:
    """The weights that blocks stand for: float32 [rows, cols]."""
    return FORMATS[name].decode(blocks)


def columns(name: str) -> tuple[int, ...]:
    """Row lengths worth trying: whole groups of 256, and where blocks are shorter, lengths that end inside one."""
    block = FORMATS[name].block_size
    if block == 256:
        return 256, 768
    return (256, 288, 608) if block == 32 else (256, 288, 605, 17)


@dataclass
class Activations:
    """float32 rows and their int8 form, as the kernels lay them out."""

    x: Floats
    q: NDArray[np.int8]
    scales: Floats
    sums: NDArray[np.int16]


def quantized_activations(x: Floats) -> Activations:
    """The kernels' own int8 form of x [tokens, cols]; its buffers are poisoned first."""
    tokens, cols = x.shape
    groups = -(-cols // 256)
    q = np.full((tokens, groups * 256), 85, np.int8)
    scales = np.full((tokens, groups), np.nan, np.float32)
    sums = np.full((tokens, groups * 16), 12345, np.int16)
    if cols % 16 == 0:
        for t in range(tokens):
            quantize_row(address(x[t]), cols, address(q[t]), address(scales[t]), address(sums[t]))
    return Activations(x, q, scales, sums)


def dots(name: str, blocks: NDArray[np.uint8], a: Activations, index: Sequence[int], exact: bool = False) -> Floats:
    """Every row times the tokens index[..]: float32 [len(index), rows]. Output and scratch hold NaN before."""
    rows, cols = len(blocks), a.x.shape[1]
    kind = FORMATS[name]
    order = np.array(index, np.int32)
    out = np.full((rows, len(order)), np.nan, np.float32)
    scratch = np.full(cols, np.nan, np.float32)
    for r in range(rows):
        dot_row(
            int(exact), kind.ggml_type, address(blocks[r]), cols, kind.block_bytes, address(IQ4_NL_TABLE), address(a.x),
            address(a.q), address(a.scales), address(a.sums), address(order), len(order), address(out[r]), address(scratch),
        )  # fmt: skip
    return np.ascontiguousarray(out.T)


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
    """An `ExpertSource` over arrays; `parts` > 1 hands the experts out in that many batches, as a pager would."""

    def __init__(self, gate: list[Weight], up: list[Weight], down: list[Weight], parts: int = 1) -> None:
        self.weights, self.parts = (gate, up, down), parts
        self.gate, self.up, self.down = gate[0].matrix, up[0].matrix, down[0].matrix
        self.table = np.array([[w.matrix.address for w in three] for three in zip(gate, up, down, strict=True)], np.int64)
        self.observed: list[NDArray[np.int32]] = []

    def observe(self, chosen: NDArray[np.int32]) -> None:
        self.observed.append(chosen.copy())

    def batches(self, used: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int32], int]]:
        for part in np.array_split(used, self.parts):
            if len(part):
                yield np.ascontiguousarray(part), address(self.table)


def shape(**changes: Any) -> Shape:
    widths = dict(
        hidden=256, heads=4, kv_heads=2, head_dim=32, ffn=288, experts=4, experts_used=2, vocab=40, rope_pairs=16,
        epsilon=1e-5, window=0,
    )  # fmt: skip
    return Shape(**{**widths, **changes})


class Machine:
    """A `Cpu` whose residual stream is set from an array; every float it holds is NaN before each step."""

    def __init__(self, widths: Shape, threads: int = 2, chunk: int = 16, exact: bool = False, context: int = 1024) -> None:
        config: Any = SimpleNamespace(rope_dim=2 * widths.rope_pairs, rope_base=10000.0, rope_scale=1.0)
        self.cpu = Cpu(widths, threads, chunk, rope_table(config, context), exact)
        self._kept: list[Any] = []

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu.close()

    def poison(self) -> None:
        """NaN in every float buffer and a wild value in every int8 one, so that nothing stale goes unnoticed."""
        for value in vars(self.cpu).values():
            for array in vars(value).values() if isinstance(value, Rows) else [value]:
                if isinstance(array, np.ndarray) and array is not self.cpu.rope:
                    if array.dtype == np.float32:
                        array.fill(np.nan)
                    elif array.dtype == np.int8:
                        array.fill(85)

    def rows(self, x: Floats) -> Rows:
        """x [tokens, hidden] as the residual stream."""
        self.poison()
        self._kept = [np.ascontiguousarray(x, np.float32)]
        return self.cpu.embed(range(len(x)), Weight("f32", self._kept[0].view(np.uint8)).matrix)

    def normed(self, x: Floats, weight: Floats | None = None) -> Rows:
        weight = np.ones(x.shape[1], np.float32) if weight is None else weight
        return self.cpu.norm(self.rows(x), weight)


def taken(rows: Rows, tokens: int) -> Floats:
    """A copy of the first rows."""
    return rows.array[:tokens].copy()
