"""Source → recipe → encode → GGUF file, one range of rows after another.

Memory stays at a few ranges of rows whatever the model's size: workers read, decode and encode them, the
caller writes the results in order. The bytes do not depend on the number of workers. What is unfinished is in
OUT.partial, with its journal beside it; the final name appears when all is on the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
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
from quant.journal import Journal
from quant.plan import RANGE_WEIGHTS, Plan, Planned
from quant.sources import Matrix
from quant.target import check_space, check_target, journal_of, partial_of, sync_directory, writing
from quant.tensor_files import show

_SAMPLED_WEIGHTS = 1 << 16  # of each range, for the error that the summary shows


@dataclass(frozen=True)
class Done:
    """A tensor that is written: sums of squares over a sample of its weights, of the error and of the
    weights.
    """

    name: str
    error: float
    square: float


@dataclass(frozen=True)
class Result:
    """A finished conversion."""

    path: Path
    size: int
    tensors: list[Done]
    resumed: int  # tensors that an earlier, interrupted run had written


@dataclass(frozen=True)
class Progress:
    """How far a conversion is: tensors, and bytes of the source."""

    name: str
    tensor: int
    tensors: int
    read: int
    total: int


def convert(
    plan: Plan,
    out: Path,
    *,
    threads: int | None = None,
    restart: bool = False,
    force: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Write the planned file, going on with an interrupted one of the same plan.

    ModelFileError: a weight that the type cannot hold, no room on the disk, a file in the way: a partial one
    of another plan (without `restart`) or of no conversion, an `out` that exists (without `force`).
    QuantError: another conversion writes `out`. Nothing has the final name before all is written.
    """
    inputs = [*plan.source.paths, *([plan.importance.path] if plan.importance else [])]
    with writing(out):
        check_target(out, inputs, force)
        writer = plan.writer(partial_of(out))
        check_space(writer.size, out)
        journal = Journal(journal_of(out))
        try:
            records = journal.resume(_identity(plan, writer), writer.path, writer.header, restart)
            recorded = [_done(r) for r in records[: _whole(writer, len(records))]]
            finished = _finish(plan, writer, journal, recorded, threads or os.cpu_count() or 1, progress)
            os.replace(writer.path, out)
            sync_directory(out.parent)
            journal.discard()
            return Result(out, writer.size, finished, len(recorded))
        finally:
            writer.abandon()
            journal.close()


def _finish(
    plan: Plan,
    writer: GGUFWriter,
    journal: Journal,
    recorded: list[Done],
    threads: int,
    progress: Callable[[Progress], None] | None,
) -> list[Done]:
    """Write what is not recorded yet; an error of the source's own leaves nothing behind."""
    finished = list(recorded)
    try:
        writer.start(len(recorded))
        for done in _write(plan, writer, threads, len(recorded), progress):
            writer.flush()
            journal.append({"tensor": done.name, "error": done.error, "square": done.square})
            finished.append(done)
        writer.close()
    except QuantError:
        writer.discard()
        journal.discard()
        raise
    return finished


def _write(
    plan: Plan, writer: GGUFWriter, threads: int, first: int, progress: Callable[[Progress], None] | None
) -> Iterator[Done]:
    """Encode and write the tensors from number `first` on; yields each when it is written."""
    total = sum(p.tensor.nbytes for p in plan.tensors)
    read = sum(p.tensor.nbytes for p in plan.tensors[:first])
    with ThreadPoolExecutor(threads, "quantize") as pool:
        for number, planned in enumerate(plan.tensors[first:], first):
            name, error, square = planned.tensor.name, 0.0, 0.0
            for encoded in _encoded(planned, plan, pool, threads):
                writer.write(name, encoded.data)
                error, square, read = error + encoded.error, square + encoded.square, read + encoded.read
                if progress is not None:
                    progress(Progress(name, number, len(plan.tensors), read, total))
            yield Done(name, error, square)


@dataclass(frozen=True)
class _Encoded:
    """A range of rows: its bytes, the source bytes that it took, sums of squares over a sample of it."""

    data: npt.NDArray[np.uint8]
    read: int
    error: float
    square: float


