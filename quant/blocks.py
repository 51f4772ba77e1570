"""Every block format we know, by name and by GGUF type number: the specification of what the bytes mean."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from quant.block_format import BlockFormat, Bytes, Floats
from quant.blocks_32 import IQ4_NL, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from quant.blocks_256 import IQ4_XS, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
from quant.errors import QuantError

__all__ = ["BY_GGML_TYPE", "FORMATS", "BlockFormat", "block_format", "type_name"]


class _Plain(BlockFormat):
    """One number per weight."""

    block_size = 1

    def not_finite(self, blocks: Bytes) -> npt.NDArray[np.bool_]:
        return ~np.isfinite(self.decode(blocks)[:, 0])


class F32(_Plain):
    name, ggml_type, block_bytes = "f32", 0, 4

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        return blocks.view("<f4").astype(np.float32)

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        return x.astype("<f4").view(np.uint8)


class F16(_Plain):
    name, ggml_type, block_bytes = "f16", 1, 2

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        return blocks.view("<f2").astype(np.float32)

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        return x.astype("<f2").view(np.uint8)


class BF16(_Plain):
    """The upper half of a float32, rounded to nearest even."""

    name, ggml_type, block_bytes = "bf16", 30, 2

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        return (blocks.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        bits = x.view(np.uint32)
        odd = bits >> np.uint32(16) & np.uint32(1)
        rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        quiet = bits >> np.uint32(16) | np.uint32(64)  # rounding could carry a NaN into infinity
        is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        return np.where(is_nan, quiet, rounded).astype("<u2").view(np.uint8)


_ALL: tuple[BlockFormat, ...] = (
    F32(), F16(), BF16(),
    Q4_0(), Q4_1(), Q5_0(), Q5_1(), Q8_0(), IQ4_NL(), MXFP4(),
    Q2_K(), Q3_K(), Q4_K(), Q5_K(), Q6_K(), IQ4_XS(),
)  # fmt: skip

FORMATS: Mapping[str, BlockFormat] = MappingProxyType({f.name: f for f in _ALL})
BY_GGML_TYPE: Mapping[int, BlockFormat] = MappingProxyType({f.ggml_type: f for f in _ALL})

# what else ggml has, so that a refusal can name it
_UNSUPPORTED = {
    9: "q8_1", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 21: "iq3_s",
    22: "iq2_s", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64", 29: "iq1_m", 34: "tq1_0",
    35: "tq2_0", 40: "nvfp4", 41: "q1_0",
}  # fmt: skip


def block_format(name: str) -> BlockFormat:
    """The format of that name, in any case; QuantError lists what there is."""
    try:
        return FORMATS[name.lower()]
    except KeyError:
        raise QuantError(f"unknown tensor type {name!r}; there are {', '.join(sorted(FORMATS))}") from None


def type_name(ggml_type: int) -> str:
    """A GGUF type number as people write it, also where we do not support it."""
    known = BY_GGML_TYPE.get(ggml_type)
    return known.name if known else _UNSUPPORTED.get(ggml_type, f"number {ggml_type}")


def quantize(x: Floats, name: str, importance: Floats | None = None) -> Bytes:
    """float32 [rows, cols] -> uint8 [rows, bytes] in the named format."""
    return block_format(name).encode(x, importance)


def dequantize(data: Bytes, name: str) -> Floats:
    """uint8 [rows, bytes] in the named format -> float32 [rows, cols]."""
    return block_format(name).decode(data)
