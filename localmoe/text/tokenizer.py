"""Tokenizers: from a GGUF file's metadata to something that turns text into token ids and back.

Encoding takes text as text. A control token such as `</s>` is never parsed out of it: prompt formats insert
control tokens as ids. User-defined pieces are ordinary vocabulary and are found in text, as the
SentencePiece library does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from localmoe.text.errors import TokenizerError

__all__ = ["Tokenizer", "TokenizerError", "load_tokenizer"]


class Tokenizer(Protocol):
    """Text to ids and back. Instances are immutable and may be shared between threads."""

    @property
    def vocab_size(self) -> int:
        """How many token ids there are: 0 .. vocab_size - 1."""

    @property
    def bos_id(self) -> int | None:
        """The id that begins a sequence, if the vocabulary has one."""

    @property
    def eos_id(self) -> int | None:
        """The id that prompt formats put after an answer, if the vocabulary has one."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """All ids that end an answer when the model chooses one."""

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """The ids of `text`, after the BOS id if `bos` (and the vocabulary wants one).

        Lone surrogates, which no UTF-8 holds, are encoded as U+FFFD.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a whole sequence. Control tokens are left out, bad UTF-8 becomes U+FFFD."""

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        """The bytes this token adds to the text: whole characters or parts of one, b"" for control.

        `first`: as the first token of a text, less the space that SentencePiece puts before every text it
        encodes.
        """

    def is_control(self, token: int) -> bool:
        """Whether the token stands for no text (BOS, EOS, turn markers)."""

    def control_id(self, piece: str) -> int | None:
        """The id of a control or user-defined piece such as "[INST]", or None."""

    def markers(self) -> Mapping[str, int]:
        """Every control and user-defined piece with its id."""


def load_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's `tokenizer.ggml.*` metadata describes.

    Raises:
        TokenizerError: the metadata is missing, inconsistent, or of a kind that is not supported (named).
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "llama":
        from localmoe.text.sentencepiece_vocab import SentencePieceVocabulary

        return SentencePieceVocabulary(metadata)
    if kind == "gpt2":
        from localmoe.text.byte_bpe import ByteBPE

        return ByteBPE(metadata)
    if kind is None:
        raise TokenizerError("the model file holds no tokenizer: tokenizer.ggml.model is missing")
    raise TokenizerError(f'tokenizer.ggml.model is {kind!r}; supported: "llama" (SentencePiece), "gpt2"')
