"""Intrinsics of the row kernels for blocks of 32 weights: four blocks of one row at a time.

Four blocks of 18 to 24 bytes are read as 64 bytes and the rest; where AVX-512 is, one instruction then picks
the words that are wanted of both, instead of a load for each block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from localmoe.kernels.simd import (
    AVX512,
    _constant,
    _f16_to_f32,
    _larger,
    _shuffle,
    define,
    f32x16,
    i8x16,
    i8x32,
    i8x64,
    i16x16,
    i16x32,
    i32x16,
)
from localmoe.kernels.simd_formats import VBMI, _bits_to_16
from localmoe.kernels.simd_quad import _at, _four_addresses, _gather, _pairs, _read

_I16, _I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))


def _load_quarters(builder: Any, address: Any, stride: Any) -> Any:
    """16 bytes at each of four addresses `stride` apart."""
    parts = [_read(builder, _at(builder, address, stride, k), i8x16.llvm) for k in range(4)]
    halves = [_shuffle(builder, parts[k], parts[k + 1], list(range(32))) for k in (0, 2)]
    return _shuffle(builder, halves[0], halves[1], list(range(64)))


def _four_blocks(builder: Any, address: Any, size: int) -> tuple[Any, Any]:
    """The words of four neighbouring blocks of `size` bytes, an even number up to 24: the first 32, and a
    vector that ends with the last one.
    """
    tail = 8 if size == 18 else 16 if size == 20 else 32
    low = _read(builder, address, i16x32.llvm)
    at = builder.add(address, ir.Constant(_I64, 4 * size - tail))
    return low, _read(builder, at, ir.VectorType(_I16, tail // 2))


def _words(builder: Any, blocks: tuple[Any, Any], size: int, wanted: list[int]) -> Any:
    """Those words of `_four_blocks`."""
    low, tail = blocks
    n = tail.type.count
    wide = _shuffle(builder, tail, tail, [i % n for i in range(32)])
    first = 2 * size - n  # the number of the tail's first word
    return _shuffle(builder, low, wide, [w if w < 32 else 32 + w - first for w in wanted])


def _last_quarters(size: int) -> Any:
    """The last 16 bytes of four neighbouring blocks of `size` bytes."""

    def emit(builder: Any, address: Any) -> Any:
        if not AVX512:  # whose vpermt2w takes words from two registers
            return _load_quarters(
                builder, builder.add(address, ir.Constant(_I64, size - 16)), ir.Constant(_I64, size)
            )
        wanted = [(k * size + size - 16) // 2 + i for k in range(4) for i in range(8)]
        words = _words(builder, _four_blocks(builder, address, size), size, wanted)
        return builder.bitcast(words, i8x64.llvm)

    return define(i8x64(types.int64), emit)


last_quarters18, last_quarters20, last_quarters22, last_quarters24 = (
    _last_quarters(size) for size in (18, 20, 22, 24)
)
def _last_quarters17(builder: Any, address: Any) -> Any:
    """The last 16 bytes of four neighbouring blocks of 17 bytes."""
    if not VBMI:
        return _load_quarters(builder, builder.add(address, ir.Constant(_I64, 1)), ir.Constant(_I64, 17))
    low = _read(builder, address, i8x64.llvm)
    tail = _read(builder, builder.add(address, ir.Constant(_I64, 64)), ir.VectorType(ir.IntType(8), 4))
    wide = _shuffle(builder, tail, tail, [i % 4 for i in range(64)])
    return _shuffle(builder, low, wide, [17 * k + 1 + i for k in range(4) for i in range(16)])


last_quarters17 = define(i8x64(types.int64), _last_quarters17)


def _activation_halves(second: bool) -> Callable[[Any, Any], Any]:
    """The first (or second) 16 of each 32 of 128 bytes."""

    def emit(builder: Any, address: Any) -> Any:
        a = _read(builder, address, i8x64.llvm)
        b = _read(builder, builder.add(address, ir.Constant(_I64, 64)), i8x64.llvm)
        return _shuffle(builder, a, b, [32 * k + 16 * second + i for k in range(4) for i in range(16)])

    return emit


first_16_of_32, second_16_of_32 = (define(i8x64(types.int64), _activation_halves(x)) for x in (False, True))


def _load_two_blocks(builder: Any, address: Any, stride: Any) -> Any:
    """32 bytes at the address and 32 `stride` further."""
    first, second = (_read(builder, _at(builder, address, stride, k), i8x32.llvm) for k in (0, 1))
    return _shuffle(builder, first, second, list(range(64)))


load_two_blocks = define(i8x64(types.int64, types.int64), _load_two_blocks)


def _halves_to_quads(builder: Any, a: Any, b: Any) -> Any:
    """Two blocks' partial sums in a, eight each, and two blocks' in b → four each, block after block."""
    even = [8 * k + i for k in range(4) for i in range(4)]
    return _pairs(builder, a, b, even, [i + 4 for i in even])


halves_to_quads = define(i32x16(i32x16, i32x16), _halves_to_quads)


def _block_fifths(size: int, second: bool) -> Any:
    """Four blocks of `size` bytes whose 16 + 16 fifth bits stand before their last 16 bytes → 64 bytes of 0
    or 16: the bits of each one's first (or second) 16 weights.
    """
    word = (size - 20) // 2 + second

    def emit(builder: Any, address: Any) -> Any:
        if AVX512:
            wanted = [word + k * size // 2 for k in range(4)]
            shorts = _words(builder, _four_blocks(builder, address, size), size, wanted)
        else:
            at = builder.add(address, ir.Constant(_I64, 2 * word))
            shorts = _gather(builder, _I16, [_at(builder, at, ir.Constant(_I64, size), k) for k in range(4)])
        return _bits_to_16(builder, builder.bitcast(shorts, _I64))

    return define(i8x64(types.int64), emit)


first_fifths22, second_fifths22 = (_block_fifths(22, second) for second in (False, True))
first_fifths24, second_fifths24 = (_block_fifths(24, second) for second in (False, True))


def _block_halves(builder: Any, *arguments: Any) -> Any:
    """Lane 4k + r: the float16 at row r's address + k * stride, k < 4."""
    *rows, stride = arguments
    return _f16_to_f32(builder, _gather(builder, _I16, [_at(builder, row, stride, k) for k in range(4)
                                                        for row in rows]))


