"""Intrinsics for codes wider than a nibble: Q5_K's fifth bits and Q6_K's upper two, moved into their places.

With GFNI one product with a matrix of bits (`vgf2p8affineqb`, Intel's Intrinsics Guide) moves and masks them,
else a shift of 16-bit lanes and a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from localmoe.kernels.simd import (
    _call,
    _constant,
    _shuffle,
    amd_512_with,
    define,
    i8x32,
    i8x64,
    i16x32,
)

_I8, _I64 = ir.IntType(8), ir.IntType(64)


GFNI = amd_512_with("gfni")  # on Intel's CPUs not measured


def _twice(builder: Any, v: Any) -> Any:
    return _shuffle(builder, v, v, list(range(32)) * 2)


def _bit_matrix(distance: int, mask: int) -> int:
    """GFNI's matrix that takes bit i + distance of a byte to bit i, for every i in `mask`. Row i is byte
    7 - i.
    """
    rows = (1 << i + distance if mask >> i & 1 and 0 <= i + distance < 8 else 0 for i in range(7, -1, -1))
    return sum(row << 8 * at for at, row in enumerate(rows))


def _shifted(builder: Any, v: Any, up: bool, first: int, second: int, mask: int) -> Any:
    """64 bytes, the first 32 shifted by `first` bits and the others by `second`, and masked: then what
    crosses into the next byte, where bytes are shifted two by two, is gone.
    """
    if GFNI:
        matrices = [_bit_matrix(-by if up else by, mask) for by in (first, second) for _ in range(4)]
        matrix = builder.bitcast(ir.Constant(ir.VectorType(_I64, 8), matrices), i8x64.llvm)
        return _call(builder, "llvm.x86.vgf2p8affineqb.512", i8x64.llvm, v, matrix, ir.Constant(_I8, 0))
    by = ir.Constant(i16x32.llvm, [first] * 16 + [second] * 16)
    wide = builder.bitcast(v, i16x32.llvm)
    moved = builder.shl(wide, by) if up else builder.lshr(wide, by)
    return builder.and_(builder.bitcast(moved, i8x64.llvm), _constant(i8x64.llvm, mask))


def _fifth_bits(first: int, second: int) -> Any:
    """32 bytes → 64 of 0 or 16: bit `first` of every byte, then bit `second`, both below bit 4 or neither."""
    up = first < 4
    by = (4 - first, 4 - second) if up else (first - 4, second - 4)
    return define(i8x64(i8x32), lambda b, v: _shifted(b, _twice(b, v), up, *by, 16))


fifth_0_2, fifth_1_3, fifth_4_6, fifth_5_7 = (_fifth_bits(a, a + 2) for a in (0, 1, 4, 5))


def _upper_bits(high: bool) -> Callable[[Any, Any], Any]:
    """32 bytes → 64 of 0, 16, 32 or 48: bits 0 and 1 of every byte, then bits 2 and 3; `high`: 4 to 7."""
    return lambda b, v: _shifted(b, _twice(b, v), not high, 0 if high else 4, 2, 0x30)


upper_0_2, upper_4_6 = define(i8x64(i8x32), _upper_bits(False)), define(i8x64(i8x32), _upper_bits(True))


def _upper_nibbles(builder: Any, v: Any) -> Any:
    """Bits 4 to 7 of every byte, where more bits are put above them: with GFNI the mask is part of that. By
    itself the compiler would make it one more product with a matrix, on the ports that dot products need.
    """
    if not GFNI:
        return builder.lshr(v, _constant(v.type, 4))
    words = builder.bitcast(v, i16x32.llvm)
    moved = builder.bitcast(builder.lshr(words, _constant(words.type, 4)), v.type)
    return builder.and_(moved, _constant(v.type, 15))


upper_nibbles = define(i8x64(i8x64), _upper_nibbles)
