"""Arithmetic on rows of float32: normalisation, SwiGLU, exponentials, and activations quantized to int8.

Activations are quantized in groups of 256 with one float32 scale, as ggml's Q8_K does: `q = rint(x * 127 /
max|x|)`, and the sums of every 16 of `q`, which formats with a minimum or an offset need. A row of n values
is ceil(n / 256) groups; the last is filled with zeros.
"""

from __future__ import annotations

import numpy as np

from localmoe.kernels.geometry import GROUP, SUMS
from localmoe.kernels.orders import store_part
from localmoe.kernels.simd import (
    add16,
    bits_to_f32,
    div16,
    fma,
    fma16,
    load_f32,
    load_f32x16,
    magnitude16,
    max16,
    max_i32x16,
    max_lane_i32x16,
    min16,
    mul16,
    pow2_16,
    round16,
    splat_f32x16,
    store_f32,
    store_f32x16,
    store_i16,
    sum16,
    sum_i32x16,
    to_i8x16,
    to_i32x16,
    zero_f32x16,
    zero_i32x16,
)
from quant.compiled import compiled

_F = np.float32
_ZERO, _ONE, _TOP, _SIXTEENTH = _F(0), _F(1), _F(127), _F(1 / 16)
_LIMIT, _STEEPNESS = _F(7), _F(1.702)  # of the clamped unit
_LOWEST, _HIGHEST = _F(-87.0), _F(88.0)
_LOG2E, _LN2_HIGH, _LN2_LOW = _F(1.44269504), _F(-0.693359375), _F(2.12194440e-4)
_C = [_F(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
                      0.5)]
_C0, _C1, _C2, _C3, _C4, _C5 = _C


@compiled(forceinline=True)
def exp16(x):
    """e**x of 16 lanes to about 1 ulp (Cephes' expf polynomial); x is clamped to [-87, 88], NaN stays NaN."""
    x = min16(splat_f32x16(_HIGHEST), max16(splat_f32x16(_LOWEST), x))
    n = round16(mul16(x, splat_f32x16(_LOG2E)))
    r = fma16(n, splat_f32x16(_LN2_LOW), fma16(n, splat_f32x16(_LN2_HIGH), x))
    p = fma16(splat_f32x16(_C0), r, splat_f32x16(_C1))
    p = fma16(p, r, splat_f32x16(_C2))
    p = fma16(p, r, splat_f32x16(_C3))
    p = fma16(p, r, splat_f32x16(_C4))
    p = fma16(p, r, splat_f32x16(_C5))
    p = fma16(p, mul16(r, r), add16(r, splat_f32x16(_ONE)))
    return mul16(p, pow2_16(to_i32x16(n)))


@compiled(forceinline=True)
def exp1(x):
    """e**x of one float32, the same bits as in the vector code."""
    return sum16(exp16(splat_f32x16(_F(x)))) * _SIXTEENTH


@compiled()
def swiglu(gate: int, up: int, n: int) -> None:
    """up[i] = silu(gate[i]) * up[i] for n float32, n a multiple of 16. Addresses."""
    for i in range(0, n * 4, 64):
        g = load_f32x16(gate + i)
        negative = mul16(g, splat_f32x16(_F(-1)))
        silu = div16(g, add16(exp16(negative), splat_f32x16(_ONE)))
        store_f32x16(up + i, mul16(silu, load_f32x16(up + i)))


@compiled()
def clamped_swiglu(gate: int, up: int, n: int) -> None:
    """up[i] = (u + 1) * g * sigmoid(1.702 g), where g = min(gate[i], 7) and u is up[i] within +-7: gpt-oss's
    unit (OpenAI 2025, https://arxiv.org/abs/2508.10925). n as in `swiglu`.
    """
    for i in range(0, n * 4, 64):
        g = min16(splat_f32x16(_LIMIT), load_f32x16(gate + i))
        u = max16(splat_f32x16(-_LIMIT), min16(splat_f32x16(_LIMIT), load_f32x16(up + i)))
        glu = div16(g, add16(exp16(mul16(g, splat_f32x16(-_STEEPNESS))), splat_f32x16(_ONE)))
        store_f32x16(up + i, mul16(glu, add16(u, splat_f32x16(_ONE))))


