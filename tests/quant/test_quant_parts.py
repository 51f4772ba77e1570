"""Models in several GGUF files: one model from any of them; parts that do not fit together are refused."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant.errors import ModelFileError
from quant.gguf import GGUFFile, GGUFWriter
from quant.parts import PartFiles, first_part, missing_parts, model_name, open_model

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from tiny_models import metadata, split_model, write_model


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_model(tmp_path / "whole.gguf", metadata(embedding_length=32, head_count=1, head_count_kv=1))


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> list[Path]:
    return split_model(whole, 5, 9, stem=tmp_path / "m")


def change(part: Path, metadata: Mapping[str, Any], tensors: int | None = None) -> None:
    """Writes a part again with other metadata, or with its first tensors only."""
    with GGUFFile.open(part) as file:
        kept = list(file.tensors.values())[:tensors]
        with GGUFWriter(part.with_suffix(".new"), file.metadata | metadata) as out:
            for tensor in kept:
                out.declare(tensor.name, tensor.shape, tensor.type)
            for tensor in kept:
                out.write(tensor.name, tensor.data)
    os.replace(part.with_suffix(".new"), part)


def test_any_part_is_the_whole_model(whole: Path, parts: list[Path]) -> None:
    with GGUFFile.open(whole) as expected:
        for part in parts:
            with open_model(part) as model:
                assert model.path == parts[0]
                assert [each.path for each in model.parts] == parts
                assert model.size == sum(each.stat().st_size for each in parts)
                assert list(model.metadata) == list(expected.metadata)
                assert list(model.tensors) == list(expected.tensors)
                for name, tensor in model.tensors.items():
                    other = expected.tensors[name]
                    assert (tensor.shape, tensor.type) == (other.shape, other.type)
                    np.testing.assert_array_equal(tensor.data, other.data)
                    assert tensor.address == tensor.data.ctypes.data


def test_offsets_count_through_the_parts(parts: list[Path]) -> None:
    joined = b"".join(part.read_bytes() for part in parts)
    sizes = [part.stat().st_size for part in parts]
    for huge in (False, True):
        with open_model(parts[1]) as model:
            if huge:
                model.ask_for_huge_pages()
                model.expect_reuse()
            files = PartFiles.of(model)
            assert files.paths == tuple(parts)
            for tensor in model.tensors.values():
                assert joined[tensor.offset : tensor.offset + tensor.nbytes] == tensor.data.tobytes()
                number, start = files.locate(tensor.offset)
                data = parts[number].read_bytes()[start : start + tensor.nbytes]
                assert data == tensor.data.tobytes()
            for start in (0, sizes[0] - 1, sizes[0], sizes[0] + sizes[1] - 3, len(joined) - 2, len(joined)):
                assert model.bytes_at(start, 7) == joined[start : start + 7]
            assert model.bytes_at(10, len(joined)) == joined[10:]
            starts = [0, *accumulate(sizes)]
            assert [files.locate(start) for start in starts[:-1]] == [(0, 0), (1, 0), (2, 0)]


def test_one_file_is_itself(whole: Path) -> None:
    with open_model(whole) as model:
        assert type(model) is GGUFFile
        assert model.parts == (model,)
        assert PartFiles.of(model) == PartFiles((whole,))


def test_parts_found_in_a_cache_of_links(parts: list[Path], tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, part in enumerate(parts):
        part.rename(blobs / f"{number}")
        part.symlink_to(blobs / f"{number}")
    with open_model(parts[2]) as model:
        assert len(model.parts) == 3


def refusal(part: Path) -> str:
    """What is said of it: one line."""
    with pytest.raises(ModelFileError) as caught:
        open_model(part)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_part_that_is_missing(parts: list[Path]) -> None:
    parts[1].unlink()
    for part in (parts[0], parts[2]):
        assert f"{parts[1]}: no such file; all 3 parts of the model must be there" in refusal(part)


def test_a_part_that_is_there_twice(parts: list[Path]) -> None:
    parts[2].write_bytes(parts[1].read_bytes())
    assert f"{parts[2]}: by what is in it not part 3 of the model (split.no is 1)" in refusal(parts[0])


def test_names_that_do_not_tell_the_parts(parts: list[Path]) -> None:
    for name in ("renamed.gguf", "m-00002-of-00004.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf"):
        other = parts[0].with_name(name)
        other.write_bytes(parts[1].read_bytes())
        expected = f"{other}: one of 3 files; give them their names, ending in -00001-of-00003.gguf"
        assert refusal(other) == expected


@pytest.mark.parametrize(
    ("key", "value"), [("split.count", 2), ("split.tensors.count", 7), ("general.name", "another")]
)
def test_parts_of_another_model(parts: list[Path], key: str, value: object) -> None:
    change(parts[1], {key: value})
    assert f"{parts[1]}: its {key} is not that of m-00001-of-00003.gguf" in refusal(parts[0])


def test_a_part_of_no_split(whole: Path, parts: list[Path]) -> None:
    parts[1].write_bytes(whole.read_bytes())
    assert "its split.count is not that of" in refusal(parts[0])


def test_what_a_part_repeats_of_the_model(parts: list[Path]) -> None:
    change(parts[1], {"general.architecture": "llama", "general.alignment": 32, "x": math.nan})
    change(parts[0], {"x": math.nan})
    open_model(parts[0]).close()


def test_a_tensor_in_two_parts(whole: Path, parts: list[Path], tmp_path: Path) -> None:
    parts[1].write_bytes(split_model(whole, 4, 9, stem=tmp_path / "other")[1].read_bytes())
    assert f"{parts[1]}: tensor 'blk.0.attn_v.weight' is also in another part" in refusal(parts[0])


def test_tensors_that_are_in_no_part(parts: list[Path]) -> None:
    change(parts[1], {}, tensors=3)
    assert f"{parts[0]}: its 3 parts hold 22 tensors, 23 were split; get them again" in refusal(parts[2])


@pytest.mark.parametrize("count", [1001, 65535])
def test_more_parts_than_any_model_has(parts: list[Path], count: int) -> None:
    change(parts[0], {"split.count": count})
    assert f"claims to be split into {count} files" in refusal(parts[0])


def test_files_are_closed_when_a_part_is_refused(parts: list[Path]) -> None:
    parts[2].write_bytes(b"GGUF" + bytes(40))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    refusal(parts[0])
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_the_first_part_and_the_model_by_any(whole: Path, parts: list[Path], tmp_path: Path) -> None:
    assert [first_part(part) for part in parts] == [parts[0]] * 3
    assert first_part(whole) == whole
    alone = tmp_path / "w-00002-of-00003.gguf"  # a name like a part's
    alone.write_bytes(whole.read_bytes())
    assert first_part(alone) == alone
    gone = tmp_path / "gone-00002-of-00003.gguf"
    assert first_part(gone) == gone
    assert [model_name(path) for path in (parts[1], whole)] == ["m", "whole"]
    names = [part.name for part in parts]
    assert missing_parts(names) == missing_parts(["whole.gguf"]) == []
    assert missing_parts(names[1:]) == names[:1]
