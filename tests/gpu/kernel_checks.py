"""Every Triton kernel against NumPy, on random data with odd shapes and poisoned outputs.

    TRITON_INTERPRET=1 python kernel_checks.py [NAME ...]      in the interpreter (test_gpu_kernels.py)
    python kernel_checks.py --device=cuda [NAME ...]           on a GPU (benchmarks/gpu_suite.py)

A check raises AssertionError. "Host" addresses are pinned memory on a GPU, so misses are really read over the
bus.
"""

import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from localmoe.kernels.gpu_formats import GPU_TYPES, row_bytes
from localmoe.kernels.gpu_launch import Launcher
from localmoe.kernels.gpu_tiles import ExpertShape
from localmoe.kernels.matrix import Matrix
from quant.blocks import FORMATS

QUANTIZED = [t for t in GPU_TYPES if t not in ("f32", "f16", "bf16")]


class Lab:
    """Tensors and encoded weights on one device."""

    def __init__(self, device):
        self.device, self.rng = device, np.random.default_rng(17)
        self.launch = Launcher(interpreted=device == "cpu")

    def tensor(self, array):
        return torch.tensor(array, device=self.device)  # always a copy

    def poisoned(self, *shape, dtype=torch.float32):
        return torch.full(shape, float("nan"), dtype=dtype, device=self.device)

    def host(self, array):
        """A tensor in host memory that the device can read."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory() if self.device != "cpu" else tensor.clone()

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def weights(self, rows, cols, kind):
        """Encoded rows uint8 [rows, bytes] and what they decode to, float64."""
        data = random_blocks(self.rng, rows, cols, kind)
        return data, FORMATS[kind].decode(data).astype(np.float64)

    def close(self, got, wanted, bound=1e-5, of=""):
        got = got.float().cpu().numpy()
        assert got.shape == wanted.shape, (got.shape, wanted.shape)
        assert np.isfinite(got).all(), "an output was not written"
        error = np.abs(got - wanted).max() / max(1e-30, np.abs(wanted).max())
        assert error < bound, f"relative error {error:.2e} {of}"


def random_blocks(rng, rows, cols, kind):
    """Valid blocks without the work of encoding: random codes under random small scales. uint8 [rows,
    bytes]
    """
    f = FORMATS[kind]
    if f.block_size == 1:
        return f.encode((rng.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32))
    blocks = rng.integers(0, 256, (rows * cols // f.block_size, f.block_bytes), dtype=np.uint8)
    step = 1 / np.sqrt(cols) / {"q2_k": 15, "q3_k": 40, "q4_k": 300, "q5_k": 600, "q6_k": 1500, "q8_0": 70,
        "q5_0": 9, "q5_1": 9}.get(kind, 4)
    if kind == "mxfp4":  # levels up to 12
        blocks[:, 0] = 125 - round(np.log2(cols) / 2) + rng.integers(-1, 2, len(blocks))
    of_minima = -4 if kind[-1] == "1" else 1.5 if kind == "q2_k" else 8
    for at in f.halves:
        scale = step * rng.uniform(0.5, 1.5, len(blocks)) * (1 if at == f.halves[0] else of_minima)
        blocks[:, at : at + 2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


LIFTS = np.array([2.0**100, 2.0**92, 2.0**84, 2.0**84], np.float32)


def planes(x):
    """[pieces of 64, 4 quads, 4 words, 4 bytes] → [bytes, quads, pieces, words], lifted; the last piece
    padded.
    """
    whole = np.zeros(-(-len(x) // 64) * 64, x.dtype)
    whole[: len(x)] = x
    return (whole.reshape(-1, 4, 4, 4) * LIFTS.astype(x.dtype)).transpose(3, 1, 0, 2).reshape(-1).copy()


def from_planes(x, cols):
    return (x.reshape(4, 4, -1, 4).transpose(2, 1, 3, 0) / LIFTS).reshape(-1)[:cols]


def cols_for(kind, blocks):
    return FORMATS[kind].block_size * blocks if FORMATS[kind].block_size > 1 else 32 * blocks


def check_linear(lab):
    for kind in GPU_TYPES:
        for rows, blocks in ((13, 3), (1, 11)):
            cols = cols_for(kind, blocks)
            data, w = lab.weights(rows, cols, kind)
            x, bias = lab.normal(cols), 9 + lab.normal(rows)
            stored, added = lab.tensor(data), lab.tensor(bias)
            y, matrix = lab.poisoned(rows + 5), Matrix(stored.data_ptr(), rows, cols, kind)
            lab.launch.linear(lab.tensor(planes(x)), y, matrix)
            assert torch.isnan(y[rows:]).all(), "rows beyond the matrix were written"
            lab.close(y[:rows], w @ x)
            matrix = replace(matrix, bias=added.data_ptr())
            lab.launch.linear(lab.tensor(planes(x)), y, matrix, add=True)
            lab.close(y[:rows], 2 * (w @ x) + bias)


def check_qkv(lab):
    """Three matrices of different types in one launch, without and with biases; rows that are no multiple of
    a tile's.
    """
    for kinds in (("q4_k", "q8_0", "q6_k"), ("f16", "q5_0", "q4_k"), ("q3_k", "q2_k", "q4_k")):
        cols, rows = 512, (150, 37, 37)
        x = lab.normal(cols)
        made = [lab.weights(r, cols, kind) for r, kind in zip(rows, kinds, strict=True)]
        stored = [lab.tensor(data) for data, _ in made]
        y = tuple(lab.poisoned(r + 3) for r in rows)
        matrices = tuple(
            Matrix(t.data_ptr(), r, cols, kind) for t, r, kind in zip(stored, rows, kinds, strict=True)
        )
        biases = [lab.normal(r) for r in rows]
        added = [lab.tensor(bias) for bias in biases]
        with_bias = tuple(replace(m, bias=t.data_ptr()) for m, t in zip(matrices, added, strict=True))
        for of, share in ((matrices, 0), (with_bias, 1)):
            lab.launch.qkv(lab.tensor(planes(x)), y, of)
            for out, r, (_, w), bias in zip(y, rows, made, biases, strict=True):
                assert torch.isnan(out[r:]).all(), "rows beyond the matrix were written"
                lab.close(out[:r], w @ x + share * bias)


def check_linear_many(lab):
    """Few tokens, whose weights are decoded tile by tile, and many, whose weights are widened first, in
    parts.
    """
    for kind in GPU_TYPES:
        rows, cols = 37, cols_for(kind, 2)
        data, w = lab.weights(rows, cols, kind)
        stored, scratch = lab.tensor(data), lab.poisoned(16 * cols + 5, dtype=torch.bfloat16)
        bias = lab.normal(rows)
        added = lab.tensor(bias)
        for tokens in (21, 150):
            x = lab.normal(tokens, cols)
            y = lab.poisoned(tokens + 1, rows)
            half = lab.tensor(x).to(torch.bfloat16)
            matrix = Matrix(stored.data_ptr(), rows, cols, kind)
            lab.launch.linear_many(half, y, matrix, tokens, scratch)
            assert torch.isnan(y[tokens]).all()
            lab.close(y[:tokens], half.float().cpu().numpy().astype(np.float64) @ w.T, 8e-3)
            matrix = replace(matrix, bias=added.data_ptr())
            lab.launch.linear_many(half, y, matrix, tokens, scratch, add=True)
            lab.close(y[:tokens], 2 * half.float().cpu().numpy().astype(np.float64) @ w.T + bias, 8e-3)


def check_expert_many(lab):
    """One expert of many tokens, its weights widened in parts."""
    for kinds in (("q4_k", "q4_k", "q6_k"), ("q2_k", "q2_k", "q3_k"), ("mxfp4", "mxfp4", "mxfp4")):
        hidden, inner, tokens, pairs, experts, expert = 256, 512, 90, 70, 3, 2
        shape = expert_shape(kinds, hidden, inner)
        shape, biases = with_biases(lab, shape, experts) if kinds[0] == "mxfp4" else (shape, None)
        data, decoded = make_expert(lab, shape)
        stored, half = lab.tensor(data), lab.tensor(lab.normal(tokens, hidden)).to(torch.bfloat16)
        token_of = lab.rng.permutation(tokens)[:pairs].astype(np.int32)
        inner_out = lab.poisoned(pairs + 1, inner, dtype=torch.bfloat16)
        out, scratch = lab.poisoned(pairs + 1, hidden), lab.poisoned(100 * inner, dtype=torch.bfloat16)
        lab.launch.expert_many(
            half, inner_out, out, shape, expert, stored.data_ptr(), lab.tensor(token_of), scratch
        )
        x = half.float().cpu().numpy().astype(np.float64)[token_of]
        assert torch.isnan(out[pairs]).all()
        wanted = [ffn(row, decoded) if biases is None else oss_ffn(row, decoded, biases, expert) for row in x]
        lab.close(out[:pairs], np.stack(wanted), 2e-2)


def expert_shape(kinds, hidden, ffn):
    gate, up, down = (Matrix(0, *s, k) for s,
        k in zip(((ffn, hidden), (ffn, hidden), (hidden, ffn)), kinds, strict=True))
    align = lambda n: -(-n // 64) * 64  # noqa: E731
    return ExpertShape(gate, up, down, (0, align(gate.nbytes), align(gate.nbytes) + align(up.nbytes)))


def make_expert(lab, shape):
    """An expert's bytes, uint8 [nbytes], and its three matrices in float64."""
    out, decoded = np.zeros(shape.nbytes, np.uint8), []
    for start, m in zip(shape.starts, (shape.gate, shape.up, shape.down), strict=True):
        data, w = lab.weights(m.rows, m.cols, m.type)
        out[start : start + m.nbytes] = data.reshape(-1)
        decoded.append(w)
    return out, decoded


