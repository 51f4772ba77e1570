"""Rows of 32-weight blocks read one after another: four groups of a row at a time, each of eight blocks
(`dot_k_along` says why). A result's bits are those of `dot_blocks`.
"""

from __future__ import annotations

from localmoe.kernels.ahead import ONCE, in_halves, requests_along
from localmoe.kernels.dot_along import AT_ONCE, ROWS, keep, sums_of_rows
from localmoe.kernels.dot_blocks import (
    IQ4_NL,
    IQ4_NL_OFFSET,
    MXFP4,
    MXFP4_OFFSET,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_0_OFFSET,
    block_bytes,
    terms,
)
from localmoe.kernels.geometry import GROUP, SUMS
from localmoe.kernels.simd import store_f32x4
from localmoe.kernels.simd_blocks import (
    high_block_sums_along,
    low_block_sums_along,
)
from localmoe.kernels.simd_quad import tree_terms
from quant.compiled import compiled, compiled_once


@compiled(forceinline=True)
def _values(kind, wide, offset, has_minimum, b0, table, x, sums, end, then):
    """What four neighbouring groups are worth before their activations' scales."""
    size = block_bytes(kind)
    half, group = 4 * size, 8 * size
    b1, b2, b3 = b0 + group, b0 + 2 * group, b0 + 3 * group
    asked, asked2 = in_halves(requests_along(b0, group, end, then))
    first = terms(kind, wide, offset, has_minimum, b0, b1, b2, b3, size, table, x, GROUP,
                  low_block_sums_along(sums), asked, ONCE)  # fmt: skip
    second = terms(kind, wide, offset, has_minimum, b0 + half, b1 + half, b2 + half, b3 + half, size, table,
                   x + GROUP // 2, GROUP, high_block_sums_along(sums), asked2, ONCE)  # fmt: skip
    return tree_terms(first, second)


@compiled(forceinline=True)
def _rows(kind, wide, offset, has_minimum, rows, row_bytes, count, cols, table, x, scales, sums, out, terms,
          then):  # fmt: skip
    size, groups, end = block_bytes(kind) * 8, cols // GROUP, rows + count * row_bytes
    for first in range(0, count, ROWS):
        for row in range(min(ROWS, count - first)):
            b = rows + (first + row) * row_bytes
            for g in range(0, groups, AT_ONCE):
                values = _values(kind, wide, offset, has_minimum, b + g * size, table, x + g * GROUP,
                                 sums + g * SUMS * 2, end, then)  # fmt: skip
                keep(terms, g, row, values)
        store_f32x4(out + first * 4, sums_of_rows(terms, groups, scales))


@compiled_once()
def rows_along_blocks(kind, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then) -> None:
    """As `dot_k_along.rows_along_k`, for the types of 32-weight blocks."""
    if kind == Q4_0:
        _rows(Q4_0, False, 8, False, rows, row_bytes, count, cols, table, x, scales, sums, out, terms,
              then)  # fmt: skip
    elif kind == Q4_1:
        _rows(Q4_1, False, 0, True, rows, row_bytes, count, cols, table, x, scales, sums, out, terms,
              then)  # fmt: skip
    elif kind == Q5_0:
        _rows(Q5_0, False, 16, False, rows, row_bytes, count, cols, table, x, scales, sums, out, terms,
              then)  # fmt: skip
    elif kind == Q5_1:
        _rows(Q5_1, False, 0, True, rows, row_bytes, count, cols, table, x, scales, sums, out, terms,
              then)  # fmt: skip
    elif kind == Q8_0:
        _rows(Q8_0, True, Q8_0_OFFSET, False, rows, row_bytes, count, cols, table, x, scales, sums, out,
              terms, then)  # fmt: skip
    elif kind == IQ4_NL:
        _rows(IQ4_NL, True, IQ4_NL_OFFSET, False, rows, row_bytes, count, cols, table, x, scales, sums, out,
              terms, then)  # fmt: skip
    else:
        _rows(MXFP4, False, MXFP4_OFFSET, False, rows, row_bytes, count, cols, table, x, scales, sums, out,
              terms, then)  # fmt: skip
