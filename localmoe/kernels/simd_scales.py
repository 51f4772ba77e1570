"""Scales of Q4_K and Q5_K blocks as 64 codes ask for them: one for the first 32, another for the rest.

Shuffles do that where AVX-512 is not. With it AMD's CPUs pack two rows instead (`simd_pairs`); Intel's have
one port for shuffles of 64 bytes and keep that busy with the rest, so each scale is stored as a pair of int16
on the stack, and loads repeat it: the second into half of the lanes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from localmoe.kernels.simd import INTEL_512, _pointer, _shuffle, _splat, define, i16x32, i32x16
from localmoe.kernels.simd_quad import _I16, _I32, _I64, _nothing, _read, _spread

_PAIRS = [8 * row + scale for row in range(4) for scale in (0, 0, 1, 1, 2, 2, 3, 3)]


def _keep_scales(builder: Any, low: Any, high: Any) -> Any:
    if not INTEL_512:
        return ir.Constant(_I64, 0)
    stack = cgutils.alloca_once(builder, ir.ArrayType(i16x32.llvm, 2))
    stack.align = 64
    address = builder.ptrtoint(stack, _I64)  # forgotten, else the compiler makes shuffles of stores and loads
    address = builder.call(_nothing(address, "=r,0", side_effect=True), [address])
    for at, half in ((0, low), (64, high)):
        to = _pointer(builder, builder.add(address, ir.Constant(_I64, at)), i16x32.llvm)
        builder.store(_shuffle(builder, half, half, _PAIRS), to).align = 64
    return address


keep_scales = define(types.int64(i16x32, i16x32), _keep_scales)
keep_scales.__doc__ = "Of both halves of four headers: what their scales are read from until the next call."


def _second_half(builder: Any) -> Any:
    """A mask of the second eight lanes. The compiler does not know it, or it would shuffle again."""
    bits = ir.Constant(_I16, 0xFF00 - 0x10000)
    bits = builder.call(_nothing(bits, "=r,0"), [bits], attrs=("readnone", "nounwind"))
    return builder.bitcast(bits, ir.VectorType(ir.IntType(1), 16))


def _scales(row: int, high: bool, odd: bool) -> Any:
    """Scales 0 and 2 of a row's half of the header, or 1 and 3."""
    first = 8 * row + odd

    def emit(builder: Any, half: Any, kept: Any) -> Any:
        if not INTEL_512:
            return _spread(builder, half, [first] * 16 + [first + 2] * 16)

        def repeated(at: int) -> Any:
            pair = _read(builder, builder.add(kept, ir.Constant(_I64, 64 * high + 16 * row + 4 * at)), _I32)
            return _splat(builder, pair, i32x16.n)

        both = builder.select(_second_half(builder), repeated(odd + 2), repeated(odd))
        return builder.bitcast(both, i16x32.llvm)

    return define(i16x32(i16x32, types.int64), emit)


def _row_scales(row: int) -> tuple[Any, ...]:
    """A row's scales for 64 codes: sub-blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7."""
    return tuple(_scales(row, high, odd) for high in (False, True) for odd in (False, True))


row0_0_2, row0_1_3, row0_4_6, row0_5_7 = _row_scales(0)
row1_0_2, row1_1_3, row1_4_6, row1_5_7 = _row_scales(1)
row2_0_2, row2_1_3, row2_4_6, row2_5_7 = _row_scales(2)
row3_0_2, row3_1_3, row3_4_6, row3_5_7 = _row_scales(3)
