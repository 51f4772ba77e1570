"""Matrix products over many tokens: weight blocks are decoded to bfloat16 tiles that the tensor cores
multiply.

x are bfloat16 rows, sums are float32. Experts come as a list: program (i, j, n) computes a tile of the n-th
active expert's tokens, `starts[expert]` to `starts[expert + 1]` of the pairs sorted by expert;
`place[expert]` is the address of its bytes (gate, up, down one after another).
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.gpu_elementwise import gated
from localmoe.kernels.gpu_formats import decode32, floats_at, pointer8


@triton.jit
def multiplied(x: tl.tensor, w: tl.tensor, total: tl.tensor, GPU: tl.constexpr) -> tl.tensor:
    """total + x · wᵀ of bfloat16 tiles. The interpreter multiplies no bfloat16: there the rounded values are
    widened again.
    """
    if GPU:
        return tl.dot(x, tl.trans(w), total)
    return tl.dot(x.to(tl.float32), tl.trans(w.to(tl.float32)), total)


@triton.jit
def biased(value: tl.tensor, bias: tl.tensor, r: tl.tensor, rows: tl.tensor) -> tl.tensor:
    """value [tokens, rows r] + bias float32 [rows] at an address, or nothing where that is None."""
    if bias is not None:
        value += tl.load(floats_at(bias) + r, mask=r < rows, other=0.0)[None, :]
    return value


@triton.jit
def store_tile(y: tl.tensor, value: tl.tensor, t: tl.tensor, tokens: tl.tensor, r: tl.tensor, rows: tl.tensor,
               stride: tl.tensor, ADD: tl.constexpr) -> None:
    """y[t, r] (+)= value for the tokens and rows there are; `stride` values from one token to the next."""
    at = y + t[:, None].to(tl.int64) * stride + r[None, :]
    inside = (t < tokens)[:, None] & (r < rows)[None, :]
    if ADD:
        value += tl.load(at, mask=inside, other=0.0)
    tl.store(at, value, mask=inside)


@triton.jit
def _tile(
    KIND: tl.constexpr, x: tl.tensor, tokens: tl.tensor, token_in: tl.tensor, row: tl.tensor,
    row_in: tl.tensor,
    COLS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, GPU: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """x[tokens] · W[rows]ᵀ: float32 [BM, BN], 32 columns at a time."""
    total = tl.zeros([BM, BN], tl.float32)
    lane = tl.arange(0, 32)
    for sub in range(COLS // 32):
        a = tl.load(x + tokens[:, None] * COLS + sub * 32 + lane[None, :], mask=token_in[:, None], other=0.0)
        w = decode32(KIND, row, sub + tl.zeros([BN], tl.int32), row_in).to(tl.bfloat16)
        total = multiplied(a, w, total, GPU)
    return total


@triton.jit
def linear_many_kernel(
    x: tl.tensor, y: tl.tensor, address: tl.tensor, bias: tl.tensor, tokens: tl.tensor, rows: tl.tensor,
    KIND: tl.constexpr, COLS: tl.constexpr, ROW_BYTES: tl.constexpr, ALIGN: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, ADD: tl.constexpr, GPU: tl.constexpr,
) -> None:  # fmt: skip
    """y[tokens, rows] (+)= x[tokens, cols] · Wᵀ + bias. Grid (tokens / BM, rows / BN)."""
    t = tl.program_id(0) * BM + tl.arange(0, BM)
    r = tl.program_id(1) * BN + tl.arange(0, BN)
    row = pointer8(address, ALIGN) + r.to(tl.int64) * ROW_BYTES
    value = _tile(KIND, x, t.to(tl.int64), t < tokens, row, r < rows, COLS, BM, BN, GPU)
    store_tile(y, biased(value, bias, r, rows), t, tokens, r, rows, rows, ADD)


@triton.jit
def logits_many_kernel(
    h: tl.tensor, router: tl.tensor, bias: tl.tensor, logits: tl.tensor, tokens: tl.tensor,
    COLS: tl.constexpr, EXPERTS: tl.constexpr, SIDE: tl.constexpr,
) -> None:  # fmt: skip
    """logits[tokens, experts] = h · routerᵀ + bias, all float32 and in its precision: a rounded logit could
    choose another expert. Grid (tokens / SIDE, experts / SIDE).
    """
    t = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    e = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    k = tl.arange(0, SIDE)
    total = tl.zeros([SIDE, SIDE], tl.float32)
    for first in range(0, COLS, SIDE):
        left = k[None, :] < COLS - first
        from_h = h + t[:, None].to(tl.int64) * COLS + first + k[None, :]
        a = tl.load(from_h, mask=(t < tokens)[:, None] & left, other=0.0)
        b = tl.load(router + e[:, None] * COLS + first + k[None, :], mask=(e < EXPERTS)[:, None] & left,
                    other=0.0)
        total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    if bias is not None:
        total += tl.load(bias + e, mask=e < EXPERTS, other=0.0)[None, :]
    store_tile(logits, total, t, tokens, e, EXPERTS, EXPERTS, False)


@triton.jit
def gate_up_many_kernel(
    x: tl.tensor, hidden: tl.tensor, active: tl.tensor, place: tl.tensor, starts: tl.tensor,
    token_of: tl.tensor, gate_bias: tl.tensor, up_bias: tl.tensor,
    UP_START: tl.constexpr, KIND: tl.constexpr, COLS: tl.constexpr, FFN: tl.constexpr,
    ROW_BYTES: tl.constexpr,
    ALIGN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CLAMPED: tl.constexpr, GPU: tl.constexpr,
) -> None:  # fmt: skip
    """hidden[pair] = the gated unit of gate · x and up · x, bfloat16 [pairs, ffn]. Biases [experts, ffn].
    Grid (most pairs / BM, ffn / BN, active).
    """
    expert = tl.load(active + tl.program_id(2))
    start = tl.load(starts + expert)
    count = tl.load(starts + expert + 1) - start
    first = tl.program_id(0) * BM
    if first < count:
        pair = first + tl.arange(0, BM)
        here = pair < count
        token = tl.load(token_of + start + pair, mask=here, other=0).to(tl.int64)
        r = tl.program_id(1) * BN + tl.arange(0, BN)
        row = pointer8(tl.load(place + expert), ALIGN) + r.to(tl.int64) * ROW_BYTES
        gate = _tile(KIND, x, token, here, row, r < FFN, COLS, BM, BN, GPU)
        up = _tile(KIND, x, token, here, row + UP_START, r < FFN, COLS, BM, BN, GPU)
        if gate_bias is not None:
            gate = biased(gate, gate_bias + expert * FFN * 4, r, FFN)
            up = biased(up, up_bias + expert * FFN * 4, r, FFN)
        value = gated(gate, up, CLAMPED)
        at = hidden + (start + pair)[:, None].to(tl.int64) * FFN + r[None, :]
        tl.store(at, value.to(tl.bfloat16), mask=here[:, None] & (r < FFN)[None, :])


@triton.jit
def down_many_kernel(
    hidden: tl.tensor, out: tl.tensor, active: tl.tensor, place: tl.tensor, starts: tl.tensor,
    bias: tl.tensor, DOWN_START: tl.constexpr,
    KIND: tl.constexpr, FFN: tl.constexpr, ROWS: tl.constexpr, ROW_BYTES: tl.constexpr, ALIGN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, GPU: tl.constexpr,
) -> None:  # fmt: skip
    """out[pair] = down · hidden[pair] + bias, float32 [pairs, rows]; bias [experts, rows]. Grid (most pairs /
    BM, rows / BN, active).
    """
    expert = tl.load(active + tl.program_id(2))
    start = tl.load(starts + expert)
    count = tl.load(starts + expert + 1) - start
    first = tl.program_id(0) * BM
    if first < count:
        pair = first + tl.arange(0, BM)
        here = pair < count
        r = tl.program_id(1) * BN + tl.arange(0, BN)
        row = pointer8(tl.load(place + expert), ALIGN) + DOWN_START + r.to(tl.int64) * ROW_BYTES
        value = _tile(KIND, hidden, (start + pair).to(tl.int64), here, row, r < ROWS, FFN, BM, BN, GPU)
        if bias is not None:
            value = biased(value, bias + expert * ROWS * 4, r, ROWS)
        at = out + (start + pair)[:, None].to(tl.int64) * ROWS + r[None, :]
        tl.store(at, value, mask=here[:, None] & (r < ROWS)[None, :])
