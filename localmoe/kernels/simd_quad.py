"""Intrinsics of the row kernels, which take four weight rows at once so that what is left of each row after a
block is one lane of four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from localmoe.kernels.simd import (
    AVX512,
    FORM,
    INTEL_512,
    _call,
    _concat,
    _constant,
    _f16_to_f32,
    _load,
    _pointer,
    _shuffle,
    _splat,
    _split,
    define,
    f32x4,
    f32x16,
    i8x16,
    i8x64,
    i16x8,
    i16x16,
    i16x32,
    i32x4,
    i32x8,
    i32x16,
)
from localmoe.kernels.simd_dot import _dot_pairs

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


def _narrow() -> bool:
    """Whether there are 16 registers of 32 bytes, and shuffles that stay within 16 bytes."""
    return FORM in ("avx2", "avxvnni")


NARROW = _narrow()
_PARTS = i32x8 if NARROW else i32x16


def _parts(builder: Any, v: Any) -> Any:
    return builder.add(*_split(builder, v, 2)) if _PARTS is i32x8 else v


quad_sums = define(i32x16(i32x16, i32x16, i32x16, i32x16), _quads)
partial_sums = define(_PARTS(i32x16), _parts)
partial_sums.__doc__ = "Sixteen partial sums as few as registers ask for: a row's, until all four are there."
row_sums = define(i32x4(_PARTS, _PARTS, _PARTS, _PARTS), _row_sums)
row_sums8 = define(i32x4(i32x8, i32x8, i32x8, i32x8), _row_sums)


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


def _of_each(k: int) -> Any:
    """Lane k of each of four quads."""
    return define(f32x4(f32x16), lambda b, v: _shuffle(b, v, v, [k, k + 4, k + 8, k + 12]))


first_of_each, second_of_each, third_of_each, fourth_of_each = (_of_each(k) for k in range(4))


# ---------------------------------------------------------------- K-quants
def _four_starts(builder: Any, rows: tuple[Any, ...]) -> Any:
    """The first 16 bytes of four blocks, as 16 words."""
    parts = [_read(builder, row, i32x4.llvm) for row in rows]
    halves = [_shuffle(builder, parts[k], parts[k + 1], list(range(8))) for k in (0, 2)]
    return _shuffle(builder, halves[0], halves[1], list(range(16)))


def _nothing(v: Any, registers: str, side_effect: bool = False) -> Any:
    """Assembly of no instructions that returns what it is given."""
    return ir.InlineAsm(ir.FunctionType(v.type, [v.type]), "", registers, side_effect=side_effect)


def _opaque(builder: Any, v: Any) -> Any:
    """`v`, of whose making the compiler forgets: else it merges the making into each of many uses."""
    if not AVX512:
        return v
    return builder.call(_nothing(v, "=v,0"), [v])


def _again(builder: Any, number: Any) -> Any:
    return builder.call(_nothing(number, "=r,0", side_effect=True), [number])


again = define(types.int64(types.int64), _again)
again.__doc__ = "A number that the compiler takes for another: an address to load from anew, or a count."


def _after(builder: Any, number: Any, v: Any) -> Any:
    if not AVX512 or INTEL_512:  # on Intel's CPUs not measured
        return number
    kind = ir.FunctionType(number.type, [number.type, v.type])
    return builder.call(ir.InlineAsm(kind, "", "=r,0,v"), [number, v])


after = define(types.int64(types.int64, i32x16), _after)
after.__doc__ = """A number that the compiler takes for made of the vector too. What is asked of the memory
at such an address stays where the vector has been computed: else it is all moved to a loop's start.
"""


def _spread(builder: Any, v: Any, order: list[int]) -> Any:
    """Lanes of int16, all of one aligned eight of v's, repeated to fill 32. In narrow forms the eight stand
    in both halves first, so that each half is one shuffle of bytes: by itself the compiler makes it two.
    """
    if not _narrow():
        return _shuffle(builder, v, v, order)
    first = order[0] // 8 * 8
    eight = _shuffle(builder, v, v, list(range(first, first + 8)) * 2)
    eight = builder.call(_nothing(eight, "=x,0"), [eight], attrs=("readnone", "nounwind"))
    in_half = [lane - first + (8 if i % 16 >= 8 else 0) for i, lane in enumerate(order)]
    return _concat(builder, [_shuffle(builder, eight, eight, in_half[at : at + 16]) for at in (0, 16)])


def _k_headers(builder: Any, rows: Any) -> Any:
    """Four blocks' starts → 16 bytes each: scales 0..3, minima 0..3, scales 4..7, minima 4..7.

    After d and dmin, bytes 0..3 hold scales 0..3 and bytes 4..7 minima 0..3 in their low six bits; their
    upper two bits and the nibbles of bytes 8..11 make scales 4..7 (low nibbles) and minima 4..7.
    """

    def every(*words: int) -> ir.Constant:
        return ir.Constant(i32x16.llvm, [w - (w >> 31 << 32) for w in words] * 4)

    def picked(*words: int) -> Any:
        return _shuffle(builder, starts, starts, [4 * k + w for k in range(4) for w in words])

    starts = _four_starts(builder, rows)
    six, two = 0x3F3F3F3F, 0xC0C0C0C0
    both = builder.lshr(builder.and_(picked(1, 2, 1, 2), every(six, six, two, two)), every(0, 0, 2, 2))
    rest = builder.lshr(picked(3, 3, 3, 3), every(0, 0, 0, 4))
    rest = builder.and_(rest, every(0, 0, 0x0F0F0F0F, 0x0F0F0F0F))
    return builder.bitcast(builder.or_(both, rest), i8x64.llvm)


def _header_half(high: bool) -> Callable[..., Any]:
    """Four blocks' scales 0..3 and minima 0..3 (or 4..7) as int16, eight each."""
    order = [lane for k in range(4) for i in range(8) for lane in (16 * k + 8 * high + i, 64)]

    def emit(builder: Any, *rows: Any) -> Any:
        zero = ir.Constant(i8x64.llvm, None)
        half = _shuffle(builder, _k_headers(builder, rows), zero, order)
        return _opaque(builder, builder.bitcast(half, i16x32.llvm))

    return emit


