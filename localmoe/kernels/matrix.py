"""Weights as kernels see them: a matrix is an address and a block format, the rest are arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.blocks import FORMATS

Floats = NDArray[np.float32]

# The types whose rows the CPU kernels multiply.
KERNEL_TYPES = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k",
                "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4")


@dataclass(frozen=True, slots=True)
class Matrix:
    """`rows` rows of `cols` weights in blocks of one format, starting at `address`.

    `bias`: the address of float32 [rows] that are added to the products with the rows, 0 if there are none;
    of a layer's experts the first one's, which those of the others follow.
    """

    address: int
    rows: int
    cols: int
    type: str
    bias: int = 0

    @property
    def kind(self) -> int:
        """ggml's number of the type."""
        return FORMATS[self.type].ggml_type

    @property
    def block_bytes(self) -> int:
        return FORMATS[self.type].block_bytes

    @property
    def row_bytes(self) -> int:
        return FORMATS[self.type].row_bytes(self.cols)

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes


@dataclass(frozen=True, slots=True)
class Heads:
    """What a layer's attention has beside grouped queries."""

    norms: tuple[Floats, Floats] | None = None  # RMSNorm's weights of each query and of each key: [head_dim]
    sinks: Floats | None = None  # [heads]: a score that joins each head's softmax and weighs no value
    window: int = 0  # the positions that a token sees, its own included; 0: all


@dataclass(frozen=True, slots=True)
class Router:
    """A layer's choice of experts: the largest of weight · h + bias."""

    weight: Floats  # [experts, hidden]
    bias: Floats | None = None  # [experts]
