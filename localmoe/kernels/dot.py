"""Up to sixteen weight rows times some tokens' activations, whatever the rows' type: here types are told
apart.
"""

from __future__ import annotations

from localmoe.kernels.dot_blocks import dot_blocks
from localmoe.kernels.dot_float import BF16, F16, F32, Q4_K, Q5_K, Q6_K, decode_row, dot_f32, dot_float
from localmoe.kernels.dot_k import dot_q4_k, dot_q5_k, dot_q6_k
from localmoe.kernels.dot_tile import tile_blocks, tile_k
from localmoe.kernels.elementwise import store_f32_at
from localmoe.kernels.geometry import GROUP, TILE
from localmoe.kernels.simd import load_f32, load_i32
from quant.compiled import compiled

FEW = 6  # tokens from which unpacking a tile of sixteen rows pays


@compiled()
def dot_row(exact, kind, row, cols, size, table, x, q, scales, sums, index, tokens, acc, scratch) -> None:
    """acc[t] = row · token index[t], t < tokens, float32.

    Rows of F32, F16 and BF16 meet the float32 activations x [*, cols]; quantized rows meet the int8 ones
    (q, scales, sums), or, when `exact`, are decoded to `scratch` (cols float32) and meet x. Addresses, all
    of them.
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


@compiled()
def dot_rows(exact, kind, rows, row_bytes, count, cols, size, table, x, q, scales, sums, index, tokens,
             out, scratch) -> None:
    """out[t, r] = row r · token index[t]: `count` ≤ 16 rows, out float32 [tokens, 16], bit-equal for any
    `tokens`.

    scratch: `scratch_bytes(cols, tokens)` of it. Other arguments as in `dot_row`.
    """
    floats = kind == F32 or kind == F16 or kind == BF16
    if tokens >= FEW and not exact and not floats:
        if kind == Q4_K or kind == Q5_K or kind == Q6_K:
            tile_k(kind, rows, row_bytes, count, cols, q, scales, sums, index, tokens, out, scratch)
        else:
            tile_blocks(kind, rows, row_bytes, count, cols, table, q, scales, sums, index, tokens, out,
                        scratch)
        return
    acc = scratch + cols * 4
    for r in range(count):
        row = rows + r * row_bytes
        if tokens == 1:
            dot_row(exact, kind, row, cols, size, table, x, q, scales, sums, index, 1, out + r * 4, scratch)
            continue
        dot_row(exact, kind, row, cols, size, table, x, q, scales, sums, index, tokens, acc, scratch)
        for t in range(tokens):
            store_f32_at(out, t * TILE + r, load_f32(acc + t * 4))
