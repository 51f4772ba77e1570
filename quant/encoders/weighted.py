"""Q4_0, Q4_1, Q5_0, Q5_1 under an importance, and IQ4_NL always: a search for the scale of each 32 weights.

Sixteen blocks at a time, one in each lane. Scales are tried and fitted to the levels that they give; the
best is gone on from until it fits its own levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quant.blocks_32 import IQ4_LEVELS
from quant.compiled import compiled
from quant.encoders.lanes import (
    absolute,
    fma,
    greatest,
    inverse,
    least,
    load,
    root,
    rounded,
    splat,
    store,
    store_bytes,
    store_halves,
    to_half,
    where_less,
)

BLOCK = 32
STEP = 64  # bytes of sixteen floats
SCRATCH = 2 * BLOCK * 16 + 32 + BLOCK * 4  # floats: weights, their importance, scales, levels as bytes
NL = 4  # the `kind` of IQ4_NL; of the others it is half their range
# How much a plain squared error counts beside the weighted one. Without it, single-scale blocks buy a little
# less weighted error for more plain error than ggml's have; most where x^2 is the weight.
_PLAIN, _PLAIN_SQUARES = 0.15, 0.8
_F = np.float32
_LEVELS = IQ4_LEVELS  # constants of the compiled code
_MIDDLES = (IQ4_LEVELS[1:] + IQ4_LEVELS[:-1]) / _F(2)


@compiled()
def _spread(
    x: Any, importance: Any, squares: Any, first: Any, blocks: Any, per_row: Any, scratch: Any
) -> None:
    """Lay sixteen blocks into the lanes, and their columns' importance; past the end the last block again."""
    for lane in range(16):
        block = min(first + lane, blocks - 1)
        start = block * BLOCK
        for i in range(BLOCK):
            scratch[i * 16 + lane] = x[start + i]
        if importance.size:
            start = block % per_row * BLOCK
            scratch[2 * BLOCK * 16 + lane] = squares[block // per_row]
            for i in range(BLOCK):
                scratch[BLOCK * 16 + i * 16 + lane] = importance[start + i]


@compiled()
def _weigh(xs: Any, ws: Any, important: Any, plain: Any) -> None:
    """The errors' weights: importance * sqrt(row's mean square + x^2), else x^2, as ggml's; and a plain
    part.
    """
    zero = splat(_F(0))
    total, mean = zero, load(ws + BLOCK * STEP)
    for i in range(BLOCK):
        x = load(xs + i * STEP)
        w = load(ws + i * STEP) * root(fma(x, x, mean)) if important else x * x
        store(ws + i * STEP, w)
        total = total + w
    extra = where_less(zero, total, total * splat(plain / _F(BLOCK)), splat(_F(1)))
    for i in range(BLOCK):
        store(ws + i * STEP, load(ws + i * STEP) + extra)


@compiled()
def _fit(xs: Any, ws: Any, inv: Any, shift: Any, top: Any, w: Any, wx: Any) -> Any:
    """Scale and minimum that fit the levels of (inv, shift) best, and what they take off sum w x^2."""
    zero = splat(_F(0))
    wq, wqq, wxq = zero, zero, zero
    for i in range(BLOCK):
        x = load(xs + i * STEP)
        q = least(greatest(rounded(fma(x, inv, shift)), zero), top)
        product = load(ws + i * STEP) * q
        wq, wqq, wxq = wq + product, fma(product, q, wqq), fma(product, x, wxq)
    determinant = w * wqq - wq * wq
    over = where_less(splat(_F(1e-5)) * w * wqq, determinant, inverse(determinant), zero)
    scale, minimum = (w * wxq - wx * wq) * over, (wqq * wx - wq * wxq) * over
    return scale, minimum, where_less(zero, over, scale * wxq + minimum * wx, splat(_F(-1)))


@compiled()
def _search_affine(xs: Any, ws: Any, top: Any, top_level: Any) -> Any:
    """Scale and minimum of Q4_1 or Q5_1. Weights are taken from the block's least, which keeps sums exact."""
    zero = splat(_F(0))
    low, high = splat(_F(np.inf)), splat(_F(-np.inf))
    for i in range(BLOCK):
        x = load(xs + i * STEP)
        low, high = least(low, x), greatest(high, x)
    w, wx = zero, zero
    for i in range(BLOCK):
        x, weight = load(xs + i * STEP) - low, load(ws + i * STEP)
        store(xs + i * STEP, x)
        w, wx = w + weight, fma(weight, x, wx)
    span = high - low
    scale, minimum, best = span * inverse(top), zero, zero
    for step in range(40):
        # the range from the best minimum so far to the largest weight, over about so many levels
        inv = splat(top_level + _F(0.05) * _F(step - 18)) * inverse(span - minimum)
        if step >= 37:
            inv = inverse(scale)
        shift = zero - minimum * inv
        s, m, gain = _fit(xs, ws, inv, shift, top, w, wx)
        scale, minimum = where_less(best, gain, s, scale), where_less(best, gain, m, minimum)
        best = greatest(best, gain)
    for i in range(BLOCK):
        store(xs + i * STEP, load(xs + i * STEP) + low)
    limit = splat(_F(65504))
    minimum = to_half(least(greatest(minimum + low, zero - limit), limit))
    # a constant block is its minimum, and what the rounding of that leaves is sixteen levels away
    return to_half(where_less(zero, span, scale, (low - minimum) * inverse(top))), minimum


@compiled()
def encode_affine(
    x: Any, importance: Any, squares: Any, per_row: Any, kind: Any, out: Any, scratch: Any
) -> None:
    """float32 [blocks * 32] -> uint8 [blocks * 20 or 24]: Q4_1 or Q5_1; squares: mean x^2 of each row."""
    blocks, five = x.size // BLOCK, kind == 16
    size = 24 if five else 20
    xs = scratch.ctypes.data
    ws, side = xs + BLOCK * STEP, scratch[2 * BLOCK * 16 :]
    levels = side[32:].view(np.uint8)
    top_level = _F(2 * kind - 1)
    halves, top, zero = side.view(np.uint8), splat(top_level), splat(_F(0))
    for first in range(0, blocks, 16):
        _spread(x, importance, squares, first, blocks, per_row, scratch)
        _weigh(xs, ws, True, _F(0))
        scale, minimum = _search_affine(xs, ws, top, top_level)
        inv = inverse(scale)
        shift = zero - minimum * inv
        for i in range(BLOCK):
            q = least(greatest(rounded(fma(load(xs + i * STEP), inv, shift)), zero), top)
            store_bytes(levels.ctypes.data + i * 16, q)
        store_halves(side.ctypes.data, scale)
        store_halves(side.ctypes.data + 32, minimum)
        for lane in range(min(16, blocks - first)):
            at = (first + lane) * size
            for k in range(2):
                out[at + k], out[at + 2 + k] = halves[2 * lane + k], halves[32 + 2 * lane + k]
            _pack(levels, lane, five, out, at + 4)


@compiled()
def _pack(levels: Any, lane: Any, five: Any, out: Any, at: Any) -> None:
    """A block's levels: fifth bits if there are, then nibbles."""
    if five:
        for j in range(4):
            bits = 0
            for k in range(8):
                bits |= (levels[(8 * j + k) * 16 + lane] >> 4) << k
            out[at + j] = bits
        at += 4
    for i in range(16):
        out[at + i] = levels[i * 16 + lane] & 15 | (levels[(16 + i) * 16 + lane] & 15) << 4


@compiled()
def _nearest(x: Any, kind: Any, bottom: Any, top: Any) -> Any:
    """Level and its index: whole numbers from bottom to top, or IQ4_NL's sixteen."""
    if kind == NL:
        level, index, one = splat(_LEVELS[0]), splat(_F(0)), splat(_F(1))
        for k in range(15):
            middle = splat(_MIDDLES[k])
            level = where_less(middle, x, splat(_LEVELS[k + 1]), level)
            index = where_less(middle, x, index + one, index)
        return level, index
    level = least(greatest(rounded(x), bottom), top)
    return level, level - bottom


@compiled()
def _search_symmetric(xs: Any, ws: Any, kind: Any, bottom: Any, top: Any) -> Any:
    """The one scale of Q4_0, Q5_0 or IQ4_NL, of either sign."""
    zero = splat(_F(0))
    peak = zero
    for i in range(BLOCK):
        x = load(xs + i * STEP)
        peak = where_less(absolute(peak), absolute(x), x, peak)
    over, scale, best = inverse(peak), zero, zero
    far, near = (_LEVELS[0], _LEVELS[15]) if kind == NL else (_F(-kind), _F(kind - 1))
    tries = 11 if kind == NL else 21
    spacing = _F(0.22) / _F(tries) if kind == NL else _F(2.4) / _F(kind * tries)
    for step in range(2 * tries + 2):
        # the largest weight on, or a little off, the one end of the levels, then the other; then from the
        # best
        end, place = (far, step) if step < tries else (near, step - tries)
        inv = splat(end * (_F(1) + spacing * _F(place - tries // 2))) * over
        if step >= 2 * tries:
            inv = inverse(scale)
        wxq, wqq = zero, zero
        for i in range(BLOCK):
            x = load(xs + i * STEP)
            level, _ = _nearest(x * inv, kind, bottom, top)
            product = load(ws + i * STEP) * level
            wxq, wqq = fma(product, x, wxq), fma(product, level, wqq)
        fitted = wxq * inverse(wqq)
        gain = wxq * fitted
        scale = where_less(best, gain, fitted, scale)
        best = greatest(best, gain)
    return _rounded_best(xs, ws, to_half(scale), peak, kind, bottom, top)


@compiled()
def _rounded_best(xs: Any, ws: Any, scale: Any, peak: Any, kind: Any, bottom: Any, top: Any) -> Any:
    """The scale, or one that puts the largest weight on a level, if its rounding happens to serve better.

    For a block of equal weights the rounding to float16 is all the error there is.
    """
    kept, best = scale, splat(_F(np.inf))
    for step in range(6):  # levels from the far end inward, the near end last
        if kind == NL:
            level = _LEVELS[step - 1] if step else _F(1)
        else:
            level = _F(step - 1 - kind) if step < 4 else _F(kind + 3 - step)
        s = scale if step == 0 else to_half(peak * splat(_F(1) / level))
        inv, error = inverse(s), splat(_F(0))
        for i in range(BLOCK):
            x = load(xs + i * STEP)
            nearest, _ = _nearest(x * inv, kind, bottom, top)
            off = s * nearest - x
            error = fma(load(ws + i * STEP) * off, off, error)
        kept = where_less(error, best, s, kept)
        best = least(best, error)
    return kept


@compiled()
def encode_symmetric(
    x: Any, importance: Any, squares: Any, per_row: Any, kind: Any, out: Any, scratch: Any
) -> None:
    """float32 [blocks * 32] -> uint8 [blocks * 18 or 22]: Q4_0 (kind 8), Q5_0 (16) or IQ4_NL."""
    blocks, five = x.size // BLOCK, kind == 16
    size = 22 if five else 18
    xs = scratch.ctypes.data
    ws, side = xs + BLOCK * STEP, scratch[2 * BLOCK * 16 :]
    levels, halves = side[32:].view(np.uint8), side.view(np.uint8)
    bottom, top = splat(_F(-kind)), splat(_F(kind - 1))
    for first in range(0, blocks, 16):
        _spread(x, importance, squares, first, blocks, per_row, scratch)
        _weigh(xs, ws, importance.size > 0, _F(_PLAIN) if importance.size else _F(_PLAIN_SQUARES))
        scale = _search_symmetric(xs, ws, kind, bottom, top)
        inv = inverse(scale)
        for i in range(BLOCK):
            _, index = _nearest(load(xs + i * STEP) * inv, kind, bottom, top)
            store_bytes(levels.ctypes.data + i * 16, index)
        store_halves(side.ctypes.data, scale)
        for lane in range(min(16, blocks - first)):
            at = (first + lane) * size
            out[at], out[at + 1] = halves[2 * lane], halves[2 * lane + 1]
            _pack(levels, lane, five, out, at + 2)


def encode_rows(
    x: npt.NDArray[np.float32], importance: npt.NDArray[np.float32], name: str, out: npt.NDArray[np.uint8]
) -> None:
    """float32 [rows, cols] -> uint8 [rows, bytes] of "q4_0", "q4_1", "q5_0", "q5_1" or "iq4_nl"."""
    squares = np.mean(x * x, axis=1, dtype=np.float32)
    encode = encode_affine if name in ("q4_1", "q5_1") else encode_symmetric
    kind = {"q4_0": 8, "q4_1": 8, "q5_0": 16, "q5_1": 16, "iq4_nl": NL}[name]
    scratch = np.empty(SCRATCH, _F)
    encode(x.reshape(-1), importance, squares, x.shape[1] // BLOCK, kind, out.reshape(-1), scratch)
