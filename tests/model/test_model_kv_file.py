"""The KV cache's state on disk: restored bit for bit where it fits, ignored where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from localmoe.kernels.geometry import TILE
from localmoe.model.config import ModelConfig
from localmoe.model.kv_cache import KVCache
from localmoe.model.kv_file import load_state, save_state

CONFIG = ModelConfig(
    name="tiny", layers=2, hidden=64, ffn=64, heads=4, kv_heads=2, head_dim=32, rope_dim=32, rope_base=1e4,
    rope_scale=1.0, epsilon=1e-5, experts=0, experts_used=0, vocab=100, context=1024, window=0,
)  # fmt: skip


def filled(kv_type: str, seed: int) -> KVCache:
    cache, rng = KVCache(CONFIG, 600, kv_type), np.random.default_rng(seed)
    for array in (cache.keys, cache.key_scales, cache.values, cache.value_scales):
        array[...] = rng.integers(-100, 100, array.shape).astype(array.dtype)
    return cache


def key_of(cache: KVCache, position: int) -> np.ndarray:
    """Keys of one position, all layers and heads: [layers, kv_heads, head_dim]."""
    layers, heads, room, width = cache.keys.shape
    tiles = cache.keys.reshape(layers, heads, room // TILE, width, TILE)
    return tiles[:, :, position // TILE, :, position % TILE]


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize("positions", [1, 16, 17, 300, 600])
def test_a_state_comes_back_bit_for_bit(tmp_path: Path, kv_type: str, positions: int) -> None:
    source, target = filled(kv_type, 1), filled(kv_type, 2)
    tokens = list(range(positions))
    save_state(tmp_path / "a.kv", source, tokens, "cafe")
    assert load_state(tmp_path / "a.kv", target, "cafe") == tokens
    for position in {0, positions // 2, positions - 1}:
        assert np.array_equal(key_of(source, position), key_of(target, position))
    assert np.array_equal(source.values[:, :, :positions], target.values[:, :, :positions])
    assert np.array_equal(source.value_scales[:, :, :positions], target.value_scales[:, :, :positions])


def test_another_model_or_type_restores_nothing(tmp_path: Path) -> None:
    save_state(tmp_path / "a.kv", filled("f16", 1), [1, 2, 3], "cafe")
    untouched = filled("f16", 2)
    before = untouched.keys.copy()
    assert load_state(tmp_path / "a.kv", untouched, "beef") == []
    assert load_state(tmp_path / "a.kv", filled("q8_0", 2), "cafe") == []
    assert load_state(tmp_path / "a.kv", KVCache(CONFIG, 2, "f16"), "cafe") == []
    assert np.array_equal(untouched.keys, before)


def test_a_damaged_file_restores_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.kv"
    save_state(file, filled("f16", 1), list(range(40)), "cafe")
    whole = file.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert load_state(file, filled("f16", 2), "cafe") == []
    assert load_state(tmp_path / "none.kv", filled("f16", 2), "cafe") == []
