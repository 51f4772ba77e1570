"""A KV cache's state as a file: what a conversation needs to go on without computing its prompt again.

A NumPy archive, uncompressed, of the positions in use, with the token ids and a line that says for which
model and layout it is valid. It is trusted only as far as it fits: another model, layout or damaged file
restores nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.archives import DamagedArchiveError, open_archive
from localmoe.kernels.geometry import TILE
from localmoe.model.kv_cache import KVCache

_VERSION = 1
_NAMES = ("keys", "key_scales", "values", "value_scales")


def save_state(path: Path, cache: KVCache, tokens: Sequence[int], identity: str) -> None:
    """Writes the state of `tokens` positions of `cache`. OSError if the file cannot be written."""
    header = json.dumps(_header(cache, identity))
    parts = {name: part.copy() for name, part in zip(_NAMES, _parts(cache, len(tokens)), strict=True)}
    with path.open("wb") as file:
        np.savez(file, header=np.array(header), tokens=np.array(tokens, np.int64), **parts)  # type: ignore[arg-type]  # NumPy's stub takes the arrays for its flag


def load_state(path: Path, cache: KVCache, identity: str) -> list[int]:
    """Restores a state into `cache`; the ids of its positions, none if it is not this model's or damaged."""
    header = _header(cache, identity)
    try:
        with open_archive(path) as file:
            if json.loads(str(file["header"])) != header:
                return []
            tokens = [int(i) for i in file["tokens"]]
            if not 0 < len(tokens) <= cache.context:
                return []
            stored = [file[name] for name in _NAMES]
    except (OSError, DamagedArchiveError):
        return []
    targets = _parts(cache, len(tokens))
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(stored, targets, strict=True)):
        return []
    for target, source in zip(targets, stored, strict=True):
        target[...] = source
    return tokens


def _header(cache: KVCache, identity: str) -> dict[str, Any]:
    layers, kv_heads, _, head_dim = cache.values.shape
    return {"version": _VERSION, "model": identity, "type": cache.type, "shape": [layers, kv_heads, head_dim]}


def _parts(cache: KVCache, positions: int) -> list[NDArray[Any]]:
    """Views of the positions in use: keys in whole tiles of 16, values position by position."""
    tiles = -(-positions // TILE)

    def tiled(array: NDArray[Any]) -> NDArray[Any]:
        layers, heads, room, width = array.shape
        return array.reshape(layers, heads, room // TILE, TILE * width)[:, :, :tiles]

    return [
        tiled(cache.keys),
        tiled(cache.key_scales),
        cache.values[:, :, :positions],
        cache.value_scales[:, :, :positions],
    ]
