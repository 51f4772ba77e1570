"""Codes of quantized weights times float32 activations, for Triton matvec kernels.

Codes become float32 without a conversion: the bits of byte s, masked where they are and read as a float32,
are the denormal code * 2**(8 s - 149), which multiplies at full speed and exactly (byte 3 is moved to byte
2 before). Activations have been lifted by 2**(100 - 8 s), so that sums of code * x come out as 2**-49 of
themselves: one mask and one multiply-add per weight.
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.gpu_words import x_quads

UNIT = tl.constexpr(2.0**49)


@triton.jit
def _dot4(total: tl.tensor, codes: tl.tensor, x0: tl.tensor, x1: tl.tensor, x2: tl.tensor, x3: tl.tensor,
          CODE: tl.constexpr) -> tl.tensor:
    """`total` and 2**-49 of the dot product of a word's four codes with lifted activations; CODE: their
    bits in each byte, whatever their place (16 times the codes where these are the upper nibbles).
    """
    total += (codes & CODE).to(tl.float32, bitcast=True) * x0
    total += (codes & (CODE << 8)).to(tl.float32, bitcast=True) * x1
    total += (codes & (CODE << 16)).to(tl.float32, bitcast=True) * x2
    return total + ((codes >> 8) & (CODE << 16)).to(tl.float32, bitcast=True) * x3


@triton.jit
def dot16(
    dot: tl.tensor, q0: tl.tensor, q1: tl.tensor, q2: tl.tensor, q3: tl.tensor, x: tl.tensor, at: tl.tensor,
    inside: tl.tensor, PLANE: tl.constexpr, CODE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`_dot4` of four words' codes with the 16 activations from `at`, and these activations' sum."""
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3, total = x_quads(x, at, inside, PLANE)
    dot = _dot4(dot, q0, a0, b0, c0, d0, CODE)
    dot = _dot4(dot, q1, a1, b1, c1, d1, CODE)
    dot = _dot4(dot, q2, a2, b2, c2, d2, CODE)
    return _dot4(dot, q3, a3, b3, c3, d3, CODE), total


@triton.jit
def half_of(word: tl.tensor) -> tl.tensor:
    """The float16 in a word's lower half, as float32."""
    return (word & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
