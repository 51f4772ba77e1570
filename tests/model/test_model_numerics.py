"""One rule: a token's logits depend on the tokens before it, and on nothing else, to the last bit."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
from tiny_models import VOCAB, metadata, write_model

import localmoe
from localmoe.errors import UsageError
from localmoe.kernels.cpu import Cpu
from localmoe.model.config import ModelConfig
from localmoe.model.decoder import Decoder
from localmoe.model.rope import rope_table

LONG = 530  # beyond two blocks of 256 positions, and beyond one chunk of prefill


def ids_of(count: int, seed: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(3, VOCAB, count)]


def in_pieces(decoder: Decoder, ids: list[int], sizes: list[int]) -> np.ndarray:
    """Logits after every id, fed in pieces of these sizes."""
    parts = np.split(np.array(ids), np.cumsum(sizes)[:-1])
    return np.concatenate([decoder.extend_all(part.tolist()) for part in parts])


@pytest.mark.parametrize("kind", ["q4_k", "small", "q4_0", "dense", "windowed", "qwen3", "gpt-oss"])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_chunks_and_threads_change_nothing(kind, kv_type, tiny):
    ids = ids_of(LONG)
    with localmoe.load(tiny(kind), threads=1, kv_type=kv_type) as model:
        whole = model.logits(ids)
        assert np.isfinite(whole).all()
        last = model.decoder().extend(ids)
    np.testing.assert_array_equal(last, whole[-1])
    for threads, sizes in ((2, [LONG]), (3, [1, 255, 5, 6, 7, 8, 9, 220, *[1] * 19]), (2, [17] * 31 + [3])):
        with localmoe.load(tiny(kind), threads=threads, kv_type=kv_type) as model:
            np.testing.assert_array_equal(in_pieces(model.decoder(), ids, sizes), whole)


@pytest.mark.parametrize("kind", ["q4_k", "small", "windowed", "qwen3", "gpt-oss"])
def test_decoding_is_prefill_one_token_at_a_time(kind, tiny):
    ids = ids_of(LONG, 1)
    with localmoe.load(tiny(kind), threads=2) as model:
        whole = model.logits(ids)
        decoder = model.decoder()
        for at, token in enumerate(ids):
            np.testing.assert_array_equal(decoder.extend([token]), whole[at])


@pytest.mark.parametrize("kind", ["q4_k", "dense", "qwen3", "gpt-oss"])
def test_only_the_last_token_of_a_prompt_passes_the_last_layers_ffn(kind, tiny, monkeypatch):
    """Its logits are what they were, and statistics still hear of every token."""
    computed: list[int] = []

    def spied(method):
        def call(cpu, *arguments):
            method(cpu, *arguments)
            computed.append(cpu.tokens)

        return call

    monkeypatch.setattr(Cpu, "add_experts", spied(Cpu.add_experts))
    monkeypatch.setattr(Cpu, "add_dense", spied(Cpu.add_dense))
    ids = ids_of(LONG, 2)
    with localmoe.load(tiny(kind), threads=2, learn=False) as model:
        layers, chunk = model.config.layers, model.compute.chunk
        sizes = [len(ids[at : at + chunk]) for at in range(0, LONG, chunk)]
        last = model.decoder().extend(ids)
        assert computed == [tokens for size in sizes for tokens in (*[size] * (layers - 1), 1)]
        computed.clear()
        whole = model.logits(ids)
        assert computed == [size for size in sizes for _ in range(layers)]
        np.testing.assert_array_equal(last, whole[-1])
        if kind == "q4_k":
            routing = model.routing(ids)
            assert routing.shape == (LONG, layers, model.config.experts_used)
            for at in (0, 17, LONG - 2):  # as they are routed when every token is the last one of a prompt
                np.testing.assert_array_equal(model.routing(ids[: at + 1])[-1], routing[at])


def test_a_sliding_window_is_one(tmp_path):
    """Beyond the window a token no longer matters; the layers above see further, so one layer is tested."""
    path = write_model(tmp_path / "w.gguf", metadata(block_count=1, sliding_window=40), "q8_0")
    ids = ids_of(100)
    other = [*ids_of(20, 9), *ids[20:]]
    with localmoe.load(path, threads=2) as model:
        a, b = model.logits(ids), model.logits(other)
    np.testing.assert_array_equal(a[59:], b[59:])  # position 59 sees 20..59
    assert (a[58] != b[58]).any()


def test_rewinding_forgets(tiny):
    ids, wrong = ids_of(300), ids_of(40, 5)
    with localmoe.load(tiny("q4_k"), threads=2) as model:
        whole = model.logits(ids)
        decoder = model.decoder()
        decoder.extend(ids[:260])
        decoder.extend(wrong)
        assert decoder.tokens == [*ids[:260], *wrong]
        decoder.rewind(200)
        assert decoder.tokens == ids[:200]
        np.testing.assert_array_equal(decoder.extend_all(ids[200:]), whole[200:])
        for bad in (-1, 301):
            with pytest.raises(ValueError, match="rewind"):
                decoder.rewind(bad)


def test_logits_touch_no_conversation(tiny):
    ids = ids_of(50)
    with localmoe.load(tiny("q4_k"), threads=2) as model:
        whole = model.logits(ids)
        decoder = model.decoder()
        decoder.extend(ids[:20])
        model.logits(ids_of(30, 7))
        np.testing.assert_array_equal(decoder.extend_all(ids[20:]), whole[20:])


def test_two_decoders_in_two_threads_do_not_disturb_each_other(tiny):
    conversations = [ids_of(90, seed) for seed in range(3)]
    with localmoe.load(tiny("q4_k"), threads=2) as model:
        expected = [model.logits(ids) for ids in conversations]
        got: list[list[np.ndarray]] = [[] for _ in conversations]

        def talk(which: int) -> None:
            decoder = model.decoder()
            for at in range(0, 90, 3):
                got[which].append(decoder.extend_all(conversations[which][at : at + 3]))

        threads = [threading.Thread(target=talk, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    for parts, whole in zip(got, expected, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_two_models_in_one_process(tiny):
    ids = ids_of(20)
    with localmoe.load(tiny("q4_k"), threads=2) as first, localmoe.load(tiny("dense"), threads=2) as second:
        a, b = first.logits(ids), second.logits(ids)
        together = [(first.logits(ids), second.logits(ids)) for _ in range(3)]
    for x, y in together:
        np.testing.assert_array_equal(x, a)
        np.testing.assert_array_equal(y, b)


def test_experts_in_tensors_of_their_own_are_the_same_experts(tiny, tmp_path):
    """Files from before April 2024 hold one tensor per expert."""
    from quant.gguf import GGUFFile, GGUFWriter

    with GGUFFile.open(tiny("q4_k")) as file, GGUFWriter(tmp_path / "old.gguf", file.metadata) as old:
        pieces = []
        for name, tensor in file.tensors.items():
            if "_exps" not in name:
                pieces.append((name, tensor.shape, tensor.type, tensor.data))
                continue
            for e in range(tensor.shape[0]):
                own = name.replace("_exps.", f".{e}.")
                pieces.append((own, tensor.shape[1:], tensor.type, tensor.data[e]))
        for name, shape, kind, _ in pieces:
            old.declare(name, shape, kind)
        for name, _, _, data in pieces:
            old.write(name, data)
    ids = ids_of(40)
    with localmoe.load(tiny("q4_k")) as merged, localmoe.load(tmp_path / "old.gguf") as separate:
        np.testing.assert_array_equal(separate.logits(ids), merged.logits(ids))
        np.testing.assert_array_equal(separate.routing(ids), merged.routing(ids))


def test_what_does_not_fit_is_refused(tiny):
    with localmoe.load(tiny("q4_k"), threads=1, context=16) as model:
        decoder = model.decoder()
        decoder.extend(ids_of(10))
        for bad in (ids_of(7), [VOCAB], [-1]):
            with pytest.raises(UsageError):
                decoder.extend(bad)
        assert len(decoder.tokens) == 10
        for call in (model.logits, model.routing):
            with pytest.raises(UsageError):
                call(ids_of(17))
            with pytest.raises(UsageError):
                call([])
        for bad_context in (17, 10**6):
            with pytest.raises(UsageError, match="loaded with 16"):
                model.decoder(bad_context)


def test_the_rotary_table_takes_little_more_memory_than_itself_to_make(tmp_path):
    """Beyond the first 4,096 positions, too, it is what one formula says."""
    config = ModelConfig.from_metadata(metadata(), tmp_path)
    tracemalloc.start()
    table = rope_table(config, 30_001)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1.5 * table.nbytes
    angles = np.arange(30_001)[:, None] * 10000.0 ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_array_equal(table, np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32))


PARTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate_inp",
         "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "output_norm")  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", PARTS)
def test_a_weight_that_is_not_a_number_shows_in_the_output(part, value, tmp_path):
    """The last one of a matrix, or of each expert's; in a prompt, and token by token."""

    def weight(name, shape):
        if part not in name:
            return None
        x = np.random.default_rng(3).standard_normal(shape).astype(np.float32) / 16
        x.reshape(4 if "_exps" in name else 1, -1)[:, -1] = value  # of 4 experts
        return x

    path = write_model(tmp_path / "m.gguf", metadata(block_count=1), "f32", weight=weight)
    for options in ({}, {"kv_type": "q8_0"}, {"exact": True}):
        with localmoe.load(path, threads=2, learn=False, **options) as model:
            assert not np.isfinite(model.logits([5, 6, 7])).all(axis=1).any()
            decoder = model.decoder()
            assert not any(np.isfinite(decoder.extend([token])).all() for token in (5, 6, 7))
