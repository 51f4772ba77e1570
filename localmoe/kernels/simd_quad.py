"""Intrinsics of the row kernels, which take four weight rows at once so that what is left of each row after a
block is one lane of four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from localmoe.kernels.simd import (
    FORM,
    _call,
    _constant,
    _f16_to_f32,
    _load,
    _pointer,
    _shuffle,
    define,
    f32x4,
    f32x16,
    i8x16,
    i8x32,
    i8x64,
    i16x8,
    i16x16,
    i16x32,
    i32x4,
    i32x8,
    i32x16,
)

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _at(builder: Any, address: Any, stride: Any, times: int) -> Any:
    return builder.add(address, builder.mul(stride, ir.Constant(_I64, times)))


def _read(builder: Any, address: Any, kind: Any) -> Any:
    value = builder.load(_pointer(builder, address, kind))
    value.align = 1
    return value


def _gather(builder: Any, kind: Any, addresses: list[Any]) -> Any:
    """One scalar from each address, as a vector."""
    out = ir.Constant(ir.VectorType(kind, len(addresses)), ir.Undefined)
    for lane, address in enumerate(addresses):
        out = builder.insert_element(out, _read(builder, address, kind), ir.Constant(_I32, lane))
    return out


# ---------------------------------------------------------------- sums of lanes
def _pairs(builder: Any, a: Any, b: Any, even: list[int], odd: list[int]) -> Any:
    return builder.add(_shuffle(builder, a, b, even), _shuffle(builder, a, b, odd))


def _quads(builder: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Lane 4q + r: the sum of lanes 4q..4q+3 of vector r, of four vectors of any whole number of quads."""
    even, odd, n = [], [], a.type.count
    for k in range(0, n, 4):
        even += [k, k + 2, k + n, k + n + 2]
        odd += [k + 1, k + 3, k + n + 1, k + n + 3]
    return _pairs(builder, _pairs(builder, a, b, even, odd), _pairs(builder, c, d, even, odd), even, odd)


