"""The steps of a layer (`Cpu`) against NumPy, and the numerics rule: the same bits in any company."""

from __future__ import annotations

from dataclasses import replace

import kernel_reference as reference
import numpy as np
import pytest
from kernel_machine import Experts, Machine, Weight, shape, taken
from kernel_rows import FLOAT_TYPES, QUANTIZED, address

from localmoe.kernels.attention import COUNTERS
from localmoe.kernels.buffers import Rows
from localmoe.kernels.cpu import ROUTED_AT_ONCE
from localmoe.kernels.matrix import KERNEL_TYPES, Heads, Router
from quant.blocks import FORMATS

PLAIN = Heads()

MIXES = (  # gate, up, down
    ("q4_k", "q4_k", "q6_k"), ("q5_k", "q4_k", "q5_0"), ("q4_0", "q4_1", "q8_0"), ("f16", "q8_0", "f32"),
    ("bf16", "bf16", "bf16"), ("iq4_nl", "q5_1", "iq4_nl"), ("mxfp4", "mxfp4", "q8_0"),
)  # fmt: skip


def close(got, expected, tolerance=2e-5):
    """Within float32 rounding, relative to the largest value."""
    assert np.isfinite(got).all()
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def normal(rng, *dims):
    return rng.standard_normal(dims).astype(np.float32)


def close_through_int8(got, expected):
    """As `close`, but a value that float32 rounding carries over an edge of int8 moves by a step of 127."""
    assert np.isfinite(got).all()
    assert np.sqrt(np.mean((got - expected) ** 2)) <= 2e-3 * np.sqrt(np.mean(expected**2))


# ---------------------------------------------------------------- linear layers
@pytest.mark.parametrize("name", KERNEL_TYPES)
def test_qkv_is_the_references(name, rng):
    widths = shape(hidden=512 if FORMATS[name].block_size == 256 else 352)
    x = normal(rng, 5, widths.hidden)
    q, k, v = (Weight.random(name, rows, widths.hidden, rng) for rows in (128, 64, 64))
    for exact in (False, True):
        with Machine(widths, exact=exact) as machine:
            h = machine.normed(x)
            seen = taken(h, 5)
            out = machine.cpu.qkv(h, q.matrix, k.matrix, v.matrix)
            if name in QUANTIZED and not exact:
                seen = reference.as_int8(seen)
            for weight, rows in zip((q, k, v), out, strict=True):
                close(taken(rows, 5), reference.matvec(weight.values, seen))


@pytest.mark.parametrize("tokens", [1, 9])
def test_a_linear_layers_bias_is_added_once(tokens, rng):
    """To outputs of their own, and to what is added to a residual stream; rows that are no whole tiles."""
    x, weights = normal(rng, tokens, 256), [Weight.random("q8_0", rows, 256, rng) for rows in (128, 72, 40)]
    biases = [normal(rng, len(w.values)) for w in weights]
    matrices = [replace(w.matrix, bias=address(b)) for w, b in zip(weights, biases, strict=True)]
    with Machine(shape(), exact=True) as machine:
        h = machine.normed(x)
        seen = taken(h, tokens)
        outputs = tuple(Rows(16, len(w.values), False) for w in weights)
        machine.cpu._linear(h, tuple(matrices), outputs, tokens, keep=False)
        for w, bias, rows in zip(weights, biases, outputs, strict=True):
            close(taken(rows, tokens), reference.matvec(w.values, seen) + bias)
        square = Weight.random("q8_0", 256, 256, rng)
        residual = machine.rows(x)
        h = machine.norm(residual)
        machine.cpu.add_linear(residual, h, replace(square.matrix, bias=address(x)))
        close(taken(residual, tokens), x + reference.matvec(square.values, taken(h, tokens)) + x[0])


def test_a_lone_tokens_query_key_and_value_are_handed_out_in_items_of_one_size(rng):
    """Threads begin with equally many items: with unequal ones, one had three times the other's rows."""
    matrices = tuple(Weight.random("q8_0", rows, 2048, rng).matrix for rows in (2048, 512, 512))
    with Machine(shape(), threads=2) as machine:
        outputs = tuple(machine.rows(np.zeros((1, m.rows), np.float32)) for m in matrices)
        description, _, items = machine.cpu._describe(matrices, outputs, True)
        of_many, _, _ = machine.cpu._describe(matrices, outputs, False)
    assert items == (2048 + 512 + 512) // 32
    assert description[:, 7].tolist() == [32, 32, 32]  # rows of an item of each
    assert of_many[:, 7].tolist() == [64, 32, 32]  # whose tiles are unpacked two at a time


