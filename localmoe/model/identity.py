"""Which model a file holds, told without reading all of it."""

from __future__ import annotations

import hashlib

from quant.gguf import GGUFFile

_SAMPLES, _SAMPLE_BYTES = 64, 4096


def identity(file: GGUFFile) -> str:
    """A hex digest of the file's size, its header and blocks sampled evenly from its data: of all its parts,
    where the model has several.

    A full digest of a 27 GB file would take a minute at every start; two files that differ only between the
    samples are told apart by neither this nor their names.
    """
    digest = hashlib.sha256(str(file.size).encode())
    for part in file.parts:
        digest.update(part.bytes_at(0, part.data_offset))
    span = max(0, file.size - file.data_offset - _SAMPLE_BYTES)
    for i in range(_SAMPLES):
        digest.update(file.bytes_at(file.data_offset + span * i // (_SAMPLES - 1), _SAMPLE_BYTES))
    return digest.hexdigest()[:32]
