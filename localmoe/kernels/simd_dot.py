"""Dot products of bytes and of int16 pairs, in the form chosen by `simd.FORM`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from localmoe.kernels.simd import (
    AVX512,
    FORM,
    _call,
    _concat,
    _constant,
    _shuffle,
    _split,
    define,
    i8x64,
    i16x16,
    i16x32,
    i32x8,
    i32x16,
)

_I32 = ir.IntType(32)


def _dot_x86_narrow(builder: Any, acc: Any, u: Any, s: Any) -> Any:
    ones = _constant(i16x16.llvm, 1)
    out = []
    for a, x, y in zip(_split(builder, acc, 2), _split(builder, u, 2), _split(builder, s, 2), strict=True):
        pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", i16x16.llvm, x, y)
        out.append(builder.add(a, _call(builder, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, pairs, ones)))
    return _concat(builder, out)


def _dot_portable(builder: Any, acc: Any, u: Any, s: Any) -> Any:
    wide = ir.VectorType(_I32, 64)
    product = builder.mul(builder.zext(u, wide), builder.sext(s, wide))
    for offset in range(4):
        acc = builder.add(acc, _shuffle(builder, product, product, list(range(offset, 64, 4))))
    return acc


def _dot(builder: Any, acc: Any, u: Any, s: Any) -> Any:
    if AVX512:
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", i32x16.llvm, acc, u, s)
    if FORM == "avxvnni":
        parts = zip(_split(builder, acc, 2), _split(builder, u, 2), _split(builder, s, 2), strict=True)
        name = "llvm.x86.avx512.vpdpbusd.256"
        return _concat(builder, [_call(builder, name, i32x8.llvm, a, x, y) for a, x, y in parts])
    if FORM == "avx2":
        return _dot_x86_narrow(builder, acc, u, s)
    if FORM == "neon":
        parts = zip(_split(builder, acc, 4), _split(builder, u, 4), _split(builder, s, 4), strict=True)
        name, quad = "llvm.aarch64.neon.sdot.v4i32.v16i8", ir.VectorType(_I32, 4)
        return _concat(builder, [_call(builder, name, quad, a, x, y) for a, x, y in parts])
    return _dot_portable(builder, acc, u, s)


def _dot_levels(builder: Any, acc: Any, w: Any, s: Any) -> Any:
    if FORM != "avx2":  # sdot takes signed bytes
        return _dot(builder, acc, w, s)
    signs = zip(_split(builder, w, 2), _split(builder, s, 2), strict=True)
    name = "llvm.x86.avx2.psign.b"
    halves = [(_call(builder, name, x.type, x, x), _call(builder, name, x.type, y, x)) for x, y in signs]
    return _dot(builder, acc, *(_concat(builder, list(part)) for part in zip(*halves, strict=True)))


def _dot_both(builder: Any, u: Any, s: Any, v: Any, t: Any) -> Any:
    if FORM != "avx2":
        return _dot(builder, _dot(builder, ir.Constant(i32x16.llvm, None), u, s), v, t)
    pairs = builder.add(_multiply_pairs(builder, u, s), _multiply_pairs(builder, v, t))
    return _dot_pairs(builder, ir.Constant(i32x16.llvm, None), pairs, _constant(i16x32.llvm, 1))


def _signed() -> bool:
    """Whether weights of eight bits are multiplied as signed ones, without an offset."""
    return FORM in ("avx2", "neon")


SIGNED = _signed()
dot_bytes = define(i32x16(i32x16, i8x64, i8x64), _dot)
dot_bytes.__doc__ = "acc[i] + the sum of u[4i:4i+4] * s[4i:4i+4]; u unsigned and at most 127, s signed."
dot_both = define(i32x16(i8x64, i8x64, i8x64, i8x64), _dot_both)
dot_both.__doc__ = "Two such sums, of u * s and v * t; u and v at most 63."
dot_levels = define(i32x16(i32x16, i8x64, i8x64), _dot_levels)
dot_levels.__doc__ = "acc[i] + the sum of w[4i:4i+4] * s[4i:4i+4]; w as `levels_above_*` make them."


def _levels(offset: int) -> Any:
    """Unsigned weights that stand `offset` above their value → as `dot_levels` takes them."""
    return define(i8x64(i8x64), lambda b, u: b.sub(u, _constant(u.type, offset)) if _signed() else u)


levels_above_127, levels_above_128 = _levels(127), _levels(128)


def _multiply_pairs(builder: Any, u: Any, s: Any) -> Any:
    if AVX512:
        return _call(builder, "llvm.x86.avx512.pmaddubs.w.512", i16x32.llvm, u, s)
    if FORM in ("avx2", "avxvnni"):
        halves = zip(_split(builder, u, 2), _split(builder, s, 2), strict=True)
        name = "llvm.x86.avx2.pmadd.ub.sw"
        return _concat(builder, [_call(builder, name, i16x16.llvm, x, y) for x, y in halves])
    wide = ir.VectorType(ir.IntType(16), 64)
    product = builder.mul(builder.sext(u, wide), builder.sext(s, wide))
    even, odd = (_shuffle(builder, product, product, list(range(at, 64, 2))) for at in (0, 1))
    return builder.add(even, odd)


multiply_pairs = define(i16x32(i8x64, i8x64), _multiply_pairs)
add_i16x32 = define(i16x32(i16x32, i16x32), lambda b, x, y: b.add(x, y))
multiply_pairs.__doc__ = "u[2i] * s[2i] + u[2i + 1] * s[2i + 1]; u at most 127, so that no pair saturates."


def _dot_pairs(builder: Any, acc: Any, a: Any, b: Any) -> Any:
    """acc[i] + a[2i] * b[2i] + a[2i + 1] * b[2i + 1], of int16."""
    if AVX512:
        return builder.add(acc, _call(builder, "llvm.x86.avx512.pmaddw.d.512", i32x16.llvm, a, b))
    if FORM in ("avx2", "avxvnni"):
        halves = zip(_split(builder, a, 2), _split(builder, b, 2), strict=True)
        parts = [_call(builder, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, x, y) for x, y in halves]
        return builder.add(acc, _concat(builder, parts))
    wide = ir.VectorType(_I32, 32)
    product = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    even, odd = (_shuffle(builder, product, product, list(range(at, 32, 2))) for at in (0, 1))
    return builder.add(acc, builder.add(even, odd))


dot_pairs = define(i32x16(i32x16, i16x32, i16x32), _dot_pairs)
