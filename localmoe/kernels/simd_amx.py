"""Intel's AMX for numba: registers of 16 rows of 64 bytes, and the instruction that multiplies two.

    total[m, n] += sum over k of a[m, 4k..4k+3] · b[k, 4n..4n+3]        16 x 16 int32, 64 products deep

The registers are named by number in the code that uses them; nothing keeps them over a call. Instructions:
https://www.intel.com/content/www/us/en/docs/intrinsics-guide (AMX). A process asks its kernel for their use
once: `quant.compiled.amx_permitted`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from localmoe.kernels.simd import _constant, _pointer, define, i8x64, i16x32

_I8 = ir.IntType(8)


def _instruction(name: str, *tiles: int) -> Any:
    """An AMX instruction of fixed registers; further arguments are an address and the bytes between rows."""

    def emit(builder: Any, *memory: Any) -> None:
        operands = [ir.Constant(_I8, tile) for tile in tiles]
        if memory:
            operands += [_pointer(builder, memory[0], _I8), *memory[1:]]
        signature = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
        function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.{name}")
        builder.call(function, operands)

    arity = {"ldtilecfg": 1, "tileloadd64": 2, "tilestored64": 2}.get(name, 0)
    return define(types.none(*[types.int64] * arity), emit)


load_config, release = _instruction("ldtilecfg"), _instruction("tilerelease")
zero_0, zero_1, zero_2, zero_3 = (_instruction("tilezero", tile) for tile in range(4))
load_4, load_5, load_6, load_7 = (_instruction("tileloadd64", tile) for tile in (4, 5, 6, 7))
store_0, store_1, store_2, store_3 = (_instruction("tilestored64", tile) for tile in range(4))
# int8 activations in register 4 times codes: unsigned into totals 0 and 2, signed into 1 and 3.
dot_0_5, dot_2_7 = _instruction("tdpbsud", 0, 4, 5), _instruction("tdpbsud", 2, 4, 7)
dot_1_6, dot_3_5 = _instruction("tdpbssd", 1, 4, 6), _instruction("tdpbssd", 3, 4, 5)


def _scaled(high: bool) -> Any:
    def emit(builder: Any, codes: Any, scales: Any) -> Any:
        """Four neighbouring codes share a scale: even bytes and odd ones are multiplied as int16."""
        words = builder.bitcast(codes, i16x32.llvm)
        eight, low_byte = (_constant(i16x32.llvm, value) for value in (8, 0xFF))
        even = builder.mul(builder.and_(words, low_byte), scales)
        odd = builder.mul(builder.lshr(words, eight), scales)
        if high:
            both = builder.or_(builder.lshr(even, eight), builder.and_(odd, _constant(i16x32.llvm, -256)))
        else:
            both = builder.or_(builder.and_(even, low_byte), builder.shl(odd, eight))
        return builder.bitcast(both, i8x64.llvm)

    return define(i8x64(i8x64, i16x32), emit)


scaled_low, scaled_high = _scaled(False), _scaled(True)
scaled_low.__doc__ = "The low bytes of four codes in each lane times its scale, given as a pair of int16."
scaled_high.__doc__ = "The bytes above, signed: scale * code = 256 * high + low."
