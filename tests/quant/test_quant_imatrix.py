"""Importance matrices: both of llama.cpp's formats, and what becomes of experts that no token reached."""

import os
import struct

import numpy as np
import pytest

from quant.blocks import dequantize
from quant.convert import convert
from quant.encode import quantize
from quant.errors import ModelFileError
from quant.gguf import GGUFFile, GGUFWriter
from quant.imatrix import Importance, Statistics, read_imatrix
from quant.plan import make_plan
from quant.recipes import is_free, recipe_named
from quant.sources import open_source

UP = "blk.0.ffn_up_exps.weight"


def sample(experts=8, cols=256, unreached=(3,)):
    rng = np.random.default_rng(0)
    counts = np.arange(1, experts + 1, dtype=np.float32)
    sums = rng.random((experts, cols)).astype(np.float32) * counts[:, None]
    for expert in unreached:
        counts[expert], sums[expert] = 0, 0
    dense = Statistics(rng.random((1, 256)).astype(np.float32), np.array([5], np.float32))
    return Importance({UP: Statistics(sums, counts), "blk.0.attn_q.weight": dense}, ["text.txt"], 4, 512)


def test_gguf_round_trip(tmp_path):
    importance, path = sample(), tmp_path / "imatrix.gguf"
    importance.write(path)
    again = read_imatrix(path)
    assert again.digest == importance.digest
    assert (again.datasets, again.chunk_count, again.chunk_size) == (["text.txt"], 4, 512)
    with GGUFFile.open(path) as file:  # llama.cpp's names and shapes
        assert file.metadata["general.type"] == "imatrix"
        assert file.tensors[UP + ".in_sum2"].shape == (8, 256)
        assert file.tensors[UP + ".counts"].shape == (8, 1)


def test_the_name_of_the_text_need_not_be_utf_8(tmp_path):
    importance = sample()
    importance.datasets = ["caf\udce9.txt"]
    importance.write(tmp_path / "imatrix.gguf")
    assert read_imatrix(tmp_path / "imatrix.gguf").datasets == ["caf?.txt"]


def test_unreached_experts_are_named_and_weighted_evenly():
    importance = sample()
    assert importance.unreached() == {UP: [3]}
    assert (importance.of(UP, 3) == 1).all()
    assert not (importance.of(UP, 2) == 1).any()
    assert importance.of("output.weight", 0) is None


def dat(entries, tail=b""):
    data = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values))
        data += np.asarray(values, "<f4").tobytes()
    return data + tail


def test_the_older_format_is_read(tmp_path):
    path = tmp_path / "imatrix.dat"
    values = np.arange(8 * 256, dtype=np.float32)
    path.write_bytes(dat([(UP, 4, values)], struct.pack("<i", 9) + struct.pack("<i", 1) + b"x"))
    importance = read_imatrix(path)
    assert importance.chunk_count == 9
    importance.check(UP, (8, 512, 256))
    np.testing.assert_allclose(importance.of(UP, 1), values[256:512] / 4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<i", -1),
        struct.pack("<i", 1 << 30),
        dat([("a", 1, [1, 2])])[:-1],
        struct.pack("<ii", 1, 1 << 30),
        dat([("a", -1, [1.0])]),
        struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 1 << 29),
        dat([("a", 1, [np.nan])]),
        dat([("a", 1, [-1.0])]),
    ],
)
def test_damaged_files_are_refused(tmp_path, data):
    path = tmp_path / "imatrix.dat"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"imatrix\.dat"):
        read_imatrix(path)


def test_means_that_are_infinite_are_refused(tmp_path):
    statistics = Statistics(np.full((1, 256), 1e38, np.float32), np.array([1e-3], np.float32))
    Importance({"output.weight": statistics}).write(tmp_path / "imatrix.gguf")
    with pytest.raises(ModelFileError, match=r"'output.weight' holds values that are no mean squares"):
        read_imatrix(tmp_path / "imatrix.gguf")


def test_a_gguf_that_is_no_importance_matrix_is_refused(tmp_path):
    with GGUFWriter(tmp_path / "m.gguf", {"general.architecture": "llama"}):
        pass
    with pytest.raises(ModelFileError, match="no importance matrix"):
        read_imatrix(tmp_path / "m.gguf")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_imatrix(tmp_path / "none")


@pytest.mark.timeout(10)  # opening a pipe that nobody writes to would wait for ever
def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_imatrix(tmp_path / "pipe")


def test_an_importance_matrix_of_another_model_is_refused(mixtral):
    importance = sample(cols=512)
    with pytest.raises(ModelFileError, match="it is of another model"):
        make_plan(open_source(mixtral), recipe_named("q4_0"), importance=importance)


def test_an_importance_matrix_with_nothing_on_the_model_is_refused(mixtral):
    foreign = Importance({"model.layers.0.foo": sample().entries[UP]})
    with pytest.raises(ModelFileError, match=r"imatrix: it has nothing on any tensor of .*another model"):
        make_plan(open_source(mixtral), recipe_named("q4_0"), importance=foreign)


def test_matrices_that_an_importance_matrix_does_not_cover_are_noted(mixtral):
    def notes(importance, recipe="q4_0"):
        return make_plan(open_source(mixtral), recipe_named(recipe), importance=importance).notes

    whole = {}
    for tensor in open_source(mixtral).tensors:
        if is_free(tensor.name, tensor.shape) and tensor.name != "token_embd.weight":
            experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
            sums = np.ones((experts, tensor.shape[-1]), np.float32)
            whole[tensor.name] = Statistics(sums, np.ones(experts, np.float32))
    assert notes(Importance(dict(whole))) == []
    del whole["blk.0.ffn_up_exps.weight"], whole["blk.1.attn_k.weight"]  # the second becomes Q8_0: no matter
    (note,) = notes(Importance(dict(whole)))
    assert note == "the importance matrix has nothing on blk.0.ffn_up_exps.weight: errors there count evenly"
    del whole["output.weight"]
    (note,) = notes(Importance(dict(whole)))
    assert "blk.0.ffn_up_exps.weight and 1 more:" in note
    assert notes(Importance(dict(whole)), "q8_0") == []


def test_each_expert_is_quantized_with_its_own_importance(mixtral, tmp_path, helpers):
    importance = sample()
    plan = make_plan(open_source(mixtral), recipe_named("q4_k_s"), importance=importance)
    assert plan.metadata["localmoe.imatrix"] == importance.digest
    convert(plan, tmp_path / "m.gguf", threads=2)
    weights = helpers.hugging_face_weights()
    with GGUFFile.open(tmp_path / "m.gguf") as file:
        for expert in (2, 3):
            x = weights[f"model.layers.0.block_sparse_moe.experts.{expert}.w3.weight"]
            expected = quantize(x, "q4_k", importance.of(UP, expert))
            np.testing.assert_array_equal(file.tensors[UP].data[expert], expected)
            assert np.abs(dequantize(expected, "q4_k") - x).max() < 0.05
