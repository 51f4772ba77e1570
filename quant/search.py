"""Scales that make a block's weighted error small: the specification's plain search, many blocks at once.

Both searches try a few scales around "the largest weight lands on the last level", round, and then solve for
the scale (and minimum) that fits those levels best in the least-squares sense; the error of that fit needs no
second pass, since it is  sum w x^2 - scale * sum w x q - minimum * sum w x.  The compiled encoders do so with
more care.
"""

from __future__ import annotations

import numpy as np

from quant.block_format import Bytes, Floats, inverse


def _dot(*factors: Floats) -> Floats:
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    total: Floats = product.sum(axis=-1, keepdims=True, dtype=np.float32)
    return total


def affine(x: Floats, weight: Floats, top: int, *, floor: bool) -> tuple[Floats, Floats]:
    """Scale and minimum [n, 1] of  x ≈ scale * q + minimum,  q in 0..top; floor: the minimum must be <= 0."""
    low, high = x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
    if floor:
        low = np.minimum(low, np.float32(0))
    span = high - low
    w, wx, wxx = _dot(weight), _dot(weight, x), _dot(weight, x, x)
    best_scale, best_low = span / np.float32(top), low
    first = np.clip(np.rint((x - low) * inverse(best_scale)), 0, top) * best_scale + low - x
    best = _dot(weight, first, first)
    for step in np.arange(-1.0, 1.0, 0.1, dtype=np.float32):
        q = np.clip(np.rint((x - low) * ((top + step) * inverse(span))), 0, top)
        wq, wqq, wxq = _dot(weight, q), _dot(weight, q, q), _dot(weight, x, q)
        determinant = w * wqq - wq * wq
        scale = (w * wxq - wx * wq) * inverse(determinant)
        minimum = (wqq * wx - wq * wxq) * inverse(determinant)
        if floor:
            through_zero = minimum > 0
            scale = np.where(through_zero, wxq * inverse(wqq), scale)
            minimum = np.where(through_zero, np.float32(0), minimum)
        error = wxx - scale * wxq - minimum * wx
        better = (determinant > 0) & (error < best) & (scale > 0)
        best = np.where(better, error, best)
        best_scale, best_low = np.where(better, scale, best_scale), np.where(better, minimum, best_low)
    return best_scale, best_low


def symmetric(x: Floats, weight: Floats, top: int) -> tuple[Floats, Floats]:
    """Scale [n, 1] (of either sign) of  x ≈ scale * q,  q in -top..top-1, and those q [n, size]."""
    at = np.abs(x).argmax(axis=-1, keepdims=True)
    peak = np.take_along_axis(x, at, axis=-1)
    best = np.full_like(peak, -1)
    best_scale, best_q = np.zeros_like(peak), np.zeros_like(x)
    for step in np.arange(-0.9, 1.0, 0.1, dtype=np.float32):
        q = np.clip(np.rint(x * (-(top + step) * inverse(peak))), -top, top - 1)
        wxq, wqq = _dot(weight, x, q), _dot(weight, q, q)
        gain = wxq * wxq * inverse(wqq)  # what the fit takes off sum w x^2
        better = gain > best
        best, best_scale = np.where(better, gain, best), np.where(better, wxq * inverse(wqq), best_scale)
        best_q = np.where(better, q, best_q)
    return best_scale, best_q


def spread_weight(x: Floats, importance: Floats, sigma2: Floats) -> Floats:
    """ggml's error weight of a column's importance: larger weights of a block count more."""
    weight: Floats = importance * np.sqrt(sigma2 + x * x)
    return weight


def levels(x: Floats, scale: Floats, minimum: Floats | float, lowest: int, highest: int) -> Bytes:
    """The level nearest to each weight, counted from `lowest`: uint8."""
    q = np.clip(np.rint((x - minimum) * inverse(scale)), lowest, highest) - lowest
    result: Bytes = np.nan_to_num(q).astype(np.uint8)
    return result
