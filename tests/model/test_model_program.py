"""A lone token's pass is recorded and run again as one program: nobody can tell, but by the clock.

`extend_all` of one id runs the same token step by step, so that it is what `extend` is compared with.
"""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import VOCAB, metadata, write_model

import localmoe
from localmoe.experts.plan import smallest
from localmoe.kernels.buffers import Block, Rows
from localmoe.kernels.program import Program
from localmoe.model.decoder import MOST_READ
from quant.gguf import GGUFFile


@pytest.fixture
def runs(monkeypatch):
    """Grows by one with each run of a program."""
    seen: list[int] = []
    run = Program.run

    def counted(self, pool):
        seen.append(len(self))
        run(self, pool)

    monkeypatch.setattr(Program, "run", counted)
    return seen


def ids_of(count, seed=0):
    return [int(i) for i in np.random.default_rng(seed).integers(3, VOCAB, count)]


def poison(model):
    """NaN in every float buffer, a wild value in every int8 one: nothing may be left from an earlier pass."""
    buffers = model.compute.buffers
    for value in vars(buffers).values():
        for block in value._blocks if isinstance(value, Rows) else [value]:
            if isinstance(block, Block):
                if block.array.dtype == np.float32:
                    block.array.fill(np.nan)
                elif block.array.dtype == np.int8 or block is buffers.scratch:
                    block.array.fill(85)


@pytest.mark.parametrize("kind", ["q4_k", "q4_0", "dense", "windowed", "float", "qwen3", "gpt-oss"])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_a_program_gives_the_bits_of_the_steps(kind, kv_type, tiny, runs):
    """At the first positions, across the borders of attention's blocks, and of the window."""
    ids, whole, threads = ids_of(520), {}, 1 + len(kind) % 3
    with localmoe.load(tiny(kind), threads=threads, kv_type=kv_type) as model:
        alone, stepped = model.decoder(), model.decoder()
        for start, end in ((0, 3), (254, 259), (298, 304), (510, 515)):
            for decoder in (alone, stepped):
                if start > len(decoder.tokens):
                    decoder.extend(ids[len(decoder.tokens) : start])
            for at in range(start, end):
                poison(model)
                got = alone.extend(ids[at : at + 1])
                poison(model)
                np.testing.assert_array_equal(got, stepped.extend_all(ids[at : at + 1])[0])
                whole[at] = got
        assert len(runs) == 19  # one for each id that `alone` was given by itself
        every = model.logits(ids[:515])
    for at, got in whole.items():
        assert np.isfinite(got).all()
        np.testing.assert_array_equal(got, every[at])


def test_decoders_take_turns_and_take_back(tiny, runs):
    """Programs over caches of two sizes, with a prefill of a third in between."""
    first, second = ids_of(40, 1), ids_of(40, 2)
    with localmoe.load(tiny("q4_k"), threads=2) as model:
        expected = [model.logits(ids) for ids in (first, second)]
        decoders = model.decoder(), model.decoder(300)
        for decoder, ids in zip(decoders, (first, second), strict=True):
            decoder.extend(ids[:10])
        for at in (*range(10, 25), *range(18, 40)):
            for decoder, ids, whole in zip(decoders, (first, second), expected, strict=True):
                if len(decoder.tokens) > at:
                    decoder.extend(ids_of(3, 3))
                    decoder.rewind(at)
                np.testing.assert_array_equal(decoder.extend([ids[at]]), whole[at])
            model.logits(ids_of(5, at))
    assert len(runs) == 2 * 37


def test_a_restored_conversation_goes_on(tiny, tmp_path, runs):
    ids = ids_of(30)
    with localmoe.load(tiny("q4_k"), threads=2) as model:
        decoder, other = model.decoder(), model.decoder()
        decoder.extend(ids[:29])
        expected = decoder.extend(ids[29:])
        decoder.rewind(29)
        decoder.save(tmp_path / "state", model.identity)
        other.extend(ids_of(1, 8))  # the program was recorded before the state came
        assert other.load(tmp_path / "state", model.identity) == 29
        np.testing.assert_array_equal(other.extend(ids[29:]), expected)
    assert len(runs) == 3


