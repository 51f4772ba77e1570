"""Q4_K and Q5_K: w = d * scale * q - dmin * minimum, eight sub-blocks of 32 under one d and dmin.

Two super-blocks are encoded at a time, a sub-block in each lane. For every sub-block:

1. a dozen scales around "the range over the top level" are tried, each followed by the least-squares fit of
scale and
   minimum to the levels that it gives; the fit's error comes from running sums;
2. d and dmin are set from the largest scale and minimum, and each sub-block looks among the neighbouring
pairs of
   6-bit scale and minimum for the one of least true error. Rounding scale and minimum each for itself, as is
   usual, throws away up to 5 % of the quality;
3. d and dmin are fitted to all levels of the super-block; then 2 and 3 once more, nearer by.
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
    max8,
    root,
    rounded,
    splat,
    store,
    store_bytes,
    store_halves,
    sum8,
    to_half,
    where_less,
)

BLOCK, SUB = 256, 32
STEP = 64  # bytes of sixteen floats
SCRATCH = 2 * SUB * 16 + 64 + 2 * SUB * 4  # floats: weights, their importance, scales, levels as bytes
_F = np.float32


@compiled()
def _sums(xs: Any, ws: Any, inv: Any, shift: Any, top: Any) -> Any:
    """sum w q, sum w q^2, sum w x q  for  q = the level nearest to x * inv + shift."""
    zero = splat(_F(0))
    wq, wqq, wxq = zero, zero, zero
    for i in range(SUB):
        x = load(xs + i * STEP)
        q = least(greatest(rounded(fma(x, inv, shift)), zero), top)
        product = load(ws + i * STEP) * q
        wq = wq + product
        wqq = fma(product, q, wqq)
        wxq = fma(product, x, wxq)
    return wq, wqq, wxq


@compiled()
def _error(xs: Any, ws: Any, scale: Any, minimum: Any, top: Any) -> Any:
    """sum w (x - scale * q + minimum)^2, and sum w q, for the best levels."""
    zero = splat(_F(0))
    inv = inverse(scale)
    shift, error, wq = minimum * inv, zero, zero
    for i in range(SUB):
        x, w = load(xs + i * STEP), load(ws + i * STEP)
        q = least(greatest(rounded(fma(x, inv, shift)), zero), top)
        off = fma(scale, q, zero - minimum) - x
        error = fma(w * off, off, error)
        wq = fma(w, q, wq)
    return error, wq


@compiled()
def _fit(xs: Any, ws: Any, inv: Any, shift: Any, top: Any, w: Any, wx: Any) -> Any:
    """Scale and minimum >= 0 that fit the levels of (inv, shift) best, and what they take off sum w x^2."""
    zero = splat(_F(0))
    wq, wqq, wxq = _sums(xs, ws, inv, shift, top)
    # one of the two alone: where both cannot be told apart, or where the best minimum could not be stored
    scale, minimum = greatest(wxq * inverse(wqq), zero), zero
    only = greatest(zero - wx * inverse(w), zero)
    best = scale * wxq
    lower = zero - only * wx
    scale, minimum = where_less(best, lower, zero, scale), where_less(best, lower, only, minimum)
    best = greatest(best, lower)
    determinant = w * wqq - wq * wq
    over = where_less(splat(_F(1e-5)) * w * wqq, determinant, inverse(determinant), zero)
    both, under = (w * wxq - wx * wq) * over, (wq * wxq - wqq * wx) * over
    gain = where_less(under, zero, zero, both * wxq - under * wx)
    return where_less(best, gain, both, scale), where_less(best, gain, under, minimum), greatest(best, gain)


@compiled()
def _whole(xs: Any, ws: Any, scale: Any, minimum: Any, top: Any) -> Any:
    """d and dmin for which the rounded scales and minimums serve best; the largest become 63, or a little
    less.
    """
    most, best = splat(_F(63)), splat(_F(np.inf))
    highest_scale, highest_minimum = max8(scale), max8(minimum)
    d, dmin, s, m = best, best, best, best
    for step in range(4):
        over = splat(_F(1) / _F(63 - step))
        one, other = to_half(highest_scale * over), to_half(highest_minimum * over)
        whole = least(rounded(scale * inverse(one)), most)
        below = least(rounded(minimum * inverse(other)), most)
        error = sum8(_error(xs, ws, one * whole, other * below, top)[0])
        d, dmin = where_less(error, best, one, d), where_less(error, best, other, dmin)
        s, m = where_less(error, best, whole, s), where_less(error, best, below, m)
        best = least(error, best)
    return d, dmin, s, m


@compiled()
def _neighbours(
    xs: Any, ws: Any, d: Any, dmin: Any, scale: Any, minimum: Any, top: Any, w: Any, wx: Any, reach: Any
) -> Any:
    """The pair of whole-numbered scale and minimum, near the given one, whose true error is least."""
    zero, most = splat(_F(0)), splat(_F(63))
    per_minimum = inverse(w * dmin)
    best = splat(_F(np.inf))
    best_scale, best_minimum = scale, minimum
    for step in range(-reach, reach + 1):
        s = least(greatest(scale + splat(_F(step)), zero), most)
        m, a, middle = minimum, d * s, minimum
        for k in range(-2, 2):
            if k > -2:
                m = least(greatest(middle + splat(_F(k)), zero), most)
            error, wq = _error(xs, ws, a, dmin * m, top)
            best_scale = where_less(error, best, s, best_scale)
            best_minimum = where_less(error, best, m, best_minimum)
            best = least(error, best)
            if k == -2:
                middle = rounded((a * wq - wx) * per_minimum)  # the best minimum for those levels
    return best_scale, best_minimum, sum8(best)


@compiled()
def _refit(
    xs: Any, ws: Any, d: Any, dmin: Any, scale: Any, minimum: Any, top: Any, w: Any, wx: Any, error: Any
) -> Any:
    """d and dmin fitted to all levels of the super-block, where that lowers its error."""
    zero = splat(_F(0))
    inv = inverse(d * scale)
    wq, wqq, wxq = _sums(xs, ws, inv, dmin * minimum * inv, top)
    aa, ax, ab = sum8(scale * scale * wqq), sum8(scale * wxq), sum8(scale * minimum * wq)
    bb, bx = sum8(minimum * minimum * w), sum8(minimum * wx)
    determinant = aa * bb - ab * ab
    over = where_less(splat(_F(1e-6)) * aa * bb, determinant, inverse(determinant), zero)
    alone = where_less(zero, over, zero, ax * inverse(aa))  # all minimums are zero
    new_d = to_half(fma(ax * bb - bx * ab, over, alone))
    new_dmin = to_half(greatest((ax * ab - bx * aa) * over, zero))
    new_error = sum8(_error(xs, ws, new_d * scale, new_dmin * minimum, top)[0])
    return where_less(new_error, error, new_d, d), where_less(new_error, error, new_dmin, dmin)


@compiled()
def _spread(x: Any, importance: Any, block: Any, blocks_per_row: Any, lane: Any, scratch: Any) -> None:
    """Lay a super-block's eight sub-blocks into eight lanes, from `lane` on, and the columns' importance."""
    start = block * BLOCK
    for sub in range(8):
        for i in range(SUB):
            scratch[i * 16 + lane + sub] = x[start + sub * SUB + i]
    if importance.size:
        first = block % blocks_per_row * BLOCK
        for sub in range(8):
            for i in range(SUB):
                scratch[SUB * 16 + i * 16 + lane + sub] = importance[first + sub * SUB + i]


@compiled()
def _weigh(xs: Any, ws: Any, important: Any) -> Any:
    """The errors' weights, ggml's: mean size + |x|, or importance * sqrt(2 * mean square + x^2).

    -> sum w, sum w x, least x or 0, largest x.
    """
    zero = splat(_F(0))
    squares, low, high = zero, zero, splat(_F(-np.inf))
    for i in range(SUB):
        x = load(xs + i * STEP)
        squares = fma(x, x, squares)
        low, high = least(low, x), greatest(high, x)
    if important:
        spread = sum8(squares) * splat(_F(2 / BLOCK))
    else:
        spread = root(squares * splat(_F(1 / SUB)))
    total, wx = zero, zero
    for i in range(SUB):
        x = load(xs + i * STEP)
        if important:
            w = load(ws + i * STEP) * root(fma(x, x, spread))
        else:
            w = spread + absolute(x)
        store(ws + i * STEP, w)
        total = total + w
        wx = fma(w, x, wx)
    if important:  # columns that matter nothing at all: then all matter alike
        extra = where_less(zero, total, zero, splat(_F(1)))
        for i in range(SUB):
            store(ws + i * STEP, load(ws + i * STEP) + extra)
            wx = fma(extra, load(xs + i * STEP), wx)
        total = fma(extra, splat(_F(SUB)), total)
    return total, wx, low, high


@compiled()
def _pack(block: Any, out: Any, d: Any, dmin: Any, scales: Any, levels: Any, lane: Any, five: Any) -> None:
    """One super-block's bytes, from the floats `scales` [2, 16] and the bytes `levels` [32, 16]."""
    at = block * (176 if five else 144)
    out[at], out[at + 1] = d & 255, d >> 8
    out[at + 2], out[at + 3] = dmin & 255, dmin >> 8
    for j in range(4):
        s, m = int(scales[lane + j]), int(scales[16 + lane + j])
        upper_s, upper_m = int(scales[lane + j + 4]), int(scales[16 + lane + j + 4])
        out[at + 4 + j] = s | upper_s >> 4 << 6
        out[at + 8 + j] = m | upper_m >> 4 << 6
        out[at + 12 + j] = upper_s & 15 | (upper_m & 15) << 4
    at += 16
    if five:
        for i in range(SUB):
            bits = 0
            for j in range(8):
                bits |= (levels[i * 16 + lane + j] >> 4) << j
            out[at + i] = bits
        at += 32
    for pair in range(4):
        for i in range(SUB):
            low, high = levels[i * 16 + lane + 2 * pair], levels[i * 16 + lane + 2 * pair + 1]
            out[at + pair * SUB + i] = low & 15 | (high & 15) << 4


