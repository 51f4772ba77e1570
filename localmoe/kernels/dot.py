"""Up to sixteen weight rows times some tokens' activations, whatever the rows' type: here types are told
apart.
"""

from __future__ import annotations

from localmoe.kernels.ahead import ALONG
from localmoe.kernels.dot_along import AT_ONCE
from localmoe.kernels.dot_blocks import quad_blocks
from localmoe.kernels.dot_blocks_along import rows_along_blocks
from localmoe.kernels.dot_float import BF16, F16, F32, Q8_0, float_rows
from localmoe.kernels.dot_k import quad_q2_k, quad_q3_k, quad_q4_k, quad_q5_k, quad_q6_k
from localmoe.kernels.dot_k_along import rows_along_k
from localmoe.kernels.dot_k_pair import (
    IQ4_XS,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    has_16_scales,
    in_blocks_of_256,
    is_k,
)
from localmoe.kernels.dot_tile import tile_k
from localmoe.kernels.dot_tile_amx import AMX, AMX_FEW, tile_k_amx
from localmoe.kernels.dot_tile_blocks import tile_blocks
from localmoe.kernels.dot_tile_pair import PAIRED, tile_k_pair
from localmoe.kernels.dot_xs import quad_iq4_xs
from localmoe.kernels.elementwise import store_f32_at
from localmoe.kernels.geometry import GROUP, SUMS, TILE
from localmoe.kernels.orders import HALVES, LONE, SUB_BLOCKS, ordered
from localmoe.kernels.simd import load_f32, load_f32x16, load_i32, store_f32x16
from quant.compiled import compiled, compiled_once, link

FEW = 6  # tokens from which unpacking a tile of sixteen rows pays
link(quad_q2_k, quad_q3_k, quad_q4_k, quad_q5_k, quad_q6_k, quad_iq4_xs, quad_blocks)
link(tile_k, tile_blocks, float_rows)
if ALONG:
    link(rows_along_k, rows_along_blocks)
if AMX:
    link(tile_k_amx)
if PAIRED:
    link(tile_k_pair)


