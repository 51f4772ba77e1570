"""Safetensors files and their index, read without trusting them: where each tensor's bytes are.

A safetensors file is eight bytes of header length, a JSON object {name: {dtype, shape, data_offsets}}, then
the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.errors import ModelFileError
from quant.text import printable

MAX_HEADER_BYTES = 16 << 20  # a thousand tensors take 0.1 MB
MAX_JSON_BYTES = 64 << 20
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_WRITTEN = (".gguf", ".partial", ".journal")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: `offset` is absolute."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size, in which no key occurs twice."""
    try:
        refuse_special(path)
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError:
        raise ModelFileError(f"{show(path)}: no such file; the model's directory must hold it") from None
    except OSError as error:
        raise ModelFileError(f"{show(path)} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_JSON_BYTES:
        raise ModelFileError(f"{show(path)} is larger than any such file is; get it again")
    return _parse_object(data, path)


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file; ModelFileError where its header does not hold together."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelFileError(f"{show(path)} is not a regular file")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise _damaged(path, f"its header claims {length} bytes")
            header = _parse_object(file.read(length), path)
    except FileNotFoundError:
        raise ModelFileError(f"{show(path)}: no such file; the download is incomplete") from None
    except OSError as error:
        raise ModelFileError(f"{show(path)} cannot be read: {error.strerror or error}") from None
    header.pop("__metadata__", None)
    begin = 8 + length
    stored = {name: _entry(path, name, entry, begin, size) for name, entry in header.items()}
    end = begin
    for tensor in sorted(stored.values(), key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset < end:
            raise _damaged(path, f"tensor {tensor.name!r} overlaps another")
        end = tensor.offset + tensor.nbytes
    return stored


def read_directory(directory: Path, stem: str = "model") -> dict[str, Stored]:
    """Every tensor of `stem`.safetensors, of the files that an index names, or of all `stem`*.safetensors."""
    index = directory / f"{stem}.safetensors.index.json"
    if index.exists():
        return _read_indexed(directory, index)
    files = sorted(directory.glob(f"{stem}*.safetensors"))
    if not files:
        pickles = sorted(p.name for p in directory.iterdir() if p.suffix in _PICKLES)
        if pickles:
            raise ModelFileError(
                f"{show(directory / pickles[0])} is a pickle, which can run any program when it is opened;"
                " get the model's .safetensors files instead"
            )
        raise ModelFileError(f"{show(directory)} holds no {stem}*.safetensors; name a model's directory")
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, stored in read_header(_inside(directory, file.name)).items():
            if name in tensors:
                raise _damaged(file, f"tensor {name!r} is also in {tensors[name].path.name}")
            tensors[name] = stored
    return tensors


def model_files(directory: Path) -> list[Path]:
    """All that a model's directory holds, but for what conversions write there."""
    return [path for path in sorted(directory.iterdir()) if path.suffix not in _WRITTEN]


def _read_indexed(directory: Path, index: Path) -> dict[str, Stored]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise _damaged(index, "it has no weight_map from names to files")
    headers = {name: read_header(_inside(directory, name)) for name in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in headers[file]:
            raise _damaged(index, f"tensor {name!r} is not in {file!r}")
    return {name: headers[file][name] for name, file in weight_map.items()}


def _inside(directory: Path, name: str) -> Path:
    """The file of that name in the directory; nothing outside it, whatever the name or a symlink says."""
    if Path(name).name != name or name in ("", ".", "..") or "\\" in name or not name.isprintable():
        raise ModelFileError(f"{show(directory)}: the index names {name!r}, which is not a plain file name")
    path, root = directory / name, directory.resolve()
    target = path.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":  # a Hugging Face cache keeps the bytes in ../../blobs
        allowed.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise ModelFileError(f"{show(path)} leads outside its directory; copy the file there")
    return path


def _entry(path: Path, name: str, entry: Any, begin: int, size: int) -> Stored:
    if not name or not name.isprintable():
        raise _damaged(path, f"a tensor is named {name!r}")
    if not isinstance(entry, Mapping):
        raise _damaged(path, f"tensor {name!r} has no description")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _damaged(path, f"tensor {name!r} has the unknown dtype {dtype!r}")
    shape, offsets = _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
    if shape is None or len(shape) > 8:
        raise _damaged(path, f"tensor {name!r} has the shape {entry.get('shape')!r}")
    if offsets is None or len(offsets) != 2:
        raise _damaged(path, f"tensor {name!r} has the offsets {entry.get('data_offsets')!r}")
    nbytes = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes or begin + offsets[1] > size:
        raise _damaged(path, f"tensor {name!r} {shape} {dtype} lies at {offsets}, in a file of {size} bytes")
    return Stored(path, name, dtype, tuple(shape), begin + offsets[0], nbytes)


def _naturals(value: Any) -> list[int] | None:
    """A list of integers >= 0, or None; JSON's true and false are no integers, though Python's are."""
    good = isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
    return value if good else None


def refuse_special(path: Path) -> None:
    """ModelFileError for a pipe, whose opening would wait for ever, and all else that is no regular file.

    Raises nothing for a path where nothing is, which opening it tells better.
    """
    if path.exists() and not path.is_file():
        raise ModelFileError(f"{show(path)} is not a regular file; a file on disk is needed")


def _parse_object(data: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key occurs twice")
        return result

    try:
        value = json.loads(data.decode(), object_pairs_hook=unique)
        json.dumps(value, ensure_ascii=False).encode()  # fails for half a surrogate pair (an escape)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its JSON cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise _damaged(path, "its JSON is not an object")
    return value


def _damaged(path: Path, problem: str) -> ModelFileError:
    return ModelFileError(f"{show(path)}: {printable(problem)[:300]}; it is damaged: get it again")


def show(path: Path) -> str:
    """A path as it may be printed."""
    return printable(str(path))