def ffn(x, decoded, first=0, last=None):
    gate, up, down = decoded
    g = gate[first:last] @ x
    return down[:, first:last] @ (g / (1 + np.exp(-g)) * (up[first:last] @ x))


def with_biases(lab, shape, experts):
    """The shape as gpt-oss's, with random biases and another gated unit; and the biases, on the device (to be
    kept alive) and in float64.
    """
    biases = [lab.normal(experts, m.rows) * 3 for m in (shape.gate, shape.up, shape.down)]
    kept = [lab.tensor(bias) for bias in biases]
    parts = zip(("gate", "up", "down"), kept, strict=True)
    placed = {name: replace(getattr(shape, name), bias=t.data_ptr()) for name, t in parts}
    return replace(shape, clamped=True, **placed), (kept, *(b.astype(np.float64) for b in biases))


def oss_ffn(x, decoded, biases, expert, first=0, last=None):
    """As `ffn`, for gpt-oss: the share of inner rows first..last, and the whole bias of `down`."""
    gate, up, down = decoded
    _, of_gate, of_up, of_down = (b[expert] if i else b for i, b in enumerate(biases))
    g = np.minimum(gate[first:last] @ x + of_gate[first:last], 7)
    u = np.clip(up[first:last] @ x + of_up[first:last], -7, 7)
    return down[:, first:last] @ ((u + 1) * g / (1 + np.exp(-1.702 * g))) + of_down


