"""float16 to float32 and back in integer arithmetic, for CPUs that have no instructions for it.

There LLVM would call a library (compiler-rt) that a Python process does not hold, and end the process. The
bits are those of the instructions: subnormals, infinities and rounding to even included.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

_I16, _I32, _F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()


def _like(kind: Any, scalar: Any) -> Any:
    """`scalar`, or a vector of it with as many lanes as `kind`."""
    return ir.VectorType(scalar, kind.count) if isinstance(kind, ir.VectorType) else scalar


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def half_to_float(builder: Any, half: Any) -> Any:
    """The i16 bits of float16 values (one, or a vector) → float32."""
    word, real = _like(half.type, _I32), _like(half.type, _F32)

    def number(value: int) -> Any:
        return _constant(word, value)

    wide = builder.zext(half, word)
    sign = builder.shl(builder.and_(wide, number(0x8000)), number(16))
    magnitude = builder.shl(builder.and_(wide, number(0x7FFF)), number(13))
    # Read as float32 the exponent is 112 too small; a product mends that, and makes subnormals normal.
    scaled = builder.bitcast(builder.fmul(builder.bitcast(magnitude, real), _constant(real, 2.0**112)), word)
    special = builder.icmp_unsigned(">=", magnitude, number(0x7C00 << 13))
    bits = builder.select(special, builder.or_(magnitude, number(0x7F800000)), scaled)
    return builder.bitcast(builder.or_(bits, sign), real)


def float_to_half(builder: Any, value: Any) -> Any:
    """float32 values (one, or a vector) → the i16 bits of the nearest float16, ties to even."""
    word, real = _like(value.type, _I32), value.type

    def number(x: int) -> Any:
        return _constant(word, x)

    bits = builder.bitcast(value, word)
    magnitude = builder.and_(bits, number(0x7FFFFFFF))
    sign = builder.lshr(builder.and_(bits, number(0x80000000)), number(16))
    odd = builder.and_(builder.lshr(magnitude, number(13)), number(1))
    # the exponent less 112, and the rounding
    rebiased = builder.add(builder.add(magnitude, number(0xC8000FFF)), odd)
    normal = builder.lshr(rebiased, number(13))
    # Below 2**-14: adding 0.5 lines the bits up with float16's subnormals and rounds them.
    half = _constant(real, 0.5)
    lined_up = builder.bitcast(builder.fadd(builder.bitcast(magnitude, real), half), word)
    tiny = builder.sub(lined_up, number(0x3F000000))
    is_nan = builder.icmp_unsigned(">", magnitude, number(0x7F800000))
    special = builder.select(is_nan, number(0x7E00), number(0x7C00))
    small = builder.select(builder.icmp_unsigned("<", magnitude, number(0x38800000)), tiny, normal)
    result = builder.select(builder.icmp_unsigned(">=", magnitude, number(0x47800000)), special, small)
    return builder.trunc(builder.or_(result, sign), _like(value.type, _I16))
