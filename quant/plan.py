"""What a conversion will write, decided before anything is written: each tensor's type, the metadata, the
size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.blocks import FORMATS
from quant.errors import ModelFileError
from quant.gguf_writer import GGUFWriter
from quant.imatrix import Importance
from quant.recipes import Choice, Model, Recipe, choose, is_free
from quant.sources import Source, SourceTensor
from quant.tensor_files import show

RANGE_WEIGHTS = 1 << 20  # weights that a worker encodes at a time
_EXACT = ("f32", "f16", "bf16", "f8_e4m3", "q8_0")  # requantizing from fewer bits adds error to error
_PLAIN = ("f32", "f16", "bf16")
_BASE_BYTES = 250 << 20  # the interpreter, NumPy, and LLVM compiling the kernels, which a first run does


@dataclass(frozen=True)
class Planned:
    """A tensor of the source and the type that it will have."""

    tensor: SourceTensor
    choice: Choice

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        cols = self.tensor.shape[-1]
        return self.tensor.size // cols * FORMATS[self.choice.type].row_bytes(cols)

    def memory(self, threads: int) -> int:
        """Bytes that it takes at most: a range of rows that each thread decodes and encodes, and the encoded
        ones that wait to be written.
        """
        cols, kind = self.tensor.shape[-1], self.choice.type
        weights = min(max(p.rows * p.cols for p in self.tensor.parts), max(RANGE_WEIGHTS, cols))
        compiled = kind not in _PLAIN and all(p.dtype in ("f32", "f16") for p in self.tensor.parts)
        working = 8 if compiled else 24  # a weight as stored and in float32; NumPy takes several arrays
        waiting = weights // cols * FORMATS[kind].row_bytes(cols)
        return threads * weights * working + (2 * threads + 2) * waiting


@dataclass(frozen=True)
class Plan:
    """All that determines the output's bytes."""

    source: Source
    recipe: Recipe
    tensors: list[Planned]
    metadata: dict[str, Any]
    importance: Importance | None = None
    remarks: tuple[str, ...] = ()  # notes about the model as a whole

    def writer(self, path: Path) -> GGUFWriter:
        """A file with this plan's header."""
        writer = GGUFWriter(path, self.metadata)
        for planned in self.tensors:
            writer.declare(planned.tensor.name, planned.tensor.shape, planned.choice.type)
        return writer

    @property
    def weights(self) -> int:
        return sum(p.tensor.size for p in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the output; the file is larger by its header."""
        return sum(p.nbytes for p in self.tensors)

    @property
    def notes(self) -> list[str]:
        """The remarks, and where a tensor's type is not what the recipe says, and why."""
        return [*self.remarks, *(f"{p.tensor.name}: {p.choice.note}" for p in self.tensors if p.choice.note)]

    def memory(self, threads: int) -> int:
        """Bytes of memory that the conversion takes at most."""
        return _BASE_BYTES + max((p.memory(threads) for p in self.tensors), default=0)


def make_plan(
    source: Source,
    recipe: Recipe,
    *,
    overrides: Sequence[tuple[re.Pattern[str], str]] = (),
    pure: bool = False,
    allow_requantize: bool = False,
    importance: Importance | None = None,
    version: str = "",
) -> Plan:
    """Which tensor becomes what; ModelFileError where the source's types forbid it, an importance is of
    another model, or an override fits no tensor.
    """
    _check_overrides(source, overrides)
    tied = all(t.name != "output.weight" for t in source.tensors)
    model = Model(source.layers, source.experts, tied, importance is not None)
    planned = [
        Planned(t, choose(t.name, t.shape, recipe, model, overrides=overrides, pure=pure))
        for t in source.tensors
    ]
    # what a maker publishes is as good as it gets, also MXFP4
    exact = _EXACT if source.kind == "GGUF" else (*_EXACT, "mxfp4")
    for each in planned:
        tensor = each.tensor
        coarse = next((p.dtype for p in tensor.parts if p.dtype not in exact), None)
        if coarse and not allow_requantize and any(p.dtype != each.choice.type for p in tensor.parts):
            raise ModelFileError(
                f"{show(source.path)}: {tensor.name!r} is already {coarse}; quantizing it again adds"
                " error to error: start from the original weights, or insist with --allow-requantize"
            )
        if importance is not None:
            importance.check(tensor.name, tensor.shape)
    metadata = source.metadata | {
        "general.file_type": recipe.file_type,
        "general.quantization_version": 2,
        "localmoe.source": source.path.resolve().name,
        "localmoe.recipe": recipe.name + (" pure" if pure else ""),
        "localmoe.version": version,
    }
    if importance is not None:
        metadata["localmoe.imatrix"] = importance.digest
    remarks = () if importance is None else _uncovered(importance, planned, source, tied)
    return Plan(source, recipe, planned, metadata, importance, remarks)


def _check_overrides(source: Source, overrides: Sequence[tuple[re.Pattern[str], str]]) -> None:
    free = [t.name for t in source.tensors if is_free(t.name, t.shape)]
    for pattern, kind in overrides:
        if not any(pattern.search(name) for name in free):
            raise ModelFileError(
                f"{show(source.path)}: --tensor-type {pattern.pattern}={kind} fits no matrix whose type can"
                " be chosen; --dry-run lists their names"
            )


def _uncovered(
    importance: Importance, planned: Sequence[Planned], source: Source, tied: bool
) -> tuple[str, ...]:
    """A remark on matrices of coarse blocks that the importance does not cover; an error if it covers none.

    A token embedding that is no output matrix too is never multiplied, so nothing is recorded of it.
    """
    if not any(p.tensor.name in importance.entries for p in planned):
        raise ModelFileError(
            f"{show(importance.path)}: it has nothing on any tensor of {show(source.path)}; it is of another"
            " model"
        )
    left = [
        p.tensor.name
        for p in planned
        if p.choice.type not in _EXACT
        and p.tensor.name not in importance.entries
        and (tied or p.tensor.name != "token_embd.weight")
    ]
    if not left:
        return ()
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return (f"the importance matrix has nothing on {left[0]}{more}: errors there count evenly",)
