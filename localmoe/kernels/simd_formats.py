"""Intrinsics that unpack block formats: nibbles, single and double bits, 6-bit scales, lookups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from localmoe.kernels.simd import (
    AVX512,
    FORM,
    _call,
    _concat,
    _constant,
    _pointer,
    _shuffle,
    _splat,
    _split,
    amd_512_with,
    define,
    i8x16,
    i8x32,
    i8x64,
    i16x32,
    i32x8,
    i32x16,
)

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)

VBMI = amd_512_with("avx512vbmi")  # on Intel's CPUs not measured

select_bytes = define(  # table[indices]: a 16-entry lookup, for formats whose codes are not linear
    i8x64(i8x16, i8x64), lambda b, table, at: _lookup16(b, table, at)
)


def _lookup16(builder: Any, table: Any, indices: Any) -> Any:
    if AVX512:
        wide = _shuffle(builder, table, table, list(range(16)) * 4)
        return _call(builder, "llvm.x86.avx512.pshuf.b.512", i8x64.llvm, wide, indices)
    if FORM in ("avx2", "avxvnni"):
        wide = _shuffle(builder, table, table, list(range(16)) * 2)
        halves = _split(builder, indices, 2)
        return _concat(builder, [_call(builder, "llvm.x86.avx2.pshuf.b", i8x32.llvm, wide,
                                       h) for h in halves])
    if FORM == "neon":
        parts = _split(builder, indices, 4)
        return _concat(builder, [_call(builder, "llvm.aarch64.neon.tbl1.v16i8", i8x16.llvm, table,
                                       p) for p in parts])
    out = ir.Constant(i8x64.llvm, ir.Undefined)
    for lane in range(64):
        at = builder.extract_element(indices, ir.Constant(_I32, lane))
        out = builder.insert_element(out, builder.extract_element(table, at), ir.Constant(_I32, lane))
    return out


def _load_table(builder: Any, address: Any) -> Any:
    """16 bytes that nothing ever writes: the compiler may keep them in a register whatever is stored."""
    table = builder.load(_pointer(builder, address, i8x16.llvm))
    table.align = 1
    table.set_metadata("invariant.load", builder.module.add_metadata([]))
    return table


load_table = define(i8x16(types.int64), _load_table)


def _of_nibbles(high: bool) -> Any:
    """What a table holds for the low (or high) nibbles of 64 bytes. VBMI's instruction looks at six bits:
    with the table there four times the upper two choose nothing, and need not be masked.
    """

    def emit(builder: Any, table: Any, v: Any) -> Any:
        if VBMI:
            words = builder.bitcast(v, i16x32.llvm)
            at = builder.lshr(words, _constant(words.type, 4)) if high else words
            wide = _shuffle(builder, table, table, list(range(16)) * 4)
            at = builder.bitcast(at, i8x64.llvm)
            return _call(builder, "llvm.x86.avx512.permvar.qi.512", i8x64.llvm, wide, at)
        four, low = _constant(v.type, 4), _constant(v.type, 15)
        return _lookup16(builder, table, builder.lshr(v, four) if high else builder.and_(v, low))

    return define(i8x64(i8x16, i8x64), emit)


of_low_nibbles, of_high_nibbles = _of_nibbles(False), _of_nibbles(True)


def _nibbles(builder: Any, v: Any) -> Any:
    """32 bytes → 64 unsigned 4-bit values: all low halves, then all high halves."""
    low = builder.and_(v, _constant(v.type, 15))
    return _shuffle(builder, low, builder.lshr(v, _constant(v.type, 4)), list(range(64)))


nibbles = define(i8x64(i8x32), _nibbles)
nibbles16 = define(
    i8x32(i8x16),
    lambda b, v: _concat(b, [b.and_(v, _constant(v.type, 15)), b.lshr(v, _constant(v.type, 4))]),
)


def _bit_planes(builder: Any, v: Any, first: Any) -> Any:
    """32 bytes → 64 values of 0 or 16: bit `first` of every byte, then bit `first + 1` of every byte."""
    shift = _splat(builder, builder.trunc(first, _I8), 32)
    one = _constant(v.type, 1)
    low = builder.and_(builder.lshr(v, shift), one)
    high = builder.and_(builder.lshr(v, builder.add(shift, one)), one)
    low, high = (builder.shl(x, _constant(v.type, 4)) for x in (low, high))
    return _shuffle(builder, low, high, list(range(64)))


bit_planes = define(i8x64(i8x32, types.int64), _bit_planes)


def _bits_to_16(builder: Any, mask: Any) -> Any:
    """The bits of an integer → as many bytes of 0 or 16. Without registers for masks the compiler would take
    them one by one.
    """
    n = mask.type.width
    kind = ir.VectorType(_I8, n)
    if AVX512:
        hit = builder.bitcast(mask, ir.VectorType(ir.IntType(1), n))
    else:
        eight = builder.bitcast(mask, ir.VectorType(_I8, n // 8))
        repeated = _shuffle(builder, eight, eight, [i // 8 for i in range(n)])
        own = builder.and_(repeated, ir.Constant(kind, [1 << i % 8 for i in range(n)]))
        hit = builder.icmp_unsigned("!=", own, ir.Constant(kind, None))
    return builder.select(hit, _constant(kind, 16), ir.Constant(kind, None))


bits_to_16 = define(i8x32(types.uint32), _bits_to_16)


def _two_bits(builder: Any, v: Any, first: Any) -> Any:
    """32 bytes → 64 values in {0, 16, 32, 48}: bits first..first+1 of every byte, then the two bits above
    those.
    """
    three = _constant(v.type, 3)

    def at(extra: int) -> Any:
        shift = builder.add(_splat(builder, builder.trunc(first, _I8), 32), _constant(v.type, extra))
        return builder.shl(builder.and_(builder.lshr(v, shift), three), _constant(v.type, 4))

    return _shuffle(builder, at(0), at(2), list(range(64)))


two_bits = define(i8x64(i8x32, types.int64), _two_bits)


def _k_scales(high: bool) -> Callable[[Any, Any], Any]:
    def emit(builder: Any, address: Any) -> Any:
        """The eight 6-bit scales (lanes 0..7 of 16) or minima (8 lanes) of GGUF's 12-byte K-quant header, as
        int32.
        """
        words = []
        for at in (0, 4, 8):
            word = builder.load(_pointer(builder, builder.add(address, ir.Constant(_I64, at)), _I32))
            word.align = 1
            words.append(word)
        d, m, md = words
        own = m if high else d

        def mask(x: Any, bits: int) -> Any:
            return builder.and_(x, ir.Constant(_I32, bits))

        def shift(x: Any, by: int) -> Any:
            return builder.lshr(x, ir.Constant(_I32, by))

        first = mask(own, 0x3F3F3F3F)
        low = mask(shift(md, 4), 0x0F0F0F0F) if high else mask(md, 0x0F0F0F0F)
        second = builder.or_(low, builder.shl(mask(shift(own, 6), 0x03030303), ir.Constant(_I32, 4)))
        both = builder.or_(builder.zext(first, _I64), builder.shl(builder.zext(second, _I64),
                                                                  ir.Constant(_I64, 32)))
        eight = builder.zext(builder.bitcast(both, ir.VectorType(_I8, 8)), i32x8.llvm)
        return eight if high else _shuffle(builder, eight, ir.Constant(i32x8.llvm, None), list(range(16)))

    return emit


k_scales, k_minima = define(i32x16(types.int64), _k_scales(False)), define(i32x8(types.int64),
                                                                           _k_scales(True))
