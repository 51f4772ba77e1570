"""Vocabularies for the tests: Mistral's own, from mistral-common's data, as GGUF metadata."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mistral_common
import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from localmoe.text.byte_bpe import PRE_TOKENIZERS, _alphabet

DATA = Path(mistral_common.__file__).parent / "data"
V1, V3, V7 = (
    "tokenizer.model.v1",
    "mistral_instruct_tokenizer_240323.model.v3",
    "mistral_instruct_tokenizer_241114.model.v7",
)

# Mistral's published template for Mixtral-8x7B-Instruct-v0.1, and its later form with system prompts.
V1_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CORPUS = (
    "",
    " ",
    "   ",
    "\n",
    "\t\n \n\n",
    "Hello",
    " Hello",
    "Hello ",
    "  two  spaces  everywhere  ",
    "The quick brown fox jumps over the lazy dog. 1234567890, 3.14159; 1e-5!",
    "def f(x):\n    return x ** 2\n\n\nclass A:\n\tpass\r\n",
    "naïve café — “quoted” ‘text’ … €£¥ ½",
    "Ωμέγα Привет мир שלום مرحبا ไทย नमस्ते 한국어",
    "你好,世界!这是一个测试。日本語のテキストです。",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷 e\u0301 \u200b zero\u00adwidth",
    "</s>",
    "<s>[INST] not a token [/INST]</s>",
    "<unk> <0x0A> ▁ ▁▁a <|im_start|>user\n<|im_end|>",
    "[SYSTEM_PROMPT]x[/SYSTEM_PROMPT] [TOOL_CALLS] [REFERENCE_DOC_1] [control_8]",
    "\x00\x01\x07\x1b[31mred\x1b[0m\x7f\x9b",
    "a" * 300,
    "\U0010ffff\ue000\ufffd",
    "http://example.org/a?b=c&d=%20#e /usr/local/bin C:\\Windows",
)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a protobuf message."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        elif key & 7 == 2:
            size = varint()
            yield key >> 3, data[at : at + size]
            at += size
        else:
            yield key >> 3, struct.unpack_from("<f", data, at)[0]
            at += 4


@cache
def sentencepiece_metadata(name: str) -> dict[str, Any]:
    """GGUF metadata of one of mistral-common's SentencePiece models."""
    pieces = [dict(_fields(v)) for k, v in _fields((DATA / name).read_bytes()) if k == 1]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece[1].decode() for piece in pieces],
        "tokenizer.ggml.scores": np.array([piece.get(2, 0) for piece in pieces], np.float32),
        "tokenizer.ggml.token_type": np.array([piece.get(3, 1) for piece in pieces], np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def small_metadata(
    words: list[str], user_defined: tuple[str, ...] = (), control: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A small SentencePiece vocabulary with byte fallback, as GGUF metadata."""
    pieces = ["<unk>", "<s>", "</s>", *control, *user_defined, *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [2, 3, 3, *[3] * len(control), *[4] * len(user_defined), *[6] * 256]
    pieces, kinds = pieces + words, kinds + [1] * len(words)
    scores = [0.0] * (len(pieces) - len(words)) + [-float(i) for i in range(len(words))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


_LETTERS = {byte: chr(code_point) for code_point, byte in _alphabet().items()}


def byte_level(data: bytes) -> str:
    """Bytes in GPT-2's alphabet."""
    return "".join(_LETTERS[byte] for byte in data)


def byte_bpe(
    pre: str, corpus: Iterable[str], control: tuple[str, ...], user_defined: tuple[str, ...] = ()
) -> tuple[Tokenizer, dict[str, Any]]:
    """A small byte-level BPE trained by the tokenizers library with added tokens, and its GGUF metadata."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=PRE_TOKENIZERS[pre].ranked_by_id))
    if PRE_TOKENIZERS[pre].nfc:
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRE_TOKENIZERS[pre].pattern), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=to_bytes.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([*corpus, "user system assistant"] * 3, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in control])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in user_defined])
    vocabulary = tokenizer.get_vocab()
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = dict.fromkeys(control, 3) | dict.fromkeys(user_defined, 4)
    return tokenizer, {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": [kinds.get(piece, 1) for piece in pieces],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.add_bos_token": False,
    }


@cache
def _tekken_pieces() -> tuple[str, ...]:
    data = json.loads((DATA / "tekken_240718.json").read_text("utf-8"))
    size = data["config"]["default_vocab_size"] - data["config"]["default_num_special_tokens"]
    return tuple(byte_level(base64.b64decode(entry["token_bytes"])) for entry in data["vocab"][:size])


@pytest.fixture(scope="session")
def tekken() -> SimpleNamespace:
    """Tekken: mistral-common's tokenizer and the same as GGUF metadata."""
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    oracle = MistralTokenizer.v3(is_tekken=True)
    raw = oracle.instruct_tokenizer.tokenizer
    special = [entry["token_str"] for entry in raw._all_special_tokens]
    pieces = _tekken_pieces()
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "tekken",
        "tokenizer.ggml.tokens": special + list(pieces),
        "tokenizer.ggml.token_type": np.array([3] * len(special) + [1] * len(pieces), np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return SimpleNamespace(oracle=oracle, raw=raw, metadata=metadata)


@pytest.fixture(scope="session", params=[V1, V3, V7])
def sentencepiece_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def data() -> SimpleNamespace:
    """What the tests of this directory share: texts, templates and makers of metadata."""
    return SimpleNamespace(
        DATA=DATA,
        V1=V1,
        V3=V3,
        V7=V7,
        V1_TEMPLATE=V1_TEMPLATE,
        CHATML=CHATML,
        CORPUS=CORPUS,
        sentencepiece_metadata=sentencepiece_metadata,
        small_metadata=small_metadata,
        byte_level=byte_level,
        byte_bpe=byte_bpe,
    )
