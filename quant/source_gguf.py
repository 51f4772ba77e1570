"""GGUF files as sources: in parts too, and Mixtral files of before April 2024 with a tensor per expert."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from quant.errors import ModelFileError
from quant.gguf import GGUFFile, Tensor
from quant.model_check import check_model
from quant.parts import OF_THE_FILE, open_model
from quant.sources import Matrix, Source, SourceTensor
from quant.tensor_files import show

_EXPERT = re.compile(r"(blk\.\d+\.ffn_(?:gate|up|down))\.(\d+)\.weight")
_SCALAR_TYPES = {
    0: np.uint8, 1: np.int8, 2: np.uint16, 3: np.int16, 4: np.uint32, 5: np.int32, 6: np.float32,
    10: np.uint64, 11: np.int64, 12: np.float64,
}  # fmt: skip


def open_gguf(path: Path) -> Source:
    """A GGUF model, all of its parts if it has several (any one of them may be named)."""
    with open_model(path) as file:
        tensors = {name: (part.path, t) for part in file.parts for name, t in part.tensors.items()}
        metadata = _metadata(file)
        merged = _merge(tensors, path)
        check_model(metadata, {t.name: t.shape for t in merged}, path)
        return Source(path, "GGUF", metadata, merged, [part.path for part in file.parts])


def _metadata(file: GGUFFile) -> dict[str, Any]:
    """Values with the types that the file gives them, so that a copy has them too."""
    return {
        key: _SCALAR_TYPES[file.value_types[key]](value) if file.value_types[key] in _SCALAR_TYPES else value
        for key, value in file.metadata.items()
        if key not in OF_THE_FILE
    }


def merged_name(name: str) -> str:
    """The name of the tensor of all experts that one expert's is part of; any other tensor's own name."""
    expert = _EXPERT.fullmatch(name)
    return f"{expert[1]}_exps.weight" if expert else name


def _merge(tensors: dict[str, tuple[Path, Tensor]], path: Path) -> list[SourceTensor]:
    """One tensor for all experts, where the file has one for each."""
    result: dict[str, SourceTensor] = {}
    for name, (file, tensor) in tensors.items():
        expert = _EXPERT.fullmatch(name)
        if expert is None:
            result[name] = SourceTensor(name, tensor.shape, _matrices(file, tensor))
            continue
        merged = merged_name(name)
        if merged in result:
            continue
        parts: list[Matrix] = []
        while (entry := tensors.get(f"{expert[1]}.{len(parts)}.weight")) is not None:
            if entry[1].shape != tensor.shape or len(tensor.shape) != 2:
                raise ModelFileError(f"{show(path)}: experts of {merged!r} differ in shape; it is damaged")
            parts += _matrices(*entry)
        result[merged] = SourceTensor(merged, (len(parts), *tensor.shape), tuple(parts))
    return list(result.values())


def _matrices(file: Path, tensor: Tensor) -> tuple[Matrix, ...]:
    *outer, rows, cols = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
    count = int(np.prod(outer, dtype=object)) if outer else 1
    step = rows * tensor.format.row_bytes(cols)
    return tuple(Matrix(file, tensor.offset + i * step, rows, cols, tensor.type) for i in range(count))
