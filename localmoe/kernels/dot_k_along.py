"""Rows of K-quants and IQ4_XS read one after another: not a block each of four rows but four neighbouring
blocks of one row.

Then a core reads one stretch of memory from end to end, which its own prefetchers follow, and each line is
asked for once: what a Zen 5 reads fastest (docs/decisions/070). The four blocks meet the activations of four
groups; their terms enter the row's sum one by one, group after group, so that a result's bits are those of
`dot_k`, whichever way its row was read.
"""

from __future__ import annotations

from localmoe.kernels.ahead import ONCE, requests_along
from localmoe.kernels.dot_along import AT_ONCE, ROWS, keep, sums_of_rows
from localmoe.kernels.dot_k import of_each, value_16
from localmoe.kernels.dot_k_pair import (
    IQ4_XS,
    IQ4_XS_BYTES,
    Q2_K,
    Q3_K,
    Q4_K,
    Q4_K_BYTES,
    Q5_K,
    Q5_K_BYTES,
    Q6_K,
    codes_q4_q5,
    has_16_scales,
    in_order,
    k_bytes,
    pair,
    pair_16,
    scales_16,
)
from localmoe.kernels.dot_xs import activations_xs, values_xs
from localmoe.kernels.geometry import GROUP, SUMS
from localmoe.kernels.simd import (
    fnma4,
    load_i16x16,
    mul4,
    store_f32x4,
    to_f32x4,
)
from localmoe.kernels.simd_pairs import (
    join_i16x16,
    pair0_0_2,
    pair0_1_3,
    pair1_0_2,
    pair1_1_3,
    sums_of_pairs,
)
from localmoe.kernels.simd_quad import (
    dot_minima_along,
    high_headers,
    load_sums32_along,
    low_headers,
    start_d,
    start_dmin,
)
from quant.compiled import compiled, compiled_once


@compiled(forceinline=True)
def _values_q4_q5(five: bool, b0: int, x: int, sums: int, end: int, then: int):
    """What four neighbouring blocks are worth before the activations' scales; x: in order, see `orders`."""
    size = Q5_K_BYTES if five else Q4_K_BYTES
    b1, b2, b3 = b0 + size, b0 + 2 * size, b0 + 3 * size
    low, high = low_headers(b0, b1, b2, b3), high_headers(b0, b1, b2, b3)
    d, dmin = start_d(b0, b1, b2, b3), start_dmin(b0, b1, b2, b3)
    asked = requests_along(b0, size, end, then)
    first = pair(codes_q4_q5(five, b0), codes_q4_q5(five, b1), in_order(x), in_order(x + GROUP),
                 pair0_0_2(low), pair0_1_3(low), pair0_0_2(high), pair0_1_3(high), asked, 0,
                 ONCE)  # fmt: skip
    second = pair(codes_q4_q5(five, b2), codes_q4_q5(five, b3), in_order(x + 2 * GROUP),
                  in_order(x + 3 * GROUP), pair1_0_2(low), pair1_1_3(low), pair1_0_2(high), pair1_1_3(high),
                  asked, 2, ONCE)  # fmt: skip
    minima = to_f32x4(dot_minima_along(low, high, load_sums32_along(sums)))
    return fnma4(dmin, minima, mul4(d, to_f32x4(sums_of_pairs(first, second))))


@compiled(forceinline=True)
def _values_16(kind: int, b0: int, x: int, sums: int, end: int, then: int):
    """The same of blocks with 16 scales."""
    size, apart = k_bytes(kind), SUMS * 2
    b1, b2, b3 = b0 + size, b0 + 2 * size, b0 + 3 * size
    s0, s1, s2, s3 = scales_16(kind, b0), scales_16(kind, b1), scales_16(kind, b2), scales_16(kind, b3)
    asked = requests_along(b0, size, end, then)
    first = pair_16(kind, b0, b1, join_i16x16(s0, s1), in_order(x), in_order(x + GROUP), asked, 0, ONCE)
    second = pair_16(kind, b2, b3, join_i16x16(s2, s3), in_order(x + 2 * GROUP), in_order(x + 3 * GROUP),
                     asked, 2, ONCE)  # fmt: skip
    low = of_each(kind, b0, b1, b2, b3, s0, s1, s2, s3, load_i16x16(sums), load_i16x16(sums + apart),
                  load_i16x16(sums + 2 * apart), load_i16x16(sums + 3 * apart))  # fmt: skip
    return value_16(kind, b0, b1, b2, b3, sums_of_pairs(first, second), low)


@compiled(forceinline=True)
def _values_xs(b0: int, table: int, x: int, sums: int, end: int, then: int):
    """The same of IQ4_XS blocks."""
    size, apart = IQ4_XS_BYTES, SUMS * 2
    return values_xs(b0, b0 + size, b0 + 2 * size, b0 + 3 * size, table, activations_xs(x, True),
                     activations_xs(x + GROUP, True), activations_xs(x + 2 * GROUP, True),
                     activations_xs(x + 3 * GROUP, True), sums, sums + apart, sums + 2 * apart,
                     sums + 3 * apart, requests_along(b0, size, end, then), ONCE)  # fmt: skip


@compiled(forceinline=True)
def _rows(kind, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then) -> None:
    size, groups, end = k_bytes(kind), cols // GROUP, rows + count * row_bytes
    for first in range(0, count, ROWS):
        for row in range(min(ROWS, count - first)):
            b = rows + (first + row) * row_bytes
            for g in range(0, groups, AT_ONCE):
                if kind == IQ4_XS:
                    values = _values_xs(b + g * size, table, x + g * GROUP, sums + g * SUMS * 2, end, then)
                elif has_16_scales(kind):
                    values = _values_16(kind, b + g * size, x + g * GROUP, sums + g * SUMS * 2, end, then)
                else:
                    values = _values_q4_q5(kind == Q5_K, b + g * size, x + g * GROUP, sums + g * SUMS * 2,
                                           end, then)  # fmt: skip
                keep(terms, g, row, values)
        store_f32x4(out + first * 4, sums_of_rows(terms, groups, scales))


@compiled_once()
def rows_along_k(kind, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then) -> None:
    """out [count] = so many rows times one token's activations x, in this type's order; three floats behind
    them may be written. table: IQ4_XS's levels. terms: 16 bytes for each group of a row. then: what is read
    after these rows.
    """
    if kind == Q4_K:
        _rows(Q4_K, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then)
    elif kind == Q5_K:
        _rows(Q5_K, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then)
    elif kind == Q6_K:
        _rows(Q6_K, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then)
    elif kind == Q3_K:
        _rows(Q3_K, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then)
    elif kind == Q2_K:
        _rows(Q2_K, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then)
    else:
        _rows(IQ4_XS, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then)
