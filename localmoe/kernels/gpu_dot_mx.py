"""Dot products of MXFP4 rows with one token's float32 activations, for Triton matvec kernels.

A lane takes a block: 17 bytes, a scale and 32 codes of four bits, sign, two of an exponent and one of a
mantissa. Put where a float16 has these bits, the upper two of its exponent's five and most of its mantissa
left zero, a code is 2**-15 of its level, those without an exponent among them: a float16 without one is
read by the same rule.
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.gpu_formats import mx_scale
from localmoe.kernels.gpu_words import DROP0, DROP1, DROP2, byte_and_words, x_quads

_UNIT = tl.constexpr(2.0**15)


@triton.jit
def _half(bits: tl.tensor) -> tl.tensor:
    return bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _dot4(s0: tl.tensor, s1: tl.tensor, s2: tl.tensor, codes: tl.tensor, x0: tl.tensor, x1: tl.tensor,
          x2: tl.tensor, x3: tl.tensor) -> tl.tensor:
    """Sums by plane, planes 2 and 3 together, and a word's four codes times lifted activations; each byte is
    the upper half of a code as float16.
    """
    even, odd = (codes << 8) & 0xFF00FF00, codes & 0xFF00FF00
    s0 += _half(even) * x0
    s1 += _half(odd) * x1
    s2 += _half(even >> 16) * x2
    return s0, s1, s2 + _half(odd >> 16) * x3


@triton.jit
def _dot16(s0: tl.tensor, s1: tl.tensor, s2: tl.tensor, q0: tl.tensor, q1: tl.tensor, q2: tl.tensor,
           q3: tl.tensor, x: tl.tensor, at: tl.tensor, inside: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """`_dot4` of four words with the 16 activations from `at`."""
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3, _ = x_quads(x, at, inside, PLANE)
    s0, s1, s2 = _dot4(s0, s1, s2, q0, a0, b0, c0, d0)
    s0, s1, s2 = _dot4(s0, s1, s2, q1, a1, b1, c1, d1)
    s0, s1, s2 = _dot4(s0, s1, s2, q2, a2, b2, c2, d2)
    return _dot4(s0, s1, s2, q3, a3, b3, c3, d3)


@triton.jit
def _lower(q: tl.tensor) -> tl.tensor:
    """Of each byte the lower code, as the upper half of a float16."""
    return ((q << 1) & 0x0E0E0E0E) | ((q << 4) & 0x80808080)


@triton.jit
def _upper(q: tl.tensor) -> tl.tensor:
    return ((q >> 3) & 0x0E0E0E0E) | (q & 0x80808080)


@triton.jit
def piece_mxfp4(row: tl.tensor, piece: tl.tensor, mask: tl.tensor, x: tl.tensor, inside: tl.tensor,
                PLANE: tl.constexpr) -> tl.tensor:
    """One block: see `gpu_dot.piece_dots`."""
    scale, q0, q1, q2, q3 = byte_and_words(row, piece * 17, mask)
    at = piece // 2 * 4 + piece % 2 * (PLANE // 2)
    none = tl.zeros(mask.shape, tl.float32)
    s0, s1, s2 = _dot16(none, none, none, _lower(q0), _lower(q1), _lower(q2), _lower(q3), x, at, inside,
                        PLANE)  # fmt: skip
    s0, s1, s2 = _dot16(s0, s1, s2, _upper(q0), _upper(q1), _upper(q2), _upper(q3), x, at + PLANE // 4,
                        inside, PLANE)  # fmt: skip
    return mx_scale(scale) * _UNIT * (s0 * DROP0 + s1 * DROP1 + s2 * DROP2)
