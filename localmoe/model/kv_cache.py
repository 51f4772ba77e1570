"""Keys and values of every position seen, in the layout of `kernels.attention`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from localmoe.errors import UsageError
from localmoe.kernels.geometry import BLOCK, KV_F16, KV_F32, KV_Q8_0, SCALED
from localmoe.model.config import ModelConfig

KV_TYPES = {"f16": KV_F16, "q8_0": KV_Q8_0, "f32": KV_F32}  # f32: for exact comparison


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """One layer's arrays, as addresses."""

    context: int  # positions there is room for
    kind: int
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
        kind = {"f16": np.float16, "q8_0": np.int8, "f32": np.float32}[kv_type]
        # np.zeros takes pages from the system only when they are written
        self.keys, self.values = np.zeros(shape, kind), np.zeros(shape, kind)
        self.key_scales, self.value_scales = (
            np.zeros(scale_shape, np.float16),
            np.zeros(scale_shape, np.float16),
        )
        arrays = (self.keys, self.key_scales, self.values, self.value_scales)
        self.layers = []
        for i in range(config.layers):
            keys, key_scales, values, value_scales = (int(array[i].ctypes.data) for array in arrays)
            addresses = (keys, key_scales, values, value_scales)
            self.layers.append(CacheLayer(room, KV_TYPES[kv_type], addresses))

    @staticmethod
    def bytes_for(config: ModelConfig, context: int, kv_type: str = "f16") -> int:
        """Bytes that a cache of `context` positions takes when full."""
        return -(-context // BLOCK) * BLOCK * KVCache.bytes_per_position(config, kv_type)

    @staticmethod
    def bytes_per_position(config: ModelConfig, kv_type: str = "f16") -> int:
        """Bytes of one position's keys and values, in all layers."""
        per_value = {"f16": 2, "q8_0": 1 + 2 / SCALED, "f32": 4}[kv_type]
        return int(2 * config.layers * config.kv_heads * config.head_dim * per_value)

