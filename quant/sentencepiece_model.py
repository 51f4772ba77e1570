"""Reads a SentencePiece `tokenizer.model` (a protocol buffer) and says it as GGUF metadata.

Only the fields that GGUF needs, by their numbers in sentencepiece_model.proto; every length is checked.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quant.errors import ModelFileError
from quant.tensor_files import show

MAX_BYTES = 64 << 20
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BPE = 2


@dataclass(frozen=True)
class Vocabulary:
    """The pieces of a SentencePiece model, by id; `kinds` as GGUF numbers them (the same numbers)."""

    pieces: list[str]
    scores: list[float]
    kinds: list[int]
    unknown: int
    bos: int
    eos: int
    dummy_prefix: bool  # a space is put before the text

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ModelFileError(f"{show(path)} cannot be read: {error.strerror or error}") from None
        try:
            if len(data) > MAX_BYTES:
                raise ValueError("it is larger than any tokenizer")
            return _parse(data, path)
        except (ValueError, struct.error) as error:
            raise ModelFileError(f"{show(path)} is no SentencePiece model ({error}); get it again") from None


def _parse(data: bytes, path: Path) -> Vocabulary:
    pieces: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    trainer: dict[int, int] = {}
    dummy_prefix = True
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(_bytes(value)))
            pieces.append(_bytes(piece.get(1, b"")).decode())
            scores.append(struct.unpack("<f", _bytes(piece.get(2, bytes(4))))[0])
            kinds.append(_int(piece.get(3, NORMAL)))
            if not (NORMAL <= kinds[-1] <= BYTE and math.isfinite(scores[-1])):
                raise ValueError(f"piece {len(pieces) - 1} has the kind {kinds[-1]}, the score {scores[-1]}")
        elif number == 2:
            trainer = {n: v for n, v in _fields(_bytes(value)) if isinstance(v, int)}
        elif number == 3:
            dummy_prefix = bool(dict(_fields(_bytes(value))).get(3, 1))
    if not pieces:
        raise ValueError("it has no pieces")
    if trainer.get(3, 1) != BPE:
        raise ModelFileError(
            f"{show(path)}: a SentencePiece model of another type than BPE, which GGUF cannot express"
        )
    special = [trainer.get(n, default) for n, default in ((40, 0), (41, 1), (42, 2))]
    unknown, bos, eos = (i if i < 1 << 31 else -1 for i in special)  # -1, "none", is stored as 2^64 - 1
    return Vocabulary(pieces, scores, kinds, unknown, bos, eos, dummy_prefix)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one message: varints as int, the rest as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if length > len(data) - at:
            raise ValueError("it is cut short")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where text belongs")
    return value


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("text where a number belongs")
    return value
