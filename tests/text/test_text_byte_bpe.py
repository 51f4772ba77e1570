"""Byte-level BPE from GGUF metadata: tekken as in mistral-common, others as in tokenizers."""

from __future__ import annotations

import json
import random
import time
import unicodedata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from localmoe.text.byte_bpe import PRE_TOKENIZERS
from localmoe.text.tokenizer import TokenizerError, load_tokenizer


def test_tekken_ids_and_text_are_mistral_commons(tekken: SimpleNamespace, data: SimpleNamespace) -> None:
    ours = load_tokenizer(tekken.metadata)
    rng = random.Random(0)
    planes = ((32, 127), (32, 127), (0x20, 0x3000), (0x4E00, 0x9FFF), (0x1F300, 0x1F700), (9, 14), (32, 33))
    made = [[chr(rng.randrange(*rng.choice(planes))) for _ in range(rng.randrange(80))] for _ in range(1500)]
    for text in (*data.CORPUS, *map("".join, made)):
        expected = tekken.raw.encode(text, bos=True, eos=False)
        assert ours.encode(text) == expected, text
        assert ours.decode(expected) == text


def test_tekken_text_never_makes_control_tokens(tekken: SimpleNamespace) -> None:
    ours = load_tokenizer(tekken.metadata)
    control = list(ours.markers())
    assert len(control) == 1000
    assert min(ours.encode("".join(control), bos=False)) >= 1000
    assert ours.control_id("[INST]") == 3
    assert ours.token_bytes(3) == b""
    assert ours.eos_ids == {2}


@given(st.text(st.characters(), max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_round_trips(tekken: SimpleNamespace, text: str) -> None:
    ours = _tekken(tekken)
    expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert ours.decode(ours.encode(text)) == expected


def _tekken(tekken: SimpleNamespace) -> Any:
    """Loaded once for all examples."""
    if not hasattr(tekken, "ours"):
        tekken.ours = load_tokenizer(tekken.metadata)
    return tekken.ours


def test_tekken_loads_quickly(tekken: SimpleNamespace) -> None:
    """131,072 pieces: 0.2 s of one core."""
    seconds = []
    for _ in range(3):
        began = time.process_time()
        load_tokenizer(tekken.metadata)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.6


def trained(name: str, corpus: tuple[str, ...]) -> tuple[Tokenizer, dict[str, Any]]:
    """A small BPE trained by the tokenizers library with this pattern, and its GGUF metadata."""
    tokenizer = Tokenizer(models.BPE())
    if PRE_TOKENIZERS[name].nfc:
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRE_TOKENIZERS[name].pattern), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*corpus, *(c + "s" for c in corpus)] * 3, trainer)
    vocabulary = tokenizer.get_vocab()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    return tokenizer, {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": [*pieces, "<|end|>", "<think>"],
        "tokenizer.ggml.token_type": [1] * len(pieces) + [3, 4],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.eos_token_id": len(pieces),
    }


TRAINED = ("gpt-2", "llama-bpe", "qwen2", "gpt-4o")
NASTY = (
    "I'LL say it's 1234567 o'clock\r\n  don't",
    "WE'VE we’ve '\u017f 'Ll 'tis 12.5e-3 ½³Ⅷ٣४ 20,000\t1\n22\r\n\r\n333",
    "cafe\u0301 caf\u00e9 \u212b q\u0323\u0307 q\u0307\u0323 \u1112\u1161\u11ab \u0915\u093c \ufb01 A\u030a",
    "!\u0301 >\u0338 \u0301\n\u0323 1\u0301",
    "   a    b\n\n\n   c \n \n\t\td\u00a0\u00a0e\u3000f  ",
    "It'S HTTPServer'll camelCase'D dž'ReX path/to//x/\r\n/y //\n/ #'ve 'VE",
    "中文123汉字、日本語!!!\n\n한국어?? 👩‍👩‍👧‍👦x🇫🇷1",
)


@pytest.mark.parametrize("name", TRAINED)
def test_ids_are_the_tokenizers_librarys(name: str, data: SimpleNamespace) -> None:
    oracle, metadata = trained(name, (*data.CORPUS, *NASTY))
    ours = load_tokenizer(metadata)
    for text in (*data.CORPUS, *NASTY):
        assert ours.encode(text, bos=False) == oracle.encode(text).ids, text
        read = unicodedata.normalize("NFC", text) if name == "qwen2" else text
        assert ours.decode(ours.encode(text)) == read


@pytest.mark.parametrize("name", TRAINED)
def test_long_texts_are_cut_where_the_pattern_cuts(name: str, data: SimpleNamespace) -> None:
    oracle, metadata = trained(name, data.CORPUS)
    rng = random.Random(3)
    words = ("a", "it's", "12", " ", "  ", "\n", "\r\n", ".", "_", "/", "你好", "。", "e\u0301", "!\u0338")
    text = "".join(rng.choices(words, k=40_000)) + " everywhere" * 20_000
    assert load_tokenizer(metadata).encode(text, bos=False) == oracle.encode(text).ids