def test_a_linear_layer_adds_to_the_residual_stream(rng):
    x, attended = normal(rng, 4, 256), normal(rng, 4, 128)
    w = Weight.random("f32", 256, 128, rng)
    with Machine(shape(heads=4, head_dim=32)) as machine:
        residual = machine.rows(x)
        machine.cpu.buffers.attended.array[:4] = attended
        machine.cpu.add_linear(residual, machine.cpu.buffers.attended, w.matrix)
        close(taken(residual, 4), x + reference.matvec(w.values, attended))


@pytest.mark.parametrize("name", ["q4_k", "q6_k", "q5_1", "q8_0", "f16"])
def test_logits_of_the_last_and_of_all_tokens_agree(name, rng):
    x, w = normal(rng, 7, 256), Weight.random(name, 40, 256, rng)
    with Machine(shape()) as machine:
        h = machine.normed(x)
        every = machine.cpu.all_logits(h, w.matrix).copy()
        last = machine.cpu.last_logits(h, w.matrix).copy()
        np.testing.assert_array_equal(last, every[-1])
        seen = reference.as_int8(taken(h, 7)) if name in QUANTIZED else taken(h, 7)
        close(every, reference.matvec(w.values, seen))


@pytest.mark.parametrize("name", ["q4_k", "q4_0", "f32"])
def test_embedding_is_the_decoded_row(name, rng):
    w = Weight.random(name, 40, 256, rng)
    with Machine(shape()) as machine:
        machine.poison()
        ids = [3, 0, 39, 3]
        np.testing.assert_array_equal(taken(machine.cpu.embed(ids, w.matrix), 4), w.values[ids])


# ---------------------------------------------------------------- attention
def cache_of(widths, kv_type, context=1024):
    from types import SimpleNamespace

    from localmoe.model.kv_cache import KVCache

    config = SimpleNamespace(layers=1, kv_heads=widths.kv_heads, head_dim=widths.head_dim)
    return KVCache(config, context, kv_type)


def heads_of(widths, n, rng):
    """q, k and v of n positions: [n, heads, head_dim]."""
    counts = (widths.heads, widths.kv_heads, widths.kv_heads)
    return [normal(rng, n, heads, widths.head_dim) for heads in counts]


def attended(machine, cache, q, k, v, position, heads=PLAIN):
    """One chunk through `attend`: float32 [tokens, heads * head_dim]."""
    cpu, b, tokens = machine.cpu, machine.cpu.buffers, len(q)
    machine.rows(np.zeros((tokens, machine.cpu.shape.hidden), np.float32))
    for rows, values in zip((b.q, b.k, b.v), (q, k, v), strict=True):
        rows.array[:tokens] = values.reshape(tokens, -1)
    return taken(cpu.attend(b.q, b.k, b.v, cache.layers[0], position, heads), tokens)


def in_pieces(machine, cache, q, k, v, sizes, heads=PLAIN):
    """All positions, in chunks of these sizes: float32 [positions, heads * head_dim]."""
    out, at = [], 0
    for size in sizes:
        piece = slice(at, at + size)
        out.append(attended(machine, cache, q[piece], k[piece], v[piece], at, heads))
        at += size
    assert at == len(q)
    return np.concatenate(out)


SHAPES = [
    {"heads": 4, "kv_heads": 1},
    {"heads": 6, "kv_heads": 2, "rope_pairs": 8},
    {"heads": 2, "kv_heads": 2, "head_dim": 64, "rope_pairs": 32},
    {"heads": 4, "kv_heads": 2, "head_dim": 64, "rope_pairs": 32, "rope_halves": True},
    {"heads": 2, "kv_heads": 1, "head_dim": 64, "rope_pairs": 20, "rope_halves": True},
]


