"""Files and arguments that cannot be used: one line on stderr, exit 2, never a traceback."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import metadata, shapes, tokenizer, write_model

from localmoe import runner
from localmoe.cli.main import run
from quant.gguf import GGUFWriter

Refused = Callable[..., str]


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Refused:
    """Runs a command that must be refused, and before anything is compiled on a first run, unless that shows
    only once the model is `loaded`; its one line of stderr.
    """
    monkeypatch.setattr(runner, "_first_run", lambda threads, notice: pytest.fail("compiled"))
    text = tmp_path / "text.txt"
    text.write_text("a b c d e f g h i j")

    def check(
        path: object, *options: str, command: str = "perplexity", text: Path = text, loaded: bool = False
    ) -> str:
        monkeypatch.setattr(runner, "is_first_run", lambda: not loaded)
        arguments = [command, str(path), *([str(text)] if command == "perplexity" else []), *options]
        before = sorted(tmp_path.iterdir())
        code = run(arguments)
        out, err = capsys.readouterr()
        assert code == 2, (code, err)
        assert out == ""
        lines = err.strip().splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("localmoe: ")
        assert sorted(tmp_path.iterdir()) == before
        return lines[0]

    return check


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_model(tmp_path_factory.mktemp("sound") / "m.gguf", metadata(block_count=1), "q8_0")
    return path.read_bytes()


def made(tmp_path: Path, **arguments: Any) -> Path:
    return write_model(tmp_path / "bad.gguf", **arguments)


def hollow(path: Path, values: dict[str, Any], types: dict[str, str] | None = None) -> Path:
    """A file with these metadata and the tensors of a sane model of one layer, all zero."""
    sane = shapes(metadata(block_count=1))
    with GGUFWriter(path, values) as file:
        for name, shape in sane.items():
            file.declare(name, shape, (types or {}).get(name, "f32"))
        for name in sane:
            file.write(name, np.zeros(file.layout[name].nbytes, np.uint8))
    return path


def test_no_such_file(refused, tmp_path):
    assert "no such file" in refused(tmp_path / "missing.gguf")
    assert "no model or file 'mixtrol'" in refused("mixtrol")


@pytest.mark.parametrize("content", [b"", b"GG", b"hello, this is text\n" * 100, bytes(5000)])
def test_not_a_gguf_file(content, refused, tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    assert "bad.gguf" in refused(path)


def test_a_directory_is_not_a_model_file(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    assert "folder" in refused(tmp_path / "folder")


@pytest.mark.parametrize("version", [0, 1, 4, 0x03000000])
def test_unknown_version(version, refused, sound, tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(sound[:4] + struct.pack("<I", version) + sound[8:])
    assert "version" in refused(path) or version == 0x03000000


def test_truncated_anywhere(refused, sound, tmp_path):
    path = tmp_path / "bad.gguf"
    whole = len(sound)
    last = whole - 1000  # well inside the last tensor, whatever padding follows it
    cuts = [1, 5, 9, 20, 24, 25, 40, 100, 200, 1000, 5000, *range(6000, last, last // 20), last]
    for cut in cuts:
        path.write_bytes(sound[:cut])
        assert "bad.gguf" in refused(path)


def test_unsupported_architecture_is_named(refused, tmp_path):
    path = made(tmp_path, values=metadata(architecture="deepseek2"))
    assert "'deepseek2'" in refused(path)


def test_a_missing_head_norm_is_named(refused, tmp_path):
    values = metadata("qwen3moe", expert_feed_forward_length=128)
    path = made(tmp_path, values=values, change=lambda shapes: shapes.pop("blk.1.attn_k_norm.weight"))
    assert "blk.1.attn_k_norm.weight is missing" in refused(path)


OF_GPT_OSS = ("attn_sinks.weight", "attn_k.bias", "ffn_gate_inp.bias", "ffn_up_exps.bias",
              "post_attention_norm.weight")  # fmt: skip


@pytest.mark.parametrize("name", OF_GPT_OSS)
def test_what_a_gpt_oss_lacks_is_named(name, refused, tmp_path):
    values = metadata("gpt-oss", expert_feed_forward_length=128, sliding_window=128)
    path = made(tmp_path, values=values, change=lambda shapes: shapes.pop(f"blk.1.{name}"))
    assert f"blk.1.{name} is missing" in refused(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sliding_window": None}, "sliding_window is missing"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"expert_used_count": None}, "expert_used_count is missing"),
        ({"freq_base": None}, "freq_base is missing"),
        ({"freq_base": 1.0}, "freq_base is 1.0, not a number above 1"),
        ({"type": "yarn", "gpt-oss.rope.scaling.yarn_ext_factor": 0.5}, "0.5"),
        ({"type": "yarn", "gpt-oss.rope.scaling.yarn_ext_factor": "x"}, "yarn_ext_factor"),
    ],
    ids=str,
)
def test_what_gpt_oss_files_always_state_is_not_guessed(changes, named, refused, tmp_path):
    values = metadata("gpt-oss", expert_feed_forward_length=128, **{"sliding_window": 128, **changes})
    assert named in refused(made(tmp_path, values=values))


def test_a_bias_of_another_type_is_refused(refused, tmp_path):
    values = metadata("gpt-oss", expert_feed_forward_length=128, sliding_window=128)
    path = made(tmp_path, values=values, types={"": "q8_0", "attn_q.bias": "f16"})
    assert "blk.0.attn_q.bias has the type f16" in refused(path)


def test_a_key_of_another_architecture_does_not_count(refused, tmp_path):
    values = metadata("qwen3")
    values["llama.block_count"] = values.pop("qwen3.block_count")
    assert "qwen3.block_count is missing" in refused(hollow(tmp_path / "bad.gguf", values))


def test_unsupported_tensor_type_is_named(refused, tmp_path):
    """A norm may be of no other type than F32; no kernel reads it as blocks."""
    path = hollow(tmp_path / "bad.gguf", metadata(block_count=1), {"blk.0.attn_norm.weight": "q8_0"})
    line = refused(path)
    assert "q8_0" in line.lower()
    assert "blk.0.attn_norm.weight" in line


NEEDED = [name for name in shapes(metadata(block_count=1)) if name != "output.weight"]


@pytest.mark.parametrize("name", NEEDED)
def test_missing_tensor_is_named(name, refused, tmp_path):
    path = made(tmp_path, values=metadata(block_count=1), change=lambda tensors: tensors.pop(name))
    line = refused(path)
    assert name in line
    assert "missing" in line


def test_a_model_without_an_output_matrix_uses_its_embedding(tmp_path):
    import localmoe

    path = made(tmp_path, values=metadata(block_count=1), change=lambda tensors: tensors.pop("output.weight"))
    with localmoe.load(path) as model:
        assert model.logits([1, 5]).shape == (2, model.config.vocab)


REQUIRED = (
    "general.architecture", "llama.block_count", "llama.context_length", "llama.embedding_length",
    "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon",
    "tokenizer.ggml.model", "tokenizer.ggml.tokens",
)  # fmt: skip


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_metadata_is_named(key, refused, tmp_path):
    values = metadata(block_count=1)
    del values[key]
    assert key in refused(hollow(tmp_path / "bad.gguf", values))


# What the metadata says and the tensors do not: (changed key, its value, what the line must name).
DISAGREE: tuple[tuple[str, Any, str], ...] = (
    ("embedding_length", 512, "token_embd.weight"),
    ("feed_forward_length", 512, "ffn_gate_exps.weight"),
    ("feed_forward_length", 2**31 - 32, "ffn_gate_exps.weight"),
    ("block_count", 2, "blk.1."),
    ("head_count_kv", 4, "attn_k.weight"),
    ("expert_count", 8, "blk.0.ffn_gate"),
    ("expert_count", None, ""),
    ("expert_used_count", 5, "5 experts of 4"),
    ("head_count", 0, "head_count"),
    ("head_count_kv", 0, "head_count_kv"),
    ("head_count_kv", 3, "KV heads"),
    ("block_count", 0, "block_count"),
    ("context_length", 0, "context_length"),
    ("expert_used_count", 0, "expert_used_count"),
    ("dimension_count", 33, "33"),
    ("dimension_count", 128, "128"),
    ("layer_norm_rms_epsilon", 0.0, "epsilon"),
    ("layer_norm_rms_epsilon", float("nan"), "epsilon"),
    ("freq_base", -1.0, "freq_base"),
    ("head_count", 2**31, "head_count"),
    ("head_count", "four", "head_count"),
    ("head_count", [4, 4], "head_count is a list; one number"),
    ("sliding_window", np.array([128, 0], np.int32), "sliding_window is a list; one number"),
    ("embedding_length", 1.5, "embedding_length"),
    ("value_length", 32, "values"),
    ("value_length", [64, 64], "value"),
    ("type", "longrope", "longrope"),
    ("architecture", 7, "general.architecture"),
    ("name", 7, "general.name"),
    ("tokenizer.ggml.tokens", 5, "tokens"),
    ("tokenizer.ggml.tokens", np.arange(320, dtype=np.int32), "tokens"),
    ("tokenizer.ggml.scores", None, "scores"),
    ("tokenizer.ggml.token_type", np.zeros(3, np.int32), "token_type"),
    ("tokenizer.ggml.bos_token_id", 999, "bos_token_id"),
    ("tokenizer.ggml.model", "wordpiece", "wordpiece"),
    ("sliding_window", -5, "sliding_window"),
)


@pytest.mark.parametrize(("key", "value", "named"), DISAGREE, ids=[f"{k}={v!r:.20}" for k, v, _ in DISAGREE])
def test_what_disagrees_is_named(key, value, named, refused, tmp_path):
    line = refused(hollow(tmp_path / "bad.gguf", metadata(**{"block_count": 1, key: value})))
    assert named in line
    assert "bad.gguf" in line or "tokenizer.ggml" in line


def test_a_plan_is_refused_as_the_model_is(refused, tmp_path):
    values = metadata(block_count=1, feed_forward_length=2**31 - 32)
    path = hollow(tmp_path / "bad.gguf", values)
    assert "ffn_gate_exps.weight" in refused(path, "--plan", command="chat")


@pytest.mark.parametrize(
    "changes",
    [
        {"dimension_count": 8, "llama.attention.key_length": 8},
        {"dimension_count": 32, "llama.attention.key_length": 32, "embedding_length": 144},
        {"feed_forward_length": 48},
        {"expert_count": 257, "feed_forward_length": 32},
        {"expert_count": 64, "expert_used_count": 33, "feed_forward_length": 32},
        {"type": "longrope"},
    ],
    ids=str,
)
def test_what_cannot_be_run_can_be_converted_with_a_note(changes, refused, tmp_path, capsys):
    path = made(tmp_path, values=metadata(block_count=1, **changes), types="f16")
    reason = refused(path).removeprefix("localmoe: ")
    assert all(str(value) in reason for value in changes.values() if value != 32)  # 32 is sane
    for command in (["--dry-run"], ["-o", str(tmp_path / "out.gguf")]):
        assert run(["quantize", str(path), "-t", "q8_0", *command]) == 0
        assert f"note: localmoe cannot run this: {reason}\n" in capsys.readouterr().out
    assert run(["quantize", str(path), "-t", "q8_0", "--dry-run", "--json"]) == 0
    assert f"localmoe cannot run this: {reason}" in json.loads(capsys.readouterr().out)["notes"]


def test_heads_of_which_only_part_is_rotated_are_run_and_converted_without_a_note(tmp_path, capsys):
    import localmoe

    values = metadata(block_count=1, dimension_count=32, **{"llama.attention.key_length": 64})
    path = made(tmp_path, values=values, types="f16")
    assert run(["quantize", str(path), "-o", str(tmp_path / "out.gguf"), "-t", "q8_0"]) == 0
    assert "note" not in capsys.readouterr().out
    with localmoe.load(tmp_path / "out.gguf") as model:
        assert (model.config.head_dim, model.config.rope_dim) == (64, 32)
        assert np.isfinite(model.logits([1, 5])).all()


def test_a_vocabulary_of_another_size_than_the_embedding(refused, tmp_path):
    values = metadata(block_count=1)
    path = made(
        tmp_path,
        values={**values, **tokenizer(319)},
        change=lambda tensors: tensors.update({"token_embd.weight": (320, 256)}),
    )
    assert "319 tokens" in refused(path)


def test_a_tensor_too_many_is_named(refused, tmp_path):
    """A bias that we would leave out changes what the model computes."""
    path = made(
        tmp_path, values=metadata(block_count=1), change=lambda t: t.update({"blk.0.attn_q.bias": (256,)})
    )
    assert "blk.0.attn_q.bias" in refused(path)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf])
def test_factors_that_no_frequency_can_be_divided_by(factor, refused, tmp_path):
    path = made(
        tmp_path, values=metadata(block_count=1), change=lambda t: t.update({"rope_freqs.weight": (32,)}),
        weight=lambda name, shape: np.full(shape, factor, np.float32) if "rope_freqs" in name else None,
    )  # fmt: skip
    assert "rope_freqs.weight" in refused(path)


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "q6_k"])
def test_a_quantized_router_is_refused(kind, refused, tmp_path):
    path = made(tmp_path, values=metadata(block_count=1), types={"ffn_gate_inp": kind, "": "q8_0"})
    line = refused(path)
    assert "blk.0.ffn_gate_inp.weight" in line
    assert kind in line


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_a_router_may_be_of_any_float_type(kind, tmp_path):
    import localmoe

    path = made(tmp_path, values=metadata(block_count=1), types={"ffn_gate_inp": kind, "": "q8_0"})
    with localmoe.load(path) as model:
        assert np.isfinite(model.logits([1, 5])).all()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickles_are_refused_with_the_reason(name, refused, tmp_path):
    import pickle

    path = tmp_path / name
    path.write_bytes(pickle.dumps({"weight": [1.0]}))
    assert "pickle" in refused(path)
    assert "pickle" in refused(path, "-o", str(tmp_path / "out.gguf"), command="quantize")


def test_options_out_of_range(refused, tmp_path):
    path = write_model(tmp_path / "m.gguf", metadata(block_count=1))
    assert "--threads" in refused(path, "--threads", "0")
    assert "--context" in refused(path, "--context", "0", command="bench")
    assert "--context 5000" in refused(path, "--context", "5000", command="bench")
    assert "--device tpu" in refused(path, "--device", "tpu", command="bench")
    assert "kv-type" in refused(path, "--kv-type", "q4_0", command="bench")
    for prompt, context, advice in (
        ("1000", "1024", "the model has no more than 1024"),
        ("1000", "512", "the model has no more than 1024"),
        ("900", "512", "raise --context"),
    ):
        options = ("-p", prompt, "-n", "100", "--context", context)
        line = refused(path, *options, command="bench", loaded=True)
        assert line.endswith(f"do not fit in the context of {context}; {advice}")


def test_a_text_that_cannot_be_scored(refused, tmp_path):
    path = write_model(tmp_path / "m.gguf", metadata(block_count=1))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").write_bytes(b"")
    for text, reason in (("latin.txt", "UTF-8"), ("empty.txt", "short"), ("none.txt", "No such file")):
        assert reason in refused(path, text=tmp_path / text, loaded=reason == "short")
