"""What a GGUF file holds, in numbers: by type, in total, and whether its scales are finite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from quant.errors import ModelFileError
from quant.gguf import GGUFFile, Tensor
from quant.tensor_files import show

_BLOCKS_AT_ONCE = 1 << 16


@dataclass
class TypeTotal:
    """All tensors of one type."""

    type: str
    tensors: int = 0
    weights: int = 0
    bytes: int = 0

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.weights if self.weights else 0.0


def by_type(tensors: Iterable[tuple[str, int, int]]) -> list[TypeTotal]:
    """Totals of (type, weights, bytes), the largest first."""
    totals: dict[str, TypeTotal] = {}
    for kind, weights, nbytes in tensors:
        total = totals.setdefault(kind, TypeTotal(kind))
        total.tensors += 1
        total.weights += weights
        total.bytes += nbytes
    return sorted(totals.values(), key=lambda t: -t.bytes)


def weights_of(tensor: Tensor) -> int:
    """Number of weights of a tensor."""
    return tensor.nbytes // tensor.format.block_bytes * tensor.format.block_size


def check_scales(file: GGUFFile) -> None:
    """ModelFileError for the first tensor with a scale (or plain weight) that is NaN or infinite.

    Reads the whole file.
    """
    for tensor in file.tensors.values():
        blocks = tensor.data.reshape(-1, tensor.format.block_bytes)
        for at in range(0, len(blocks), _BLOCKS_AT_ONCE):
            bad = tensor.format.not_finite(blocks[at : at + _BLOCKS_AT_ONCE])
            if bad.any():
                first = at + int(np.argmax(bad))
                raise ModelFileError(
                    f"{show(file.path)}: tensor {tensor.name!r} holds a scale that is no number, in its block"
                    f" {first}; the file is damaged: get or make it again"
                )
