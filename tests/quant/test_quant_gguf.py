"""The GGUF reader and writer: round trips, and files that mean harm."""

import dataclasses
import errno
import mmap
import os
import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant.errors import ModelFileError, QuantError
from quant.gguf import GGUFFile, GGUFWriter
from quant.model_check import check_model
from quant.summary import check_scales

U8, BOOL, STRING, ARRAY, U32, F32, U64 = 0, 7, 8, 9, 4, 6, 10
ALIGNMENT = "general.alignment"


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str | bytes, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


def array(kind: int, count: int, data: bytes = b"") -> bytes:
    """A metadata entry "k" of that element type."""
    return entry("k", ARRAY, struct.pack("<IQ", kind, count) + data)


def tensor(name: str | bytes, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def image(
    entries: list[bytes] = (),
    tensors: list[bytes] = (),
    data: bytes = bytes(64),
    version: int = 3,
    magic: bytes = b"GGUF",
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A GGUF file, as right or wrong as its parts."""
    counts = (len(tensors), len(entries)) if counts is None else counts
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


GOOD = [tensor("a", [8], 0, 0), tensor("b", [8], 0, 32)]
MAX = 2**64 - 1

HOSTILE = {
    "empty": (b"", "too short"),
    "magic": (image(magic=b"GGML"), "not a GGUF file"),
    "version 0": (image(version=0), "version 0 is too old"),
    "version 1": (image(version=1), "version 1 is too old"),
    "version 4": (image(version=4), "version 4 is newer"),
    "big endian": (image(version=0x03000000), "big-endian"),
    "tensor count": (image(counts=(MAX, 0)), "more than it can hold"),
    "metadata count": (image(counts=(0, MAX)), "more than it can hold"),
    "one entry too few": (image([], GOOD, counts=(2, 1)), ""),
    "string length": (image([text("k") + struct.pack("<IQ", STRING, MAX)]), "too long, or runs past"),
    "key length": (image([struct.pack("<Q", 2**40)]), "too long, or runs past"),
    "array length": (image([array(U32, MAX)]), "ends inside 'k'"),
    "string array length": (image([array(STRING, 2**50)]), "more than the file"),
    "string array runs out": (image([array(STRING, 2, struct.pack("<Q", 2**30))]), "past the end"),
    "nested array": (image([array(ARRAY, 1)]), "array of arrays"),
    "array type": (image([array(99, 1)]), "unknown type 99"),
    "value type": (image([entry("k", 13, bytes(8))]), "unknown type 13"),
    "boolean": (image([entry("k", BOOL, b"\2")]), "boolean of value 2"),
    "boolean array": (image([array(BOOL, 2, b"\1\7")]), "other than 0 and 1"),
    "alignment 0": (image([entry(ALIGNMENT, U32, struct.pack("<I", 0))]), "alignment is 0"),
    "alignment 13": (image([entry(ALIGNMENT, U32, struct.pack("<I", 13))]), "alignment is 13"),
    "alignment huge": (image([entry(ALIGNMENT, U32, struct.pack("<I", 2**31))]), "not a power of two"),
    "alignment type": (image([entry(ALIGNMENT, STRING, text("32"))]), "not a 32-bit number"),
    "alignment 64-bit": (image([entry(ALIGNMENT, U64, struct.pack("<Q", 32))]), "not a 32-bit number"),
    "key twice": (image([entry("k", U8, b"\1")] * 2), "'k' occurs twice"),
    "key empty": (image([entry("", U8, b"\1")]), "key is empty"),
    "key escapes": (image([entry("\x1b[2J", U8, b"\1")]), "control characters"),
    "key utf-8": (image([entry(b"\xff\xfe", U8, b"\1")]), "not UTF-8"),
    "value utf-8": (image([entry("k", STRING, text(b"\xc3("))]), "not UTF-8"),
    "array utf-8": (image([array(STRING, 1, text(b"\xff"))]), "not UTF-8"),
    "shape overflow": (image(tensors=[tensor("a", [2**32, 2**32])]), "the file has"),
    "shape overflow to 0": (image(tensors=[tensor("a", [2**63, 4, 2])]), "the file has"),
    "dimension 2^64-1": (image(tensors=[tensor("a", [MAX])]), "the file has"),
    "no dimensions": (image(tensors=[tensor("a", [])]), "has 0 dimensions"),
    "five dimensions": (image(tensors=[tensor("a", [1] * 5)]), "has 5 dimensions"),
    "dimension 0": (image(tensors=[tensor("a", [8, 0])]), "dimension of zero"),
    "offset beyond": (image(tensors=[tensor("a", [8], 0, 4096)]), "the file has"),
    "offset overflow": (image(tensors=[tensor("a", [8], 0, 2**64 - 32)]), "the file has"),
    "offset unaligned": (image(tensors=[tensor("a", [4], 0, 4)]), "not aligned"),
    "overlap": (image(tensors=[tensor("a", [16], 0, 0), tensor("b", [8], 0, 32)]), "'a' and 'b' overlap"),
    "same place": (image(tensors=[tensor("a", [8]), tensor("b", [8])]), "overlap"),
    "name twice": (image(tensors=[tensor("a", [8]), tensor("a", [8], 0, 32)]), "'a' occurs twice"),
    "name empty": (image(tensors=[tensor("", [8])]), "name is empty"),
    "name escapes": (image(tensors=[tensor("a\x1b]0;x\x07", [8])]), "control characters"),
    "name utf-8": (image(tensors=[tensor(b"\xc0\x80", [8])]), "not UTF-8"),
    "name too long": (image(tensors=[tensor("a" * 256, [8])]), "too long"),
    "type unknown": (image(tensors=[tensor("a", [8], 77)]), "unsupported type number 77"),
    "type not ours": (image(tensors=[tensor("a", [256], 16)]), "unsupported type iq2_xxs"),
    "rows and blocks": (image(tensors=[tensor("a", [100], 12)]), "blocks of 256 do not divide"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_quickly_in_one_line(case, tmp_path):
    data, words = HOSTILE[case]
    path = tmp_path / "bad\x1b[31m.gguf"
    path.write_bytes(data)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFileError) as caught:
        GGUFFile.open(path)
    assert time.monotonic() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    message = str(caught.value)
    assert words in message
    assert message.isprintable()
    assert "; " in message
    assert "bad" in message


def test_the_good_twin_of_the_hostile_files_opens(tmp_path):
    path = tmp_path / "good.gguf"
    path.write_bytes(image([entry("k", U8, b"\1")], GOOD))
    with GGUFFile.open(path) as file:
        assert file.metadata == {"k": 1}
        assert [t.offset for t in file.tensors.values()] == [file.data_offset, file.data_offset + 32]


def test_truncation_anywhere_is_noticed(tmp_path):
    path = tmp_path / "small.gguf"
    with GGUFWriter(path, {"name": "x", "list": ["a", "bb"], "n": np.arange(3, dtype=np.int32)}) as out:
        out.declare("a", (2, 32), "q4_0")
        out.write("a", np.zeros(36, np.uint8))
    whole = path.read_bytes()
    GGUFFile.open(path).close()
    for length in range(len(whole) - 28):  # the last 28 bytes are padding
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            GGUFFile.open(path)


def test_what_is_no_file_is_refused(tmp_path):
    for path, words in ((tmp_path / "none", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(ModelFileError, match=words):
            GGUFFile.open(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        GGUFFile.open(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="cannot be opened"):
        GGUFFile.open("a\0b")


def test_a_huge_sparse_file_of_strings_is_refused_quickly(tmp_path):
    """Its counts fit its size; parsing it all would take minutes and gigabytes."""
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(image([array(STRING, 1 << 28)], data=b""))
        file.truncate(4 << 30)
    start = time.monotonic()
    with pytest.raises(ModelFileError, match="more than the file can hold"):
        GGUFFile.open(path)
    assert time.monotonic() - start < 1


SEED_FILE = image(
    [
        entry(ALIGNMENT, U32, struct.pack("<I", 32)),
        entry("s", STRING, text("hello")),
        entry("l", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("b")),
        entry("f", F32, struct.pack("<f", 1.5)),
    ],
    GOOD,
)


def refusal(path) -> str | None:
    """What is wrong with the file; None where all of it can be read."""
    try:
        with GGUFFile.open(path) as file:
            for each in file.tensors.values():
                each.format.decode(each.data)
    except ModelFileError as error:
        return str(error)
    return None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(SEED_FILE) - 1), st.binary(min_size=1, max_size=9)), max_size=4))
def test_fuzz_either_opens_or_says_why_not(tmp_path, changes):
    data = bytearray(SEED_FILE)
    for at, replacement in changes:
        data[at : at + len(replacement)] = replacement
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(data)
    complaint = refusal(path)
    assert complaint is None or complaint.isprintable()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_fuzz_after_the_version(tmp_path, rest):
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + rest)
    complaint = refusal(path)
    assert complaint is None or complaint.isprintable()


METADATA = {
    "flag": True,
    "small": 7,
    "negative": -7,
    "large": 2**40,
    "half": 0.5,
    "text": "ünï▁",
    "words": ["a", "", "▁b"],
    "numbers": np.array([1.5, -2], np.float32),
    "typed": np.uint8(3),
    "flags": np.array([True, False]),
    "ints": [1, -2, 3],
}


def test_metadata_round_trip_and_gguf_agrees(tmp_path):
    from gguf import GGUFReader

    path = tmp_path / "m.gguf"
    with GGUFWriter(path, METADATA | {"general.architecture": "llama"}) as out:
        out.declare("t", (2, 3, 32), "q8_0")
        out.write("t", np.arange(204, dtype=np.uint8)[:100])
        out.write("t", np.arange(204, dtype=np.uint8)[100:])
    with GGUFFile.open(path) as file:
        for key, value in METADATA.items():
            np.testing.assert_array_equal(file.metadata[key], value)
        assert {k: file.value_types[k] for k in ("small", "negative", "large", "typed", "flag")} == {
            "small": 4, "negative": 5, "large": 10, "typed": 0, "flag": 7,
        }  # fmt: skip
        each = file.tensors["t"]
        assert (each.shape, each.type, each.data.shape) == ((2, 3, 32), "q8_0", (2, 3, 34))
        assert each.data.tobytes() == bytes(range(204))
        assert each.address == each.data.ctypes.data
        assert not each.data.flags.writeable
    theirs = GGUFReader(path)
    assert theirs.fields["text"].contents() == "ünï▁"
    assert theirs.fields["words"].contents() == ["a", "", "▁b"]
    assert theirs.tensors[0].data.tobytes() == bytes(range(204))


def test_views_outlive_the_file(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(image(tensors=GOOD, data=bytes(range(64))))
    with GGUFFile.open(path) as file:
        view = file.tensors["b"].data
    assert view[0] == 32


@pytest.mark.parametrize("refused", [False, True])
def test_huge_pages_are_asked_for_and_a_kernel_without_them_is_no_error(tmp_path, monkeypatch, refused):
    path = tmp_path / "a.gguf"
    path.write_bytes(image(tensors=GOOD))
    asked = []

    class Map:
        huge = False

        def madvise(self, advice):
            asked.append(advice)
            if refused:
                raise OSError(errno.EINVAL, "Invalid argument")

    with GGUFFile.open(path) as file:
        mapped = dataclasses.replace(file, _map=Map())
        mapped.ask_for_huge_pages()
        assert mapped._map.huge != refused
        mapped.expect_reuse()
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)  # as on macOS and Windows
        other = dataclasses.replace(file, _map=Map())
        other.ask_for_huge_pages()
        other.expect_reuse()
    assert asked == ([14] if refused else [14, mmap.MADV_RANDOM, mmap.MADV_NORMAL])


def test_bytes_are_read_past_the_mapping_unless_it_asked_for_huge_pages(tmp_path, monkeypatch):
    path, opened = tmp_path / "a.gguf", []
    path.write_bytes(image(tensors=GOOD, data=bytes(range(64))))
    true_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a: opened.append(self) or true_open(self, *a))
    with GGUFFile.open(path) as file:
        at = file.data_offset + 7
        assert file.bytes_at(at, 3) == bytes([7, 8, 9])
        assert opened == [path, path]
        file._map.huge = True
        assert file.bytes_at(at, 3) == bytes([7, 8, 9])
        assert opened == [path, path]


def test_a_real_vocabulary_opens_in_well_under_a_tenth_of_a_second(tmp_path):
    path = tmp_path / "m.gguf"
    with GGUFWriter(path, {"tokens": [f"▁token{i}" for i in range(32000)], "scores": np.zeros(32000, "f4")}):
        pass
    times = []
    for _ in range(5):
        start = time.perf_counter()
        GGUFFile.open(path).close()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda w: w.declare("a", (100,), "q4_0"), "multiple of 32"),
        (lambda w: (w.declare("a", (32,), "q4_0"), w.declare("a", (32,), "q4_0")), "declared twice"),
        (lambda w: (w.declare("a", (32,), "q4_0"), w.write("b", np.zeros(18, np.uint8))), "out of order"),
        (lambda w: (w.declare("a", (32,), "q4_0"), w.write("a", np.zeros(19, np.uint8))), "more were given"),
        (lambda w: w.declare("a", (32,), "q4_0"), "declared and not written"),
    ],
)
def test_the_writer_refuses_what_would_make_a_bad_file(tmp_path, action, message):
    with pytest.raises(QuantError, match=message), GGUFWriter(tmp_path / "m.gguf", {}) as out:
        action(out)


def test_metadata_that_no_file_can_hold_are_refused(tmp_path):
    for value in (2**70, object(), np.array([1j])):
        with pytest.raises(QuantError, match="'k'"):
            _ = GGUFWriter(tmp_path / "m.gguf", {"k": value}).header


@pytest.fixture
def model(mixtral, tmp_path):
    """A converted model's metadata and shapes, to be spoilt."""
    from quant.convert import convert
    from quant.plan import make_plan
    from quant.recipes import recipe_named
    from quant.sources import open_source

    convert(make_plan(open_source(mixtral), recipe_named("f16")), tmp_path / "m.gguf", threads=1)
    with GGUFFile.open(tmp_path / "m.gguf") as file:
        return dict(file.metadata), {t.name: t.shape for t in file.tensors.values()}, tmp_path / "m.gguf"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "mamba"}, "'mamba' is not supported; llama, qwen3, qwen3moe, gpt-oss are"),
        ({"general.architecture": None}, "architecture None"),
        ({"llama.attention.head_count": 0}, "head_count is 0"),
        ({"llama.attention.head_count": None}, "llama.attention.head_count is None"),
        ({"llama.block_count": 0}, "block_count is 0"),
        ({"llama.block_count": 2**40}, "block_count is 1099511627776"),
        ({"llama.block_count": 3}, "'blk.2.attn_norm.weight' is missing"),
        ({"llama.expert_used_count": 9}, "9 experts are used of 8"),
        ({"llama.expert_count": 4}, r"'blk.0.ffn_gate_inp.weight' has the shape \[8, 256\].*\[4, 256\]"),
        ({"llama.vocab_size": 95}, "tokenizer has 96 tokens, its vocabulary 95"),
        ({"tokenizer.ggml.tokens": ["a"] * 95, "llama.vocab_size": 95}, r"'token_embd.weight' has the shape"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "not a positive number"),
        ({"llama.rope.dimension_count": 33}, "33 coordinates of heads of 64 cannot be rotated in pairs"),
        ({"llama.rope.dimension_count": 66}, "66 coordinates of heads of 64"),
        ({"llama.embedding_length": "256"}, "embedding_length is '256'"),
    ],
)
def test_semantic_nonsense_is_refused(model, change, message):
    metadata, shapes, path = model
    check_model(metadata, shapes, path)
    with pytest.raises(ModelFileError, match=message):
        check_model(metadata | change, shapes, path)


