"""Models in several GGUF files, as llama.cpp's gguf-split writes them: opened as if they were one.

The parts are NAME-00001-of-00003.gguf and so on, in one directory. The first has the model's metadata, each
has `split.no` (from 0), `split.count` and `split.tensors.count` (of all parts together); no tensor spans two.
https://github.com/ggml-org/llama.cpp/tree/master/tools/gguf-split
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from quant.errors import ModelFileError
from quant.gguf import GGUFFile, Tensor
from quant.tensor_files import show
from quant.text import printable

MAX_PARTS = 1000
OF_THE_FILE = ("split.no", "split.count", "split.tensors.count", "general.alignment")  # not of the model
_NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")


def open_model(path: str | os.PathLike[str]) -> GGUFFile:
    """The model that a GGUF file is, or is any part of.

    Of several files, `path` is the first one's, tensors and metadata are the whole model's, and offsets count
    through the parts in their order. ModelFileError where a part is missing or does not belong to the others.
    """
    path = Path(path)
    with ExitStack() as opened:
        named = opened.enter_context(GGUFFile.open(path))
        paths = _paths_of_parts(named)
        parts = [named if each == path else opened.enter_context(GGUFFile.open(each)) for each in paths]
        model = named if len(parts) == 1 else _joined(parts)
        opened.pop_all()
        return model


def first_part(path: Path) -> Path:
    """The first file of the model that `path` is a part of: what the model is known by. Any other path as it
    is, and also one that cannot be read, for `open_model` to say why.
    """
    match = _NAME.fullmatch(path.name)
    if match is None or int(match[2]) == 1:
        return path
    try:
        with GGUFFile.open(path) as file:
            return _paths_of_parts(file)[0]
    except ModelFileError:
        return path


def model_name(path: Path) -> str:
    """A file's name, without what says which part of a model it is."""
    match = _NAME.fullmatch(path.name)
    return match[1] if match else path.stem


def missing_parts(names: Sequence[str]) -> list[str]:
    """The names of files that are not among `names`, though those say that they are parts of one model."""
    match = _NAME.fullmatch(names[0]) if names else None
    if match is None or int(match[3]) > MAX_PARTS:
        return []
    wanted = [_part_name(match[1], number, int(match[3])) for number in range(int(match[3]))]
    return [name for name in wanted if name not in names]


@dataclass(frozen=True)
class PartFiles:
    """The files of a model, for who reads them by the offsets of its tensors. `starts`: those of each file's
    first byte.
    """

    paths: tuple[Path, ...]
    starts: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, model: GGUFFile) -> PartFiles:
        return cls(tuple(part.path for part in model.parts), _starts(model.parts))

    def locate(self, offset: int) -> tuple[int, int]:
        """Which file an offset is in, and where in it."""
        number = bisect_right(self.starts, offset) - 1
        return number, offset - self.starts[number]


@dataclass(frozen=True, eq=False)
class _Joined(GGUFFile):
    """A model of several files. Header and mapping are the first one's."""

    _parts: tuple[GGUFFile, ...]

    @property
    def parts(self) -> tuple[GGUFFile, ...]:
        return self._parts

    def ask_for_huge_pages(self) -> None:
        for part in self._parts:
            part.ask_for_huge_pages()

    def expect_reuse(self) -> None:
        for part in self._parts:
            part.expect_reuse()

    def bytes_at(self, start: int, count: int) -> bytes:
        pieces = []
        for part, begin in zip(self._parts, _starts(self._parts), strict=True):
            first, end = max(start, begin), min(start + count, begin + part.size)
            if first < end:
                pieces.append(part.bytes_at(first - begin, end - first))
        return b"".join(pieces)

    def close(self) -> None:
        for part in self._parts:
            part.close()


def _paths_of_parts(file: GGUFFile) -> list[Path]:
    """Of all files of the model that an open file is, or is a part of."""
    path, count = file.path, file.metadata.get("split.count", 1)
    if type(count) is not int or not 0 <= count <= MAX_PARTS:
        raise ModelFileError(f"{show(path)}: it claims to be split into {count!r} files; it is damaged")
    if count <= 1:
        return [path]
    match = _NAME.fullmatch(path.name)
    if match is None or int(match[3]) != count or not 1 <= int(match[2]) <= count:
        raise ModelFileError(
            f"{show(path)}: one of {count} files; give them their names, ending in -00001-of-{count:05}.gguf"
        )
    paths = [path.with_name(_part_name(match[1], number, count)) for number in range(count)]
    missing = next((each for each in paths if not each.is_file()), None)
    if missing is not None:
        raise ModelFileError(f"{show(missing)}: no such file; all {count} parts of the model must be there")
    return paths


def _part_name(name: str, number: int, count: int) -> str:
    return f"{name}-{number + 1:05}-of-{count:05}.gguf"


def _joined(parts: Sequence[GGUFFile]) -> GGUFFile:
    first = parts[0]
    tensors: dict[str, Tensor] = {}
    for number, (part, begin) in enumerate(zip(parts, _starts(parts), strict=True)):
        _check_part(part, number, first)
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise ModelFileError(
                    f"{show(part.path)}: tensor {name!r} is also in another part of the model; get it again"
                )
            tensors[name] = replace(tensor, offset=tensor.offset + begin, _begin=begin)
    count = first.metadata.get("split.tensors.count", len(tensors))
    if count != len(tensors):
        raise ModelFileError(
            f"{show(first.path)}: its {len(parts)} parts hold {len(tensors)} tensors, {count!r} were split; "
            "get them again"
        )
    metadata = {key: value for key, value in first.metadata.items() if not key.startswith("split.")}
    return _Joined(
        first.path, first.version, first.alignment, metadata, first.value_types, tensors, first.data_offset,
        sum(part.size for part in parts), first._map, tuple(parts),
    )  # fmt: skip


def _check_part(part: GGUFFile, number: int, first: GGUFFile) -> None:
    """ModelFileError unless it is part `number` (from 0) of the model that begins with `first`."""
    said = part.metadata.get("split.no", number)
    if said != number:
        raise ModelFileError(
            f"{show(part.path)}: by what is in it not part {number + 1} of the model (split.no is {said!r}); "
            "give the parts their own names, or get it again"
        )
    differing = [
        key for key in ("split.count", "split.tensors.count")
        if repr(part.metadata.get(key)) != repr(first.metadata.get(key))
    ] + [
        key for key, value in part.metadata.items()  # mostly nothing of the model, in a later part
        if key not in OF_THE_FILE and isinstance(value, str | int | float)
        and repr(value) != repr(first.metadata.get(key, value))
    ]  # fmt: skip
    if differing:
        raise ModelFileError(
            f"{show(part.path)}: its {differing[0]} is not that of {printable(first.path.name)}, so it is of "
            "another model; get all parts of one"
        )


def _starts(parts: Sequence[GGUFFile]) -> tuple[int, ...]:
    """Where each part begins, if one lay after the other."""
    return tuple(accumulate((part.size for part in parts[:-1]), initial=0))