def check_experts(lab):
    """A hit, a miss read through into a slot, a miss shared with the CPU and one that is all the CPU's, in
    one call.
    """
    wide = 512 if lab.device == "cpu" else 1536
    shapes = [(q, q, q, wide, 256) for q in QUANTIZED] + [("q5_k", "q5_k", "q8_0", wide, 256)]
    shapes += [("q4_k", "q4_k", "q6_k", wide, 256), ("q4_k", "q4_k", "q6_k", 768, 256)]  # rows of 630 bytes
    shapes += [("q2_k", "q2_k", "q3_k", 768, 256), ("q3_k", "q3_k", "q2_k", 768, 256)]  # of 330 and 252
    shapes += [("mxfp4", "mxfp4", "mxfp4", 544, 288)]  # of 153 and 289 bytes; as gpt-oss's
    for *kinds, inner, hidden in shapes:
        k, experts = 4, 7
        shape, biases = expert_shape(kinds, hidden, inner), None
        if hidden == 288:
            shape, biases = with_biases(lab, shape, experts)
        chosen = lab.rng.permutation(experts)[:k].astype(np.int32)
        made = [make_expert(lab, shape) for _ in range(k)]
        x = lab.normal(hidden)
        in_slot = lab.tensor(made[0][0])
        in_host = [lab.host(data) for data, _ in made]
        slots = torch.full((k, shape.nbytes), 0xA5, dtype=torch.uint8, device=lab.device)
        source = [in_slot.data_ptr()] + [t.data_ptr() for t in in_host[1:]]
        target = [in_slot.data_ptr()] + [slots[c].data_ptr() for c in range(1, k)]
        rows = [inner, inner, 256, 0]
        weights = lab.rng.random(k).astype(np.float32)
        hidden_out, y0 = lab.poisoned(k, inner), lab.normal(hidden)
        y = lab.tensor(y0.copy())
        args = [lab.tensor(chosen), *(lab.tensor(np.array(a, np.int64)) for a in (source, target))]
        args.append(lab.tensor(np.array(rows, np.int32)))
        lab.launch.gate_up(lab.tensor(planes(x)), hidden_out, shape, *args)
        lab.launch.down(hidden_out, y, lab.tensor(weights), shape, *args)
        if biases is None:
            wanted = y0 + sum(weights[c] * ffn(x, made[c][1], 0, rows[c]) for c in range(k))
        else:  # the bias of `down` also for the CPU's expert
            own = (oss_ffn(x, made[c][1], biases, chosen[c], 0, rows[c]) for c in range(k))
            wanted = y0 + sum(w * out for w, out in zip(weights, own, strict=True))
        lab.close(y, wanted, 1e-5, kinds)
        kept = slots.cpu().numpy()
        for start, m in zip(shape.starts, (shape.gate, shape.up, shape.down), strict=True):
            assert (kept[1, start : start + m.nbytes] == made[1][0][start : start + m.nbytes]).all(
                ), "the slot is not whole"
        half = 256 * shape.gate.row_bytes
        assert (kept[2, :half] == made[2][0][:half]).all(), "the shared rows did not come"
        assert (kept[2, half : shape.gate.nbytes] == 0xA5).all(), "more was read than the GPU's share"
        assert (kept[3] == 0xA5).all(), "the CPU's expert was read"
        again = lab.tensor(y0.copy())  # now from the slot that was filled on the way: the same bits
        args[1][1] = args[2][1]
        second = lab.poisoned(k, inner)
        lab.launch.gate_up(lab.tensor(planes(x)), second, shape, *args)
        lab.launch.down(second, again, lab.tensor(weights), shape, *args)
        assert torch.equal(y, again), "a miss and a hit differ"


