"""gpt-oss: from OpenAI's directories, dequantized ones, and GGUF files."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from conversions import interrupted, planned
from gptoss_models import (
    CONFIG,
    EXPERTS,
    FFN,
    HEADS,
    HIDDEN,
    LAYERS,
    packed_experts,
    plain_weights,
    unpacked,
    write_gptoss,
)

import localmoe
from localmoe.cli.quantize import quantize
from quant.blocks import FORMATS
from quant.convert import convert
from quant.errors import ModelFileError
from quant.gguf import GGUFFile
from quant.sources import open_source

PLAIN = {
    "attn_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "attn_sinks.weight": "self_attn.sinks",
    "ffn_gate_inp.weight": "mlp.router.weight",
    "ffn_gate_inp.bias": "mlp.router.bias",
    "ffn_down_exps.bias": "mlp.experts.down_proj_bias",
}
for ours, theirs in {"q": "q", "k": "k", "v": "v", "output": "o"}.items():
    PLAIN |= {f"attn_{ours}.{kind}": f"self_attn.{theirs}_proj.{kind}" for kind in ("weight", "bias")}


@pytest.fixture(scope="module")
def gptoss(tmp_path_factory):
    """As published; not to be changed by tests."""
    return write_gptoss(tmp_path_factory.mktemp("models") / "tiny-gpt-oss")


@pytest.fixture(scope="module")
def file(gptoss, tmp_path_factory):
    """Its experts in MXFP4, the rest in Q8_0."""
    out = tmp_path_factory.mktemp("gpt-oss") / "tiny-gpt-oss.gguf"
    convert(planned(gptoss, "mxfp4"), out, threads=2)
    return out


@pytest.fixture(scope="module")
def wide(gptoss, tmp_path_factory):
    """All of it in F32."""
    out = tmp_path_factory.mktemp("gpt-oss") / "wide.gguf"
    convert(planned(gptoss, "f32"), out, threads=2)
    return out


def tensors_of(path):
    with GGUFFile.open(path) as opened:
        return {n: t.format.decode(t.data).reshape(t.shape) for n, t in opened.tensors.items()}


def experts_of(layer):
    """The experts' matrices by GGUF's names, by transformers' rule: [experts, rows, cols]."""
    packed = packed_experts()
    gate_up, down = (
        unpacked(packed[f"{at}_blocks"], packed[f"{at}_scales"]).transpose(0, 2, 1)
        for at in (f"model.layers.{layer}.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj"))
    )
    return {
        "ffn_gate_exps.weight": gate_up[:, 0::2],
        "ffn_up_exps.weight": gate_up[:, 1::2],
        "ffn_down_exps.weight": down,
    }


def test_tensors_are_those_of_the_source_gate_and_up_apart(gptoss, wide):
    ours, weights = tensors_of(wide), plain_weights()
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        expected = {name: weights[at + theirs] for name, theirs in PLAIN.items()} | experts_of(layer)
        bias = weights[at + "mlp.experts.gate_up_proj_bias"]
        expected |= {"ffn_gate_exps.bias": bias[:, 0::2], "ffn_up_exps.bias": bias[:, 1::2]}
        assert {n.split(".", 2)[2] for n in ours if n.startswith(f"blk.{layer}.")} == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(ours[f"blk.{layer}.{name}"], values, err_msg=name)
    np.testing.assert_array_equal(ours["token_embd.weight"], weights["model.embed_tokens.weight"])
    np.testing.assert_array_equal(ours["output_norm.weight"], weights["model.norm.weight"])
    np.testing.assert_array_equal(ours["output.weight"], weights["lm_head.weight"])


