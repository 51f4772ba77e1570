"""A weight matrix as kernels see it: an address and a block format."""

from __future__ import annotations

from dataclasses import dataclass

from quant.blocks import FORMATS

# The types whose rows the CPU kernels multiply.
KERNEL_TYPES = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k",
                "iq4_nl")


@dataclass(frozen=True, slots=True)
class Matrix:
    """`rows` rows of `cols` weights in blocks of one format, starting at `address`."""

    address: int
    rows: int
    cols: int
    type: str

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
