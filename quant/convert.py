"""Source → recipe → encode → GGUF file, one range of rows after another.

Memory stays at a few ranges of rows whatever the model's size: workers read, decode and encode them, the
caller writes the results in order. The bytes do not depend on the number of workers.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quant.blocks import FORMATS
from quant.encode import encode_rows, largest
from quant.encoders.finite import refused
from quant.errors import ModelFileError, QuantError
from quant.gguf_writer import GGUFWriter
from quant.recipes import Choice, Model, Recipe, choose
from quant.sources import Matrix, Source, SourceTensor
from quant.tensor_files import show

RANGE_WEIGHTS = 1 << 20  # weights that a worker encodes at a time
_EXACT = ("f32", "f16", "bf16", "f8_e4m3", "q8_0")  # requantizing from fewer bits adds error to error


@dataclass(frozen=True)
class Planned:
    """A tensor of the source and the type that it will have."""

    tensor: SourceTensor
    choice: Choice

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return self.tensor.size // self.tensor.shape[-1] * FORMATS[self.choice.type].row_bytes(
            self.tensor.shape[-1]
        )


@dataclass(frozen=True)
class Plan:
    """All that determines the output's bytes."""

    source: Source
    recipe: Recipe
    tensors: list[Planned]
    metadata: dict[str, Any]

    def writer(self, path: Path) -> GGUFWriter:
        """A file with this plan's header."""
        writer = GGUFWriter(path, self.metadata)
        for planned in self.tensors:
            writer.declare(planned.tensor.name, planned.tensor.shape, planned.choice.type)
        return writer


def plan(
    source: Source,
    recipe: Recipe,
    *,
    overrides: Sequence[tuple[re.Pattern[str], str]] = (),
    pure: bool = False,
    allow_requantize: bool = False,
    version: str = "",
) -> Plan:
    """Which tensor becomes what; QuantError where the source's types forbid it."""
    names = {t.name for t in source.tensors}
    model = Model(source.layers, source.experts, tied="output.weight" not in names)
    planned = [
        Planned(t, choose(t.name, t.shape, recipe, model, overrides=overrides, pure=pure))
        for t in source.tensors
    ]
    for each in planned:
        coarse = next((p.dtype for p in each.tensor.parts if p.dtype not in _EXACT), None)
        if coarse and not allow_requantize and any(p.dtype != each.choice.type for p in each.tensor.parts):
            raise ModelFileError(
                f"{show(source.path)}: {each.tensor.name!r} is already {coarse}; quantizing it again adds"
                " error to error: start from the original weights, or insist with --allow-requantize"
            )
    metadata = source.metadata | {
        "general.file_type": recipe.file_type,
        "general.quantization_version": 2,
        "localmoe.source": source.path.resolve().name,
        "localmoe.recipe": recipe.name,
        "localmoe.version": version,
    }
    return Plan(source, recipe, planned, metadata)


def convert(
    plan: Plan, out: Path, *, threads: int | None = None, progress: Callable[[str, int], None] | None = None
) -> None:
    """Write the planned file; nothing has the final name before all is written.

    `progress(name, nbytes)` is told of each range: the tensor, and the source bytes that it took.
    """
    partial = out.with_name(out.name + ".partial")
    writer = plan.writer(partial)
    try:
        writer.start()
        with ThreadPoolExecutor(threads or os.cpu_count() or 1, "quantize") as pool:
            for planned in plan.tensors:
                for encoded, nbytes in _encoded(planned, plan.source, pool, threads or os.cpu_count() or 1):
                    writer.write(planned.tensor.name, encoded)
                    if progress is not None:
                        progress(planned.tensor.name, nbytes)
        writer.close()
        os.replace(partial, out)
    except BaseException:
        writer.abandon()
        partial.unlink(missing_ok=True)
        raise


def _encoded(
    planned: Planned, source: Source, pool: ThreadPoolExecutor, threads: int
) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    """The tensor's bytes in order, each piece with the number of bytes it was read from."""
    jobs: deque[Future[tuple[npt.NDArray[np.uint8], int]]] = deque()
    for index, part in enumerate(planned.tensor.parts):
        step = _rows_at_once(part)
        for start in range(0, part.rows, step):
            stop = min(start + step, part.rows)
            jobs.append(pool.submit(_encode_rows, planned, source, index, start, stop))
            if len(jobs) > 2 * threads:
                yield jobs.popleft().result()
    while jobs:
        yield jobs.popleft().result()


def _rows_at_once(part: Matrix) -> int:
    """About RANGE_WEIGHTS, in whole heads where rows are reordered within heads."""
    rows = max(1, RANGE_WEIGHTS // part.cols)
    head = part.rows // part.halves if part.halves else 1
    return -(-rows // head) * head


def _encode_rows(
    planned: Planned, source: Source, index: int, start: int, stop: int
) -> tuple[npt.NDArray[np.uint8], int]:
    part, kind = planned.tensor.parts[index], planned.choice.type
    rows = part.read(source.files, start, stop)
    bad = refused(rows, largest(kind))
    if bad is not None:  # it would silently spoil a whole block
        where = [start + bad[0], bad[1]]
        if len(planned.tensor.shape) == 3:
            where.insert(0, index)
        raise ModelFileError(
            f"{show(source.path)}: tensor {planned.tensor.name!r} holds {rows[bad]} at {where}, which"
            f" {kind} cannot express; get the weights again"
        )
    encoded = np.empty((stop - start, FORMATS[kind].row_bytes(part.cols)), np.uint8)
    encode_rows(rows, kind, None, encoded)
    return encoded, (stop - start) * part.row_bytes()


__all__ = ["Plan", "Planned", "QuantError", "convert", "plan"]
