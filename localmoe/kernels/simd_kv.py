"""Intrinsics of what goes into the KV cache: rotation, and float16 next to each other or apart."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from localmoe.kernels.simd import _I16, _f32_to_f16, _pointer, _shuffle, _store, define, f32x16
from localmoe.kernels.simd_quad import _at

_F16x16 = ir.VectorType(_I16, 16)


def _rotated(builder: Any, v: Any, angles: Any) -> Any:
    """(a cos - b sin, a sin + b cos) of eight pairs (a, b); angles: their cosines and sines in turns."""
    turned = _shuffle(builder, v, v, [lane ^ 1 for lane in range(16)])
    cos, sin = (_shuffle(builder, angles, angles, [lane & ~1 | k for lane in range(16)]) for k in (0, 1))
    a, b = builder.fmul(v, cos), builder.fmul(turned, sin)
    first, second = builder.fsub(a, b), builder.fadd(a, b)
    return _shuffle(builder, first, second, [lane + 16 * (lane & 1) for lane in range(16)])


rotated = define(f32x16(f32x16, f32x16), _rotated)
store_f16x16 = _store(f32x16, _F16x16, _f32_to_f16)


def _store_apart(builder: Any, address: Any, stride: Any, v: Any) -> None:
    """Stores 16 float16, each `stride` bytes from the last."""
    halves = _f32_to_f16(builder, v)
    for lane in range(16):
        half = builder.extract_element(halves, ir.Constant(ir.IntType(32), lane))
        done = builder.store(half, _pointer(builder, _at(builder, address, stride, lane), _I16))
        done.align = 2


store_f16x16_apart = define(types.none(types.int64, types.int64, f32x16), _store_apart)
