"""How the tests call the dot products: arrays in, arrays out; addresses and buffers in between are here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels.dot import dot_rows, dot_two
from localmoe.kernels.elementwise import quantize_row
from localmoe.kernels.geometry import LEVELS, scratch_bytes
from localmoe.kernels.matrix import KERNEL_TYPES
from localmoe.kernels.orders import LONE, ORDERS, int8_rows
from quant.blocks import FORMATS

FLOAT_TYPES = ("f32", "f16", "bf16")
QUANTIZED = tuple(name for name in KERNEL_TYPES if name not in FLOAT_TYPES)
Floats = NDArray[np.float32]


def address(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


def random_blocks(name: str, rows: int, cols: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Rows whose codes, scales and minima take every value their bits hold; f16 scales of ordinary size."""
    kind = FORMATS[name]
    if name in FLOAT_TYPES:
        return kind.encode(rng.standard_normal((rows, cols)).astype(np.float32))
    blocks = rng.integers(0, 256, (rows, cols // kind.block_size, kind.block_bytes), dtype=np.uint8)
    if name == "mxfp4":
        blocks[..., 0] = rng.integers(118, 125, blocks.shape[:2])
        return blocks.reshape(rows, -1)
    for at in kind.halves:
        scales = (rng.standard_normal(blocks.shape[:2]) * 0.01).astype(np.float16)
        blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def decoded(name: str, blocks: NDArray[np.uint8]) -> Floats:
    """The weights that blocks stand for: float32 [rows, cols]."""
    return FORMATS[name].decode(blocks)


def columns(name: str) -> tuple[int, ...]:
    """Row lengths worth trying: whole groups of 256 and, where blocks are shorter, ends inside of one."""
    block = FORMATS[name].block_size
    if block == 256:
        return 256, 768, 1024, 2048
    return (256, 288, 736, 2048) if block == 32 else (256, 288, 605, 17)


@dataclass
class Activations:
    """float32 rows and their int8 form, as the kernels lay them out; memory: of q and what lies before it."""

    x: Floats
    q: NDArray[np.int8]
    scales: Floats
    sums: NDArray[np.int16]
    memory: NDArray[np.int8]


def quantized_activations(x: Floats) -> Activations:
    """The kernels' own int8 form of x [tokens, cols]; its buffers are poisoned first."""
    tokens, cols = x.shape
    groups = -(-cols // 256)
    memory = np.full((LONE * ORDERS + tokens, groups * 256), 85, np.int8)
    q = int8_rows(memory)
    scales = np.full((tokens, groups), np.nan, np.float32)
    sums = np.full((tokens, groups * 16), 12345, np.int16)
    if cols % 16 == 0:
        for t in range(tokens):
            quantize_row(address(x[t]), cols, address(q), address(scales), address(sums), t)
    return Activations(x, q, scales, sums, memory)


def dots(
    name: str, blocks: NDArray[np.uint8], a: Activations, index: Sequence[int], exact: bool = False
) -> Floats:
    """Every row times the tokens index[..], one row and one token at a time: float32 [len(index), rows]."""
    alone = [[row_dots(name, row[None], a, [t], exact)[0, 0] for row in blocks] for t in index]
    return np.array(alone, np.float32)


def row_dots(
    name: str, blocks: NDArray[np.uint8], a: Activations, index: Sequence[int], exact: bool = False
) -> Floats:
    """At most 16 rows at once, as linear layers and experts call it. Output and scratch hold NaN before."""
    cols, kind, order = a.x.shape[1], FORMATS[name], np.array(index, np.int32)
    out = np.full((len(order), 16), np.nan, np.float32)
    scratch = np.full(scratch_bytes(cols, len(order)) // 4, np.nan, np.float32)
    dot_rows(
        int(exact), kind.ggml_type, address(blocks), blocks.shape[1], len(blocks), cols, kind.block_bytes,
        address(LEVELS), address(a.x), address(a.q), address(a.scales), address(a.sums),
        address(order), len(order), address(out), address(scratch), 0,
    )  # fmt: skip
    return out[:, : len(blocks)].copy()


def two_tiles(
    name: str, blocks: NDArray[np.uint8], others: NDArray[np.uint8], a: Activations, index: Sequence[int],
    exact: bool = False,
) -> tuple[Floats, Floats]:  # fmt: skip
    """At most 16 rows, and at most 16 others, at once. Outputs and scratch hold NaN before."""
    cols, kind, order = a.x.shape[1], FORMATS[name], np.array(index, np.int32)
    outs = [np.full((len(order), 16), np.nan, np.float32) for _ in range(2)]
    scratch = np.full(scratch_bytes(cols, len(order)) // 4, np.nan, np.float32)
    dot_two(
        int(exact), kind.ggml_type, address(blocks), len(blocks), address(others), len(others),
        blocks.shape[1], cols, kind.block_bytes, address(LEVELS), address(a.x), address(a.q),
        address(a.scales), address(a.sums), address(order), len(order), address(outs[0]), address(outs[1]),
        address(scratch), 0,
    )  # fmt: skip
    return outs[0][:, : len(blocks)].copy(), outs[1][:, : len(others)].copy()