def check_experts_many(lab):
    for kinds in [(q, q, q) for q in QUANTIZED] + [("q4_k", "q4_k", "q6_k")]:
        hidden, inner, experts, tokens, k = 256, 256, 3, 19, 2
        shape = expert_shape(kinds, hidden, inner)
        shape, biases = with_biases(lab, shape, experts) if kinds[0] == "mxfp4" else (shape, None)
        made = [make_expert(lab, shape) for _ in range(experts)]
        x = lab.normal(tokens, hidden)
        chosen = np.array([[t % 2, 2] for t in range(tokens)])
        order = np.argsort(chosen.reshape(-1), kind="stable")
        place_of = np.empty(tokens * k, np.int32)
        place_of[order] = np.arange(tokens * k)
        starts = np.zeros(experts + 1, np.int32)
        starts[1:] = np.cumsum(np.bincount(chosen.reshape(-1), minlength=experts))
        weights = lab.rng.random((tokens, k)).astype(np.float32)
        stored = [lab.tensor(data) for data, _ in made]
        place = lab.tensor(np.array([t.data_ptr() for t in stored], np.int64))
        half = lab.tensor(x).to(torch.bfloat16)
        inner_out, out = lab.poisoned(tokens * k, inner, dtype=torch.bfloat16), lab.poisoned(tokens * k,
            hidden)
        tables = lab.tensor(starts), lab.tensor((order // k).astype(np.int32))
        for active in ([2], [0, 1]):
            listed = lab.tensor(np.array(active, np.int32))
            lab.launch.gate_up_many(half, inner_out, shape, listed, place, *tables, tokens)
            lab.launch.down_many(inner_out, out, shape, listed, place, tables[0], tokens)
        y = lab.tensor(np.ones((tokens, hidden), np.float32))
        lab.launch.combine(y, out, lab.tensor(weights), lab.tensor(place_of), hidden, k, tokens)
        rounded = half.float().cpu().numpy().astype(np.float64)
        wanted = np.ones((tokens, hidden))
        for t in range(tokens):
            for c, e in enumerate(chosen[t]):
                out = ffn(rounded[t], made[e][1]) if biases is None else oss_ffn(
                    rounded[t], made[e][1], biases, e
                )
                wanted[t] += weights[t, c] * out
        lab.close(y, wanted, 2e-2)


def check_norm_and_embed(lab):
    for tokens, cols in ((1, 352), (5, 160)):
        for kind in ("q8_0", "q4_0", "f16"):
            data, w = lab.weights(9, cols, kind)
            stored, ids = lab.tensor(data), lab.rng.integers(0, 9, tokens).astype(np.int32)
            x = lab.poisoned(tokens, cols)
            lab.launch.embed(lab.tensor(ids), x, Matrix(stored.data_ptr(), 9, cols, kind), tokens)
            lab.close(x, w[ids], 1e-6)
        weight = lab.normal(cols)
        h, p, half = lab.poisoned(tokens, cols), lab.poisoned(-(-cols // 64) * 64), lab.poisoned(tokens, cols,
            dtype=torch.bfloat16)
        lab.launch.norm(x, lab.tensor(weight), h, p, half, 1e-5, tokens)
        v = x.cpu().numpy().astype(np.float64)
        wanted = v / np.sqrt((v * v).mean(1, keepdims=True) + 1e-5) * weight
        lab.close(h, wanted)
        if tokens == 1:
            lab.close(torch.from_numpy(from_planes(p.cpu().numpy(), cols)), wanted[0])
        else:
            lab.close(half, wanted, 8e-3)


def check_embed_k_quants(lab):
    for kind in ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q4_1", "q5_0", "q5_1", "mxfp4", "f32", "bf16"):
        data, w = lab.weights(5, 512, kind)
        rows = [4, 0, 2]
        if kind == "mxfp4":  # every code at the least scales and at a large one
            data[rows, 1:17] = np.arange(16) * 0x11
            data[rows, 0] = 0, 1, 250
            w = FORMATS[kind].decode(data).astype(np.float64)
        stored = lab.tensor(data)
        x = lab.poisoned(3, 512)
        lab.launch.embed(lab.tensor(np.array(rows, np.int32)), x, Matrix(stored.data_ptr(), 5, 512, kind), 3)
        same = np.array_equal(x.cpu().numpy(), w[rows].astype(np.float32))
        assert same, f"{kind} is not decoded to the bit"


def check_route(lab):
    """Few experts, whose logits one program has; many, for one token and for many: the same rules."""
    for experts, k, tokens in ((8, 2, 7), (5, 3, 3), (32, 4, 2), (40, 5, 1), (128, 8, 1), (100, 8, 70)):
        cols = 160
        router, h = lab.normal(experts, cols), lab.normal(tokens, cols)
        router[experts - 1] = router[1]  # a tie: the lower index goes first
        h[0] = 3 * router[1]
        bias = lab.normal(experts) * 30 if k in (3, 4, 8) else None
        if bias is not None:
            bias[experts - 1] = bias[1]
        chosen, weights = route(lab, h, router, k, bias)
        logits = h.astype(np.float64) @ router.T.astype(np.float64)
        if bias is not None:
            logits += bias
        wanted = np.argsort(-logits.round(4), axis=1, kind="stable")[:, :k]
        assert np.array_equal(chosen.cpu().numpy(), wanted), (chosen, wanted)
        assert wanted[0, :2].tolist() == [1, experts - 1]
        top = np.take_along_axis(logits, wanted, 1)
        e = np.exp(top - top[:, :1])
        lab.close(weights, e / e.sum(1, keepdims=True))
        h[-1, 3] = np.nan  # of no number: experts that there are, and weights that tell
        chosen, weights = route(lab, h, router, k, bias)
        assert chosen[-1].tolist() == [experts - 1] * k
        assert torch.isnan(weights[-1]).all()
        assert np.array_equal(chosen[:-1].cpu().numpy(), wanted[:-1])


def route(lab, h, router, k, bias=None):
    """What the router chooses for h [tokens, cols], and the weights."""
    tokens, experts = len(h), len(router)
    chosen = torch.full((tokens, k), -7, dtype=torch.int32, device=lab.device)
    weights, logits = lab.poisoned(tokens, k), lab.poisoned(tokens, experts)
    added = lab.tensor(bias) if bias is not None else None
    lab.launch.route(lab.tensor(h), lab.tensor(planes(h[0])), lab.tensor(router), added, logits, chosen,
                     weights, k, tokens)  # fmt: skip
    return chosen, weights


def attention_reference(q, keys, values, at, window, sinks=None):
    """q [heads, d], keys and values [kv_heads, positions, d], sinks [heads] → [heads * d], float64."""
    group, out = len(q) // len(keys), []
    low = max(0, at - window + 1) if window else 0
    for h, row in enumerate(q):
        s = keys[h // group, low : at + 1] @ row / np.sqrt(len(row))
        sink = -np.inf if sinks is None else sinks[h]
        top = max(s.max(), sink)
        p = np.exp(s - top)
        out.append(p / (p.sum() + np.exp(sink - top)) @ values[h // group, low : at + 1])
    return np.concatenate(out)


def make_cache(lab, heads, kv_heads, dim, context, q8):
    kind, scales = (torch.int8, dim // 32) if q8 else (torch.float16, 0)
    zeros = lambda *s, d: torch.zeros(*s, dtype=d, device=lab.device)  # noqa: E731
    return SimpleNamespace(
        heads=heads, kv_heads=kv_heads, head_dim=dim, context=context, q8=q8,
        keys=zeros(kv_heads, context, dim, d=kind), values=zeros(kv_heads, context, dim, d=kind),
        key_scales=zeros(kv_heads, context, scales, d=torch.float16),
        value_scales=zeros(kv_heads, context, scales, d=torch.float16),
    )  # fmt: skip


def cached(array, scales, q8):
    value = array.cpu().numpy().astype(np.float64)
    return value * np.repeat(scales.cpu().numpy().astype(np.float64), 32, -1) if q8 else value


def rms_norm(x, weight):
    v = x.astype(np.float64)
    return v / np.sqrt((v * v).mean(-1, keepdims=True) + 1e-5) * weight


def pair_order(dim, pairs, halves):
    """A head's dimensions in the order in which they are stored: the two of a pair side by side."""
    first = np.arange(2 * pairs).reshape(2, pairs).T if halves else np.arange(2 * pairs)
    return np.concatenate([first.reshape(-1), np.arange(2 * pairs, dim)])


def turn(x, angles, order):
    """x [tokens, heads, dim] in that order, its first pairs turned by angles [tokens, pairs]."""
    out, pairs = x.astype(np.float64)[..., order], angles.shape[1]
    a, b = out[..., : 2 * pairs : 2].copy(), out[..., 1 : 2 * pairs : 2].copy()
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    out[..., : 2 * pairs : 2], out[..., 1 : 2 * pairs : 2] = a * cos - b * sin, a * sin + b * cos
    return out


def appended(lab, cache, tokens, pairs, halves=False, normed=False, first=0):
    """Random queries, keys and values appended at position `first`, and checked: the queries [tokens, heads *
    dim] on the device, and in float64 [tokens, heads, dim]; keys and values as the cache holds them.
    """
    dim, context = cache.head_dim, cache.context
    angles = lab.rng.random((context, pairs)) * 6
    rope = np.stack([np.cos(angles), np.sin(angles)], 1 if halves else -1).astype(np.float32)
    q, k, v = (lab.normal(tokens, n, dim) for n in (cache.heads, cache.kv_heads, cache.kv_heads))
    norms = [lab.normal(dim) for _ in range(2)] if normed else None
    wanted = [rms_norm(x, norms[i]) if normed else x for i, x in enumerate((q, k))]
    order, now = pair_order(dim, pairs, halves), slice(first, first + tokens)
    turned_q, turned_k = (turn(x, angles[now], order) for x in wanted)
    tq, tk, tv = (lab.tensor(t) for t in (q, k, v))
    position = torch.full((1,), first, dtype=torch.int32, device=lab.device)
    weights = tuple(lab.tensor(w) for w in norms) if normed else None
    lab.launch.append(tq, tk, tv, weights, 1e-5, lab.tensor(rope), halves, cache, position, tokens)
    lab.close(tq, turned_q, 1e-5 if normed else 1e-6)
    held = []
    for array, scales, x in (
        (cache.keys, cache.key_scales, turned_k), (cache.values, cache.value_scales, v)
    ):  # fmt: skip
        held.append(cached(array, scales, cache.q8))
        error = np.abs(held[-1][:, now].transpose(1, 0, 2) - x).max()
        assert error < (1e-2 if cache.q8 else 1e-3) * np.abs(x).max()
        assert (np.delete(held[-1], np.arange(context)[now], 1) == 0).all()
    return tq, turned_q, *held


def check_append(lab):
    """Heads normed or not, rotary pairs side by side or half a head apart, some of a head's or all."""
    for dim, pairs, halves, normed in (
        (128, 64, True, True), (96, 40, True, True), (64, 28, True, False), (64, 32, False, True),
    ):  # fmt: skip
        for q8 in (False, True):
            appended(lab, make_cache(lab, 4, 2, dim, 256, q8), 5, pairs, halves, normed, first=9)


def check_attention(lab):
    """Append in prefill and one by one, then attend both ways; a window; a head dimension that is no power
    of two; normed heads with pairs half a head apart; sinks far below the scores, among and far above them.
    """
    for heads, kv_heads, dim, window, q8, tokens, qwen, sinks in (
        (8, 2, 64, 0, False, 300, False, None), (4, 4, 48, 0, False, 40, False, None),
        (6, 1, 64, 100, False, 290, False, None), (8, 2, 64, 0, True, 270, False, None),
        (8, 1, 128, 0, False, 40, True, None), (4, 1, 64, 0, True, 40, True, None),
        (8, 1, 64, 100, False, 400, False, (-60, 0, 1, 2, 4, 8, 60, -1)),
        (4, 1, 64, 0, True, 270, False, (3, 0, -2, 5)),
    ):  # fmt: skip
        scores = None if sinks is None else lab.tensor(np.array(sinks, np.float32))
        context, position = 512, torch.zeros(1, dtype=torch.int32, device=lab.device)
        cache = make_cache(lab, heads, kv_heads, dim, context, q8)
        tq, q, keys, values = appended(lab, cache, tokens, dim // 2 - 4, qwen, qwen)
        scale = dim**-0.5
        some = range(0, tokens, 1 if lab.device != "cpu" else 37)
        wanted = {t: attention_reference(q[t], keys, values, t, window, sinks) for t in some}
        out = lab.poisoned(tokens, heads * dim, dtype=torch.bfloat16)
        lab.launch.attend_many(tq, out, cache, position, tokens, scale, window, scores)
        lab.close(out[list(some)], np.stack(list(wanted.values())), 2e-2)
        partial = lab.poisoned(heads, context // 256, dim + 2)
        for t in (0, 37, tokens - tokens % 37):
            if t in wanted:
                one = lab.poisoned(-(-heads * dim // 64) * 64)
                position.fill_(t)
                lab.launch.attend(tq[t].contiguous(), one, cache, position, partial, scale, window, scores,
                    context // 256)
                got = torch.from_numpy(from_planes(one.cpu().numpy(), heads * dim))
                lab.close(got, wanted[t], 2e-3 if q8 else 1e-5)


def check_window(lab):
    """One token far behind the first blocks of a cache, of which few are launched for a window."""
    heads, dim, context = 4, 64, 1280
    cache = make_cache(lab, heads, 2, dim, context, False)
    for part in (cache.keys, cache.values):
        part.copy_(lab.tensor(lab.normal(2, context, dim)))
    keys, values = (cached(part, None, False) for part in (cache.keys, cache.values))
    q, partial = lab.normal(heads, dim), lab.poisoned(heads, context // 256, dim + 2)
    for window, at in ((1, 700), (2, 768), (128, 700), (128, 800), (257, 1024), (258, 1024)):
        out, position = lab.poisoned(heads * dim), lab.tensor(np.array([at], np.int32))
        lab.launch.attend(lab.tensor(q), out, cache, position, partial, dim**-0.5, window, None,
            context // 256)
        got = torch.from_numpy(from_planes(out.cpu().numpy(), heads * dim))
        lab.close(got, attention_reference(q, keys, values, at, window), of=f"window {window}")


CHECKS = {name.removeprefix("check_"): f for name, f in list(globals().items()) if name.startswith("check_")}


def run(device, names=None, say=print):
    lab = Lab(device)
    for name in names or CHECKS:
        began = time.perf_counter()
        CHECKS[name](lab)
        say(f"{name}: right, {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    assert row_bytes(12, 256) == 144
    on_gpu = "--device=cuda" in sys.argv
    run("cuda" if on_gpu else "cpu", [name for name in sys.argv[1:] if not name.startswith("--")])
