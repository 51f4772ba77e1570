"""A conversation's KV state on the GPU as a file, as `kv_file` has it for the CPU; the layouts differ, so
neither takes the
other's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from localmoe.archives import DamagedArchiveError, open_archive

_VERSION = 1
_NAMES = ("keys", "key_scales", "values", "value_scales")


def save_state(path: Path, caches: Sequence[Any], tokens: Sequence[int], identity: str) -> None:
    """Writes the first len(tokens) positions of every layer's cache. OSError if the file cannot be
    written.
    """
    parts = {
        f"{name}{i}": getattr(cache, name)[:, : len(tokens)].cpu().numpy()
        for i, cache in enumerate(caches)
        for name in _NAMES
    }
    header = np.array(json.dumps(_header(caches, identity)))
    with path.open("wb") as file:
        np.savez(file, header=header, tokens=np.array(tokens, np.int64), **parts)


def load_state(path: Path, caches: Sequence[Any], context: int, identity: str) -> list[int]:
    """Restores a state; the ids of its positions, none (and nothing changed) if it is not this model's or
    damaged.
    """
    import torch

    header = _header(caches, identity)
    try:
        with open_archive(path) as file:
            if json.loads(str(file["header"])) != header:
                return []
            tokens = [int(i) for i in file["tokens"]]
            if not 0 < len(tokens) <= context:
                return []
            stored = [[file[f"{name}{i}"] for name in _NAMES] for i in range(len(caches))]
    except (OSError, DamagedArchiveError):
        return []
    targets = [[getattr(cache, name)[:, : len(tokens)] for name in _NAMES] for cache in caches]
    pairs = [(a, b) for row, own in zip(stored, targets, strict=True) for a, b in zip(row, own, strict=True)]
    if any(a.shape != tuple(b.shape) or torch.from_numpy(a).dtype != b.dtype for a, b in pairs):
        return []
    for a, b in pairs:
        b.copy_(torch.from_numpy(a))
    return tokens


def _header(caches: Sequence[Any], identity: str) -> dict[str, Any]:
    first = caches[0]
    return {
        "version": _VERSION, "device": "gpu", "model": identity, "q8": first.q8,
        "shape": [len(caches), first.kv_heads, first.head_dim],
    }  # fmt: skip
