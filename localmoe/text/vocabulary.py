"""The vocabulary arrays of GGUF metadata, checked: pieces, kinds of piece, and the ids with a role.

Both kinds of tokenizer start from these. The keys are those of the GGUF specification (`tokenizer.ggml.*`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from localmoe.text.errors import TokenizerError

MAX_PIECES = 4_000_000  # ten times the largest known vocabulary; bounds what a hostile file can make us build

# Ends of a turn that files often leave out of tokenizer.ggml.eos_token_id, by the names they go by.
_END_OF_TURN = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>"),
    *("<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<|return|>", "<|call|>"),
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """`text` with U+FFFD for lone surrogates, which have no UTF-8 (bad bytes of a file become such)."""
    return _SURROGATES.sub("\ufffd", text)


class Kind(IntEnum):
    """The kinds of piece; GGUF and SentencePiece number them alike."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_KINDS = frozenset(map(int, Kind))


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
        special = np.isin(self.kinds, (Kind.CONTROL, Kind.USER_DEFINED))
        self.specials = {self.pieces[token]: token for token in np.flatnonzero(special).tolist()}
        ends.update(self.specials[piece] for piece in _END_OF_TURN if piece in self.specials)
        if {"<|return|>", "<|call|>"} <= self.specials.keys():  # harmony: one message of an answer ends there
            ends.discard(self.specials.get("<|end|>", -1))
        self.eos_ids = frozenset(ends)
        # A file may call its BOS an ordinary piece; it must still never be parsed out of text.
        for token in (*ends, *(() if self.bos_id is None else (self.bos_id,))):
            self.kinds[token] = Kind.CONTROL
            self.specials.setdefault(self.pieces[token], token)

    def _special(self, metadata: Mapping[str, Any], name: str) -> int | None:
        value = metadata.get(f"tokenizer.ggml.{name}")
        if value is None:
            return None
        if not isinstance(value, int | np.integer):
            raise TokenizerError(f"tokenizer.ggml.{name} is not a number")
        if value in (-1, 0xFFFFFFFF):  # how files say "none"
            return None
        if not 0 <= value < len(self.pieces):
            raise TokenizerError(f"tokenizer.ggml.{name} is {value}, outside the {len(self.pieces)} tokens")
        return int(value)

    def checked(self, token: int) -> int:
        """The id, if there is such a token.

        Raises:
            TokenizerError: otherwise.
        """
        if not 0 <= token < len(self.pieces):
            raise TokenizerError(f"token id {token} is outside the vocabulary of {len(self.pieces)}")
        return token


def _pieces(metadata: Mapping[str, Any]) -> list[str]:
    pieces = strings(metadata, "tokens")
    if not 0 < len(pieces) <= MAX_PIECES:
        raise TokenizerError(f"tokenizer.ggml.tokens has {len(pieces)} tokens")
    return pieces


def _kinds(metadata: Mapping[str, Any], pieces: list[str]) -> list[int]:
    kinds: list[int] = np.asarray(array(metadata, "token_type")).tolist()
    if len(kinds) != len(pieces):
        raise TokenizerError(f"tokenizer.ggml.token_type has {len(kinds)} entries for {len(pieces)} tokens")
    if any(kind not in _KINDS for kind in set(kinds)):
        raise TokenizerError("tokenizer.ggml.token_type holds a kind of token that is not 1 to 6")
    return kinds


def array(metadata: Mapping[str, Any], name: str) -> list[Any] | npt.NDArray[Any]:
    """A metadata array, which the reader gives as a list or as a NumPy array.

    Raises:
        TokenizerError: it is missing, or no array.
    """
    values = metadata.get(f"tokenizer.ggml.{name}")
    if values is None:
        raise TokenizerError(f"tokenizer.ggml.{name} is missing: the vocabulary cannot be read")
    if not isinstance(values, list | np.ndarray):
        raise TokenizerError(f"tokenizer.ggml.{name} is not an array")
    return values


def strings(metadata: Mapping[str, Any], name: str) -> list[str]:
    """A metadata array of text.

    Raises:
        TokenizerError: it is missing, or holds something else.
    """
    values = array(metadata, name)
    if not all(map(str.__instancecheck__, values)):
        raise TokenizerError(f"tokenizer.ggml.{name} holds something that is not text")
    return list(values)
