"""Finds weights that a format cannot hold, at the memory's speed."""

from __future__ import annotations

from typing import Any

import numpy as np

from quant.compiled import compiled


@compiled()
def within(x: Any, limit: Any) -> bool:
    """Is every weight of float32 [n] at most `limit` in size? A NaN is not."""
    bits = x.view(np.uint32)
    top = np.uint32(0)
    for i in range(bits.size):  # as integers, sizes of floats sort as they are, infinity and NaN above all
        top = max(top, bits[i] & np.uint32(0x7FFFFFFF))
    return bool(top <= limit)


def refused(x: np.ndarray[Any, np.dtype[np.float32]], limit: float) -> tuple[int, ...] | None:
    """The index of the first weight that is not finite or is larger than `limit`, or None."""
    largest = np.float32(min(limit, float(np.finfo(np.float32).max))).view(np.uint32)
    if within(x.reshape(-1), largest):
        return None
    with np.errstate(invalid="ignore"):
        return tuple(int(i) for i in np.argwhere(~(np.abs(x) <= limit) | ~np.isfinite(x))[0])