@compiled()
def gated(clamped: int, gate: int, up: int, n: int) -> None:
    """The model's gated unit of n float32, in place of `up`."""
    if clamped:
        clamped_swiglu(gate, up, n)
    else:
        swiglu(gate, up, n)


@compiled()
def add_row(to: int, row: int, n: int) -> None:
    """to[i] += row[i] for n float32. Addresses."""
    whole = n // 16 * 16
    for i in range(0, whole * 4, 64):
        store_f32x16(to + i, add16(load_f32x16(to + i), load_f32x16(row + i)))
    for i in range(whole, n):
        store_f32_at(to, i, load_f32(to + i * 4) + load_f32(row + i * 4))


@compiled()
def rms_norm(x: int, weight: int, n: int, epsilon: float, out: int) -> None:
    """out = x / sqrt(mean(x²) + epsilon) * weight, n float32 (Zhang & Sennrich 2019). Addresses."""
    squares = zero_f32x16()
    whole = n // 16 * 16
    for i in range(0, whole * 4, 64):
        v = load_f32x16(x + i)
        squares = fma16(v, v, squares)
    total = sum16(squares)
    for i in range(whole, n):
        v = load_f32(x + i * 4)
        total += v * v
    scale = _ONE / np.sqrt(total / _F(n) + _F(epsilon))
    for i in range(0, whole * 4, 64):
        v = mul16(load_f32x16(x + i), splat_f32x16(scale))
        store_f32x16(out + i, mul16(v, load_f32x16(weight + i)))
    for i in range(whole, n):
        store_f32_at(out, i, load_f32(x + i * 4) * scale * load_f32(weight + i * 4))


@compiled()
def quantize_group(x: int, n: int, q: int, scales: int, sums: int, row: int, group: int, groups: int) -> None:
    """n ≤ 256 float32 at x (n a multiple of 16) → a group of a row, which has `groups`: 256 int8 in each of
    the `orders`, a float32 scale, 16 int16 sums. Addresses: x's, and those of the first row.
    """
    at = row * groups + group
    top = zero_i32x16()
    for i in range(0, n * 4, 64):
        top = max_i32x16(top, magnitude16(load_f32x16(x + i)))
    largest = bits_to_f32(max_lane_i32x16(top))
    inverse = _ZERO if largest == _ZERO else _TOP / largest
    store_f32_at(scales, at, largest / _TOP)
    for part in range(SUMS):
        v = zero_i32x16()
        if part * 16 < n:
            v = to_i32x16(round16(mul16(load_f32x16(x + part * 64), splat_f32x16(inverse))))
        store_part(to_i8x16(v), q, groups * GROUP, row, group, part)
        store_i16(sums + (at * SUMS + part) * 2, sum_i32x16(v))


@compiled()
def quantize_row(x: int, n: int, q: int, scales: int, sums: int, row: int) -> None:
    """n float32 at x (a multiple of 16) → a row of ceil(n / 256) groups, as `quantize_group` writes them."""
    groups = (n + GROUP - 1) // GROUP
    for g in range(groups):
        quantize_group(x + g * GROUP * 4, min(GROUP, n - g * GROUP), q, scales, sums, row, g, groups)


@compiled(forceinline=True)
def store_f32_at(base: int, i: int, value: float) -> None:
    """base[i] = value, float32."""
    store_f32(base + i * 4, _F(value))


@compiled()
def scaled_sum16(acc: int, x: int, w: float, n: int) -> None:
    """acc[i] += w * x[i] for n float32. Addresses."""
    whole = n // 16 * 16
    for i in range(0, whole * 4, 64):
        store_f32x16(acc + i, fma16(splat_f32x16(_F(w)), load_f32x16(x + i), load_f32x16(acc + i)))
    for i in range(whole, n):
        store_f32_at(acc, i, fma(_F(w), load_f32(x + i * 4), load_f32(acc + i * 4)))
