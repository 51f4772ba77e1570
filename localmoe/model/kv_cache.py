"""Keys and values of every position seen, in the layout of `kernels.attention`, float16 or q8_0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import UsageError
from localmoe.kernels.attention import BLOCK, SCALED
from localmoe.model.config import ModelConfig

KV_TYPES = ("f16", "q8_0")


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """One layer's arrays, as addresses."""

    context: int  # positions there is room for
    q8: bool
    addresses: tuple[int, int, int, int]  # keys, key scales, values, value scales


class KVCache:
    """Room for `context` positions (rounded up to whole blocks); memory is taken as positions are written."""

    def __init__(self, config: ModelConfig, context: int, kv_type: str = "f16") -> None:
        if kv_type not in KV_TYPES:
            raise UsageError(f"--kv-type {kv_type}: choose one of {', '.join(KV_TYPES)}")
        q8 = kv_type == "q8_0"
        if q8 and config.head_dim % SCALED:
            raise UsageError(
                f"--kv-type q8_0 needs heads of a multiple of {SCALED}; this model's are "
                f"{config.head_dim}: use f16"
            )
        self.type, self.context = kv_type, context
        room = -(-context // BLOCK) * BLOCK
        shape = (config.layers, config.kv_heads, room, config.head_dim)
        scale_shape = (*shape[:-1], config.head_dim // SCALED if q8 else 0)
        kind = np.int8 if q8 else np.float16
        # np.zeros takes pages from the system only when they are written
        self.keys, self.values = np.zeros(shape, kind), np.zeros(shape, kind)
        self.key_scales, self.value_scales = (
            np.zeros(scale_shape, np.float16),
            np.zeros(scale_shape, np.float16),
        )
        self.layers = [
            CacheLayer(room, q8, (_at(self.keys[i]), _at(self.key_scales[i]), _at(self.values[i]),
                                  _at(self.value_scales[i])))
            for i in range(config.layers)
        ]  # fmt: skip

    @staticmethod
    def bytes_for(config: ModelConfig, context: int, kv_type: str = "f16") -> int:
        """Bytes that a cache of `context` positions takes when full."""
        room = -(-context // BLOCK) * BLOCK
        per_value = 1 + 2 / SCALED if kv_type == "q8_0" else 2
        return int(2 * config.layers * config.kv_heads * room * config.head_dim * per_value)


def _at(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)
