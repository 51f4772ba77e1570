"""The vocabulary arrays of GGUF metadata, checked: pieces, kinds of piece, and the ids with a role.

Both kinds of tokenizer start from these. The keys are those of the GGUF specification (`tokenizer.ggml.*`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

from localmoe.text.errors import TokenizerError

MAX_PIECES = 4_000_000  # ten times the largest known vocabulary; bounds what a hostile file can make us build

# Ends of a turn that files often leave out of tokenizer.ggml.eos_token_id, by the names their authors gave
# them.
_END_OF_TURN = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>"),
    *("<|end_of_text|>", "<|endoftext|>", "<end_of_turn>"),
)


class Kind(IntEnum):
    """The kinds of piece; GGUF and SentencePiece number them alike."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Vocabulary:
    """Pieces and their kinds, with the ids that begin and end a sequence."""

    def __init__(self, metadata: Mapping[str, Any], *, adds_bos: bool) -> None:
        self.pieces = _pieces(metadata)
        self.kinds = _kinds(metadata, self.pieces)
        self.unknown_id = self._special(metadata, "unknown_token_id")
        self.bos_id = self._special(metadata, "bos_token_id")
        adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", adds_bos))
        self.adds_bos = adds_bos and self.bos_id is not None
        self.eos_id = self._special(metadata, "eos_token_id")
        named = (self._special(metadata, f"{name}_token_id") for name in ("eos", "eot", "eom"))
        ends = {token for token in named if token is not None}
        self.specials = {
            self.pieces[token]: token
            for token, kind in enumerate(self.kinds)
            if kind in (Kind.CONTROL, Kind.USER_DEFINED)
        }
        ends.update(self.specials[piece] for piece in _END_OF_TURN if piece in self.specials)
        self.eos_ids = frozenset(ends)
        # A file may call its BOS an ordinary piece; it must still never be parsed out of text.
        for token in (*ends, *(() if self.bos_id is None else (self.bos_id,))):
            self.kinds[token] = Kind.CONTROL
            self.specials.setdefault(self.pieces[token], token)

    def _special(self, metadata: Mapping[str, Any], name: str) -> int | None:
        value = metadata.get(f"tokenizer.ggml.{name}")
        if value is None or int(value) in (-1, 0xFFFFFFFF):
            return None
        if not 0 <= int(value) < len(self.pieces):
            raise TokenizerError(f"tokenizer.ggml.{name} is {value}, outside the {len(self.pieces)} tokens")
        return int(value)


def _pieces(metadata: Mapping[str, Any]) -> list[str]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None or not 0 < len(tokens) <= MAX_PIECES:
        raise TokenizerError("tokenizer.ggml.tokens is missing, empty or far too long")
    if all(map(str.__instancecheck__, tokens)):
        return list(tokens)
    return [_text(token) for token in tokens]


def _text(token: Any) -> str:
    if isinstance(token, str):
        return token
    if isinstance(token, bytes):
        return token.decode("utf-8", "replace")
    raise TokenizerError(f"tokenizer.ggml.tokens holds {type(token).__name__}, not text")


def _kinds(metadata: Mapping[str, Any], pieces: list[str]) -> list[int]:
    types = metadata.get("tokenizer.ggml.token_type")
    if types is None:
        raise TokenizerError("tokenizer.ggml.token_type is missing: control tokens cannot be told from text")
    kinds = numbers(types)
    if len(kinds) != len(pieces):
        raise TokenizerError(f"tokenizer.ggml.token_type has {len(kinds)} entries for {len(pieces)} tokens")
    if not set(kinds) <= set(Kind):
        raise TokenizerError("tokenizer.ggml.token_type holds a kind of token that is not 1 to 6")
    return kinds


def numbers(values: Iterable[Any]) -> list[Any]:
    """A metadata array as a list of Python numbers, whether the reader gave a list or a NumPy array."""
    return list(values.tolist() if hasattr(values, "tolist") else values)
