"""Q6_K: w = d * scale * (q - 32), sixteen sub-blocks of 16 with a signed 8-bit scale each, under one d.

A super-block at a time, a sub-block in each lane. As for Q4_K: scales are tried and fitted, d is set from the
largest, and then each sub-block looks for the whole-numbered scale nearby whose true error is least.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quant.compiled import compiled
from quant.encoders.lanes import (
    absolute,
    fma,
    greatest,
    inverse,
    least,
    load,
    max16,
    rounded,
    splat,
    store,
    store_bytes,
    store_halves,
    sum16,
    to_half,
    where_less,
)

BLOCK, SUB, BYTES = 256, 16, 210
STEP = 64  # bytes of sixteen floats
SCRATCH = 2 * SUB * 16 + 32 + SUB * 4  # floats: weights, their importance, scales, levels as bytes
_F = np.float32


@compiled()
def _sums(xs: Any, ws: Any, inv: Any) -> Any:
    """sum w x q, sum w q^2  for  q = the level nearest to x * inv."""
    zero, bottom, top = splat(_F(0)), splat(_F(-32)), splat(_F(31))
    wxq, wqq = zero, zero
    for i in range(SUB):
        x = load(xs + i * STEP)
        q = least(greatest(rounded(x * inv), bottom), top)
        product = load(ws + i * STEP) * q
        wxq = fma(product, x, wxq)
        wqq = fma(product, q, wqq)
    return wxq, wqq


@compiled()
def _error(xs: Any, ws: Any, scale: Any) -> Any:
    """sum w (x - scale * q)^2 for the best levels."""
    bottom, top, error, inv = splat(_F(-32)), splat(_F(31)), splat(_F(0)), inverse(scale)
    for i in range(SUB):
        x = load(xs + i * STEP)
        q = least(greatest(rounded(x * inv), bottom), top)
        off = scale * q - x
        error = fma(load(ws + i * STEP) * off, off, error)
    return error


@compiled()
def _spread(x: Any, importance: Any, start: Any, first: Any, scratch: Any) -> None:
    """Lay sixteen sub-blocks into the lanes; ggml's error weights: the columns' importance, else x^2."""
    for sub in range(16):
        for i in range(SUB):
            value = x[start + sub * SUB + i]
            scratch[i * 16 + sub] = value
            scratch[SUB * 16 + i * 16 + sub] = value * value
    if importance.size:
        for sub in range(16):
            for i in range(SUB):
                scratch[SUB * 16 + i * 16 + sub] = importance[first + sub * SUB + i]


@compiled()
def _best_scale(xs: Any, ws: Any) -> Any:
    """The scale of each sub-block for itself; it has the sign that lets the level -32 be used."""
    zero = splat(_F(0))
    peak, total = zero, zero
    for i in range(SUB):
        x = load(xs + i * STEP)
        peak = where_less(absolute(peak), absolute(x), x, peak)
        total = total + load(ws + i * STEP)
    extra = where_less(zero, total, zero, splat(_F(1)))  # where nothing matters, all matters alike
    for i in range(SUB):
        store(ws + i * STEP, load(ws + i * STEP) + extra)
    scale, best = zero, zero
    over = inverse(peak)
    for step in range(18):
        if step < 13:
            inv = splat(_F(-32) - _F(0.15) * _F(step - 6)) * over
        elif step < 17:
            inv = splat(_F(31) + _F(0.3) * _F(step - 14)) * over
        else:
            inv = inverse(scale)
        wxq, wqq = _sums(xs, ws, inv)
        fitted = wxq * inverse(wqq)
        gain = wxq * fitted
        scale = where_less(best, gain, fitted, scale)
        best = greatest(best, gain)
    return scale


@compiled()
def _pack(out: Any, at: Any, levels: Any) -> None:
    """128 bytes of low nibbles and 64 of high bits from levels [16 of a sub-block, 16 sub-blocks], 0..63."""
    for half in range(2):
        for j in range(32):
            row, sub = j % SUB, 8 * half + j // SUB
            a, b = levels[row * 16 + sub], levels[row * 16 + sub + 2]
            c, d = levels[row * 16 + sub + 4], levels[row * 16 + sub + 6]
            out[at + half * 64 + j] = a & 15 | (c & 15) << 4
            out[at + half * 64 + 32 + j] = b & 15 | (d & 15) << 4
            out[at + 128 + half * 32 + j] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6


@compiled()
def encode(x: Any, importance: Any, blocks_per_row: Any, out: Any, scratch: Any) -> None:
    """float32 [blocks * 256] -> uint8 [blocks * 210]; importance float32 [columns] or empty; scratch
    [SCRATCH].
    """
    xs = scratch.ctypes.data
    ws = xs + SUB * STEP
    side = scratch[2 * SUB * 16 :]
    levels = scratch[2 * SUB * 16 + 32 :].view(np.uint8)
    bottom, top, zero = splat(_F(-32)), splat(_F(31)), splat(_F(0))
    lowest, most = splat(_F(-128)), splat(_F(127))
    for block in range(x.size // BLOCK):
        _spread(x, importance, block * BLOCK, block % blocks_per_row * BLOCK, scratch)
        scale = _best_scale(xs, ws)
        positive, negative = max16(scale), max16(zero - scale)
        largest = where_less(positive, negative, negative, zero - positive)
        tried, least_error, d, whole = scale, splat(_F(np.inf)), zero, zero
        for step in range(4):  # the largest becomes -128, or a little more
            one = to_half(largest * splat(_F(1) / _F(128 - step)))
            s = least(greatest(rounded(tried * inverse(one)), lowest), most)
            error = sum16(_error(xs, ws, one * s))
            d, whole = where_less(error, least_error, one, d), where_less(error, least_error, s, whole)
            least_error = least(error, least_error)
        scale = whole
        for turn in range(2):
            reach = 4 - 2 * turn
            best, error, middle = scale, splat(_F(np.inf)), scale
            for step in range(-reach, reach + 1):
                s = least(greatest(middle + splat(_F(step)), lowest), most)
                e = _error(xs, ws, d * s)
                best = where_less(e, error, s, best)
                error = least(e, error)
            scale = best
            wxq, wqq = _sums(xs, ws, inverse(d * scale))
            fitted = to_half(sum16(scale * wxq) * inverse(sum16(scale * scale * wqq)))
            lower = sum16(_error(xs, ws, fitted * scale))
            d = where_less(lower, sum16(error), fitted, d)
        inv = inverse(d * scale)
        for i in range(SUB):
            q = least(greatest(rounded(load(xs + i * STEP) * inv), bottom), top)
            store_bytes(levels.ctypes.data + i * 16, q - bottom)
        at = block * BYTES
        _pack(out, at, levels)
        store_bytes(out.ctypes.data + at + 192, scale)
        store_halves(side.ctypes.data, d)
        halves = side.view(np.uint8)
        out[at + 208], out[at + 209] = halves[0], halves[1]


def encode_rows(
    x: npt.NDArray[np.float32], importance: npt.NDArray[np.float32], out: npt.NDArray[np.uint8]
) -> None:
    """float32 [rows, cols] -> uint8 [rows, bytes] of "q6_k"."""
    encode(x.reshape(-1), importance, x.shape[1] // BLOCK, out.reshape(-1), np.empty(SCRATCH, _F))