gather_block_halves = define(f32x16(*_four_addresses, types.int64), _block_halves)


def _near_halves(size: int) -> Any:
    """The same for blocks of `size` bytes, four of which have their float16 within 64 bytes."""

    def emit(builder: Any, *rows: Any) -> Any:
        if not AVX512:
            return _block_halves(builder, *rows, ir.Constant(_I64, size))
        words = [k * size // 2 for k in range(4)]
        wide = [_read(builder, row, i16x32.llvm) for row in rows]
        two = [_shuffle(builder, a, b, words + [32 + w for w in words]) for a, b in (wide[:2], wide[2:])]
        order = [r * 4 + k for k in range(4) for r in range(4)]
        return _f16_to_f32(builder, _shuffle(builder, two[0], two[1], order))

    return define(f32x16(*_four_addresses), emit)


near_halves18, near_halves20 = _near_halves(18), _near_halves(20)


def _half_powers(builder: Any, e: Any) -> Any:
    """2^(e - 128) of sixteen int32 in [0, 255]. The powers of 0 and 1 are subnormal: for these the second
    number is the larger one, and their power; for all others the first.
    """
    one, by_23, by_21 = (_constant(i32x16.llvm, n) for n in (1, 23, 21))
    normal = builder.shl(builder.sub(e, one), by_23)
    subnormal = builder.shl(builder.add(e, one), by_21)
    return builder.bitcast(_larger(builder, normal, subnormal), f32x16.llvm)


half_powers = define(f32x16(i32x16), _half_powers)


def _near_powers(builder: Any, *rows: Any) -> Any:
    """Lane 4k + r: `half_powers` of the first byte of block k, of 17 bytes, at row r's address: byte k of the
    16 k bytes further on.
    """
    wide = [_read(builder, row, i32x16.llvm) for row in rows]
    two = [i for k in range(0, 16, 4) for i in (k, k + 16, k + 1, k + 17)]
    first, second = (_shuffle(builder, a, b, two) for a, b in (wide[:2], wide[2:]))
    four = [i for k in range(0, 16, 4) for i in (k, k + 1, k + 16, k + 17)]
    words = _shuffle(builder, first, second, four)
    shifts = ir.Constant(i32x16.llvm, [8 * k for k in range(4) for _ in range(4)])
    return _half_powers(builder, builder.and_(builder.lshr(words, shifts), _constant(i32x16.llvm, 255)))


near_powers17 = define(f32x16(*_four_addresses), _near_powers)


def _block_sums(first: int) -> Callable[[Any, Any], Any]:
    """The sums of blocks first..first+3 (of eight), each in the four lanes of its quad."""

    def emit(builder: Any, address: Any) -> Any:
        wide = builder.sext(_read(builder, address, i16x16.llvm), i32x16.llvm)
        even = [2 * (first + lane // 4) for lane in range(16)]
        return _pairs(builder, wide, wide, even, [i + 1 for i in even])

    return emit


low_block_sums = define(i32x16(types.int64), _block_sums(0))
high_block_sums = define(i32x16(types.int64), _block_sums(4))


def _block_sums_along(first: int) -> Callable[[Any, Any], Any]:
    """The same of four groups: block first + k of group r in lane 4k + r."""

    def emit(builder: Any, address: Any) -> Any:
        a, b = (_read(builder, _at(builder, address, ir.Constant(_I64, 64), k), i16x32.llvm) for k in (0, 1))
        even = [16 * group + 2 * (first + k) for k in range(4) for group in range(4)]
        return builder.sext(_pairs(builder, a, b, even, [i + 1 for i in even]), i32x16.llvm)

    return emit


low_block_sums_along = define(i32x16(types.int64), _block_sums_along(0))
high_block_sums_along = define(i32x16(types.int64), _block_sums_along(4))
