"""SentencePiece from GGUF metadata: the model file is rebuilt in memory and the library does the work.

GGUF keeps a SentencePiece model's pieces, scores and kinds. With its few settings they make a `ModelProto`
again, written here in protobuf's wire format (sentencepiece_model.proto of google/sentencepiece), so ids
are the library's own and no protobuf package is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from localmoe.text.errors import TokenizerError
from localmoe.text.vocabulary import Kind, Vocabulary, array, encodable

_SPACE = "▁"  # how pieces write a space
_BPE = 2  # TrainerSpec.model_type


class SentencePieceVocabulary:
    """A `Tokenizer` whose ids are those of the SentencePiece library for the same vocabulary."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Raises TokenizerError for metadata that makes no SentencePiece model."""
        self._vocabulary = Vocabulary(metadata, adds_bos=True)
        self._pieces, self._kinds = self._vocabulary.pieces, self._vocabulary.kinds
        self.vocab_size = len(self._pieces)
        self.bos_id = self._vocabulary.bos_id
        self.eos_id = self._vocabulary.eos_id
        self.eos_ids = self._vocabulary.eos_ids
        self._space_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
        self._processor = _processor(metadata, self._vocabulary)

    def encode(self, text: str, bos: bool = True) -> list[int]:
        ids: list[int] = self._processor.encode(encodable(text))
        return [self.bos_id, *ids] if bos and self._vocabulary.adds_bos and self.bos_id is not None else ids

    def decode(self, ids: Iterable[int]) -> str:
        from localmoe.text.stream import decode

        return decode(self, ids)

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        kind, piece = self._kinds[self._vocabulary.checked(token)], self._pieces[token]
        if kind == Kind.CONTROL:
            return b""
        if kind == Kind.BYTE:
            return bytes((int(piece[3:5], 16),))
        if kind == Kind.UNKNOWN:
            return " \u2047 ".encode()  # the library's own sign for what no piece covers
        if first and self._space_prefix:
            piece = piece.removeprefix(_SPACE)
        return piece.replace(_SPACE, " ").encode()

    def is_control(self, token: int) -> bool:
        return self._kinds[token] == Kind.CONTROL

    def control_id(self, piece: str) -> int | None:
        return self._vocabulary.specials.get(piece)

    def markers(self) -> Mapping[str, int]:
        return self._vocabulary.specials


def _processor(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Any:
    """The library's processor for this vocabulary."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(_model_proto(metadata, vocabulary))
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        raise TokenizerError(f"tokenizer.ggml.* makes no SentencePiece vocabulary: {error}") from error
    if processor.vocab_size() != len(vocabulary.pieces):
        raise TokenizerError("tokenizer.ggml.tokens makes a SentencePiece vocabulary of another size")
    return processor


def _model_proto(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> bytes:
    """A serialized ModelProto: field 1 the pieces, 2 the trainer's settings, 3 the normalizer's."""
    pieces, kinds = vocabulary.pieces, np.array(vocabulary.kinds)
    scores = np.asarray(array(metadata, "scores"))
    if scores.shape != (len(pieces),) or scores.dtype.kind not in "fiu":
        raise TokenizerError(f"tokenizer.ggml.scores is not one number for each of {len(pieces)} tokens")
    unknown = _unknown(vocabulary)
    kinds[kinds == Kind.UNKNOWN] = Kind.UNUSED
    kinds[unknown] = Kind.UNKNOWN  # the library wants exactly one
    byte_fallback = np.count_nonzero(kinds == Kind.BYTE) == 256
    trainer = _number(3, _BPE) + _number(4, len(pieces)) + _number(35, byte_fallback)
    trainer += _number(40, unknown) + _bytes(45, pieces[unknown].encode())
    for id_field, name_field, token in (
        (41, 46, vocabulary.bos_id),
        (42, 47, vocabulary.eos_id),
        (43, 48, None),
    ):
        trainer += _number(id_field, -1 if token is None else token)
        trainer += b"" if token is None else _bytes(name_field, pieces[token].encode())
    normalizer = _bytes(1, b"identity")
    normalizer += _number(3, bool(metadata.get("tokenizer.ggml.add_space_prefix", True)))
    normalizer += _number(4, bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False)))
    if "tokenizer.ggml.precompiled_charsmap" in metadata:
        normalizer += _bytes(2, np.asarray(array(metadata, "precompiled_charsmap"), np.uint8).tobytes())
    return _piece_fields(pieces, scores, kinds) + _bytes(2, trainer) + _bytes(3, normalizer)


def _unknown(vocabulary: Vocabulary) -> int:
    """The id of the piece for what no piece covers. Some converters mark it as control, or mark several."""
    named = vocabulary.unknown_id if vocabulary.unknown_id is not None else vocabulary.specials.get("<unk>")
    if named is not None and named not in (vocabulary.bos_id, *vocabulary.eos_ids):
        return named
    if Kind.UNKNOWN in vocabulary.kinds:
        return vocabulary.kinds.index(Kind.UNKNOWN)
    raise TokenizerError("tokenizer.ggml.unknown_token_id is missing and no token is marked as unknown (2)")


def _piece_fields(pieces: list[str], scores: npt.NDArray[Any], kinds: npt.NDArray[Any]) -> bytes:
    """ModelProto.pieces: {1: piece, 2: float score, 3: kind}, one for each token."""
    tails = np.empty(len(pieces), np.dtype([("2", "u1"), ("score", "<f4"), ("3", "u1"), ("kind", "u1")]))
    tails["2"], tails["score"], tails["3"], tails["kind"] = 0x15, scores, 0x18, kinds
    packed = tails.tobytes()
    # Lengths below 128 take one byte. That head is looked up, since start-up waits for this loop.
    heads = [b"\x0a%c\x0a%c" % (size + 9, size) for size in range(100)]
    parts: list[bytes] = []
    for i, piece in enumerate(pieces):
        name = piece.encode()
        tail = packed[7 * i : 7 * i + 7]
        parts += (heads[len(name)], name, tail) if len(name) < 100 else (_bytes(1, _bytes(1, name) + tail),)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are written as 64-bit two's complement
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(int(value))


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