def test_a_contraction_is_not_cut_from_its_word_in_a_long_text(data: SimpleNamespace) -> None:
    oracle, metadata = trained("gpt-4o", ("it's " * 9,))
    text = "it " * 5_460 + "  it's it's"
    assert text[16_382:16_386] == "it's", "where a run of 16,384 characters would end"
    assert load_tokenizer(metadata).encode(text, bos=False) == oracle.encode(text).ids


def test_the_pattern_of_o200k_is_tiktokens(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiktoken_ext import openai_public

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_arguments, **_options: {})
    assert PRE_TOKENIZERS["gpt-4o"].pattern == openai_public.o200k_base()["pat_str"]


def test_very_long_runs_of_one_kind_are_encoded(data: SimpleNamespace) -> None:
    ours = load_tokenizer(trained("llama-bpe", data.CORPUS)[1])
    text = " " * 1_000_000
    assert ours.decode(ours.encode(text)) == text


def test_user_defined_pieces_are_found_before_text_is_composed(data: SimpleNamespace) -> None:
    """As in tokenizers, where such pieces are not normalized: `>` and U+0338 would be one character."""
    oracle, metadata = trained("qwen2", data.CORPUS)
    ours = load_tokenizer(metadata)
    assert ours.encode("a<think>\u0338b") == [
        *oracle.encode("a").ids, ours.control_id("<think>"), *oracle.encode("\u0338b").ids
    ]  # fmt: skip


@pytest.mark.parametrize("eos", ["<|im_end|>", "<|endoftext|>"])
def test_both_of_qwens_ends_end_an_answer(eos: str, data: SimpleNamespace) -> None:
    """Files name one of them as EOS: the base models' the end of a text, the others the end of a turn."""
    metadata = trained("qwen2", data.CORPUS)[1]
    pieces = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    first = len(metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"] += pieces
    metadata["tokenizer.ggml.token_type"] += [3] * len(pieces)
    metadata |= {
        "tokenizer.ggml.eos_token_id": first + pieces.index(eos),
        "tokenizer.ggml.bos_token_id": first,
        "tokenizer.ggml.padding_token_id": first,
    }
    tokens = metadata["tokenizer.ggml.tokens"]
    tokens[tokens.index("<|end|>")] = "<|spare|>"
    ours = load_tokenizer(metadata)
    assert ours.eos_ids == {first, first + 2}
    assert ours.encode("") == [], "Qwen's prompts begin without BOS, though there is one"


def test_merge_order_counts_where_ids_do_not_follow_it(data: SimpleNamespace) -> None:
    oracle, metadata = trained("gpt-2", data.CORPUS)
    size = oracle.get_vocab_size()
    shuffled = np.random.default_rng(0).permutation(size)
    tokens = list(metadata["tokenizer.ggml.tokens"])
    for old, new in enumerate(shuffled):
        tokens[new] = metadata["tokenizer.ggml.tokens"][old]
    ours = load_tokenizer(metadata | {"tokenizer.ggml.tokens": tokens})
    for text in data.CORPUS:
        assert ours.encode(text) == [shuffled[token] for token in oracle.encode(text).ids], text


def test_user_defined_pieces_are_found_in_text_and_control_ones_are_not(data: SimpleNamespace) -> None:
    ours = load_tokenizer(trained("gpt-2", data.CORPUS)[1])
    ids = ours.encode("a<think>b<|end|>", bos=False)
    assert ours.control_id("<think>") in ids
    assert ours.control_id("<|end|>") not in ids
    assert ours.decode(ids) == "a<think>b<|end|>"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "'deepseek-llm'"),
        ({"tokenizer.ggml.pre": 7}, "pre is 7"),
        ({"tokenizer.ggml.pre": None}, "pre is missing"),
        ({"tokenizer.ggml.merges": None}, "merges is missing"),
        ({"tokenizer.ggml.merges": ["zz zz"]}, "'zzzz'"),
        ({"tokenizer.ggml.merges": [3]}, "merges holds something"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "258|2 tokens"),
    ],
)
def test_bad_metadata_is_named(data: SimpleNamespace, change: dict[str, Any], complaint: str) -> None:
    metadata = trained("gpt-2", data.CORPUS)[1] | change
    with pytest.raises(TokenizerError, match=complaint):
        load_tokenizer({key: value for key, value in metadata.items() if value is not None})


def test_pieces_outside_the_alphabet_and_missing_bytes_are_named(data: SimpleNamespace) -> None:
    base = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe"}
    letters = [data.byte_level(bytes((byte,))) for byte in range(256)]
    with pytest.raises(TokenizerError, match="alphabet"):
        load_tokenizer(base | {"tokenizer.ggml.tokens": ["日"], "tokenizer.ggml.token_type": [1]})
    with pytest.raises(TokenizerError, match="alphabet"):
        load_tokenizer(base | {"tokenizer.ggml.tokens": ["a\nb"], "tokenizer.ggml.token_type": [1]})
    with pytest.raises(TokenizerError, match="lacks 1 of the 256"):
        load_tokenizer(base | {"tokenizer.ggml.tokens": letters[:-1], "tokenizer.ggml.token_type": [1] * 255})
    twice = {"tokenizer.ggml.tokens": ["a", *letters], "tokenizer.ggml.token_type": [1] * 257}
    with pytest.raises(TokenizerError, match="twice"):
        load_tokenizer(base | twice)
