"""One weight row times some tokens' activations, whatever the row's type: the only place that tells types apart."""

from __future__ import annotations

import numpy as np

from localmoe.kernels.dot_blocks import dot_blocks
from localmoe.kernels.dot_float import BF16, F16, F32, IQ4_NL, Q4_K, Q5_K, Q6_K, decode_row, dot_f32, dot_float
from localmoe.kernels.dot_k import dot_q4_k, dot_q5_k, dot_q6_k
from localmoe.kernels.elementwise import GROUP, store_f32_at
from localmoe.kernels.simd import load_i32
from quant.compiled import compiled

KERNEL_TYPES = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "iq4_nl")


@compiled()
def dot_row(exact, kind, row, cols, size, table, x, q, scales, sums, index, tokens, acc, scratch) -> None:
    """acc[t] = row · token index[t], t < tokens, float32.

    Rows of F32, F16 and BF16 meet the float32 activations x [*, cols]; quantized rows meet the int8 ones
    (q, scales, sums), or, when `exact`, are decoded to `scratch` (cols float32) and meet x. Addresses, all of them.
    """
    if exact and kind != F32 and kind != F16 and kind != BF16:
        decode_row(kind, row, cols, size, table, scratch)
        for t in range(tokens):
            store_f32_at(acc, t, dot_f32(scratch, cols, x + load_i32(index + t * 4) * cols * 4))
    elif kind == Q4_K:
        dot_q4_k(row, cols // GROUP, q, scales, sums, index, tokens, acc)
    elif kind == Q5_K:
        dot_q5_k(row, cols // GROUP, q, scales, sums, index, tokens, acc)
    elif kind == Q6_K:
        dot_q6_k(row, cols // GROUP, q, scales, sums, index, tokens, acc)
    elif kind == F32 or kind == F16 or kind == BF16:
        for t in range(tokens):
            store_f32_at(acc, t, dot_float(kind, row, cols, x + load_i32(index + t * 4) * cols * 4))
    else:
        dot_blocks(kind, row, cols, table, q, scales, sums, index, tokens, acc)
