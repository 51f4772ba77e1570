"""Streamed text is the decoded text: split characters are joined, no space appears in front."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localmoe.text.stream import TextStream
from localmoe.text.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(data: SimpleNamespace) -> Tokenizer:
    return load_tokenizer(data.sentencepiece_metadata(data.V1))


@given(st.lists(st.integers(0, 400) | st.integers(0, 31999), max_size=12))
@settings(max_examples=200, deadline=None)
def test_pieces_add_up_to_decode(tokenizer: Tokenizer, ids: list[int]) -> None:
    stream = TextStream(tokenizer)
    parts = [stream.push(token) for token in ids]
    assert "".join(parts) + stream.finish() == tokenizer.decode(ids)
    assert not any("\ufffd" in part for part in parts if not _has_bad_bytes(tokenizer, ids))


def _has_bad_bytes(tokenizer: Tokenizer, ids: list[int]) -> bool:
    try:
        return "\ufffd" in b"".join(map(tokenizer.token_bytes, ids)).decode()
    except UnicodeDecodeError:
        return True


def test_a_character_split_between_tokens_waits(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🦭", bos=False)
    stream = TextStream(tokenizer)
    assert [stream.push(token) for token in ids] == ["", "", "", "", "🦭"]
    assert stream.finish() == ""


def test_an_unfinished_character_is_shown_as_such(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    for token in tokenizer.encode("🦭", bos=False)[:-1]:
        assert stream.push(token) == ""
    assert stream.finish() == "\ufffd"


def test_first_space_is_the_encoders(tokenizer: Tokenizer) -> None:
    hello = tokenizer.encode("Hello world", bos=False)
    assert "".join(map(TextStream(tokenizer).push, hello)) == "Hello world"
    assert "".join(map(TextStream(tokenizer).push, [1, *hello])) == "Hello world", "BOS is no text"
    assert "".join(map(TextStream(tokenizer, continues=True).push, hello)) == " Hello world"
    assert "".join(map(TextStream(tokenizer).push, tokenizer.encode("  two", bos=False))) == "  two"
