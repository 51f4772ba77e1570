"""Qwen3 and Qwen3 MoE: from transformers' directories and from GGUF files."""

import json
import shutil

import numpy as np
import pytest
import qwen_models
import tokenizer_models
from click.testing import CliRunner
from conversions import interrupted, planned

import localmoe
from localmoe.cli.inspect import inspect
from quant.convert import convert
from quant.errors import ModelFileError
from quant.gguf import GGUFFile, GGUFWriter
from quant.sources import open_source
from quant.tensor_files import read_directory

NORMS = {"attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm"}
ATTENTION = NORMS | {"attn_q", "attn_k", "attn_v", "attn_output"}


@pytest.fixture(scope="module")
def file(qwen, tmp_path_factory):
    out = tmp_path_factory.mktemp("qwen") / "tiny-qwen.gguf"
    convert(planned(qwen, "f32"), out, threads=2)
    return out


def weights_of(directory):
    """What transformers saved: name -> float32 array."""
    from safetensors.torch import load_file

    return {n: t.float().numpy() for n, t in load_file(directory / "model.safetensors").items()}


def tensors_of(path):
    with GGUFFile.open(path) as opened:
        return {n: t.format.decode(t.data).reshape(t.shape) for n, t in opened.tensors.items()}


def assert_same_layer(ours, layer, weights, names):
    at = f"model.layers.{layer}."
    assert {n.split(".")[2] for n in ours if n.startswith(f"blk.{layer}.")} == names
    theirs = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate_inp": "mlp.gate",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for name in names:
        if name.endswith("_exps"):
            which = name.split("_")[1]
            expected = np.stack([weights[f"{at}mlp.experts.{e}.{which}_proj.weight"] for e in range(16)])
        else:
            expected = weights[f"{at}{theirs[name]}.weight"]
        np.testing.assert_array_equal(ours[f"blk.{layer}.{name}.weight"], expected, err_msg=name)


def test_tensors_are_those_of_the_source_and_no_row_is_reordered(qwen, file):
    assert (open_source(qwen).experts, open_source(file).layers) == (16, 2)
    ours, weights = tensors_of(file), weights_of(qwen)
    experts = {"ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}
    for layer in range(2):
        assert_same_layer(ours, layer, weights, ATTENTION | experts)
    np.testing.assert_array_equal(ours["token_embd.weight"], weights["model.embed_tokens.weight"])
    np.testing.assert_array_equal(ours["output_norm.weight"], weights["model.norm.weight"])
    np.testing.assert_array_equal(ours["output.weight"], weights["lm_head.weight"])


def test_fused_experts_give_the_same_file(qwen, tmp_path, file):
    fused = qwen_models.write_qwen(tmp_path / "tiny-qwen", fused=True)
    assert "model.layers.0.mlp.experts.gate_up_proj" in read_directory(fused)
    assert "model.layers.0.mlp.experts.0.gate_proj.weight" in read_directory(qwen)
    convert(planned(fused, "f32"), tmp_path / "m.gguf", threads=2)
    assert (tmp_path / "m.gguf").read_bytes() == file.read_bytes()


def test_the_dense_model(tmp_path):
    directory = qwen_models.write_qwen(tmp_path / "dense", experts=0)
    convert(planned(directory, "f32"), tmp_path / "m.gguf", threads=2)
    ours = tensors_of(tmp_path / "m.gguf")
    assert_same_layer(ours, 1, weights_of(directory), ATTENTION | {"ffn_gate", "ffn_up", "ffn_down"})
    assert "output.weight" not in ours  # its embedding serves as output too
    data = open_source(tmp_path / "m.gguf").metadata
    assert open_source(directory).experts == 0
    assert data["general.architecture"] == "qwen3"
    assert data["qwen3.feed_forward_length"] == 768
    assert not [key for key in data if "expert" in key or key.startswith("llama.")]


def test_metadata_are_those_of_llama_cpps_converter(file):
    """llama.cpp's conversion/qwen.py and base.py, and gguf.SpecialVocab."""
    with GGUFFile.open(file) as opened:
        data = opened.metadata
        assert opened.value_types["qwen3moe.rope.freq_base"] == 6
        assert opened.value_types["qwen3moe.expert_feed_forward_length"] == 4
    own = {
        "block_count": 2,
        "context_length": 512,
        "embedding_length": 256,
        "feed_forward_length": 768,
        "expert_feed_forward_length": 256,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 128,
        "attention.value_length": 128,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "rope.freq_base": 1e6,
        "expert_count": 16,
        "expert_used_count": 4,
        "vocab_size": 400,  # of these two it says nothing
        "rope.dimension_count": 128,
    }
    assert {k: v for k, v in data.items() if k.startswith("qwen3moe.")} == {
        f"qwen3moe.{k}": v for k, v in own.items()
    }
    tokenizer = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.bos_token_id": 325,  # from config.json
        "tokenizer.ggml.eos_token_id": 327,
        "tokenizer.ggml.padding_token_id": 325,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,  # the only key that it leaves out
        "tokenizer.chat_template": tokenizer_models.TEMPLATE,
    }
    arrays = {f"tokenizer.ggml.{k}" for k in ("tokens", "token_type", "merges")}
    assert {k: v for k, v in data.items() if k.startswith("tokenizer.") and k not in arrays} == tokenizer
    assert arrays < data.keys()
    assert data["general.architecture"] == "qwen3moe"
    assert data["general.name"] == "tiny-qwen"