_four_addresses = (types.int64,) * 4
low_headers, high_headers = (define(i16x32(*_four_addresses), _header_half(high)) for high in (False, True))


def _dot_minima(builder: Any, low: Any, high: Any, sums: Any) -> Any:
    """Four blocks' minima times the sums of the eight sub-blocks' activations: of one group for all of them,
    or of four groups.
    """
    order = [8 * block + m for block in range(4) for m in (4, 5, 6, 7, 36, 37, 38, 39)]
    minima = _shuffle(builder, low, high, order)
    wide = _shuffle(builder, sums, sums, list(range(8)) * 4) if sums.type.count == 8 else sums
    v = _dot_pairs(builder, ir.Constant(i32x16.llvm, None), minima, wide)
    v = builder.add(v, _shuffle(builder, v, v, [i ^ 1 for i in range(16)]))
    v = builder.add(v, _shuffle(builder, v, v, [i ^ 2 for i in range(16)]))
    return _shuffle(builder, v, v, [0, 4, 8, 12])


dot_minima = define(i32x4(i16x32, i16x32, i16x8), _dot_minima)
dot_minima_along = define(i32x4(i16x32, i16x32, i16x32), _dot_minima)


def _start_halves(second: bool) -> Any:
    """d (or dmin) of four blocks."""

    def emit(builder: Any, *rows: Any) -> Any:
        starts = _four_starts(builder, rows)
        words = _shuffle(builder, starts, starts, [0, 4, 8, 12])
        bits = builder.lshr(words, _constant(words.type, 16)) if second else words
        return _f16_to_f32(builder, builder.trunc(bits, ir.VectorType(_I16, 4)))

    return define(f32x4(*_four_addresses), emit)


start_d, start_dmin = _start_halves(False), _start_halves(True)
load_i8_i16x16 = _load(i16x16, i8x16.llvm, lambda b, v: b.sext(v, i16x16.llvm))


def _four_spreads(first: int) -> Any:
    """Four of 16 int16 from `first` on, eight times each."""
    order = [lane for lane in range(first, first + 4) for _ in range(8)]
    return define(i16x32(i16x16), lambda b, v: _spread(b, v, order))


spread_0_to_3, spread_4_to_7, spread_8_to_11, spread_12_to_15 = (_four_spreads(a) for a in (0, 4, 8, 12))


def _dot_shorts(builder: Any, a: Any, b: Any) -> Any:
    """a[2i] * b[2i] + a[2i+1] * b[2i+1] of 16 int16."""
    if FORM in ("amx", "avx512vnni", "avxvnni", "avx2"):
        return _call(builder, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, a, b)
    wide = ir.VectorType(_I32, 16)
    product = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    even, odd = (_shuffle(builder, product, product, list(range(at, 16, 2))) for at in (0, 1))
    return builder.add(even, odd)


def _sums32(builder: Any, address: Any) -> Any:
    """16 int16 sums of 16 activations → 8 sums of 32, which still fit int16."""
    v = _read(builder, address, i16x16.llvm)
    even, odd = (_shuffle(builder, v, v, list(range(at, 16, 2))) for at in (0, 1))
    return builder.add(even, odd)


def _sums32_along(builder: Any, address: Any) -> Any:
    """The same of four groups: 32 sums."""
    a, b = (_read(builder, _at(builder, address, ir.Constant(_I64, 64), k), i16x32.llvm) for k in range(2))
    even, odd = (_shuffle(builder, a, b, list(range(at, 64, 2))) for at in (0, 1))
    return builder.add(even, odd)


load_sums32 = define(i16x8(types.int64), _sums32)
load_sums32_along = define(i16x32(types.int64), _sums32_along)
dot_shorts = define(i32x8(i16x16, i16x16), _dot_shorts)
times_i32x4 = define(i32x4(i32x4, types.int64), lambda b, v, n: b.mul(v, _splat(b, b.trunc(n, _I32), 4)))
gather_halves = define(f32x4(*_four_addresses), lambda b, *rows: _f16_to_f32(b, _gather(b, _I16, list(rows))))
