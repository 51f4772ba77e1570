"""Matrix products over hundreds of tokens: weights are widened to bfloat16 once, in scratch memory, and then
multiplied by tensor cores in large tiles.

Decoding inside the product (`gpu_prefill`) repeats the work for every tile of tokens; it is kept for few
tokens, where writing and reading wide weights would cost more. A tile's sums run along the columns in a fixed
order, so a token's result does not depend on its neighbours.
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.gpu_elementwise import gated
from localmoe.kernels.gpu_formats import decode32, pointer8
from localmoe.kernels.gpu_prefill import biased, multiplied, store_tile


@triton.jit
def widen_kernel(
    out: tl.tensor, address: tl.tensor, KIND: tl.constexpr, COLS: tl.constexpr, ROW_BYTES: tl.constexpr,
    ALIGN: tl.constexpr, SUBS: tl.constexpr,
) -> None:  # fmt: skip
    """out bfloat16 [rows, cols] = the rows from `address` on. Grid (rows, ceil(cols / 32 / SUBS))."""
    r = tl.program_id(0).to(tl.int64)
    row = pointer8(address, ALIGN) + r * ROW_BYTES
    sub = tl.program_id(1) * SUBS + tl.arange(0, SUBS)
    inside = sub < COLS // 32
    values = decode32(KIND, row + sub * 0, sub, inside)
    at = sub[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(out + r * COLS + at, values.to(tl.bfloat16), mask=inside[:, None])


@triton.jit
def product_kernel(
    x: tl.tensor, w: tl.tensor, y: tl.tensor, bias: tl.tensor, tokens: tl.tensor, rows: tl.tensor,
    stride: tl.tensor, COLS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    ADD: tl.constexpr, GPU: tl.constexpr,
) -> None:  # fmt: skip
    """y[tokens, rows] (+)= x[tokens, cols] · wᵀ + bias; x, w bfloat16, y float32, `stride` values from row to
    row. Grid (tokens / BM, rows / BN): programs that run together share weights.
    """
    t = tl.program_id(0) * BM + tl.arange(0, BM)
    r = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    from_x = x + t[:, None].to(tl.int64) * COLS + k[None, :]
    from_w = w + r[:, None].to(tl.int64) * COLS + k[None, :]
    total = tl.zeros([BM, BN], tl.float32)
    for first in range(0, COLS, BK):
        left = k[None, :] < COLS - first
        a = tl.load(from_x + first, mask=(t < tokens)[:, None] & left, other=0.0)
        b = tl.load(from_w + first, mask=(r < rows)[:, None] & left, other=0.0)
        total = multiplied(a, b, total, GPU)
    store_tile(y, biased(total, bias, r, rows), t, tokens, r, rows, stride, ADD)


@triton.jit
def gated_product_kernel(
    x: tl.tensor, gate: tl.tensor, up: tl.tensor, gate_bias: tl.tensor, up_bias: tl.tensor,
    hidden: tl.tensor, token_of: tl.tensor, tokens: tl.tensor, rows: tl.tensor, stride: tl.tensor,
    COLS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, CLAMPED: tl.constexpr,
    GPU: tl.constexpr,
) -> None:  # fmt: skip
    """hidden[pair] = the gated unit of gate · x and up · x with the pair's token's x; gate, up bfloat16
    [rows, cols], hidden bfloat16, `stride` values from pair to pair. Grid as `product_kernel`.
    """
    pair = tl.program_id(0) * BM + tl.arange(0, BM)
    r = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    token = tl.load(token_of + pair, mask=pair < tokens, other=0)
    from_x = x + token[:, None].to(tl.int64) * COLS + k[None, :]
    offset = r[:, None].to(tl.int64) * COLS + k[None, :]
    gates = tl.zeros([BM, BN], tl.float32)
    ups = tl.zeros([BM, BN], tl.float32)
    for first in range(0, COLS, BK):
        left = k[None, :] < COLS - first
        a = tl.load(from_x + first, mask=(pair < tokens)[:, None] & left, other=0.0)
        here = (r < rows)[:, None] & left
        gates = multiplied(a, tl.load(gate + offset + first, mask=here, other=0.0), gates, GPU)
        ups = multiplied(a, tl.load(up + offset + first, mask=here, other=0.0), ups, GPU)
    gates, ups = biased(gates, gate_bias, r, rows), biased(ups, up_bias, r, rows)
    store_tile(hidden, gated(gates, ups, CLAMPED).to(tl.bfloat16), pair, tokens, r, rows, stride, False)