def test_gguf_reads_what_we_write(qwen, tmp_path):
    from gguf import GGUFReader

    convert(planned(qwen), tmp_path / "m.gguf", threads=2)
    theirs = GGUFReader(tmp_path / "m.gguf")
    with GGUFFile.open(tmp_path / "m.gguf") as ours:
        assert [t.name for t in theirs.tensors] == list(ours.tensors)
        assert {t.tensor_type.name.lower() for t in theirs.tensors} == {"q4_k", "q6_k", "f32"}
        assert theirs.fields["tokenizer.ggml.merges"].contents() == ours.metadata["tokenizer.ggml.merges"]
        for tensor in theirs.tensors:
            shape = tuple(reversed(tensor.shape.tolist()))
            assert shape == ours.tensors[tensor.name].shape


def test_requantizing_and_checking_a_file(file, tmp_path):
    convert(planned(file, "q8_0"), tmp_path / "eight.gguf", threads=2)
    convert(planned(tmp_path / "eight.gguf", "q4_k_m"), tmp_path / "four.gguf", threads=2)
    for name in ("eight.gguf", "four.gguf"):
        result = CliRunner().invoke(inspect, [str(tmp_path / name), "--check"], catch_exceptions=False)
        assert "qwen3moe.expert_count" in result.output
    with GGUFFile.open(file) as before, GGUFFile.open(tmp_path / "four.gguf") as after:
        changed = {"general.file_type", "localmoe.source", "localmoe.recipe"}
        assert before.value_types == after.value_types
        assert {k: str(v) for k, v in before.metadata.items() if k not in changed} == {
            k: str(v) for k, v in after.metadata.items() if k not in changed
        }
        assert after.tensors["blk.0.attn_q_norm.weight"].type == "f32"
        # 16 experts, not 8: the small matrices get no more than others
        assert [after.tensors[f"blk.0.attn_{n}.weight"].type for n in ("q", "k", "output")] == ["q4_k"] * 3


