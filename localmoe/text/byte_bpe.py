"""Byte-level BPE from GGUF metadata ("gpt2" vocabularies such as Mistral's tekken): tiktoken does the work.

A pre-tokenizer pattern splits the text, then neighbouring byte strings merge in order of rank. GGUF writes
the pieces in GPT-2's alphabet, where each of the 256 bytes is one printable character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from localmoe.text.errors import TokenizerError
from localmoe.text.vocabulary import Kind, Vocabulary, encodable, strings


class PreTokenizer(NamedTuple):
    """How text is split before merging, and where the order of merges is kept."""

    pattern: str
    ranked_by_id: bool  # ids grow with merge rank, as in vocabularies made for tiktoken; else see the merges
    adds_bos: bool
    nfc: bool = False  # text is composed first (Unicode's NFC), so that e and an accent are one character


_TEKKEN = PreTokenizer(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ranked_by_id=True,
    adds_bos=True,
)
_LLAMA_3 = PreTokenizer(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ranked_by_id=True,
    adds_bos=True,
)
_GPT_2 = PreTokenizer(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    ranked_by_id=False,
    adds_bos=False,
)
_QWEN_2 = PreTokenizer(  # as Llama 3's, but each digit stands alone
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ranked_by_id=False,
    adds_bos=False,
    nfc=True,
)
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = PreTokenizer(  # as tekken, but a contraction stays with its word, and up to three digits together
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _CONTRACTION + "|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _CONTRACTION + "|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ranked_by_id=False,
    adds_bos=False,
)
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {  # by tokenizer.ggml.pre
    "tekken": _TEKKEN,
    "llama-bpe": _LLAMA_3,
    "llama3": _LLAMA_3,
    "llama-v3": _LLAMA_3,
    "smaug-bpe": _LLAMA_3,
    "gpt-2": _GPT_2,
    "gpt2": _GPT_2,
    "qwen2": _QWEN_2,
    "gpt-4o": _O200K,
}
# Long text is encoded in runs, cut where every pattern cuts: after a letter or digit, before space or
# punctuation other than an apostrophe (where there is no such place, anywhere). tiktoken's stack overflows on
# a million spaces, and unicodedata takes quadratic time to order accents.
_RUN = re.compile(r"(?s).{1,16384}(?:\Z|(?<=[^\W_])(?=[\s!-&(-/:-@，。]))|.{1,16384}")


class ByteBPE:
    """A `Tokenizer` over byte-level BPE."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Raises TokenizerError for an unknown pre-tokenizer or a vocabulary that does not hold together."""
        import tiktoken

        name = metadata.get("tokenizer.ggml.pre")
        if not isinstance(name, str) or name not in PRE_TOKENIZERS:
            found = "missing" if name is None else repr(name)
            raise TokenizerError(f"tokenizer.ggml.pre is {found}; supported: {', '.join(PRE_TOKENIZERS)}")
        pre = PRE_TOKENIZERS[name]
        self._nfc = pre.nfc
        self._vocabulary = Vocabulary(metadata, adds_bos=pre.adds_bos)
        self.vocab_size = len(self._vocabulary.pieces)
        self.bos_id = self._vocabulary.bos_id
        self.eos_id = self._vocabulary.eos_id
        self.eos_ids = self._vocabulary.eos_ids
        self._bytes = _piece_bytes(self._vocabulary)
        order = _by_id(self._vocabulary) if pre.ranked_by_id else _by_merges(self._vocabulary, metadata)
        self._ids = order  # rank → id
        ranks = {self._bytes[token]: rank for rank, token in enumerate(order)}
        missing = [byte for byte in range(256) if bytes((byte,)) not in ranks]
        if missing:
            raise TokenizerError(f"tokenizer.ggml.tokens lacks {len(missing)} of the 256 single bytes")
        if len(ranks) != len(order) or b"" in ranks:
            raise TokenizerError("tokenizer.ggml.tokens holds a piece twice, or an empty one")
        self._encoding = tiktoken.Encoding(
            name, pat_str=pre.pattern, mergeable_ranks=ranks, special_tokens={}
        )
        user_defined = (p for p, i in self._vocabulary.specials.items() if p and not self.is_control(i))
        words = sorted(user_defined, key=len, reverse=True)
        self._user_defined = re.compile("(" + "|".join(map(re.escape, words)) + ")") if words else None

    def encode(self, text: str, bos: bool = True) -> list[int]:
        ids = [self.bos_id] if bos and self._vocabulary.adds_bos and self.bos_id is not None else []
        text = encodable(text)
        parts = self._user_defined.split(text) if self._user_defined else [text]
        for i, part in enumerate(parts):  # every second part is a user-defined piece
            if i % 2:
                ids.append(self._vocabulary.specials[part])
            else:
                ids.extend(self._ordinary(part))
        return ids

    def _ordinary(self, text: str) -> Iterator[int]:
        """The ids of text without user-defined pieces."""
        for run in _RUN.findall(text):
            composed = unicodedata.normalize("NFC", run) if self._nfc else run
            yield from map(self._ids.__getitem__, self._encoding.encode_ordinary(composed))

    def decode(self, ids: Iterable[int]) -> str:
        from localmoe.text.stream import decode

        return decode(self, ids)

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        return self._bytes[self._vocabulary.checked(token)]

    def is_control(self, token: int) -> bool:
        return self._vocabulary.kinds[token] == Kind.CONTROL

    def control_id(self, piece: str) -> int | None:
        return self._vocabulary.specials.get(piece)

    def markers(self) -> Mapping[str, int]:
        return self._vocabulary.specials


