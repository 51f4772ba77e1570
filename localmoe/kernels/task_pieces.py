"""One token's gate and up in small items, each some rows of one of the two matrices.

An expert's items are all of its gate, then all of its up: a thread has neighbouring items (`pool`), so it
reads on in one place for as long as it can. They are small enough that threads end together, also where a
share of one or two experts is all that a GPU waits for. Whoever stores the last rows of 256 that are
quantized together multiplies and quantizes them.
"""

from __future__ import annotations

from localmoe.kernels.atomics import fetch_add, store_release
from localmoe.kernels.dot import dot_rows
from localmoe.kernels.elementwise import add_row, gated, quantize_group, store_f32_at
from localmoe.kernels.geometry import GROUP, TASK, TILE
from localmoe.kernels.simd import args20, load_f32, load_f32x16, load_i32, load_i64, store_f32x16
from quant.compiled import compiled, compiled_callback


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
    """`chunk` rows (a part of 256) of one expert's gate or up for one token. From 256 rows of both: hidden =
    their gated unit, or its int8 form.

    Arguments as `tasks_experts.gate_up_task` takes them, but for `chunk`. `formats` has the addresses of
    int64 [experts, groups] that are zero, and zero again afterwards, and of room for float32 [experts, 2,
    groups * 256]: gate · x and up · x.
    """
    (active, chunk, addresses, starts, index, cols, ffn, kind, size, row_bytes,
     table, x, q, scales, sums, hidden, _, scratch, scratch_bytes, formats) = args20(args)  # fmt: skip
    chunks, groups = (ffn + chunk - 1) // chunk, (ffn + GROUP - 1) // GROUP
    matrix, first = item // chunks, item % chunks * chunk
    expert, of_up, last = load_i32(active + matrix // 2 * 4), matrix % 2, min(first + chunk, ffn)
    pair = load_i32(starts + expert * 4)
    if of_up:
        kind, size, row_bytes = load_i64(formats), load_i64(formats + 8), load_i64(formats + 16)
    at, up = load_i64(addresses + expert * 24 + of_up * 8), load_i64(addresses + expert * 24 + 8)
    gates = load_i64(formats + 64) + pair * 2 * groups * GROUP * 4
    ups = gates + groups * GROUP * 4
    to, mine = ups if of_up else gates, scratch + worker * scratch_bytes
    for r in range(first, last, TILE):
        n, row = min(TILE, last - r), at + r * row_bytes
        then = up if r + n == ffn and not of_up else row + n * row_bytes
        dot_rows(0, kind, row, row_bytes, n, cols, size, table, x, q, scales, sums, index, 1, to + r * 4,
                 mine, then)  # fmt: skip
    g = first // GROUP
    of_group, stored = min(GROUP, ffn - g * GROUP), load_i64(formats + 56) + (pair * groups + g) * 8
    if fetch_add(stored, 1) < 2 * ((of_group + chunk - 1) // chunk) - 1:
        return
    store_release(stored, 0)
    gates, ups = gates + g * GROUP * 4, ups + g * GROUP * 4
    biases = load_i64(formats + 72)
    if biases:
        add_row(gates, load_i64(biases + expert * 16) + g * GROUP * 4, of_group)
        add_row(ups, load_i64(biases + expert * 16 + 8) + g * GROUP * 4, of_group)
    gated(load_i64(formats + 80), gates, ups, (of_group + TILE - 1) // TILE * TILE)
    if load_i64(formats + 24):
        _copy(ups, hidden + (pair * ffn + g * GROUP) * 4, of_group)
    else:
        quantize_group(ups, of_group, load_i64(formats + 32), load_i64(formats + 40), load_i64(formats + 48),
                       pair, g, groups)  # fmt: skip