def test_heads_of_which_only_part_is_rotated_are_fine(model):
    metadata, shapes, path = model
    assert check_model(metadata | {"llama.rope.dimension_count": 32}, shapes, path).rotated == 32


def test_scales_that_are_no_numbers_are_found(model):
    _, _, path = model
    with GGUFFile.open(path) as file:
        check_scales(file)
        at = file.tensors["blk.1.attn_v.weight"].offset
    with path.open("r+b") as out:
        out.seek(at + 2 * 300)
        out.write(np.array(np.nan, "<f2").tobytes())
    named = r"'blk.1.attn_v.weight'.*block 300"
    with GGUFFile.open(path) as file, pytest.raises(ModelFileError, match=named):
        check_scales(file)


def test_scales_of_every_format_are_looked_at():
    from quant.blocks import FORMATS

    for name, kind in FORMATS.items():
        if kind.block_size == 1 or not kind.halves:
            continue
        block = np.zeros((2, kind.block_bytes), np.uint8)
        for at in kind.halves:
            spoilt = block.copy()
            spoilt[1, at : at + 2] = np.array([np.inf], "<f2").view(np.uint8)
            assert kind.not_finite(spoilt).tolist() == [False, True], name
            assert not np.isfinite(kind.decode(spoilt.reshape(1, -1))[0, kind.block_size :]).all(), name