def _alphabet() -> dict[int, int]:
    """GPT-2's alphabet, code point → byte: printable Latin-1 is itself, the rest stands above 255."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: byte for byte in visible} | {256 + i: byte for i, byte in enumerate(hidden)}


def _piece_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """The bytes of every piece: none for control, plain UTF-8 for user-defined ones.

    The others are read back from GPT-2's alphabet in one sweep, since start-up waits for it; a line feed,
    which is not of the alphabet, parts them.
    """
    table = np.full(0x200, -1, np.int16)
    for code_point, byte in _alphabet().items():
        table[code_point] = byte
    byte_level = {Kind.NORMAL, Kind.UNUSED, Kind.UNKNOWN, Kind.BYTE}
    pieces = [p if k in byte_level else "" for p, k in zip(vocabulary.pieces, vocabulary.kinds, strict=True)]
    codes = np.frombuffer(("\n".join(pieces) + "\n").encode("utf-32-le", "replace"), np.uint32)
    ends = np.flatnonzero(codes == ord("\n"))
    values = np.where(codes < len(table), table[np.minimum(codes, len(table) - 1)], -1)
    strangers = values < 0
    strangers[ends] = False
    if len(ends) != len(pieces) or strangers.any():
        raise TokenizerError("tokenizer.ggml.tokens holds a piece outside GPT-2's byte alphabet")
    raw, start, result = values.astype(np.uint8).tobytes(), 0, []
    for end in ends.tolist():
        result.append(raw[start:end])
        start = end + 1
    for piece, token in vocabulary.specials.items():
        if vocabulary.kinds[token] == Kind.USER_DEFINED:
            result[token] = piece.encode("utf-8", "replace")
    return result


def _by_id(vocabulary: Vocabulary) -> list[int]:
    """Ids of the ordinary pieces in order of rank, where rank follows id."""
    return [token for token, kind in enumerate(vocabulary.kinds) if kind == Kind.NORMAL]


def _by_merges(vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> list[int]:
    """Ids of the single bytes and of what the merge list makes, in order of rank."""
    merges = strings(metadata, "merges")
    ids = {vocabulary.pieces[token]: token for token in _by_id(vocabulary)}
    order = [token for piece, token in ids.items() if len(piece) == 1]
    made = dict.fromkeys(merge.replace(" ", "", 1) for merge in merges)  # a piece ranks by its first merge
    unknown = next((piece for piece in made if piece not in ids), None)
    if unknown is not None:
        raise TokenizerError(f"tokenizer.ggml.merges makes {unknown!r}, which is not among the tokens")
    return order + [ids[piece] for piece in made if len(piece) > 1]
