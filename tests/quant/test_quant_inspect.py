"""`localmoe inspect`: what it shows, and that no escape sequence in a file reaches the terminal."""

import json
import struct

import numpy as np
import pytest
from click.testing import CliRunner

from localmoe.cli.inspect import inspect
from quant.convert import convert
from quant.errors import ModelFileError
from quant.gguf import GGUFWriter
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