@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "f32"])
@pytest.mark.parametrize("changes", SHAPES)
def test_attention_is_the_references(changes, kv_type, window, rng):
    """300 positions: two blocks of 256 are merged. Heads of other widths, partly rotated, in groups."""
    widths, n = shape(**changes), 300
    q, k, v = heads_of(widths, n, rng)
    at, pairs, halves = np.arange(n), widths.rope_pairs, widths.rope_halves
    expected = reference.attention(
        reference.rotate(q, at, pairs, halves), reference.rotate(k, at, pairs, halves), v, 0, window
    )
    with Machine(widths, chunk=n) as machine:
        got = in_pieces(machine, cache_of(widths, kv_type), q, k, v, [n], Heads(window=window))
    close(got, expected.reshape(n, -1), {"f16": 2e-3, "q8_0": 3e-2, "f32": 1e-5}[kv_type])


@pytest.mark.parametrize("halves", [False, True])
def test_each_head_is_normed_before_it_is_rotated(halves, rng):
    widths, n = shape(heads=4, kv_heads=2, head_dim=48, rope_pairs=24, rope_halves=halves), 20
    q, k, v = heads_of(widths, n, rng)
    norms = normal(rng, 48), normal(rng, 48)
    turned = [
        reference.rotate(reference.rms_norm(x, weight, 1e-5), np.arange(n), 24, halves)
        for x, weight in zip((q, k), norms, strict=True)
    ]
    expected = reference.attention(*turned, v, 0).reshape(n, -1)
    for sizes in ([n], [1] * n):
        with Machine(widths, chunk=n) as machine:
            close(in_pieces(machine, cache_of(widths, "f32"), q, k, v, sizes, Heads(norms)), expected, 1e-5)


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("head_dim", [32, 128])
def test_a_sink_takes_its_share_of_each_heads_softmax(head_dim, sinks, rng):
    """Far above all scores, among them, far below; with a window; in prefill and decoding, the same bits."""
    widths, n = shape(heads=4, kv_heads=2, head_dim=head_dim, rope_pairs=head_dim // 2), 300
    q, k, v = heads_of(widths, n, rng)
    scores = np.array([60, 1, -60, 0], np.float32) if sinks else None
    turned = [reference.rotate(x, np.arange(n), head_dim // 2) for x in (q, k)]
    expected = reference.attention(*turned, v, 0, 100, scores).reshape(n, -1)
    results = []
    for sizes in ([n], [n - 20, *[1] * 20]):
        with Machine(widths, chunk=n) as machine:
            cache, heads = cache_of(widths, "f32"), Heads(None, scores, 100)
            results.append(in_pieces(machine, cache, q, k, v, sizes, heads))
    close(results[0], expected, 1e-5)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("window", [0, 100, 300])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "f32"])
def test_decoding_and_prefill_attend_alike_to_the_bit(kv_type, window, rng):
    """Beyond 512 positions a decoded token's blocks are computed apart and merged: in the same order."""
    widths, n = shape(heads=6), 530
    q, k, v = heads_of(widths, n, rng)
    heads = Heads(window=window)
    ways = ([n], [1] * n, [255, 1, 1, 254, 1, 18], [7] * 75 + [5])
    results = []
    for threads, sizes in zip((2, 3, 1, 2), ways, strict=True):
        with Machine(widths, threads=threads, chunk=max(sizes)) as machine:
            results.append(in_pieces(machine, cache_of(widths, kv_type), q, k, v, sizes, heads))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("head_dim", [128, 32])
def test_heads_merged_one_by_one_or_together_have_the_same_int8_form(head_dim, threads, rng):
    """Two query heads for each of two: with 128 dimensions a group of int8 of their own, with 32 not."""
    widths, n = shape(heads=4, kv_heads=2, head_dim=head_dim, rope_pairs=head_dim // 2), 530
    q, k, v = heads_of(widths, n, rng)
    forms = []
    for sizes in ([n], [n - 1, 1]):
        with Machine(widths, threads=threads, chunk=n) as machine:
            out, counters = machine.cpu.buffers.attended, machine.cpu.buffers.step.array[COUNTERS // 8 :]
            for block in out._blocks:
                block.array.view(np.uint8).fill(77)
            in_pieces(machine, cache_of(widths, "f16"), q, k, v, sizes)
            forms.append([block.array[sizes[-1] - 1].copy() for block in out._blocks])
            np.testing.assert_array_equal(counters, [0, 0])
    for alone, among in zip(*forms, strict=True):
        np.testing.assert_array_equal(alone, among)


def test_positions_that_were_taken_back_leave_nothing_behind(rng):
    widths = shape()
    q, k, v = heads_of(widths, 40, rng)
    with Machine(widths, chunk=40) as machine:
        clean, used = cache_of(widths, "f16"), cache_of(widths, "f16")
        attended(machine, used, q, np.full_like(k, 6e4), np.full_like(v, np.inf), 0)  # then forgotten
        parts = [in_pieces(machine, cache, q[:20], k[:20], v[:20], [20]) for cache in (clean, used)]
    np.testing.assert_array_equal(parts[0], parts[1])


# ---------------------------------------------------------------- mixture of experts
def experts_of(rng, types, hidden, ffn, count, parts=1):
    sizes = ((ffn, hidden), (ffn, hidden), (hidden, ffn))
    kinds = zip(types, sizes, strict=True)
    each = [[Weight.random(name, *size, rng) for _ in range(count)] for name, size in kinds]
    return Experts(*each, parts)


def mixed(machine, x, router, experts, bias=None):
    """x and what the experts add to it."""
    residual = machine.rows(x)
    h = machine.norm(residual)
    machine.cpu.add_experts(residual, h, Router(router, bias), experts)
    return taken(residual, len(x)), taken(h, len(x))


@pytest.mark.parametrize(
    ("types", "count", "used"), [*((mix, 5, 3) for mix in MIXES), (MIXES[0], ROUTED_AT_ONCE + 9, 8)]
)
def test_experts_are_the_references(types, count, used, rng):
    k_types = any(name.endswith("_k") for name in types)
    ffn = 512 if types[2] in ("q6_k", "q5_k", "q4_k") else 288
    widths = shape(hidden=256 if k_types else 352, ffn=ffn, experts=count, experts_used=used)
    experts = experts_of(rng, types, widths.hidden, ffn, count)
    x, router = normal(rng, 6, widths.hidden), normal(rng, count, widths.hidden)
    values = [np.stack([w.values for w in weights]) for weights in experts.weights]
    for exact in (False, True):
        with Machine(widths, exact=exact) as machine:
            got, h = mixed(machine, x, router, experts)
        chosen, weights = reference.route(h, router, used)
        np.testing.assert_array_equal(experts.observed[-1], chosen)
        int8 = tuple(name not in FLOAT_TYPES and not exact for name in types)
        expected = reference.mixture(h, chosen, weights, *values, int8)
        (close_through_int8 if int8[2] else close)(got - x, expected)


@pytest.mark.parametrize(("types", "count"), [(MIXES[2], 5), (MIXES[3], 5), (MIXES[5], ROUTED_AT_ONCE + 4)])
def test_biases_and_clamped_units_are_the_references_in_any_company(types, count, rng):
    """Of the router, of gate, up and down; tokens at once, threads, and how the experts are handed out."""
    widths = shape(hidden=352, ffn=288, experts=count, experts_used=4, clamped=True)
    plain = experts_of(rng, types, 352, 288, count)
    biases = tuple(normal(rng, count, rows) * 4 for rows in (288, 288, 352))
    experts = Experts(*plain.weights, biases=biases)
    x, router, bias = normal(rng, 9, 352), normal(rng, count, 352), normal(rng, count) * 9
    values = [np.stack([w.values for w in weights]) for weights in experts.weights]
    assert (np.abs(biases[1]) > 7).any()
    assert (biases[0] > 7).any()
    for exact in (False, True):
        with Machine(widths, exact=exact) as machine:
            got, h = mixed(machine, x, router, experts, bias)
        chosen, weights = reference.route(h, router, 4, bias)
        np.testing.assert_array_equal(experts.observed[-1], chosen)
        int8 = tuple(name not in FLOAT_TYPES and not exact for name in types)
        expected = reference.mixture(h, chosen, weights, *values, int8, biases, reference.clamped_swiglu)
        (close_through_int8 if int8[2] else close)(got - x, expected)
        for threads, parts, sizes in ((1, 1, [1] * 9), (2, 2, [4, 5]), (3, 1, [8, 1])):
            experts.parts = parts
            with Machine(widths, threads=threads, exact=exact) as machine:
                each = [mixed(machine, piece, router, experts, bias)[0]
                        for piece in np.split(x, np.cumsum(sizes)[:-1])]  # fmt: skip
            np.testing.assert_array_equal(np.concatenate(each), got)


@pytest.mark.parametrize("count", [6, ROUTED_AT_ONCE + 6])
def test_equal_router_logits_choose_the_lowest_index(count, rng):
    widths = shape(hidden=64, ffn=64, experts=count, experts_used=3)
    experts = experts_of(rng, ("f32", "f32", "f32"), 64, 64, count)
    row = normal(rng, 64)
    router = np.stack([row, row * 2] * (count // 2))
    with Machine(widths) as machine:
        for sign, expected in ((1, [1, 3, 5]), (-1, [0, 2, 4])):
            mixed(machine, sign * row[None], router, experts)
            np.testing.assert_array_equal(experts.observed[-1], [expected])


@pytest.mark.parametrize(
    ("types", "count", "used"), [*((mix, 4, 2) for mix in MIXES[:4]), (MIXES[0], ROUTED_AT_ONCE + 9, 8)]
)
def test_a_tokens_experts_do_not_depend_on_its_company(types, count, used, rng):
    """Tokens at once, threads, and how the experts are handed out: the same bits."""
    widths = shape(hidden=256, ffn=512, experts=count, experts_used=used)
    experts = experts_of(rng, types, 256, 512, count)
    x, router = normal(rng, 33, 256), normal(rng, count, 256)
    with Machine(widths, threads=1, chunk=33) as machine:
        alone = np.concatenate([mixed(machine, x[t : t + 1], router, experts)[0] for t in range(33)])
    for threads, parts, counts in ((1, 1, [33]), (2, 1, range(1, 10)), (3, 4, [33, 17]), (2, 2, [16])):
        experts.parts = parts
        with Machine(widths, threads=threads, chunk=33) as machine:
            for count in counts:
                index = rng.permutation(33)[:count]
                np.testing.assert_array_equal(mixed(machine, x[index], router, experts)[0], alone[index])


@pytest.mark.parametrize("name", ["q4_k", "q6_k", "q4_0", "q8_0", "bf16"])
def test_a_tokens_linear_layers_do_not_depend_on_its_company(name, rng):
    x, w = normal(rng, 65, 256), [Weight.random(name, rows, 256, rng) for rows in (128, 64, 64)]
    matrices = [weight.matrix for weight in w]
    with Machine(shape(), threads=1, chunk=65) as machine:
        each = [taken(machine.cpu.qkv(machine.normed(row), *matrices)[0], 1) for row in np.split(x, 65)]
        alone = np.concatenate(each)
    for threads, counts in ((1, [65]), (2, [*range(2, 10), 31, 32, 33, 64]), (3, [65])):
        with Machine(shape(), threads=threads, chunk=65) as machine:
            for count in counts:
                index = rng.permutation(65)[:count]
                got = taken(machine.cpu.qkv(machine.normed(x[index]), *matrices)[0], count)
                np.testing.assert_array_equal(got, alone[index])


DENSE = [("q4_k", "q4_k", "q6_k"), ("f32", "f32", "f32"), ("q8_0", "q5_0", "q4_1")]


@pytest.mark.parametrize("types", DENSE)
def test_a_dense_ffn_is_the_references_in_any_company(types, rng):
    ffn = 512 if types[2].endswith("_k") else 352
    gate, up = (Weight.random(name, ffn, 256, rng) for name in types[:2])
    down = Weight.random(types[2], 256, ffn, rng)
    x, results = normal(rng, 9, 256), []
    for threads, sizes in ((1, [9]), (2, [1] * 9), (3, [4, 5])):
        with Machine(shape(experts=0, experts_used=0, ffn=ffn), threads=threads) as machine:
            parts = []
            for part in np.split(x, np.cumsum(sizes)[:-1]):
                residual = machine.rows(part)
                h = machine.norm(residual)
                seen = taken(h, len(part))
                machine.cpu.add_dense(residual, h, gate.matrix, up.matrix, down.matrix)
                parts.append((taken(residual, len(part)), seen))
        results.append([np.concatenate(each) for each in zip(*parts, strict=True)])
    got, h = results[0]
    int8 = [name not in FLOAT_TYPES for name in types]
    inputs = [reference.requantized(h, each) for each in int8]
    inner = reference.swiglu(reference.matvec(gate.values, inputs[0]), reference.matvec(up.values, inputs[1]))
    close_through_int8(got - x, reference.matvec(down.values, reference.requantized(inner, int8[2])))
    for other, _ in results[1:]:
        np.testing.assert_array_equal(other, got)