def test_logits_are_the_callers_to_keep(tiny):
    with localmoe.load(tiny("dense"), threads=1) as model:
        decoder = model.decoder()
        kept = decoder.extend([5])
        before = kept.copy()
        decoder.extend([6])
        np.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize("kind", ["q4_k", "windowed", "qwen3", "gpt-oss"])
def test_routing_and_statistics_are_those_of_the_steps(kind, tiny, runs):
    ids, seen = ids_of(60, 4), []
    for way in ("extend", "extend_all"):
        with localmoe.load(tiny(kind), threads=2, learn=False) as model:
            residency = model._engine.residency
            decoder = model.decoder()
            with residency.recording() as recorder:
                decoder.extend(ids[:20])
                for token in ids[20:]:
                    getattr(decoder, way)([token])
            seen.append((recorder.routing(), residency.statistics.arrays(), residency.counters))
            np.testing.assert_array_equal(recorder.routing(), model.routing(ids))
    assert len(runs) == 40
    (routing, arrays, counters), (stepped_routing, stepped_arrays, stepped_counters) = seen
    np.testing.assert_array_equal(routing, stepped_routing)
    assert counters == stepped_counters
    assert counters.decode_tokens == 40
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, stepped_arrays[name], err_msg=name)


def test_experts_that_move_are_asked_for_step_by_step(tiny, runs):
    ids = ids_of(60, 5)
    with localmoe.load(tiny("q4_k"), threads=2, learn=False) as model:
        expected, decoder = model.logits(ids), model.decoder()
        decoder.extend(ids[:5])
        for at in range(5, 60):
            np.testing.assert_array_equal(decoder.extend([ids[at]]), expected[at])
        needs = model.plan.needs
        assert len(runs) == 55
    ram = smallest(needs) + 3 * max(each.slot_bytes for each in needs.layout.classes)
    with localmoe.load(tiny("q4_k"), threads=2, learn=False, ram=ram) as model:
        decoder = model.decoder()
        decoder.extend(ids[:5])
        for at in range(5, 60):
            np.testing.assert_array_equal(decoder.extend([ids[at]]), expected[at])
        counters = model._engine.residency.counters
        assert counters.decode_tokens == 55
        assert counters.evictions > 0
        assert counters.decode_hits > 0
    assert len(runs) == 55


def test_exact_arithmetic_runs_step_by_step(tiny, runs):
    with localmoe.load(tiny("float"), threads=1, exact=True) as model:
        decoder = model.decoder()
        np.testing.assert_array_equal(decoder.extend([7]), model.logits([7])[0])
    assert not runs


@pytest.mark.parametrize("heads", [1, 3, 6, 7])
def test_groups_of_heads_of_any_size(heads, tmp_path, runs):
    """Attention takes four heads, two or one at a time; heads of 48 leave a sixteen of dimensions over."""
    changes = {"head_count": heads, "head_count_kv": 1, "dimension_count": 48, "value_length": 48,
               "llama.attention.key_length": 48, "block_count": 1}  # fmt: skip
    path = write_model(tmp_path / "heads.gguf", metadata(**changes), "f16")
    ids = ids_of(290)
    with localmoe.load(path, threads=2) as model:
        whole, decoder = model.logits(ids), model.decoder()
        decoder.extend(ids[:280])
        for at in range(280, 290):
            np.testing.assert_array_equal(decoder.extend([ids[at]]), whole[at])
    assert len(runs) == 10


@pytest.mark.parametrize("first", [1, 40, MOST_READ - 1, MOST_READ, 200])
def test_the_file_is_told_once_that_most_of_it_has_been_read(first, tiny, monkeypatch):
    told = []
    monkeypatch.setattr(GGUFFile, "expect_reuse", lambda file: told.append(file.path))
    ids = ids_of(first + 100)
    with localmoe.load(tiny("q4_k"), threads=1) as model:
        decoder = model.decoder()
        decoder.extend(ids[:first])
        for at in range(first, len(ids)):
            assert told == [tiny("q4_k")] * (at >= MOST_READ)
            decoder.extend(ids[at : at + 1])
    assert len(told) == 1
