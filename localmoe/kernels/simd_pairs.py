"""Intrinsics of `dot_k_eight.py`, where two rows' sums share a register as int16.

Four codes of at most six bits times int8 activations add up to 4 * 63 * 128 < 2**15: so sixteen such sums of
one row and sixteen of another are packed without loss, and one multiplication scales both.
"""

from __future__ import annotations

from typing import Any

from localmoe.kernels.simd import (
    AVX512,
    INTEL_512,
    _call,
    _shuffle,
    define,
    i16x32,
    i32x16,
)

# Fewer instructions than products of pairs, each with its own scales; on Intel's CPUs not measured.
IN_PAIRS = AVX512 and not INTEL_512


def _pack(builder: Any, a: Any, b: Any) -> Any:
    """Quad q of the result: four lanes of a's quad q, then four of b's."""
    if AVX512:
        return _call(builder, "llvm.x86.avx512.packssdw.512", i16x32.llvm, a, b)
    order = [4 * q + i + n for q in range(4) for n in (0, 16) for i in range(4)]
    return builder.trunc(_shuffle(builder, a, b, order), i16x32.llvm)


pack_sums = define(i16x32(i32x16, i32x16), _pack)


def _four_of_each(first: int) -> Any:
    """Four of a row's 16 scales from `first` on, and of another's, for 16 codes each."""
    order = [first + k + n for k in range(4) for n in (0, 16) for _ in range(4)]
    return define(i16x32(i16x32), lambda b, v: _shuffle(b, v, v, order))


pair_0_to_3, pair_4_to_7, pair_8_to_11, pair_12_to_15 = (_four_of_each(first) for first in (0, 4, 8, 12))
