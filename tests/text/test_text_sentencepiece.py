"""SentencePiece rebuilt from GGUF metadata gives the library's own ids for the original model file."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from localmoe.text.tokenizer import TokenizerError, load_tokenizer


@pytest.fixture(scope="module")
def v1(data: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(
        original=sentencepiece.SentencePieceProcessor(model_file=str(data.DATA / data.V1)),
        ours=load_tokenizer(data.sentencepiece_metadata(data.V1)),
    )


def random_text(rng: random.Random) -> str:
    planes = ((32, 127), (32, 127), (0x20, 0x3000), (0x4E00, 0x9FFF), (0x1F300, 0x1F700), (9, 14), (32, 33))
    return "".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(rng.randrange(80)))


def test_ids_and_text_are_the_librarys(sentencepiece_name: str, data: SimpleNamespace) -> None:
    original = sentencepiece.SentencePieceProcessor(model_file=str(data.DATA / sentencepiece_name))
    ours = load_tokenizer(data.sentencepiece_metadata(sentencepiece_name))
    rng = random.Random(0)
    for text in (*data.CORPUS, *(random_text(rng) for _ in range(1500))):
        expected = original.encode(text)
        assert ours.encode(text, bos=False) == expected, text
        assert ours.decode(expected) == original.decode(expected), text
        assert ours.encode(text) == [1, *expected]


def test_decodes_any_ids_as_the_library_does(v1: SimpleNamespace) -> None:
    """Any ids whose bytes make UTF-8: for others the library and Python differ in how often U+FFFD stands."""
    rng = random.Random(1)
    often = [1, 2, 0, v1.original.piece_to_id("▁"), v1.original.piece_to_id("▁▁")]
    compared = 0
    for _ in range(3000):
        ids = [rng.choice([rng.randrange(32000), rng.randrange(3, 131), *often]) for _ in range(7)]
        expected = v1.original.decode(ids)
        if "\ufffd" not in expected:
            compared += 1
            assert v1.ours.decode(ids) == expected, ids
    assert compared > 2000


def test_text_never_makes_control_tokens(sentencepiece_name: str, data: SimpleNamespace) -> None:
    tokenizer = load_tokenizer(data.sentencepiece_metadata(sentencepiece_name))
    control = [piece for piece, token in tokenizer.markers().items() if tokenizer.is_control(token)]
    assert {"<s>", "</s>"} <= set(control)
    ids = tokenizer.encode("".join(control) + " " + " ".join(control), bos=False)
    assert not any(tokenizer.is_control(token) for token in ids)


def test_token_bytes_add_up_to_the_text(v1: SimpleNamespace, data: SimpleNamespace) -> None:
    for text in data.CORPUS:
        ids = v1.ours.encode(text)
        parts = [v1.ours.token_bytes(token, first=i == 1) for i, token in enumerate(ids)]
        assert b"".join(parts) == text.replace("▁", " ").encode(), text


def test_every_byte_has_its_piece(v1: SimpleNamespace) -> None:
    assert [v1.ours.token_bytes(3 + byte) for byte in range(256)] == [bytes((b,)) for b in range(256)]


@given(st.text(st.characters(), max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_round_trips(v1: SimpleNamespace, text: str) -> None:
    """Lone surrogates, which have no UTF-8, come back as U+FFFD; `▁` is how a space is written."""
    expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text).replace("▁", " ")
    assert v1.ours.decode(v1.ours.encode(text)) == expected


def test_loads_32k_pieces_quickly(data: SimpleNamespace) -> None:
    """Start-up waits for it: 20-30 ms of one core."""
    metadata = data.sentencepiece_metadata(data.V1)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        load_tokenizer(metadata)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.06


def test_user_defined_pieces_are_found_in_text(data: SimpleNamespace) -> None:
    tokenizer = load_tokenizer(data.small_metadata(["▁", "hi"], user_defined=("[INST]", "[/INST]")))
    begin, end = tokenizer.control_id("[INST]"), tokenizer.control_id("[/INST]")
    assert begin is not None
    ids = tokenizer.encode("[INST] hi [/INST]", bos=False)
    assert begin in ids
    assert end in ids
    assert not tokenizer.is_control(begin)
    assert tokenizer.decode(ids) == "[INST] hi [/INST]"


def test_space_prefix_follows_the_metadata(data: SimpleNamespace) -> None:
    metadata = data.small_metadata(["▁", "hi", "▁hi"]) | {"tokenizer.ggml.add_space_prefix": False}
    tokenizer = load_tokenizer(metadata)
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("hi", bos=False)] == [b"hi"]
    assert tokenizer.decode(tokenizer.encode(" hi")) == " hi"


def test_bos_follows_the_metadata(data: SimpleNamespace) -> None:
    tokenizer = load_tokenizer(data.small_metadata(["a"]) | {"tokenizer.ggml.add_bos_token": False})
    assert tokenizer.encode("a")[0] != tokenizer.bos_id


def test_ends_of_turn_are_recognised_by_name(data: SimpleNamespace) -> None:
    tokenizer = load_tokenizer(data.small_metadata(["a"], control=("<|im_end|>",)))
    assert tokenizer.eos_ids == {2, tokenizer.control_id("<|im_end|>")}
    assert tokenizer.eos_id == 2


@pytest.mark.parametrize("marked", [(3,), (2, 2)])
def test_the_unknown_piece_may_be_marked_oddly(
    v1: SimpleNamespace, data: SimpleNamespace, marked: tuple[int, ...]
) -> None:
    metadata = data.sentencepiece_metadata(data.V1)
    kinds = np.array(metadata["tokenizer.ggml.token_type"])
    kinds[[0, 31999][: len(marked)]] = marked
    odd = load_tokenizer(metadata | {"tokenizer.ggml.token_type": kinds})
    for text in data.CORPUS:
        assert odd.encode(text) == v1.ours.encode(text)


def test_an_end_marked_as_ordinary_is_still_control(data: SimpleNamespace) -> None:
    metadata = data.small_metadata(["e>", "<e>", "a"])
    assert 260 in load_tokenizer(metadata).encode("<e>", bos=False), "as an ordinary piece it is found"
    tokenizer = load_tokenizer(metadata | {"tokenizer.ggml.eos_token_id": 260})
    assert 260 not in tokenizer.encode("<e>", bos=False)
    assert tokenizer.is_control(260)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tokenizer.ggml.model": "t5"}, "'t5'"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model is missing"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer.ggml.tokens": []}, "tokenizer.ggml.tokens has 0 tokens"),
        ({"tokenizer.ggml.tokens": [3] * 261}, "tokens holds something"),
        ({"tokenizer.ggml.tokens": "x" * 261}, "tokenizer.ggml.tokens is not an array"),
        ({"tokenizer.ggml.tokens": 7}, "tokenizer.ggml.tokens is not an array"),
        ({"tokenizer.ggml.scores": ["x"] * 261}, "tokenizer.ggml.scores"),
        ({"tokenizer.ggml.token_type": ["x"] * 261}, "1 to 6"),
        ({"tokenizer.ggml.scores": [0.0]}, "tokenizer.ggml.scores"),
        ({"tokenizer.ggml.token_type": None}, "tokenizer.ggml.token_type is missing"),
        ({"tokenizer.ggml.token_type": [1]}, "1 entries for 261"),
        ({"tokenizer.ggml.token_type": [9] * 261}, "1 to 6"),
        ({"tokenizer.ggml.token_type": [1] * 261}, "marked as unknown"),
        ({"tokenizer.ggml.bos_token_id": 261}, "outside the 261 tokens"),
        ({"tokenizer.ggml.eos_token_id": -5}, "outside the 261 tokens"),
        ({"tokenizer.ggml.eos_token_id": "2"}, "eos_token_id is not a number"),
        ({"tokenizer.ggml.eos_token_id": np.zeros(2)}, "eos_token_id is not a number"),
        ({"tokenizer.ggml.token_type": [2, 3, 3, *[6] * 10, *[1] * 248]}, "SentencePiece"),
        ({"tokenizer.ggml.precompiled_charsmap": [1, 2, 3]}, "SentencePiece"),
        ({"tokenizer.ggml.precompiled_charsmap": ["x"]}, "SentencePiece"),
    ],
)
def test_bad_metadata_is_named(data: SimpleNamespace, change: dict[str, object], complaint: str) -> None:
    metadata = data.small_metadata(["a", "b"]) | change
    assert len(data.small_metadata(["a", "b"])["tokenizer.ggml.tokens"]) == 261
    with pytest.raises(TokenizerError, match=complaint) as caught:
        load_tokenizer({key: value for key, value in metadata.items() if value is not None})
    assert "\n" not in str(caught.value)


def test_ids_outside_the_vocabulary_are_named(v1: SimpleNamespace) -> None:
    for token in (-1, 32_000):
        with pytest.raises(TokenizerError, match=f"token id {token} .* 32000"):
            v1.ours.decode([token])


def test_a_piece_twice_is_named(data: SimpleNamespace) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml"):
        load_tokenizer(data.small_metadata(["a", "a"]))
