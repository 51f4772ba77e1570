"""Safetensors headers and index files that mean harm."""

import json
import os
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant.errors import ModelFileError
from quant.tensor_files import read_directory, read_header, read_json


def file_of(header: object, data: int = 64, length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + bytes(data)


def one(**change: object) -> dict:
    return {"a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]} | change}


HOSTILE = {
    "empty": (b"", "claims"),
    "header length": (file_of(one(), length=2**64 - 1), "claims"),
    "header beyond the file": (file_of(one(), length=4096), "claims"),
    "not json": (file_of(b"{nope"), "JSON cannot be read"),
    "not utf-8": (file_of(b'{"\xff": 1}'), "JSON cannot be read"),
    "deeply nested": (file_of(b"[" * 100_000), "JSON cannot be read"),
    "long number": (file_of(b'{"a": ' + b"9" * 10_000 + b"}"), "JSON cannot be read"),
    "a list": (file_of([1, 2]), "not an object"),
    "name twice": (file_of(b'{"a": 1, "a": 2}'), "key occurs twice"),
    "no description": (file_of({"a": 7}), "no description"),
    "dtype": (file_of(one(dtype="F99")), "unknown dtype"),
    "dtype a list": (file_of(one(dtype=["F32"])), "unknown dtype"),
    "shape negative": (file_of(one(shape=[-2, -4])), "has the shape"),
    "shape true": (file_of(one(shape=[True, 8])), "has the shape"),
    "shape a float": (file_of(one(shape=[2.0, 4])), "has the shape"),
    "shape too long": (file_of(one(shape=[1] * 9)), "has the shape"),
    "offsets false": (file_of(one(data_offsets=[False, 32])), "has the offsets"),
    "offsets three": (file_of(one(data_offsets=[0, 32, 64])), "has the offsets"),
    "offsets backward": (file_of(one(data_offsets=[32, 0])), "lies at"),
    "size and shape": (file_of(one(shape=[2, 5])), "lies at"),
    "beyond the file": (file_of(one(data_offsets=[64, 96])), "lies at"),
    "shape overflow": (file_of(one(shape=[2**40, 2**40])), "lies at"),
    "overlap": (file_of(one() | {"b": one(data_offsets=[16, 48])["a"]}), "overlaps"),
    "name escapes": (file_of({"\x1b[2J": one()["a"]}), "is named"),
    "name empty": (file_of({"": one()["a"]}), "is named"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused(case, tmp_path):
    data, words = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=words) as caught:
        read_header(path)
    assert str(caught.value).isprintable()


def test_the_good_twin(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(one() | {"__metadata__": {"format": "pt"}}))
    stored = read_header(path)["a"]
    assert (stored.shape, stored.nbytes, stored.dtype) == ((2, 4), 32, "F32")
    assert stored.offset + 64 == path.stat().st_size


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 70), st.binary(min_size=1, max_size=6)), max_size=4))
def test_fuzz(tmp_path, changes):
    data = bytearray(file_of(one()))
    for at, replacement in changes:
        data[at : at + len(replacement)] = replacement
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    complaint = ""
    try:
        read_header(path)
    except ModelFileError as error:
        complaint = str(error)
    assert complaint.isprintable()


def indexed(directory, weight_map):
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", ".", "a\\b", "a\x1b", "sub/../x"],
)
def test_an_index_names_files_of_its_own_directory_only(tmp_path, name):
    (tmp_path / "model.safetensors").write_bytes(file_of(one()))
    directory = tmp_path / "m"
    directory.mkdir()
    with pytest.raises(ModelFileError, match="not a plain file name"):
        read_directory(indexed(directory, {"a": name}))


def test_a_link_that_leaves_the_directory_is_refused(tmp_path):
    (tmp_path / "outside.safetensors").write_bytes(file_of(one()))
    directory = tmp_path / "m"
    directory.mkdir()
    os.symlink("../outside.safetensors", directory / "model-00001-of-00001.safetensors")
    with pytest.raises(ModelFileError, match="leads outside its directory"):
        read_directory(directory)
    with pytest.raises(ModelFileError, match="leads outside its directory"):
        read_directory(indexed(directory, {"a": "model-00001-of-00001.safetensors"}))


def test_the_links_of_a_hugging_face_cache_are_followed(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_bytes(file_of(one()))
    os.symlink("../../blobs/123", snapshot / "model.safetensors")
    assert list(read_directory(snapshot)) == ["a"]


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        (["a"], "no weight_map"),
        ({"a": 7}, "no weight_map"),
        ({"a": "missing.safetensors"}, "no such file"),
        ({"b": "model.safetensors"}, "'b' is not in"),
    ],
)
def test_an_index_that_does_not_hold_is_refused(tmp_path, weight_map, words):
    (tmp_path / "model.safetensors").write_bytes(file_of(one()))
    with pytest.raises(ModelFileError, match=words):
        read_directory(indexed(tmp_path, weight_map))


def test_a_tensor_in_two_files_is_refused(tmp_path):
    for i in (1, 2):
        (tmp_path / f"model-0000{i}-of-00002.safetensors").write_bytes(file_of(one()))
    with pytest.raises(ModelFileError, match="'a' is also in"):
        read_directory(tmp_path)


def test_json_files_are_bounded(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(ModelFileError, match="larger than any such file"):
        read_json(path)


@pytest.mark.timeout(10)  # opening a pipe that nobody writes to would wait for ever
def test_a_pipe_is_no_json_file(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("text", ['{"a": "\\ud83d"}', '{"a": ["\\udc00"]}', '{"\\uD800": 1}'])
def test_half_a_surrogate_pair_is_no_text(tmp_path, text):
    path = tmp_path / "tokenizer_config.json"
    path.write_text(text)
    with pytest.raises(ModelFileError, match="its JSON cannot be read"):
        read_json(path)
    path.write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(path) == {"a": "\U0001f600"}
