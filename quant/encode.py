"""Encodes float32 weights into blocks: the fast encoders, over rows in parallel.

The bytes do not depend on the number of threads: no block looks at another, but for the mean square of its
own row.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from quant.blocks import FORMATS, block_format
from quant.errors import QuantError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_NONE = np.empty(0, np.float32)
_ROWS_BYTES = 1 << 20  # of weights that a thread takes at a time
_LARGEST = {"f32": float("inf"), "bf16": 2.0**128 - 2.0**120, "mxfp4": 2.0**126}
_LEAST = np.float32(2.0**-32)  # importance of a column, beside 1 for the one of its block that matters most


def encode_rows(x: Floats, name: str, importance: Floats | None, out: Bytes) -> None:
    """One thread's work: float32 [rows, cols], contiguous, into uint8 [rows, bytes]."""
    importance = _NONE if importance is None else _scaled(importance, FORMATS[name].block_size)
    if name in ("q4_k", "q5_k"):
        from quant.encoders import k_affine

        k_affine.encode_rows(x, importance, name, out)
    elif name == "q6_k":
        from quant.encoders import k_symmetric

        k_symmetric.encode_rows(x, importance, out)
    elif name == "iq4_nl" or (importance.size and name in ("q4_0", "q4_1", "q5_0", "q5_1")):
        from quant.encoders import weighted

        weighted.encode_rows(x, importance, name, out)
    elif name == "mxfp4":
        from quant.encoders import mxfp4

        mxfp4.encode_rows(x, importance, out)
    elif name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"):
        from quant.encoders import plain

        plain.encode_rows(x, name, out)
    else:
        out[:] = block_format(name).encode(x)


def _scaled(importance: Floats, block: int) -> Floats:
    """The columns' importance, between 1/2 and 1 where it is largest in a block, and 0 or at least _LEAST.

    Only ratios within a block count, and a power of two changes none of them; but the encoders multiply sums
    of importance by each other, for which float32 has room only near 1.
    """
    blocks = importance.reshape(-1, block)
    exponents = np.frexp(blocks.max(axis=1, keepdims=True))[1]
    scaled = np.ldexp(blocks, -exponents)
    return np.where(blocks > 0, np.maximum(scaled, _LEAST), blocks).reshape(-1)


def quantize(
    x: npt.NDArray[Any], name: str, importance: npt.NDArray[Any] | None = None, *, threads: int | None = None
) -> Bytes:
    """float32 [..., cols] -> uint8 [..., bytes] in the named format.

    importance [cols] says how much an error in each column matters; without one errors are weighted as ggml
    does. QuantError where the format does not exist or cannot be written, blocks do not divide the rows, or
    a weight or importance is not finite.
    """
    from quant.encoders.finite import refused

    kind = block_format(name)
    x = np.ascontiguousarray(x, np.float32)
    row_bytes = kind.row_bytes(x.shape[-1])
    if not kind.writable:
        raise QuantError(f"{kind.name} can be read, not written")
    columns = None if importance is None else check_importance(importance, x.shape[-1])
    rows = x.reshape(-1, x.shape[-1])
    out = np.empty((len(rows), row_bytes), np.uint8)
    step = max(1, _ROWS_BYTES // (4 * x.shape[-1]))

    def work(at: int) -> None:
        part = rows[at : at + step]
        bad = refused(part, largest(kind.name))
        if bad is not None:
            raise QuantError(
                f"the weight at {[at + bad[0], bad[1]]} is {part[bad]}, which {kind.name} cannot hold"
            )
        encode_rows(part, kind.name, columns, out[at : at + step])

    starts = range(0, len(rows), step)
    threads = threads or os.cpu_count() or 1
    if threads == 1 or len(starts) == 1:
        for start in starts:
            work(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    return out.reshape(*x.shape[:-1], row_bytes)


def largest(name: str) -> float:
    """The largest weight that may be given to a format: most scales of blocks are float16."""
    return _LARGEST.get(name, 65504.0)


def check_importance(importance: npt.NDArray[Any], cols: int) -> Floats:
    """The columns' importance as float32 [cols]; QuantError where it is of another length, negative or not
    finite.
    """
    values = np.ascontiguousarray(importance, np.float32)
    if values.shape != (cols,):
        raise QuantError(f"the importance has shape {values.shape}, the rows have {cols} columns")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise QuantError("an importance must be finite and not negative")
    return values
