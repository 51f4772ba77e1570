"""What the kernels should compute, in NumPy and float64, written to be read beside the papers.

Shapes are those of one chunk of tokens: x [tokens, cols]. Nothing here knows of blocks, threads or SIMD.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GROUP = 256  # activations that share one int8 scale


def quantize_activations(x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """q = rint(x * 127 / max|x|) in groups of 256, the last group filled with zeros.

    x float32 [tokens, cols] → int8 [tokens, groups, 256], float32 scales [tokens, groups].
    """
    tokens, cols = x.shape
    groups = -(-cols // GROUP)
    padded = np.zeros((tokens, groups * GROUP), np.float32)
    padded[:, :cols] = x
    padded = padded.reshape(tokens, groups, GROUP)
    largest = np.abs(padded).max(-1)
    with np.errstate(divide="ignore"):
        inverse = np.where(largest == 0, np.float32(0), np.float32(127) / largest)
    return np.rint(padded * inverse[..., None]).astype(np.int8), largest / np.float32(127)


def as_int8(x: NDArray[np.float32]) -> Floats:
    """The values that int8 activations stand for: float64 [tokens, cols]."""
    q, scales = quantize_activations(x)
    values = q.astype(np.float64) * scales.astype(np.float64)[..., None]
    return values.reshape(len(x), -1)[:, : x.shape[1]]


def matvec(w: NDArray[np.float32], x: NDArray[np.floating]) -> Floats:
    """y[t] = w · x[t]: [tokens, rows]."""
    return x.astype(np.float64) @ w.astype(np.float64).T


def rms_norm(x: NDArray[np.floating], weight: NDArray[np.float32], epsilon: float) -> Floats:
    """x / sqrt(mean(x²) + ε) * weight (Zhang & Sennrich 2019)."""
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


def rotate(
    x: Floats, positions: NDArray[np.int64], pairs: int, halves: bool = False, base: float = 10000.0
) -> Floats:
    """Rotates the pairs (2i, 2i + 1) of each head, or with `halves` (i, i + pairs), by position * base**(-i
    / pairs) (Su et al. 2021).

    x [tokens, heads, head_dim]; dimensions from 2 * pairs on are left alone.
    """
    angles = positions[:, None] * base ** (-np.arange(pairs) / pairs)  # [tokens, pairs]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = (slice(pairs), slice(pairs, 2 * pairs)) if halves else (
        slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2))  # fmt: skip
    a, b = x[..., first], x[..., second]
    out = x.astype(np.float64).copy()
    out[..., first] = a * cos - b * sin
    out[..., second] = a * sin + b * cos
    return out


def softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(
    q: Floats, k: Floats, v: Floats, first: int, window: int = 0, sinks: Floats | None = None
) -> Floats:
    """Causal grouped-query attention of the queries at positions first.. over all keys (from position 0).

    q [tokens, heads, head_dim]; k and v [positions, kv_heads, head_dim] → [tokens, heads, head_dim].
    window > 0: a token sees that many positions, its own among them. sinks [heads]: a score more for each
    head's softmax, whose weight is of no value.
    """
    tokens, heads, head_dim = q.shape
    group = heads // k.shape[1]
    out = np.zeros_like(q, np.float64)
    for t in range(tokens):
        at = first + t
        seen = slice(max(0, at - window + 1) if window else 0, at + 1)
        for h in range(heads):
            keys, values = k[seen, h // group], v[seen, h // group]
            scores = keys @ q[t, h] / np.sqrt(head_dim)
            if sinks is not None:
                scores = np.append(scores, sinks[h])
            out[t, h] = softmax(scores)[: len(values)] @ values
    return out


def route(
    h: NDArray[np.floating], router: NDArray[np.float32], k: int, bias: Floats | float = 0.0
) -> tuple[NDArray[np.int64], Floats]:
    """The k experts with the largest logits, best first (lowest index on ties); the softmax over those."""
    logits = matvec(router, h) + bias
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return chosen, softmax(np.take_along_axis(logits, chosen, 1))


def swiglu(gate: Floats, up: Floats) -> Floats:
    """silu(gate) * up (Shazeer 2020)."""
    with np.errstate(over="ignore"):  # e**-gate beyond float64: the quotient is 0, as it should be
        return gate / (1 + np.exp(-gate)) * up


def clamped_swiglu(gate: Floats, up: Floats) -> Floats:
    """gpt-oss's unit (OpenAI 2025)."""
    g, u = np.minimum(gate, 7), np.clip(up, -7, 7)
    return (u + 1) * swiglu(g * 1.702, 1 / np.float64(1.702))


def requantized(x: Floats, int8: bool) -> Floats:
    return as_int8(x.astype(np.float32)) if int8 else x


def mixture(
    h: NDArray[np.float32], chosen: NDArray[np.int64], weights: Floats, gate: NDArray[np.float32],
    up: NDArray[np.float32], down: NDArray[np.float32], int8: tuple[bool, bool, bool],
    biases: tuple[NDArray[np.float32], ...] | None = None, unit: Callable[[Floats, Floats], Floats] = swiglu,
) -> Floats:  # fmt: skip
    """The weighted sum of the chosen experts' FFNs.

    h [tokens, hidden]; gate, up [experts, ffn, hidden]; down [experts, hidden, ffn] → [tokens, hidden].

    `int8`: whether gate, up and down meet activations in int8 (quantized types do) or in float; `biases` of
    gate, up and down [experts, rows].
    """
    out = np.zeros((len(h), down.shape[1]))
    for t in range(len(h)):
        row = h[t : t + 1]
        for e, w in zip(chosen[t], weights[t], strict=True):
            g, u = matvec(gate[e], requantized(row, int8[0])), matvec(up[e], requantized(row, int8[1]))
            g_bias, u_bias, d_bias = (b[e] for b in biases) if biases else (0.0, 0.0, 0.0)
            inner = unit(g + g_bias, u + u_bias)
            out[t] += w * (matvec(down[e], requantized(inner, int8[2]))[0] + d_bias)
    return out
