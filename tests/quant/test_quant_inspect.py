"""`localmoe inspect`: what it shows, and that no escape sequence in a file reaches the terminal."""

import json
import struct

import numpy as np
import pytest
from click.testing import CliRunner

from localmoe.cli.inspect import inspect
from quant.convert import convert
from quant.errors import ModelFileError
from quant.gguf import GGUFFile, GGUFWriter
from quant.plan import make_plan
from quant.recipes import recipe_named
from quant.sources import open_source


@pytest.fixture(scope="module")
def file(mixtral, tmp_path_factory):
    out = tmp_path_factory.mktemp("inspect") / "m.gguf"
    convert(make_plan(open_source(mixtral), recipe_named("q8_0"), version="1.0"), out, threads=1)
    return out


def run(*arguments):
    return CliRunner().invoke(inspect, [str(a) for a in arguments], catch_exceptions=False).output


def test_text(file):
    text = run(file)
    assert text.startswith("GGUF version 3, 23 tensors")
    assert "llama.expert_count" in text
    assert "(96 in all)" in text
    assert "bits/weight" in text
    assert "blk.0.attn_q.weight" not in text
    assert "blk.0.ffn_up_exps.weight q8_0 8 x 512 x 256" in " ".join(run(file, "--tensors").split())


def test_json_says_all_of_it(file):
    report = json.loads(run(file, "--json"))
    assert len(report["tensors"]) == 23
    assert len(report["metadata"]["tokenizer.ggml.tokens"]) == 96
    assert report["size"] == file.stat().st_size
    assert {t["type"] for t in report["types"]} == {"q8_0", "f32"}
    assert sum(t["bytes"] for t in report["types"]) == sum(t["bytes"] for t in report["tensors"])


def test_check(file, tmp_path):
    run(file, "--check")
    damaged = tmp_path / "m.gguf"
    data = bytearray(file.read_bytes())
    offset = json.loads(run(file, "--json"))["tensors"][3]["offset"]
    data[offset : offset + 2] = struct.pack("<e", float("inf"))
    damaged.write_bytes(data)
    run(damaged)
    with pytest.raises(ModelFileError, match="scale that is no number"):
        run(damaged, "--check")


def write(path, metadata, tensors):
    """A file of tensors given as name -> (shape, type, bytes)."""
    with GGUFWriter(path, metadata) as out:
        for name, (shape, kind, _) in tensors.items():
            out.declare(name, shape, kind)
        for name, (_, _, data) in tensors.items():
            out.write(name, data)


def test_check_of_a_split_model_reads_every_part(file, tmp_path):
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    with GGUFFile.open(file) as opened:
        tensors = [(t.name, (t.shape, t.type, t.data)) for t in opened.tensors.values()]
        split = {"split.count": np.uint16(2)}
        write(parts[0], opened.metadata | split, dict(tensors[:9]))
        write(parts[1], split, dict(tensors[9:]))
    for part in parts:
        run(part, "--check")
    data = bytearray(parts[1].read_bytes())
    report = json.loads(run(parts[1], "--json"))
    assert report == json.loads(run(parts[0], "--json"))
    assert report["files"] == [{"path": str(part), "size": part.stat().st_size} for part in parts]
    assert [tensor["name"] for tensor in report["tensors"]] == [name for name, _ in tensors]
    assert [tensor["file"] for tensor in report["tensors"]] == [0] * 9 + [1] * (len(tensors) - 9)
    assert f" {len(tensors)} tensors, {report['size'] / 1e9:.3f} GB in 2 files\n" in run(parts[1])
    offset = report["tensors"][12]["offset"]
    data[offset : offset + 2] = struct.pack("<e", float("inf"))
    parts[1].write_bytes(data)
    with pytest.raises(ModelFileError, match=r"m-00002-of-00002\.gguf: .* scale that is no number"):
        run(parts[0], "--check")
    parts[1].unlink()
    with pytest.raises(ModelFileError, match="all 2 parts of the model must be there"):
        run(parts[0], "--check")


def test_check_of_a_tensor_per_expert(file, tmp_path):
    tensors = {}
    with GGUFFile.open(file) as opened:
        for name, t in opened.tensors.items():
            stem = name.removesuffix("_exps.weight")
            if stem == name:
                tensors[name] = (t.shape, t.type, t.data)
            else:
                tensors |= {f"{stem}.{i}.weight": (t.shape[1:], t.type, t.data[i]) for i in range(8)}
        write(tmp_path / "old.gguf", opened.metadata, tensors)
        del tensors["blk.1.ffn_up.7.weight"]
        write(tmp_path / "less.gguf", opened.metadata, tensors)
    run(tmp_path / "old.gguf", "--check")
    with pytest.raises(ModelFileError, match=r"blk.1.ffn_up_exps"):
        run(tmp_path / "less.gguf", "--check")


def test_values_cannot_speak_to_the_terminal(tmp_path):
    path = tmp_path / "m.gguf"
    metadata = {
        "general.name": "\x1b[2Jgone\x07\u202e",
        "list": ["\x1b]0;title\x07", "b"],
        "long": "x" * 1000,
        "odd": np.array([np.nan, np.inf], np.float32),
    }
    with GGUFWriter(path, metadata):
        pass
    text = run(path)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"\x1b[2Jgone\x07\u202e" in text
    assert "(1000 characters)" in text
    assert json.loads(run(path, "--json"))["metadata"]["odd"] == ["nan", "inf"]