@compiled()
def encode(x: Any, importance: Any, blocks_per_row: Any, five: Any, out: Any, scratch: Any) -> None:
    """float32 [blocks * 256] -> uint8 [blocks * 144 or 176]; importance float32 [columns] or empty.

    scratch: float32 [SCRATCH].
    """
    blocks = x.size // BLOCK
    important = importance.size > 0
    xs = scratch.ctypes.data
    ws = xs + SUB * STEP
    side = scratch[2 * SUB * 16 : 2 * SUB * 16 + 64]
    levels = scratch[2 * SUB * 16 + 64 :].view(np.uint8)
    top_level = _F(31) if five else _F(15)
    top, zero = splat(top_level), splat(_F(0))
    for first in range(0, blocks, 2):
        second = min(first + 1, blocks - 1)  # a last odd one is done twice
        _spread(x, importance, first, blocks_per_row, 0, scratch)
        _spread(x, importance, second, blocks_per_row, 8, scratch)
        w, wx, low, high = _weigh(xs, ws, important)
        scale, minimum, best = (high - low) * inverse(top), zero - low, zero
        for step in range(12):
            # the range from the best minimum so far to the largest weight, over about so many levels
            inv = splat(top_level + _F(0.2) * _F(step - 5)) * inverse(high + minimum)
            if step == 11:
                inv = inverse(scale)
            shift = minimum * inv
            s, m, gain = _fit(xs, ws, inv, shift, top, w, wx)
            scale = where_less(best, gain, s, scale)
            minimum = where_less(best, gain, m, minimum)
            best = greatest(best, gain)

        d, dmin, scale, minimum = _whole(xs, ws, scale, minimum, top)
        for reach in range(2, 0, -1):
            scale, minimum, error = _neighbours(xs, ws, d, dmin, scale, minimum, top, w, wx, reach)
            d, dmin = _refit(xs, ws, d, dmin, scale, minimum, top, w, wx, error)

        a, b = d * scale, dmin * minimum
        inv = inverse(a)
        shift = b * inv
        for i in range(SUB):
            q = least(greatest(rounded(fma(load(xs + i * STEP), inv, shift)), zero), top)
            store_bytes(levels.ctypes.data + i * 16, q)
        store(side.ctypes.data, scale)
        store(side.ctypes.data + STEP, minimum)
        store_halves(side.ctypes.data + 2 * STEP, d)
        store_halves(side.ctypes.data + 3 * STEP, dmin)
        halves = side[32:].view(np.uint16)
        _pack(first, out, halves[0], halves[32], side, levels, 0, five)
        _pack(second, out, halves[8], halves[40], side, levels, 8, five)


def encode_rows(
    x: npt.NDArray[np.float32], importance: npt.NDArray[np.float32], name: str, out: npt.NDArray[np.uint8]
) -> None:
    """float32 [rows, cols] -> uint8 [rows, bytes] of "q4_k" or "q5_k"."""
    encode(
        x.reshape(-1), importance, x.shape[1] // BLOCK, name == "q5_k", out.reshape(-1), np.empty(SCRATCH, _F)
    )
