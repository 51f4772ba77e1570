"""Intrinsics of the row kernels where two rows' sums share a register as int16.

Four codes of at most six bits times int8 activations add up to 4 * 63 * 128 < 2**15: so sixteen such sums of
one row and sixteen of another are packed without loss, and one multiplication scales both.
"""

from __future__ import annotations

from typing import Any

from localmoe.kernels.simd import (
    AVX512,
    INTEL_512,
    _call,
    _concat,
    _shuffle,
    define,
    i16x16,
    i16x32,
    i32x4,
    i32x16,
    zero_i32x16,
)
from localmoe.kernels.simd_dot import dot_bytes, dot_pairs
from localmoe.kernels.simd_quad import _pairs
from quant.compiled import compiled

# Fewer instructions than products of pairs, each with its own scales; on Intel's CPUs not measured.
IN_PAIRS = AVX512 and not INTEL_512


def _pack(builder: Any, a: Any, b: Any) -> Any:
    """Quad q of the result: four lanes of a's quad q, then four of b's."""
    if AVX512:
        return _call(builder, "llvm.x86.avx512.packssdw.512", i16x32.llvm, a, b)
    order = [4 * q + i + n for q in range(4) for n in (0, 16) for i in range(4)]
    return builder.trunc(_shuffle(builder, a, b, order), i16x32.llvm)


pack_sums = define(i16x32(i32x16, i32x16), _pack)


@compiled(forceinline=True)
def scaled_pair(dot, v, w, x, y, scales):
    """Adds scale * code * activation of 64 weights v times x of one block and w times y of another: two lanes
    for the one, two for the other, four times. scales: likewise, four of the one's and four of the other's.
    """
    both = pack_sums(dot_bytes(zero_i32x16(), v, x), dot_bytes(zero_i32x16(), w, y))
    return dot_pairs(dot, both, scales)


def _header_scales(pair: int, odd: bool) -> Any:
    """Of half of four headers, rows 2 * pair and the next: scales 0 and 2, or 1 and 3, for 32 codes each."""
    order = [8 * (2 * pair + row) + scale + odd for scale in (0, 0, 2, 2) for row in (0, 1) for _ in range(4)]
    return define(i16x32(i16x32), lambda b, v: _shuffle(b, v, v, order))


pair0_0_2, pair0_1_3 = (_header_scales(0, odd) for odd in (False, True))
pair1_0_2, pair1_1_3 = (_header_scales(1, odd) for odd in (False, True))


def _four_of_each(first: int) -> Any:
    """Four of a row's 16 scales from `first` on, and of another's, for 16 codes each."""
    order = [first + k + n for k in range(4) for n in (0, 16) for _ in range(4)]
    return define(i16x32(i16x32), lambda b, v: _shuffle(b, v, v, order))


pair_0_to_3, pair_4_to_7, pair_8_to_11, pair_12_to_15 = (_four_of_each(first) for first in (0, 4, 8, 12))
join_i16x16 = define(i16x32(i16x16, i16x16), lambda b, x, y: _concat(b, [x, y]))


def _sums_of_pairs(builder: Any, first: Any, second: Any) -> Any:
    """Two pairs' sums as `scaled_pair` leaves them → one sum for each of the four rows."""
    even = [4 * q + lane + n for q in range(4) for n in (0, 16) for lane in (0, 2)]
    v = _pairs(builder, first, second, even, [lane + 1 for lane in even])
    while v.type.count > 4:
        n = v.type.count // 2
        v = builder.add(*(_shuffle(builder, v, v, list(range(at, at + n))) for at in (0, n)))
    return v


sums_of_pairs = define(i32x4(i32x16, i32x16), _sums_of_pairs)
