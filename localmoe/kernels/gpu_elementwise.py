"""Embedding, RMS norm, routing and the sum of expert outputs, as Triton kernels: one program per token."""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.gpu_formats import decode32, pointer8
from localmoe.kernels.gpu_words import planar, plane_lift


@triton.jit
def swiglu(gate: tl.tensor, up: tl.tensor) -> tl.tensor:
    """silu(gate) * up (Shazeer 2020)."""
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def gated(gate: tl.tensor, up: tl.tensor, CLAMPED: tl.constexpr) -> tl.tensor:
    """The model's gated unit: `swiglu`, or gpt-oss's, (u + 1) * g * sigmoid(1.702 g) with g = min(gate, 7)
    and u = up within +-7 (OpenAI 2025). What is no number stays none.
    """
    if CLAMPED:
        gate = tl.minimum(gate, 7.0, propagate_nan=tl.PropagateNan.ALL)
        up = tl.clamp(up, -7.0, 7.0, propagate_nan=tl.PropagateNan.ALL)
        return gate / (1.0 + tl.exp(-1.702 * gate)) * (up + 1.0)
    return swiglu(gate, up)


@triton.jit
def embed_kernel(
    ids: tl.tensor, x: tl.tensor, address: tl.tensor, KIND: tl.constexpr, COLS: tl.constexpr,
    ROW_BYTES: tl.constexpr,
    SUBS: tl.constexpr,
) -> None:  # fmt: skip
    """x[token] = row ids[token] of the embedding, float32. Grid (tokens, ceil(cols / 32 / SUBS))."""
    token = tl.program_id(0)
    row = pointer8(address, 2) + tl.load(ids + token).to(tl.int64) * ROW_BYTES
    sub = tl.program_id(1) * SUBS + tl.arange(0, SUBS)
    inside = sub < COLS // 32
    values = decode32(KIND, row + sub * 0, sub, inside)
    at = sub[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(x + token.to(tl.int64) * COLS + at, values, mask=inside[:, None])


@triton.jit
def norm_kernel(
    x: tl.tensor, weight: tl.tensor, h: tl.tensor, planes: tl.tensor, half: tl.tensor, epsilon: tl.tensor,
    COLS: tl.constexpr, BLOCK: tl.constexpr, DECODE: tl.constexpr,
) -> None:  # fmt: skip
    """h[token] = x / sqrt(mean(x²) + epsilon) * weight (Zhang & Sennrich 2019), float32, and the form that
    matrices multiply: planes (decoding one token) or bfloat16 rows."""
    token = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < COLS
    value = tl.load(x + token * COLS + i, mask=inside, other=0.0)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / COLS + epsilon)
    value = value * scale * tl.load(weight + i, mask=inside, other=0.0)
    tl.store(h + token * COLS + i, value, mask=inside)
    if DECODE:
        tl.store(planes + planar(i, COLS), value * plane_lift(i), mask=inside)
    else:
        tl.store(half + token * COLS + i, value.to(tl.bfloat16), mask=inside)


@triton.jit
def _choose(
    logits: tl.tensor, token: tl.tensor, chosen: tl.tensor, weights: tl.tensor, EXPERTS: tl.constexpr,
    PADDED: tl.constexpr, K: tl.constexpr,
) -> None:  # fmt: skip
    """A token's K largest of the logits [PADDED] (lowest index first on ties), and the softmax over those."""
    expert = tl.arange(0, PADDED)
    logits = tl.where(expert < EXPERTS, logits, float("-inf"))
    choice = tl.arange(0, 32)
    picked = tl.zeros([32], tl.int32)
    scores = tl.full([32], float("-inf"), tl.float32)
    for c in range(K):
        top = tl.max(logits, 0)
        # of NaN the last: never one that is not there
        best = tl.min(tl.where(logits == top, expert, EXPERTS - 1), 0)
        picked = tl.where(choice == c, best, picked)
        scores = tl.where(choice == c, top, scores)
        logits = tl.where(expert == best, float("-inf"), logits)
    shares = tl.where(choice < K, tl.exp(scores - tl.max(scores, 0)), 0.0)
    tl.store(chosen + token * K + choice, picked, mask=choice < K)
    tl.store(weights + token * K + choice, shares / tl.sum(shares, 0), mask=choice < K)


@triton.jit
def route_kernel(
    h: tl.tensor, router: tl.tensor, bias: tl.tensor, chosen: tl.tensor, weights: tl.tensor,
    COLS: tl.constexpr, EXPERTS: tl.constexpr,
    PADDED: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Each token's experts and their weights, by the router's logits: see `_choose`. `bias` float32
    [experts], or None.
    """
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, PADDED)
    logits = tl.zeros([PADDED], tl.float32)
    for first in range(0, COLS, BLOCK):
        i = first + tl.arange(0, BLOCK)
        inside = (expert[:, None] < EXPERTS) & (i[None, :] < COLS)
        rows = tl.load(router + expert[:, None] * COLS + i[None, :], mask=inside, other=0.0)
        logits += tl.sum(rows * tl.load(h + token * COLS + i, mask=i < COLS, other=0.0)[None, :], 1)
    if bias is not None:
        logits += tl.load(bias + expert, mask=expert < EXPERTS, other=0.0)
    _choose(logits, token, chosen, weights, EXPERTS, PADDED, K)


@triton.jit
def choose_kernel(
    logits: tl.tensor, chosen: tl.tensor, weights: tl.tensor, EXPERTS: tl.constexpr, PADDED: tl.constexpr,
    K: tl.constexpr,
) -> None:  # fmt: skip
    """As `route_kernel`, where the logits [tokens, EXPERTS] are there already."""
    token, expert = tl.program_id(0).to(tl.int64), tl.arange(0, PADDED)
    values = tl.load(logits + token * EXPERTS + expert, mask=expert < EXPERTS, other=0.0)
    _choose(values, token, chosen, weights, EXPERTS, PADDED, K)


@triton.jit
def combine_kernel(
    x: tl.tensor, out: tl.tensor, weights: tl.tensor, place_of: tl.tensor, COLS: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """x[token] += sum over choices, in router order, of weight * out[place of the pair]. Grid (tokens, cols
    / BLOCK).
    """
    token = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < COLS
    value = tl.load(x + token * COLS + i, mask=inside, other=0.0)
    for c in range(K):
        place = tl.load(place_of + token * K + c).to(tl.int64)
        value += tl.load(weights + token * K + c) * tl.load(out + place * COLS + i, mask=inside, other=0.0)
    tl.store(x + token * COLS + i, value, mask=inside)
