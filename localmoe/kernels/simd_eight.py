"""Intrinsics of the kernels that take eight weight rows at once: what is left of each row after a block is
one lane of eight.

On the way there, two rows' sums share a register as int16: four codes of at most six bits times int8
activations add up to 4 * 63 * 128 < 2**15, so sixteen such sums of one row and sixteen of another are packed
without loss, and one multiplication scales both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding as llvm
from llvmlite import ir
from numba import types

from localmoe.kernels.ahead import AGAIN, AHEAD, TO_SECOND_LEVEL
from localmoe.kernels.simd import (
    AVX512,
    INTEL_512,
    _call,
    _concat,
    _constant,
    _f16_to_f32,
    _shuffle,
    define,
    f32x8,
    i8x16,
    i8x64,
    i16x8,
    i16x32,
    i32x8,
    i32x16,
)
from localmoe.kernels.simd_quad import (
    _I16,
    _four_addresses,
    _four_starts,
    _gather,
    _k_headers,
    _opaque,
    _pairs,
    _read,
)

# Fewer instructions than products of pairs, each with its own scales; on Intel's CPUs not measured.
IN_PAIRS = AVX512 and not INTEL_512


# ---------------------------------------------------------------- two rows' sums
def _pack(builder: Any, a: Any, b: Any) -> Any:
    """Quad q of the result: four lanes of a's quad q, then four of b's."""
    return _call(builder, "llvm.x86.avx512.packssdw.512", i16x32.llvm, a, b)


pack_sums = define(i16x32(i32x16, i32x16), _pack)


# ---------------------------------------------------------------- Q4_K and Q5_K
four_starts = define(i32x16(*_four_addresses), lambda b, *rows: _four_starts(b, rows))
header_bytes = define(i8x64(i32x16), lambda b, starts: _opaque(b, _k_headers(b, starts)))
header_bytes.__doc__ = "Four blocks' starts → their scales and minima, 16 bytes each, as `_k_headers` says."


def _picked_bytes(builder: Any, v: Any, order: list[int]) -> Any:
    """Bytes of v, unsigned, as int16."""
    lanes = [lane for byte in order for lane in (byte, 64)]
    return builder.bitcast(_shuffle(builder, v, ir.Constant(v.type, None), lanes), i16x32.llvm)


def _header_scales(pair: int, first: int) -> Any:
    """Of four headers, rows 2 * pair and the next: scales `first` and `first` + 2, for 32 codes each."""
    at = first if first < 4 else first + 4
    rows = (32 * pair, 32 * pair + 16)
    order = [row + scale for scale in (at, at, at + 2, at + 2) for row in rows for _ in range(4)]
    return define(i16x32(i8x64), lambda b, v: _picked_bytes(b, v, order))


scales0_0_2, scales0_1_3, scales0_4_6, scales0_5_7 = (_header_scales(0, first) for first in (0, 1, 4, 5))
scales1_0_2, scales1_1_3, scales1_4_6, scales1_5_7 = (_header_scales(1, first) for first in (0, 1, 4, 5))


def _sums_as_bytes(high: bool) -> Callable[[Any, Any], Any]:
    """Eight sums of 32 activations, at most 2**12 in size, where four headers hold the minima: the low seven
    bits, or what is above them.
    """
    order = [lane for i in (0, 4) for lane in (8, 8, 8, 8, i, i + 1, i + 2, i + 3)]

    def emit(builder: Any, sums: Any) -> Any:
        seven = _constant(sums.type, 7 if high else 127)
        part = builder.ashr(sums, seven) if high else builder.and_(sums, seven)
        part = builder.trunc(part, ir.VectorType(ir.IntType(8), 8))
        return _shuffle(builder, part, ir.Constant(part.type, None), order * 4)

    return emit


low_sums, high_sums = (define(i8x64(i16x8), _sums_as_bytes(high)) for high in (False, True))
times128 = define(i32x16(i32x16), lambda b, v: b.shl(v, _constant(v.type, 7)))


def _minima8(builder: Any, first: Any, second: Any) -> Any:
    """Four headers' products with `low_sums` and `high_sums`, and four others' → one sum for each."""
    odd = [4 * row + 1 for row in range(8)]
    return _pairs(builder, first, second, odd, [lane + 2 for lane in odd])


minima8 = define(i32x8(i32x16, i32x16), _minima8)


def _start_halves(second: bool) -> Any:
    """d (or dmin) of eight blocks, by the starts of four and four."""

    def emit(builder: Any, a: Any, b: Any) -> Any:
        words = _shuffle(builder, a, b, list(range(0, 32, 4)))
        bits = builder.lshr(words, _constant(words.type, 16)) if second else words
        return _f16_to_f32(builder, builder.trunc(bits, ir.VectorType(_I16, 8)))

    return define(f32x8(i32x16, i32x16), emit)


eight_d, eight_dmin = _start_halves(False), _start_halves(True)

# ---------------------------------------------------------------- Q6_K
negative = define(i32x16(i32x16), lambda b, v: b.neg(v))
splat_32 = define(i8x64(), lambda b: _constant(i8x64.llvm, 32))


def _pair_scales(builder: Any, first: Any, second: Any) -> Any:
    """16 int8 at one address and 16 at another, as int16."""
    both = _concat(builder, [_read(builder, at, i8x16.llvm) for at in (first, second)])
    return _opaque(builder, builder.sext(both, i16x32.llvm))


pair_scales = define(i16x32(types.int64, types.int64), _pair_scales)


def _four_of_each(first: int) -> Any:
    """Four of a row's 16 scales from `first` on, and of another's, for 16 codes each."""
    order = [first + k + n for k in range(4) for n in (0, 16) for _ in range(4)]
    return define(i16x32(i16x32), lambda b, v: _shuffle(b, v, v, order))


pair_0_to_3, pair_4_to_7, pair_8_to_11, pair_12_to_15 = (_four_of_each(first) for first in (0, 4, 8, 12))


def _halves8(builder: Any, row: Any, stride: Any) -> Any:
    """The float16 at eight addresses, `stride` apart."""
    rows = [row]
    for _ in range(7):
        rows.append(builder.add(rows[-1], stride))
    return _f16_to_f32(builder, _gather(builder, _I16, rows))


gather_halves8 = define(f32x8(types.int64, types.int64), _halves8)


# ---------------------------------------------------------------- order
def _asking(builder: Any, v: Any, line: Any) -> Any:
    """v, and on the way requests of the cache lines needed in AHEAD and in AGAIN bytes (`ahead.py`): as
    assembly, for the compiler would put all of a block's requests one after the other, and the CPU waits
    where they are more than it keeps track of.
    """
    far = "prefetcht1" if TO_SECOND_LEVEL else "prefetcht0"
    text = f"{far} ($2)\nprefetcht0 {AGAIN - AHEAD}($2)"
    kind = ir.FunctionType(v.type, [v.type, line.type])
    return builder.call(ir.InlineAsm(kind, text, "=v,0,r", side_effect=True), [v, line])


llvm.initialize_native_asmparser()  # numba leaves that out
asking = define(i32x16(i32x16, types.int64), _asking)


# ---------------------------------------------------------------- sums of lanes
def _sums_of_pairs(builder: Any, *pairs: Any) -> Any:
    """Four pairs' sums as `dot_k_eight.py` leaves them → one sum for each of the eight rows."""
    even = [4 * q + lane + n for q in range(4) for n in (0, 16) for lane in (0, 2)]
    odd = [lane + 1 for lane in even]
    fours = [_pairs(builder, pairs[k], pairs[k + 1], even, odd) for k in (0, 2)]  # four rows, in every quad
    low = [*range(8), *range(16, 24)]
    v = _pairs(builder, fours[0], fours[1], low, [lane + 8 for lane in low])
    return _pairs(builder, v, v, [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])


sums_of_pairs8 = define(i32x8(i32x16, i32x16, i32x16, i32x16), _sums_of_pairs)