def test_blocks_are_repacked_bit_for_bit(file):
    """Weights 2i and 2i + 1 of a block, a byte there, are nibbles of other bytes in GGUF; none is decoded."""
    packed, at = packed_experts(), "model.layers.1.mlp.experts.gate_up_proj"
    with GGUFFile.open(file) as opened:
        up = opened.tensors["blk.1.ffn_up_exps.weight"].data.reshape(EXPERTS, FFN, HIDDEN // 32, 17)
    theirs, scales = packed[at + "_blocks"][:, 1::2], packed[at + "_scales"][:, 1::2]
    np.testing.assert_array_equal(up[..., 0], scales)
    for weight in range(32):
        ours = up[..., 1 + weight % 16] >> 4 * (weight // 16) & 15
        np.testing.assert_array_equal(ours, theirs[..., weight // 2] >> 4 * (weight % 2) & 15)


def test_gguf_reads_what_we_write(file):
    from gguf import GGUFReader
    from gguf.quants import dequantize

    theirs = {t.name: t for t in GGUFReader(file).tensors}
    for name, values in experts_of(1).items():
        tensor = theirs[f"blk.1.{name}"]
        assert tensor.tensor_type.name == "MXFP4"
        np.testing.assert_array_equal(dequantize(tensor.data, tensor.tensor_type), values)
    kinds = {n: t.tensor_type.name for n, t in theirs.items() if not n.endswith("_exps.weight")}
    wide = [n for n in kinds if n.endswith(".bias") or "norm" in n or "sinks" in n or "gate_inp" in n]
    assert {kinds[n] for n in wide} == {"F32"}
    assert {kinds[n] for n in kinds if n not in wide} == {"Q8_0"}


def test_wide_experts_that_came_from_mxfp4_are_encoded_without_error(file, wide, tmp_path):
    """By another power, perhaps; with the default recipe, to which a fine-tune in BF16 comes too."""
    out = tmp_path / "again.gguf"
    convert(planned(wide, "mxfp4"), out, threads=2)
    with GGUFFile.open(file) as original, GGUFFile.open(out) as again:
        for name, tensor in again.tensors.items():
            assert tensor.type == original.tensors[name].type
            if tensor.type == "mxfp4":
                rows = (t.data.reshape(-1, t.data.shape[-1]) for t in (tensor, original.tensors[name]))
                np.testing.assert_array_equal(*map(FORMATS["mxfp4"].decode, rows))


def test_dequantized_experts_give_the_same_file(wide, tmp_path, monkeypatch):
    """What transformers saves is transposed; it is read in pieces of rows and of columns."""
    monkeypatch.setattr("quant.convert.RANGE_WEIGHTS", 11 * FFN)
    monkeypatch.setattr("quant.source_gptoss._AT_ONCE", 7 * 2 * FFN * 2)
    directory = write_gptoss(tmp_path / "tiny-gpt-oss", packed=False)
    convert(planned(directory, "f32"), tmp_path / "m.gguf", threads=2)
    assert (tmp_path / "m.gguf").read_bytes() == wide.read_bytes()


def test_pieces_of_packed_experts_give_the_same_file(gptoss, file, tmp_path, monkeypatch):
    monkeypatch.setattr("quant.convert.RANGE_WEIGHTS", 11 * FFN)
    convert(planned(gptoss, "mxfp4"), tmp_path / "m.gguf", threads=2)
    assert (tmp_path / "m.gguf").read_bytes() == file.read_bytes()


def test_metadata_are_those_of_llama_cpps_converter(file):
    """llama.cpp's conversion/gpt_oss.py and base.py; two keys more, as for Qwen3."""
    with GGUFFile.open(file) as opened:
        data, types = opened.metadata, opened.value_types
    own = {
        "block_count": 2,
        "context_length": 131072,
        "embedding_length": 96,
        "feed_forward_length": 64,
        "expert_feed_forward_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "attention.sliding_window": 128,
        "rope.freq_base": 150000.0,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 32.0,
        "rope.scaling.original_context_length": 4096,
        "expert_count": 6,
        "expert_used_count": 4,
        "vocab_size": 400,
        "rope.dimension_count": 32,
    }
    assert {k: v for k, v in data.items() if k.startswith("gpt-oss.")} == {
        f"gpt-oss.{k}": v for k, v in own.items()
    }
    floats = ("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor")
    assert {k for k in own if types[f"gpt-oss.{k}"] == 6} == set(floats)
    assert {types[f"gpt-oss.{k}"] for k in own if k not in floats} == {4, 8}  # u32, and a string
    assert data["general.architecture"] == "gpt-oss"
    assert data["general.file_type"] == 38
    assert data["tokenizer.ggml.pre"] == "gpt-4o"
    assert data["tokenizer.ggml.eos_token_id"] == 327
    assert data["tokenizer.chat_template"].startswith("{% for m in messages %}")


def test_a_window_longer_than_the_context_is_told_too(tmp_path):
    """llama.cpp demands the key."""
    directory = write_gptoss(tmp_path / "m", max_position_embeddings=128)
    assert open_source(directory).metadata["gpt-oss.attention.sliding_window"] == 128


@pytest.mark.parametrize(
    "change",
    [
        {"layer_types": None, "swiglu_limit": None, "attention_bias": None},
        {"rms_norm_eps": None, "rope_theta": None, "rope_scaling": None},
        {"rope_scaling": None, "rope_parameters": CONFIG["rope_scaling"] | {"rope_theta": 150000.0}},
    ],
)
def test_the_same_in_other_words(gptoss, tmp_path, change):
    expected = open_source(gptoss).metadata
    found = open_source(write_gptoss(tmp_path / "tiny-gpt-oss", **change)).metadata
    assert {k: v for k, v in found.items() if k.startswith("gpt-oss.")} == {
        k: v for k, v in expected.items() if k.startswith("gpt-oss.")
    }


def test_older_configurations_name_the_experts_used_otherwise(tmp_path):
    directory = write_gptoss(tmp_path / "m", experts_per_token=3, num_experts_per_tok=None)
    assert open_source(directory).metadata["gpt-oss.expert_used_count"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types are \['full_attention"),
        ({"layer_types": ["sliding_attention"]}, "by turns are supported"),
        ({"swiglu_limit": 6.0}, "swiglu_limit is 6.0, and only 7.0 is supported"),
        ({"swiglu_alpha": 1.0}, "swiglu_alpha is 1.0, and only 1.702 is supported"),
        ({"attention_bias": False}, "attention_bias is False, and only True is supported"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and only 'silu' is supported"),
        ({"sliding_window": None}, "sliding_window is None, not a whole number from 1"),
        ({"use_sliding_window": False}, "use_sliding_window is False"),
        ({"num_experts_per_tok": 7}, "7 experts are used of 6"),
        ({"num_local_experts": 5}, r"has the shape \[6, 96\], the model's configuration wants \[5, 96\]"),
        ({"intermediate_size": 80}, "'model.layers.0.mlp.experts.gate_up_proj_blocks' has the shape"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path, change, message):
    with pytest.raises(ModelFileError, match=message):
        open_source(write_gptoss(tmp_path / "m", **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_type": "default"}, "rotary embedding is scaled by 'default', and only 'yarn' is supported"),
        ({"rope_type": None}, "is scaled by None"),
        ({"truncate": True}, "truncate of its rotary embedding is True, and only False is supported"),
        ({"truncate": None}, "truncate of its rotary embedding is missing"),  # transformers takes it for True
        ({"beta_fast": 16}, "beta_fast of its rotary embedding is 16, and only 32 is supported"),
        ({"beta_slow": 2.0}, "beta_slow of its rotary embedding is 2.0, and only 1 is supported"),
        ({"mscale": 1.0}, "mscale of its rotary embedding is 1.0, not supported"),
        ({"attention_factor": 1.0}, "attention_factor of its rotary embedding is 1.0, not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor of its rotary embedding is 0.5"),
        ({"factor": None}, "factor is None, not a positive number"),
        ({"factor": 0.5}, "factor is 0.5, less than 1"),
        ({"original_max_position_embeddings": None}, "original_max_position_embeddings is None"),
    ],
)
def test_another_rotary_embedding_is_refused(tmp_path, change, message):
    with pytest.raises(ModelFileError, match=message):
        open_source(write_gptoss(tmp_path / "m", rope_scaling=CONFIG["rope_scaling"] | change))


def changed(gptoss, directory, name, change):
    """A copy whose tensor `name` (its description, its bytes) `change` has altered."""
    shutil.copytree(gptoss, directory)
    index = directory / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    file = directory / data["weight_map"][name]
    content = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    start, end = header[name]["data_offsets"]
    values = np.frombuffer(content, np.uint8)[begin + start : begin + end].copy()
    new_name = change(header[name], values) or name
    content[begin + start : begin + end] = values.tobytes()
    header[new_name] = header.pop(name)
    data["weight_map"][new_name] = data["weight_map"].pop(name)
    encoded = json.dumps(header).encode()
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[begin:])
    index.write_text(json.dumps(data))
    return directory


@pytest.mark.parametrize(
    ("what", "change", "message"),
    [
        ("scales", lambda entry, _: entry.update(dtype="I8"), "_scales' is I8; U8 can be read"),
        ("blocks", lambda entry, _: entry.update(shape=[6, 96, 16, 2]), r"the shape \[6, 96, 16, 2\]"),
        ("scales", lambda *_: "model.layers.1.mlp.experts.x_scales", "_scales' is missing"),
        ("blocks", lambda *_: "model.layers.1.mlp.experts.x_blocks", "'.*down_proj' is missing"),
    ],
)
def test_experts_that_do_not_fit_are_refused(gptoss, tmp_path, what, change, message):
    name = f"model.layers.1.mlp.experts.down_proj_{what}"
    with pytest.raises(ModelFileError, match=message) as caught:
        open_source(changed(gptoss, tmp_path / "m", name, change))
    assert "quantized by" not in str(caught.value)  # in MXFP4, which is not what is wrong with it


@pytest.mark.parametrize("recipe", ["mxfp4", "q8_0"])
def test_a_scale_that_is_no_number_is_refused(gptoss, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr("quant.convert._SAMPLED_WEIGHTS", 1)  # also where copied blocks are not decoded

    def spoil(_, values):
        values[2 * 96 * 2 + 5] = 255  # of expert 2, row 2, block 1

    name = "model.layers.1.mlp.experts.down_proj_scales"
    directory = changed(gptoss, tmp_path / "m", name, spoil)
    with pytest.raises(ModelFileError, match=r"'blk.1.ffn_down_exps.weight' holds .* at \[2, 2, [36]\d\]"):
        convert(planned(directory, recipe), tmp_path / "m.gguf", threads=2)
    assert not list(tmp_path.glob("m.gguf*"))


def test_an_interrupted_conversion_ends_with_the_same_bytes(gptoss, file, tmp_path):
    out = tmp_path / "m.gguf"
    interrupted(planned(gptoss, "mxfp4"), out, tensor=20)
    result = convert(planned(gptoss, "mxfp4"), out, threads=2)
    assert result.resumed == 20
    assert out.read_bytes() == file.read_bytes()


def test_scales_of_another_download_are_noticed(gptoss, tmp_path):
    directory, out = shutil.copytree(gptoss, tmp_path / "m"), tmp_path / "m.gguf"
    interrupted(planned(directory, "mxfp4"), out, tensor=20)
    (directory / "model-00002-of-00002.safetensors").touch()  # which has the scales and nothing else
    with pytest.raises(ModelFileError, match="was begun with another source"):
        convert(planned(directory, "mxfp4"), out, threads=2)


def test_mxfp4_in_a_gguf_file_is_copied_or_decoded(file, tmp_path):
    convert(planned(file, "mxfp4"), tmp_path / "copy.gguf", threads=2)
    with GGUFFile.open(file) as before, GGUFFile.open(tmp_path / "copy.gguf") as after:
        assert before.value_types == after.value_types
        for name, tensor in before.tensors.items():
            np.testing.assert_array_equal(after.tensors[name].data, tensor.data, err_msg=name)
    with pytest.raises(ModelFileError, match=r"'blk\.0\.ffn_gate_exps.weight' is already mxfp4"):
        planned(file, "q8_0")
    convert(planned(file, "q8_0", allow_requantize=True), tmp_path / "eight.gguf", threads=2)
    with GGUFFile.open(tmp_path / "eight.gguf") as after:
        tensor = after.tensors["blk.1.ffn_up_exps.weight"]
        expected = FORMATS["q8_0"].encode(experts_of(1)["ffn_up_exps.weight"].reshape(-1, HIDDEN))
        np.testing.assert_array_equal(tensor.data.reshape(expected.shape), expected)


def test_published_blocks_may_become_coarser(gptoss):
    """They are the original weights."""
    types = {p.tensor.name: p.choice.type for p in planned(gptoss, "q4_0").tensors}
    assert types["blk.0.ffn_up_exps.weight"] == "q4_0"


def test_a_bias_that_is_missing_is_noticed(gptoss, tmp_path):
    name = "model.layers.0.self_attn.k_proj.bias"
    directory = changed(gptoss, tmp_path / "m", name, lambda *_: "model.layers.0.self_attn.x.bias")
    with pytest.raises(ModelFileError, match=f"'{name}' is missing"):
        open_source(directory)


def test_heads_without_a_sink_are_noticed(gptoss, tmp_path):
    name = "model.layers.1.self_attn.sinks"
    directory = changed(gptoss, tmp_path / "m", name, lambda entry, _: entry.update(shape=[2, 2]))
    with pytest.raises(ModelFileError, match=rf"'{name}' has the shape \[2, 2\].*wants \[{HEADS}\]"):
        open_source(directory)


def test_mxfp4_is_the_default_and_said_to_be(gptoss, file, tmp_path):
    run = CliRunner().invoke(quantize, [str(gptoss), "--dry-run"], catch_exceptions=False)
    assert "note: type mxfp4, as gpt-oss is published; -t chooses another" in run.output
    run = CliRunner().invoke(quantize, [str(gptoss), "-o", str(tmp_path / "m.gguf")], catch_exceptions=False)
    assert "note: type mxfp4" in run.output
    assert tensors_of(tmp_path / "m.gguf").keys() == tensors_of(file).keys()
    run = CliRunner().invoke(quantize, [str(gptoss), "--dry-run", "-t", "mxfp4"], catch_exceptions=False)
    assert "as gpt-oss is published" not in run.output


def test_it_runs_as_in_transformers(wide, tmp_path):
    """From the directory to logits, past the window: what the converter wrote is what the runtime reads."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = np.random.default_rng(5).integers(0, 325, 200).tolist()
    directory = write_gptoss(tmp_path / "tiny-gpt-oss", packed=False)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)(torch.tensor([ids]))
    with localmoe.load(wide, exact=True, threads=2, context=256) as model:
        np.testing.assert_allclose(model.logits(ids), expected.logits[0], atol=2e-4, rtol=0)
