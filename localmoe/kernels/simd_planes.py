"""Intrinsics for Q2_K and Q3_K, whose codes lie in planes: two bits of a byte each for four stretches of 32
weights, and a third bit in bytes of its own; and for the scales of these and of IQ4_XS.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from localmoe.kernels.simd import (
    _constant,
    _pointer,
    _shuffle,
    define,
    i8x16,
    i8x32,
    i8x64,
    i16x16,
    i32x8,
    i32x16,
)
from localmoe.kernels.simd_bits import _shifted, _twice

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_NIBBLES = 0x0F0F0F0F0F0F0F0F


def _planes(first: int) -> Any:
    """32 bytes → 64 of 0 to 3: bits `first` and `first` + 1 of every byte, then the two bits above those."""
    return define(i8x64(i8x32), lambda b, v: _shifted(b, _twice(b, v), False, first, first + 2, 3))


planes_0_2, planes_4_6 = _planes(0), _planes(4)


def _third_bits(first: int) -> Any:
    """32 bytes → 64 of 0 or 4: bit `first` of every byte, then the bit above it."""
    up = first < 2
    by = (2 - first, 1 - first) if up else (first - 2, first - 1)
    return define(i8x64(i8x32), lambda b, v: _shifted(b, _twice(b, v), up, *by, 4))


third_0_1, third_2_3, third_4_5, third_6_7 = (_third_bits(first) for first in (0, 2, 4, 6))


def _word(builder: Any, address: Any, at: int, kind: Any) -> Any:
    value = builder.load(_pointer(builder, builder.add(address, ir.Constant(_I64, at)), kind))
    value.align = 1
    return value


def _q3_scales(builder: Any, address: Any) -> Any:
    """The sixteen scales of Q3_K's 12 bytes, -32 to 31: low nibbles of eight bytes, then their high ones; the
    upper two bits of scale j are the (j // 4)th two of byte 8 + j % 4.
    """
    eight = ir.VectorType(_I64, 2)
    nibbles = _word(builder, address, 0, _I64)
    low = ir.Constant(eight, ir.Undefined)
    for lane in range(2):
        half = builder.and_(builder.lshr(nibbles, ir.Constant(_I64, 4 * lane)), ir.Constant(_I64, _NIBBLES))
        low = builder.insert_element(low, half, ir.Constant(_I32, lane))
    four = ir.VectorType(_I32, 4)
    one = builder.insert_element(
        ir.Constant(four, ir.Undefined), _word(builder, address, 8, _I32), ir.Constant(_I32, 0)
    )
    upper = builder.lshr(_shuffle(builder, one, one, [0] * 4), ir.Constant(four, [0, 2, 4, 6]))
    upper = builder.shl(builder.and_(upper, _constant(four, 0x03030303)), _constant(four, 4))
    both = builder.or_(builder.bitcast(low, i8x16.llvm), builder.bitcast(upper, i8x16.llvm))
    return builder.sub(both, _constant(i8x16.llvm, 32))


def _q2_nibbles(high: bool) -> Any:
    """Sixteen scales of Q2_K, 0 to 15; `high`: its minima."""

    def emit(builder: Any, address: Any) -> Any:
        v = _word(builder, address, 0, i8x16.llvm)
        return builder.lshr(v, _constant(v.type, 4)) if high else builder.and_(v, _constant(v.type, 15))

    return emit


def _wide(emit: Any) -> tuple[Any, Any]:
    """Sixteen bytes as int16, and as int32."""
    shorts = define(i16x16(types.int64), lambda b, address: b.sext(emit(b, address), i16x16.llvm))
    return shorts, define(i32x16(types.int64), lambda b, address: b.sext(emit(b, address), i32x16.llvm))


q3_scales, q3_scales32 = _wide(_q3_scales)
q2_scales, q2_scales32 = _wide(_q2_nibbles(False))
q2_minima, q2_minima32 = _wide(_q2_nibbles(True))


def _xs_scales(builder: Any, address: Any) -> Any:
    """IQ4_XS's eight scales, -32 to 31, as int32: scale j's lower four bits are the jth nibble of the word
    after the first two bytes, its upper two the jth two bits of these.
    """
    eight = i32x8.llvm

    def field(word: Any, bits: int) -> Any:
        one = builder.insert_element(ir.Constant(eight, ir.Undefined), word, ir.Constant(_I32, 0))
        shift = ir.Constant(eight, [bits * j for j in range(8)])
        moved = builder.lshr(_shuffle(builder, one, one, [0] * 8), shift)
        return builder.and_(moved, _constant(eight, (1 << bits) - 1))

    upper = builder.shl(field(builder.zext(_word(builder, address, 0, _I16), _I32), 2), _constant(eight, 4))
    return builder.sub(builder.or_(field(_word(builder, address, 2, _I32), 4), upper), _constant(eight, 32))


def _xs_doubled(builder: Any, address: Any) -> Any:
    """Each of the eight twice, as int16: beside the sums of 16 activations."""
    eight = _xs_scales(builder, address)
    return builder.trunc(_shuffle(builder, eight, eight, [j // 2 for j in range(16)]), i16x16.llvm)


def _xs_four(first: int) -> Any:
    """Of sixteen such, four scales from number `first` on, four times each, as int32."""
    order = [2 * (first + j) for j in range(4) for _ in range(4)]
    return define(i32x16(i16x16), lambda b, v: b.sext(_shuffle(b, v, v, order), i32x16.llvm))


xs_scales = define(i16x16(types.int64), _xs_doubled)
xs_scales8 = define(i32x8(types.int64), _xs_scales)
xs_first_scales, xs_second_scales = _xs_four(0), _xs_four(4)