def _row_sums(builder: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Lane r: the sum of all lanes of vector r."""
    v = _quads(builder, a, b, c, d)
    while v.type.count > 4:
        n = v.type.count // 2
        halves = [_shuffle(builder, v, v, list(range(at, at + n))) for at in (0, n)]
        v = builder.add(*halves)
    return v


quad_sums = define(i32x16(i32x16, i32x16, i32x16, i32x16), _quads)
row_sums16 = define(i32x4(i32x16, i32x16, i32x16, i32x16), _row_sums)
row_sums8 = define(i32x4(i32x8, i32x8, i32x8, i32x8), _row_sums)
row_sums4 = define(i32x4(i32x4, i32x4, i32x4, i32x4), _row_sums)


def _tree_terms(builder: Any, first: Any, second: Any) -> Any:
    """Eight terms of four rows, term k of row r in lane 4k + r of both vectors together → four sums, added as
    ((0+1)+(4+5)) + ((2+3)+(6+7)).
    """
    even = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27]
    one = builder.fadd(
        _shuffle(builder, first, second, even), _shuffle(builder, first, second, [i + 4 for i in even])
    )
    two = builder.fadd(*(_shuffle(builder, one, one, list(range(at, at + 8))) for at in (0, 8)))
    return builder.fadd(*(_shuffle(builder, two, two, list(range(at, at + 4))) for at in (0, 4)))


tree_terms = define(f32x4(f32x16, f32x16), _tree_terms)


# ---------------------------------------------------------------- K-quants
def _k_header(builder: Any, address: Any) -> Any:
    """The 12 bytes of 6-bit scales and minima → int16 lanes 0..7 the scales, 8..15 the minima.

    Bytes 0..3 hold scales 0..3 and bytes 4..7 minima 0..3 in their low six bits; their upper two bits and the
    nibbles of bytes 8..11 make scales 4..7 (low nibbles) and minima 4..7.
    """

    def mask(x: Any, byte: int) -> Any:
        return builder.and_(x, ir.Constant(_I64, byte * 0x0101010101010101))

    both = _read(builder, address, _I64)
    rest = builder.zext(_read(builder, builder.add(address, ir.Constant(_I64, 8)), _I32), _I64)
    rest = mask(builder.or_(rest, builder.shl(rest, ir.Constant(_I64, 28))), 0x0F)
    upper = builder.or_(rest, mask(builder.lshr(both, ir.Constant(_I64, 2)), 0x30))
    two = ir.VectorType(_I32, 2)
    first, second = builder.bitcast(mask(both, 0x3F), two), builder.bitcast(upper, two)
    order = _shuffle(builder, first, second, [0, 2, 1, 3])
    return builder.zext(builder.bitcast(order, i8x16.llvm), i16x16.llvm)


k_header = define(i16x16(types.int64), _k_header)
load_i8_i16x16 = _load(i16x16, i8x16.llvm, lambda b, v: b.sext(v, i16x16.llvm))


def _spread(*lanes: int) -> Any:
    """Those lanes of 16 int16, each repeated until they fill 32."""
    order = [lane for lane in lanes for _ in range(32 // len(lanes))]
    return define(i16x32(i16x16), lambda b, v: _shuffle(b, v, v, order))


spread_0_2, spread_1_3, spread_4_6, spread_5_7 = (_spread(a, a + 2) for a in (0, 1, 4, 5))
spread_0_to_3, spread_4_to_7, spread_8_to_11, spread_12_to_15 = (
    _spread(*range(a, a + 4)) for a in (0, 4, 8, 12)
)


def _madd(builder: Any, a: Any, b: Any) -> Any:
    """a[2i] * b[2i] + a[2i+1] * b[2i+1] of 8 or 16 int16."""
    n = a.type.count
    if FORM in ("avx512vnni", "avxvnni", "avx2"):
        name = "llvm.x86.sse2.pmadd.wd" if n == 8 else "llvm.x86.avx2.pmadd.wd"
        return _call(builder, name, ir.VectorType(_I32, n // 2), a, b)
    wide = ir.VectorType(_I32, n)
    product = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    even, odd = (_shuffle(builder, product, product, list(range(at, n, 2))) for at in (0, 1))
    return builder.add(even, odd)


def _dot_minima(builder: Any, header: Any, sums: Any) -> Any:
    """Minima (lanes 8..15 of a header) times the sums of the eight sub-blocks' activations: four partial
    sums.
    """
    return _madd(builder, _shuffle(builder, header, header, list(range(8, 16))), sums)


def _sums32(builder: Any, address: Any) -> Any:
    """16 int16 sums of 16 activations → 8 sums of 32, which still fit int16."""
    v = _read(builder, address, i16x16.llvm)
    even, odd = (_shuffle(builder, v, v, list(range(at, 16, 2))) for at in (0, 1))
    return builder.add(even, odd)


dot_minima, load_sums32 = define(i32x4(i16x16, i16x8), _dot_minima), define(i16x8(types.int64), _sums32)
dot_shorts = define(i32x8(i16x16, i16x16), _madd)
times32 = define(i32x4(i32x4), lambda b, v: b.shl(v, _constant(v.type, 5)))


def _twice(builder: Any, v: Any) -> Any:
    return _shuffle(builder, v, v, list(range(32)) * 2)


def _fifth_bits(first: int, second: int) -> Any:
    """32 bytes → 64 of 0 or 16: bit `first` of every byte, then bit `second`."""

    def emit(builder: Any, v: Any) -> Any:
        bits = ir.Constant(i8x64.llvm, [1 << first] * 32 + [(1 << second) - (256 if second == 7 else 0)] * 32)
        hit = builder.icmp_signed("!=", builder.and_(_twice(builder, v), bits), ir.Constant(i8x64.llvm, None))
        return builder.select(hit, _constant(i8x64.llvm, 16), ir.Constant(i8x64.llvm, None))

    return define(i8x64(i8x32), emit)


fifth_0_2, fifth_1_3, fifth_4_6, fifth_5_7 = (_fifth_bits(a, a + 2) for a in (0, 1, 4, 5))


def _upper_bits(high: bool) -> Callable[[Any, Any], Any]:
    """32 bytes → 64 of 0, 16, 32 or 48: bits 0 and 1 of every byte, then bits 2 and 3; `high`: 4 to 7."""

    def emit(builder: Any, v: Any) -> Any:
        wide = builder.bitcast(_twice(builder, v), i16x32.llvm)  # what crosses into the next byte is masked
        if high:
            moved = builder.lshr(wide, ir.Constant(i16x32.llvm, [0] * 16 + [2] * 16))
        else:
            moved = builder.shl(wide, ir.Constant(i16x32.llvm, [4] * 16 + [2] * 16))
        return builder.and_(builder.bitcast(moved, i8x64.llvm), _constant(i8x64.llvm, 0x30))

    return emit


upper_0_2, upper_4_6 = define(i8x64(i8x32), _upper_bits(False)), define(i8x64(i8x32), _upper_bits(True))

_four_addresses = (types.int64,) * 4
gather_words = define(i32x4(*_four_addresses), lambda b, *rows: _gather(b, _I32, list(rows)))
gather_halves = define(f32x4(*_four_addresses), lambda b, *rows: _f16_to_f32(b, _gather(b, _I16, list(rows))))


def _word_halves(shift: int) -> Callable[[Any, Any], Any]:
    """The low or high float16 of four words."""
    short = ir.VectorType(_I16, 4)
    return lambda b, v: _f16_to_f32(b, b.trunc(b.lshr(v, _constant(v.type, shift)), short))


low_halves, high_halves = define(f32x4(i32x4), _word_halves(0)), define(f32x4(i32x4), _word_halves(16))


# ---------------------------------------------------------------- blocks of 32 weights, four at a time
def _load_quarters(builder: Any, address: Any, stride: Any) -> Any:
    """16 bytes at each of four addresses `stride` apart."""
    parts = [_read(builder, _at(builder, address, stride, k), i8x16.llvm) for k in range(4)]
    halves = [_shuffle(builder, parts[k], parts[k + 1], list(range(32))) for k in (0, 2)]
    return _shuffle(builder, halves[0], halves[1], list(range(64)))


load_quarters = define(i8x64(types.int64, types.int64), _load_quarters)


def _block_fifths(odd: int) -> Callable[[Any, Any, Any], Any]:
    """Four words `stride` apart → 64 bytes of 0 or 16: the low (or high) 16 bits of each."""

    def emit(builder: Any, address: Any, stride: Any) -> Any:
        words = _gather(builder, _I32, [_at(builder, address, stride, k) for k in range(4)])
        shorts = builder.bitcast(words, i16x8.llvm)
        bits = builder.bitcast(_shuffle(builder, shorts, shorts, list(range(odd, 8, 2))), _I64)
        hit = builder.bitcast(bits, ir.VectorType(ir.IntType(1), 64))
        return builder.select(hit, _constant(i8x64.llvm, 16), ir.Constant(i8x64.llvm, None))

    return emit


low_fifths = define(i8x64(types.int64, types.int64), _block_fifths(0))
high_fifths = define(i8x64(types.int64, types.int64), _block_fifths(1))


def _block_halves(builder: Any, *arguments: Any) -> Any:
    """Lane 4k + r: the float16 at row r's address + k * stride, k < 4."""
    *rows, stride = arguments
    return _f16_to_f32(builder, _gather(builder, _I16, [_at(builder, row, stride, k) for k in range(4)
                                                        for row in rows]))


gather_block_halves = define(f32x16(*_four_addresses, types.int64), _block_halves)


def _block_sums(first: int) -> Callable[[Any, Any], Any]:
    """The sums of blocks first..first+3 (of eight), each in the four lanes of its quad."""

    def emit(builder: Any, address: Any) -> Any:
        wide = builder.sext(_read(builder, address, i16x16.llvm), i32x16.llvm)
        even = [2 * (first + lane // 4) for lane in range(16)]
        return _pairs(builder, wide, wide, even, [i + 1 for i in even])

    return emit


low_block_sums = define(i32x16(types.int64), _block_sums(0))
high_block_sums = define(i32x16(types.int64), _block_sums(4))
