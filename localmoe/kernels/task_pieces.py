"""One token's gate and up in pieces of 64 rows: the first half of what the CPU does for a GPU that waits.

The model's own task takes 256 rows, as many as are quantized together. Two whole experts are a hundred such
items; but a share of one or two is a few dozen, which fifteen threads do not end together. Here whichever
thread stores the last piece of 256 rows quantizes them.
"""

from __future__ import annotations

from localmoe.kernels.atomics import fetch_add, store_release
from localmoe.kernels.dot import dot_rows
from localmoe.kernels.elementwise import quantize_group, store_f32_at, swiglu
from localmoe.kernels.geometry import GROUP, TASK, TILE
from localmoe.kernels.simd import args20, load_f32, load_f32x16, load_i32, load_i64, store_f32x16
from quant.compiled import compiled, compiled_callback

PIECE = 64  # rows of an item; divides GROUP


@compiled(forceinline=True)
def _rows(kind, at, row_bytes, rows, cols, size, table, x, q, scales, sums, index, to, scratch, then) -> None:
    """`rows` rows at `at` times the token → float32 `to`, in whole tiles; then: the rows read next."""
    for r in range(0, rows, TILE):
        n = min(TILE, rows - r)
        after = at + (r + n) * row_bytes if r + n < rows else then
        dot_rows(0, kind, at + r * row_bytes, row_bytes, n, cols, size, table, x, q, scales, sums, index, 1,
                 to + r * 4, scratch, after)  # fmt: skip


@compiled(forceinline=True)
def _copy(start: int, to: int, n: int) -> None:
    """n float32."""
    whole = n // 16 * 16
    for i in range(0, whole * 4, 64):
        store_f32x16(to + i, load_f32x16(start + i))
    for i in range(whole, n):
        store_f32_at(to, i, load_f32(start + i * 4))


@compiled_callback(TASK)
def gate_up_piece_task(args: int, item: int, worker: int) -> None:
    """64 rows of one expert's FFN for one token: hidden = silu(gate · x) * (up · x), and its int8 form.

    Arguments as `gate_up_task` takes them, of one token; `formats` ends with the address of int64 [experts,
    groups] that are zero, and zero again afterwards. hidden: float32 [experts, groups * 256], or [experts,
    ffn] where the floats are what is wanted.
    """
    (active, pieces, addresses, starts, index, cols, ffn, kind, size, row_bytes,
     table, x, q, scales, sums, hidden, _, scratch, scratch_bytes, formats) = args20(args)  # fmt: skip
    rank, first = load_i32(active + item // pieces * 4), item % pieces * PIECE
    pair, rows, groups = load_i32(starts + rank * 4), min(PIECE, ffn - first), (ffn + GROUP - 1) // GROUP
    gate, up = load_i64(addresses + rank * 24), load_i64(addresses + rank * 24 + 8)
    up_kind, up_size, up_bytes = load_i64(formats), load_i64(formats + 8), load_i64(formats + 16)
    keep_float = load_i64(formats + 24)
    mine = scratch + worker * scratch_bytes
    gates = mine + scratch_bytes - 2 * PIECE * 4
    ups = gates + PIECE * 4
    _rows(kind, gate + first * row_bytes, row_bytes, rows, cols, size, table, x, q, scales, sums, index,
          gates, mine, up + first * up_bytes)
    _rows(up_kind, up + first * up_bytes, up_bytes, rows, cols, up_size, table, x, q, scales, sums, index,
          ups, mine, gate + (first + rows) * row_bytes)
    swiglu(gates, ups, (rows + 15) // 16 * 16)
    if keep_float:
        _copy(ups, hidden + (pair * ffn + first) * 4, rows)
        return
    _copy(ups, hidden + (pair * groups * GROUP + first) * 4, rows)
    g = first // GROUP
    of_group, at, stored = min(GROUP, ffn - g * GROUP), pair * groups + g, load_i64(formats + 56)
    if fetch_add(stored + at * 8, 1) == (of_group + PIECE - 1) // PIECE - 1:
        store_release(stored + at * 8, 0)
        quantize_group(hidden + at * GROUP * 4, of_group, load_i64(formats + 32), load_i64(formats + 40),
                       load_i64(formats + 48), pair, g, groups)