def test_an_interrupted_conversion_ends_with_the_same_bytes(qwen, tmp_path):
    out = tmp_path / "m.gguf"
    convert(planned(qwen), tmp_path / "whole.gguf", threads=2)
    interrupted(planned(qwen), out, tensor=12)
    result = convert(planned(qwen), out, threads=2)
    assert result.resumed == 12
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_topk_prob": False}, "norm_topk_prob is False, and only True is supported"),
        ({"norm_topk_prob": None}, "norm_topk_prob is missing"),  # transformers takes it for False
        ({"mlp_only_layers": [0]}, r"mlp_only_layers is \[0\], and only \[\] is supported"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step is 2, and only 1 is supported"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"shared_expert_intermediate_size": 512}, "shared_expert_intermediate_size is 512"),
        ({"n_shared_experts": 1}, "n_shared_experts is 1"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rotary embedding is scaled .'yarn'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rotary embedding is scaled .'yarn'"),
        ({"num_experts": 17}, r"experts.16.gate_proj.weight' is missing|has the shape \[16, 256\]"),
        ({"num_experts_per_tok": 17}, "17 experts are used of 16"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size is None, not a whole number"),
        ({"head_dim": 64}, r"q_proj.weight' has the shape \[512, 256\]"),
        ({"model_type": ["qwen3_moe"]}, "model_type is .'qwen3_moe'., not one of"),
    ],
)
def test_what_is_not_supported_is_refused(qwen, tmp_path, change, message):
    directory = shutil.copytree(qwen, tmp_path / "m")
    config = json.loads((directory / "config.json").read_text()) | change
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=message):
        open_source(directory)


def test_a_sliding_window_that_is_not_used_is_not_told(qwen, tmp_path):
    directory = shutil.copytree(qwen, tmp_path / "m")
    config = json.loads((directory / "config.json").read_text())
    del config["use_sliding_window"]
    (directory / "config.json").write_text(json.dumps(config | {"sliding_window": 256}))
    assert "qwen3moe.attention.sliding_window" not in open_source(directory).metadata


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "qwen3"}, "qwen3.attention.head_count is None"),
        ({"qwen3moe.expert_count": 0}, "qwen3moe.expert_count is 0, not a whole number from 1"),
        ({"qwen3moe.expert_count": None}, "qwen3moe.expert_count is None"),
        ({"qwen3moe.expert_used_count": 17}, "17 experts are used of 16"),
        ({"qwen3moe.expert_feed_forward_length": 512}, "'blk.0.ffn_gate_exps.weight' has the shape"),
        ({"qwen3moe.feed_forward_length": 512}, None),  # of dense layers, of which there are none
    ],
)
def test_a_file_whose_metadata_contradict_it_is_refused(file, tmp_path, change, message):
    with GGUFFile.open(file) as whole:
        metadata = {k: v for k, v in (whole.metadata | change).items() if v is not None}
        with GGUFWriter(tmp_path / "m.gguf", metadata) as out:
            for tensor in whole.tensors.values():
                out.declare(tensor.name, tensor.shape, tensor.type)
            for tensor in whole.tensors.values():
                out.write(tensor.name, tensor.data)
    if message is None:
        open_source(tmp_path / "m.gguf")
        return
    with pytest.raises(ModelFileError, match=message):
        open_source(tmp_path / "m.gguf")


def test_a_norm_of_heads_that_is_missing_is_noticed(qwen, tmp_path, helpers):
    directory = shutil.copytree(qwen, tmp_path / "m")
    weights = weights_of(qwen)
    del weights["model.layers.1.self_attn.k_norm.weight"]
    helpers.write_safetensors(directory / "model.safetensors", helpers.as_stored(weights, "bf16"))
    with pytest.raises(ModelFileError, match=r"'model.layers.1.self_attn.k_norm.weight' is missing"):
        open_source(directory)


def test_it_runs_as_in_transformers(qwen, file):
    """From the directory to logits and token ids: what the converter wrote is what the runtime reads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = tokenizer_models.TEXT[0]
    ids = AutoTokenizer.from_pretrained(qwen).encode(text)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float32)(torch.tensor([ids]))
    with localmoe.load(file, exact=True, threads=2) as model:
        assert model.tokenizer.encode(text) == ids
        np.testing.assert_allclose(model.logits(ids), expected.logits[0], atol=1e-4, rtol=0)
        prompt = model.encode_chat([{"role": "user", "content": "Hi"}])
        assert prompt[0] == model.tokenizer.control_id("<|im_start|>")