@compiled(forceinline=True)
def _quad(kind, r0, r1, r2, r3, cols, table, q, scales, sums, out, scratch) -> None:
    """out [4] = four quantized rows times one token's int8 activations."""
    if kind == Q4_K:
        quad_q4_k(r0, r1, r2, r3, cols // GROUP, q, scales, sums, out)
    elif kind == Q5_K:
        quad_q5_k(r0, r1, r2, r3, cols // GROUP, q, scales, sums, out)
    elif kind == Q6_K:
        quad_q6_k(r0, r1, r2, r3, cols // GROUP, q, scales, sums, out)
    elif kind == Q3_K:
        quad_q3_k(r0, r1, r2, r3, cols // GROUP, q, scales, sums, out)
    elif kind == Q2_K:
        quad_q2_k(r0, r1, r2, r3, cols // GROUP, q, scales, sums, out)
    elif kind == IQ4_XS:
        quad_iq4_xs(r0, r1, r2, r3, cols // GROUP, table, q, scales, sums, out)
    else:
        quad_blocks(kind, r0, r1, r2, r3, cols, table, q, scales, sums, out, scratch)


@compiled(forceinline=True)
def reads_along(exact: int, kind: int, cols: int, index: int, tokens: int) -> bool:
    """Whether rows are read one after another: on CPUs that read faster so, for a lone token."""
    quantized = not (exact or kind == F32 or kind == F16 or kind == BF16)
    if not ALONG or not quantized or tokens != 1 or cols % (AT_ONCE * GROUP):
        return False
    return bool(load_i32(index) < LONE)


@compiled(forceinline=True)
def _in_order_of(kind: int, q: int, cols: int, row: int) -> int:
    """A row's activations in the order in which a type's codes come."""
    if has_16_scales(kind) or kind == Q8_0:
        return int(q + row * cols)
    if kind == Q4_K or kind == Q5_K:
        return int(ordered(q, cols, row, SUB_BLOCKS))
    return int(ordered(q, cols, row, HALVES))


@compiled_once()
def _rows(exact, kind, rows, row_bytes, count, cols, size, table, x, q, scales, sums, index, tokens, out,
          scratch, then) -> None:
    """See `dot_rows`."""
    if exact or kind == F32 or kind == F16 or kind == BF16:
        float_rows(exact, kind, rows, row_bytes, count, cols, size, table, x, index, tokens, out, scratch)
    elif tokens >= FEW and in_blocks_of_256(kind):
        tile_k(kind, rows, row_bytes, count, cols, table, q, scales, sums, index, tokens, out, scratch)
    elif tokens >= FEW:
        tile_blocks(kind, rows, row_bytes, count, cols, table, q, scales, sums, index, tokens, out, scratch)
    elif ALONG and reads_along(exact, kind, cols, index, tokens):
        row = load_i32(index)
        x, at = _in_order_of(kind, q, cols, row), row * (cols // GROUP)
        if in_blocks_of_256(kind):
            rows_along_k(kind, rows, row_bytes, count, cols, table, x, scales + at * 4, sums + at * SUMS * 2,
                         out, scratch, then)  # fmt: skip
        else:
            rows_along_blocks(kind, rows, row_bytes, count, cols, table, x, scales + at * 4,
                              sums + at * SUMS * 2, out, scratch, then)  # fmt: skip
    else:
        groups = (cols + GROUP - 1) // GROUP
        for r in range(0, count, 4):
            last = min(3, count - 1 - r)  # the last row stands in for missing ones
            r0 = rows + r * row_bytes
            r1, r2, r3 = r0 + min(1, last) * row_bytes, r0 + min(2, last) * row_bytes, r0 + last * row_bytes
            for t in range(tokens):
                at = load_i32(index + t * 4) * groups
                _quad(kind, r0, r1, r2, r3, cols, table, q + at * GROUP, scales + at * 4,
                      sums + at * SUMS * 2, out + (t * TILE + r) * 4, scratch)


@compiled_once()
def _two(exact, kind, rows, count, second, second_count, row_bytes, cols, size, table, x, q, scales, sums,
         index, tokens, out, other, scratch, then) -> None:
    """See `dot_two`."""
    if AMX and not exact and tokens >= AMX_FEW and is_k(kind):
        tile_k_amx(kind, rows, count, second, second_count, row_bytes, cols, q, scales, sums, index, tokens,
                   out, other, scratch)  # fmt: skip
    elif PAIRED and not exact and tokens >= FEW and in_blocks_of_256(kind):
        tile_k_pair(kind, rows, count, second, second_count, row_bytes, cols, table, q, scales, sums, index,
                    tokens, out, other, scratch)  # fmt: skip
    else:
        _rows(exact, kind, rows, row_bytes, count, cols, size, table, x, q, scales, sums, index, tokens,
              out, scratch, second)  # fmt: skip
        _rows(exact, kind, second, row_bytes, second_count, cols, size, table, x, q, scales, sums, index,
              tokens, other, scratch, then)  # fmt: skip


link(_rows, _two)


@compiled(forceinline=True)
def dot_rows(exact, kind, rows, row_bytes, count, cols, size, table, x, q, scales, sums, index, tokens,
             out, scratch, then) -> None:
    """out[t, r] = row r · token index[t]: `count` ≤ 16 rows, out float32 [tokens, 16], bit-equal for any
    `tokens`.

    Rows of F32, F16 and BF16, and all when `exact`, meet the float32 activations x [*, cols]; other rows the
    int8 ones (q with what `orders` puts before it, scales, sums). Columns from `count` on hold nothing of
    use. Addresses, all of them; scratch: `scratch_bytes(cols, tokens)` of it; then: the rows that the thread
    reads next, if it is known.
    """
    _rows(exact, kind, rows, row_bytes, count, cols, size, table, x, q, scales, sums, index, tokens, out,
          scratch, then)  # fmt: skip


@compiled(forceinline=True)
def dot_two(exact, kind, rows, count, second, second_count, row_bytes, cols, size, table, x, q, scales, sums,
            index, tokens, out, other, scratch, then) -> None:
    """`dot_rows` of `count` rows into `out` and of `second_count` others of the same type into `other`, at
    once where that is faster. scratch: `scratch_bytes(cols, tokens)`.
    """
    _two(exact, kind, rows, count, second, second_count, row_bytes, cols, size, table, x, q, scales, sums,
         index, tokens, out, other, scratch, then)  # fmt: skip


@compiled(forceinline=True)
def place(tile: int, tokens: int, count: int, to: int, stride: int) -> None:
    """Copies a tile [tokens, 16], of which `count` columns count, to rows `stride` float32 apart."""
    if count == TILE:
        for t in range(tokens):
            store_f32x16(to + t * stride * 4, load_f32x16(tile + t * TILE * 4))
    else:
        for t in range(tokens):
            for i in range(count):
                store_f32_at(to, t * stride + i, load_f32(tile + (t * TILE + i) * 4))
