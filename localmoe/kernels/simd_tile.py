"""Intrinsics of the tile kernels: transposing sixteen rows of dwords, broadcasting four bytes, packing
int16.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from localmoe.kernels.simd import (
    Vector,
    _constant,
    _lanes,
    _pointer,
    _shuffle,
    _splat,
    define,
    i8x64,
    i16x32,
    i32x8,
    i32x16,
)

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_i32x16 = i32x16.llvm


def _broadcast(result: Vector) -> Any:
    """Four bytes at an address, sixteen times."""

    def emit(builder: Any, address: Any) -> Any:
        word = builder.load(_pointer(builder, address, _I32))
        word.align = 1
        return builder.bitcast(_splat(builder, word, 16), result.llvm)

    return define(result(types.int64), emit)


splat_4_bytes, splat_2_shorts = _broadcast(i8x64), _broadcast(i16x32)


as_i16x32 = define(i16x32(i32x16), lambda b, v: b.bitcast(v, i16x32.llvm))


def _pack_pairs(builder: Any, v: Any) -> Any:
    """Sixteen int32 in int16's range → lanes 0..7: pairs (v[2i], v[2i + 1]) of int16; lanes 8..15 repeat
    them.
    """
    even, odd = (_shuffle(builder, v, v, list(range(at, 16, 2)) * 2) for at in (0, 1))
    low = builder.and_(even, _constant(_i32x16, 0xFFFF))
    return builder.or_(low, builder.shl(odd, _constant(_i32x16, 16)))


pack_pairs = define(i32x16(i32x16), _pack_pairs)


def _twice_i16(builder: Any, v: Any) -> Any:
    """Sixteen int32 in int16's range → each as a pair of int16."""
    low = builder.and_(v, _constant(_i32x16, 0xFFFF))
    return builder.bitcast(builder.or_(low, builder.shl(v, _constant(_i32x16, 16))), i16x32.llvm)


twice_i16 = define(i16x32(i32x16), _twice_i16)


def _double_lanes(builder: Any, v: Any) -> Any:
    """Eight lanes, each twice."""
    return _shuffle(builder, v, v, [i // 2 for i in range(16)])


double_lanes = define(i32x16(i32x8), _double_lanes)
first_of_pairs = define(  # the eight again, in front
    i32x16(i32x16), lambda b, v: _shuffle(b, v, v, list(range(0, 16, 2)) * 2)
)


def _transpose(builder: Any, source: Any, stride: Any, target: Any) -> None:
    """Sixteen rows of sixteen dwords, `stride` bytes apart → target [16, 16]: column c of the rows becomes
    row c.
    """
    rows = []
    for i in range(16):
        at = builder.add(source, builder.mul(stride, ir.Constant(_I64, i)))
        row = builder.load(_pointer(builder, at, _i32x16))
        row.align = 1
        rows.append(row)
    # Four rounds of swapping blocks of 1, 2, 4 and 8 between rows that far apart.
    for width in (1, 2, 4, 8):
        low = [i + 16 - width if i & width else i for i in range(16)]
        high = [i + 16 if i & width else i + width for i in range(16)]
        for i in range(16):
            if not i & width:
                a, b = rows[i], rows[i + width]
                rows[i] = builder.shuffle_vector(a, b, _lanes(low))
                rows[i + width] = builder.shuffle_vector(a, b, _lanes(high))
    for i, row in enumerate(rows):
        at = builder.add(target, ir.Constant(_I64, i * 64))
        done = builder.store(row, _pointer(builder, at, _i32x16))
        done.align = 1


transpose16 = define(types.none(types.int64, types.int64, types.int64), _transpose)