def _encoded(planned: Planned, plan: Plan, pool: ThreadPoolExecutor, threads: int) -> Iterator[_Encoded]:
    """The tensor's ranges in order, a few of them being worked on at a time."""
    jobs: deque[Future[_Encoded]] = deque()
    try:
        for index, part in enumerate(planned.tensor.parts):
            step = _rows_at_once(part)
            for start in range(0, part.rows, step):
                jobs.append(
                    pool.submit(_encode_range, planned, plan, index, start, min(start + step, part.rows))
                )
                if len(jobs) > 2 * threads:
                    yield jobs.popleft().result()
        while jobs:
            yield jobs.popleft().result()
    finally:
        for job in jobs:
            job.cancel()


def _rows_at_once(part: Matrix) -> int:
    """About RANGE_WEIGHTS, in whole heads where rows are reordered within heads."""
    rows = max(1, RANGE_WEIGHTS // part.cols)
    head = part.rows // part.halves if part.halves else 1
    return -(-rows // head) * head


def _encode_range(planned: Planned, plan: Plan, index: int, start: int, stop: int) -> _Encoded:
    tensor, kind = planned.tensor, planned.choice.type
    part = tensor.parts[index]
    sampled = max(1, _SAMPLED_WEIGHTS // part.cols)
    copied = part.dtype == kind and kind not in ("f32", "f16", "bf16")  # the same bytes
    if copied:
        data = part.read_bytes(plan.source.files, start, stop)
        bad_scale = FORMATS[kind].not_finite(data.reshape(-1, FORMATS[kind].block_bytes)).any()
        rows = FORMATS[kind].decode(data if bad_scale else data[:sampled])
    else:
        rows = part.read(plan.source.files, start, stop)
    bad = refused(rows, largest(kind))
    if bad is not None:  # it would silently spoil a whole block
        where = [start + bad[0], bad[1]]
        if len(tensor.shape) == 3:
            where.insert(0, index)
        raise ModelFileError(
            f"{show(plan.source.path)}: {tensor.name!r} holds {rows[bad]} at {where}, which {kind} cannot"
            " express; get the weights again"
        )
    if not copied:
        data = np.empty((stop - start, FORMATS[kind].row_bytes(part.cols)), np.uint8)
        encode_rows(rows, kind, plan.importance.of(tensor.name, index) if plan.importance else None, data)
    sample = rows[:sampled]
    flat = sample.reshape(-1).astype(np.float64)  # squares of large float32 are infinite in float32
    off = FORMATS[kind].decode(data[: len(sample)]).reshape(-1) - flat
    error = float(off @ off)
    if not np.isfinite(error):  # whatever went wrong, such a file is of no use
        raise ModelFileError(
            f"{show(plan.source.path)}: {tensor.name!r} as {kind} holds weights that are no numbers; choose"
            " another type for it with --tensor-type"
        )
    return _Encoded(data, (stop - start) * part.row_bytes(), error, float(flat @ flat))


def _identity(plan: Plan, writer: GGUFWriter) -> dict[str, Any]:
    """What must be the same for a partial file to be gone on with; the keys are words for the user."""
    return {
        "source": plan.source.fingerprint(),
        "recipe": plan.metadata["localmoe.recipe"],
        "importance matrix": plan.metadata.get("localmoe.imatrix", ""),
        "version of localmoe": plan.metadata["localmoe.version"],
        "choice of types or metadata": hashlib.sha256(writer.header).hexdigest(),
    }


def _whole(writer: GGUFWriter, recorded: int) -> int:
    """How many of the recorded tensors the partial file really holds."""
    size = writer.path.stat().st_size if writer.path.exists() else 0
    ends = [tensor.offset + tensor.nbytes for tensor in writer.layout.values()]
    return sum(1 for end in ends[:recorded] if end <= size)


def _done(record: dict[str, Any]) -> Done:
    return Done(str(record.get("tensor")), float(record.get("error", 0)), float(record.get("square", 0)))
