"""Damaged NumPy archives: any bit may be flipped, and nothing but the promised error comes of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from localmoe.errors import UsageError
from localmoe.experts.store import StatisticsStore
from localmoe.experts.traces import generate_trace, load_trace, save_trace
from localmoe.model.config import ModelConfig
from localmoe.model.kv_cache import KVCache
from localmoe.model.kv_file import load_state, save_state

CONFIG = ModelConfig(
    name="tiny", layers=1, hidden=32, ffn=32, heads=1, kv_heads=1, head_dim=16, rope_dim=16, rope_base=1e4,
    rope_scale=1.0, epsilon=1e-5, experts=0, experts_used=0, vocab=100, context=64, window=0,
)  # fmt: skip
Load = Callable[[], object]


def trace(path: Path) -> Load:
    save_trace(path, generate_trace(30, 3, seed=1))

    def load() -> None:
        with suppress(UsageError):
            load_trace(path, 3, 8)

    return load


def state(path: Path) -> Load:
    cache = KVCache(CONFIG, 32, "f16")
    save_state(path, cache, [1, 2, 3], "cafe")
    return lambda: load_state(path, cache, "cafe")


def statistics(path: Path) -> Load:
    store = StatisticsStore("0123456789abcdef", path.parent)
    counts = store.load(3, 8, 2)
    counts.observe_tokens(generate_trace(30, 3, seed=1))
    store.path = path
    store.save(counts)
    return lambda: store.load(3, 8, 2)


@pytest.mark.parametrize("make", [trace, state, statistics])
def test_a_flipped_bit_raises_nothing_else(tmp_path: Path, make: Callable[[Path], Load]) -> None:
    path = tmp_path / "archive.npz"
    load, random = make(path), np.random.default_rng(5)
    whole = path.read_bytes()
    flags = [
        (whole.index(header) + offset, bit)  # flags and method of the first array, in either header of it
        for header in (b"PK\x03\x04", b"PK\x01\x02") for offset in range(6, 12) for bit in range(8)
    ]  # fmt: skip
    anywhere = zip(random.integers(len(whole), size=300).tolist(), random.integers(8, size=300), strict=True)
    for place, bit in [*flags, *anywhere]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(bit)
        path.write_bytes(damaged)
        load()
