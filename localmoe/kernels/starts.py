"""Where the weights of a job's item begin: what threads ask the memory for while they wait for that job.

A start is compiled code `start(args, item)` that returns an address; `args` are those of the task it belongs
to (`tasks.linear_task`, `tasks_experts.down_task`, `attention.block_task`).
"""

from __future__ import annotations

from localmoe.kernels.attention_block import blocks_seen, first_key
from localmoe.kernels.simd import args20, load_i32, load_i64
from quant.compiled import compiled, compiled_callback

START = "int64(int64, int64)"
MATRIX = 9 * 8  # bytes that `linear_task` is told of a matrix
NOTHING, UNKNOWN = 0, -1  # instead of a start: the job reads little; what it reads is decided just before it


@compiled(forceinline=True)
def matrix_of(matrices: int, count: int, item: int) -> int:
    """The address of what `linear_task` is told of the matrix that the item is of."""
    which = 0
    while which + 1 < count and item >= load_i64(matrices + (which + 1) * MATRIX + 48):
        which += 1
    return matrices + which * MATRIX


@compiled_callback(START)
def linear_start(args: int, item: int) -> int:
    """The first row of `linear_task`'s item."""
    m = matrix_of(load_i64(args), load_i64(args + 8), item)
    first = (item - load_i64(m + 48)) * load_i64(m + 56)
    return int(load_i64(m) + first * load_i64(m + 16))


@compiled_callback(START)
def down_start(args: int, item: int) -> int:
    """The first row of `down_task`'s item, as soon as the experts are chosen."""
    (active, chunks, addresses, _, _, _, _, _, _, row_bytes,
     _, _, _, _, _, _, _, _, _, chunk) = args20(args)  # fmt: skip
    expert = load_i32(active + item // chunks * 4)
    return int(load_i64(addresses + expert * 24 + 16) + item % chunks * chunk * row_bytes)


@compiled_callback(START)
def block_start(args: int, item: int) -> int:
    """The first key of `block_task`'s item."""
    (_, _, step, _, _, head_dim, context, keys, _, _, _,
     kind, _, window, _, _, _, _, _, _) = args20(args)  # fmt: skip
    first, blocks = blocks_seen(load_i64(step), window)
    head, block = item // blocks, first + item % blocks
    return int(first_key(kind, keys, context, head_dim, head, block))
