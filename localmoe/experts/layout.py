"""Where each expert's bytes are in the model file, and how they lie in a slot.

An expert is three matrices, gate, up and down, in that order everywhere. In the file they are parts of three
tensors (or tensors of their own, in files from before April 2024); in a slot they follow each other, each
part aligned. Layers whose parts have equal sizes form a *size class*: they share slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from quant.errors import ModelFileError
from quant.gguf import GGUFFile, Tensor
from quant.parts import PartFiles

PARTS = ("ffn_gate", "ffn_up", "ffn_down")
PART_ALIGNMENT = 64  # a cache line: no part shares one with its neighbour, and vector loads stay aligned
SLOT_ALIGNMENT = 4096  # a page


@dataclass(frozen=True, eq=False)
class ExpertLayout:
    """The experts of one model file.

    `files`: of the model, mostly one; it says which file an offset is in.
    `offsets` int64 [layers, experts, 3]: first byte of each part in the file.
    `addresses` int64 [layers, experts, 3]: where the mapped file shows it, valid while the file is open.
    `nbytes` int64 [layers, 3]: bytes of each part of an expert; the same for all experts of a layer.
    """

    files: PartFiles
    offsets: NDArray[np.int64]
    addresses: NDArray[np.int64]
    nbytes: NDArray[np.int64]

    @classmethod
    def of(cls, file: GGUFFile, layers: int, experts: int) -> ExpertLayout:
        """Find the experts of `layers` x `experts` in an open file; ModelFileError if one is missing."""
        offsets = np.zeros((layers, experts, 3), np.int64)
        addresses = np.zeros((layers, experts, 3), np.int64)
        nbytes = np.zeros((layers, 3), np.int64)
        for layer in range(layers):
            for part, name in enumerate(PARTS):
                merged = file.tensors.get(f"blk.{layer}.{name}_exps.weight")
                if merged is not None:
                    size = _share(file, merged, experts)
                    steps = np.arange(experts) * size
                    offsets[layer, :, part] = merged.offset + steps
                    addresses[layer, :, part] = merged.address + steps
                else:
                    tensors = [_single(file, layer, name, expert) for expert in range(experts)]
                    size = tensors[0].nbytes
                    if any(tensor.nbytes != size for tensor in tensors):
                        raise ModelFileError(
                            f"{file.path}: the experts of blk.{layer}.{name} differ in size; convert it anew"
                        )
                    offsets[layer, :, part] = [tensor.offset for tensor in tensors]
                    addresses[layer, :, part] = [tensor.address for tensor in tensors]
                nbytes[layer, part] = size
        return cls(PartFiles.of(file), offsets, addresses, nbytes)

    @property
    def layers(self) -> int:
        return int(self.offsets.shape[0])

    @property
    def experts(self) -> int:
        return int(self.offsets.shape[1])

    @cached_property
    def expert_bytes(self) -> NDArray[np.int64]:
        """Bytes of one expert of each layer: int64 [layers]."""
        total: NDArray[np.int64] = self.nbytes.sum(1)
        return total

    @property
    def total_bytes(self) -> int:
        """Bytes of all experts in the file."""
        return int(self.expert_bytes.sum()) * self.experts

    @cached_property
    def classes(self) -> tuple[SizeClass, ...]:
        """The size classes, in the order of their first layer."""
        parts = list(dict.fromkeys(tuple(int(size) for size in row) for row in self.nbytes))
        return tuple(
            SizeClass((gate, up, down), tuple(np.flatnonzero((self.nbytes == size).all(1)).tolist()))
            for size in parts
            for gate, up, down in [size]
        )

    @cached_property
    def class_of(self) -> NDArray[np.int64]:
        """The number of each layer's size class: int64 [layers]."""
        numbers = np.empty(self.layers, np.int64)
        for number, size_class in enumerate(self.classes):
            numbers[list(size_class.layers)] = number
        return numbers


@dataclass(frozen=True)
class SizeClass:
    """Experts of equal size: bytes of their three parts, and the layers they are in."""

    parts: tuple[int, int, int]
    layers: tuple[int, ...]

    @property
    def starts(self) -> tuple[int, int, int]:
        """Where each part begins in a slot."""
        gate, up, _ = (_rounded(size, PART_ALIGNMENT) for size in self.parts)
        return 0, gate, gate + up

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot that holds such an expert."""
        return _rounded(self.starts[2] + self.parts[2], SLOT_ALIGNMENT)


def _rounded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _share(file: GGUFFile, tensor: Tensor, experts: int) -> int:
    """Bytes of one expert in a merged tensor [experts, rows, columns]."""
    if len(tensor.shape) != 3 or tensor.shape[0] != experts:
        raise ModelFileError(
            f"{file.path}: {tensor.name} has the shape {tensor.shape}, not {experts} experts; convert it anew"
        )
    return tensor.nbytes // experts


def _single(file: GGUFFile, layer: int, name: str, expert: int) -> Tensor:
    """The tensor of one expert in files from before April 2024."""
    tensor = file.tensors.get(f"blk.{layer}.{name}.{expert}.weight")
    if tensor is None:
        raise ModelFileError(
            f"{file.path}: neither blk.{layer}.{name}_exps.weight nor blk.{layer}.{name}.{expert}.weight is "
            "in it: not a mixture-of-experts model, or damaged"
        )
    return tensor
