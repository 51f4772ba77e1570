"""Every layout that weights come in must give the same model as its twin."""

import json

import numpy as np
import pytest

from quant.blocks import FORMATS
from quant.convert import convert
from quant.errors import ModelFileError
from quant.gguf import GGUFFile, GGUFWriter
from quant.plan import make_plan
from quant.recipes import recipe_named
from quant.sources import e4m3_values, open_source


def tensors_of(source):
    """All tensors of a source, decoded: name -> array."""
    opened = open_source(source)
    try:
        return {
            t.name: np.stack([p.read(opened.files, 0, p.rows) for p in t.parts]).reshape(t.shape)
            for t in opened.tensors
        }
    finally:
        opened.close()


def assert_same(ours, expected, tolerance=0.0):
    assert sorted(ours) == sorted(expected)
    for name in expected:
        np.testing.assert_allclose(ours[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


def to_gguf(source, path, recipe="f16"):
    convert(make_plan(open_source(source), recipe_named(recipe)), path, threads=1)
    return path


def fused(weights, helpers):
    """transformers' newer layout: experts as two three-dimensional tensors, under mlp."""
    result = {n.replace("block_sparse_moe", "mlp"): w for n, w in weights.items() if ".experts." not in n}
    for layer in range(helpers.LAYERS):
        at = f"model.layers.{layer}.block_sparse_moe.experts."
        gate, up, down = (
            np.stack(
                [weights[f"{at}{e}.{w}.weight"] for e in range(helpers.EXPERTS)]) for w in ("w1", "w3", "w2"
            )
        )
        result[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        result[f"model.layers.{layer}.mlp.experts.down_proj"] = down
    return result


def test_fused_experts(mixtral, tmp_path, helpers):
    weights = fused(helpers.hugging_face_weights(), helpers)
    assert_same(tensors_of(helpers.write_hugging_face(tmp_path / "m", weights)), tensors_of(mixtral))


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_other_plain_types(mixtral, tmp_path, helpers, kind):
    source = helpers.write_hugging_face(tmp_path / "m", kind=kind)
    assert_same(tensors_of(source), tensors_of(mixtral), 0 if kind == "f32" else 8e-3)


@pytest.mark.parametrize(
    ("told", "name"),
    [("someone/Mixtral-8x7B", "Mixtral-8x7B"), ("/home/me/run", "m"), ("../x", "m"), ("", "m"), (None, "m")],
)
def test_a_model_is_named_after_its_repository_or_else_its_folder(tmp_path, helpers, told, name):
    source = helpers.write_hugging_face(tmp_path / "m")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "_name_or_path": told}))
    assert open_source(source).name == name


def test_the_name_of_a_model_need_not_be_utf_8(tmp_path, helpers):
    directory = helpers.write_hugging_face(tmp_path / "mod\udce8le", experts=0)
    file = to_gguf(directory, tmp_path / "b\udce8ta.gguf")
    with GGUFFile.open(file) as opened:
        assert opened.metadata["general.name"] == "mod?le"
    assert_same(tensors_of(to_gguf(file, tmp_path / "c.gguf")), tensors_of(file))


def mistral_names(name):
    renamed = {
        "model.embed_tokens.weight": "tok_embeddings.weight",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in renamed:
        return renamed[name]
    for theirs, ours in (
        ("model.layers", "layers"),
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.v_proj", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("block_sparse_moe", "feed_forward"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
    ):
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize("experts", [8, 0])
def test_mistrals_own_files_are_not_reordered(tmp_path, helpers, request, experts):
    """Their rotary pairs are side by side already: the same model stores reordered rows there."""
    twin = request.getfixturevalue("mixtral" if experts else "mistral")
    weights = {}
    for name, weight in helpers.hugging_face_weights(experts=experts).items():
        if "q_proj" in name or "k_proj" in name:
            weight = helpers.interleaved(weight, helpers.HEADS if "q_proj" in name else helpers.KV_HEADS)
        weights[mistral_names(name)] = weight
    directory = tmp_path / "consolidated"
    directory.mkdir()
    helpers.write_safetensors(directory / "consolidated.safetensors", helpers.as_stored(weights))
    params = {
        "dim": 256, "n_layers": 2, "head_dim": 64, "hidden_dim": 512, "n_heads": 4, "n_kv_heads": 2,
        "norm_eps": 1e-5, "vocab_size": 96, "rope_theta": 1e6,
    }  # fmt: skip
    if experts:
        params["moe"] = {"num_experts": 8, "num_experts_per_tok": 2}
    (directory / "params.json").write_text(json.dumps(params))
    (directory / "tokenizer.model.v3").write_bytes(helpers.sentencepiece_model())
    assert_same(tensors_of(directory), tensors_of(twin))
    (directory / "config.json").write_text("{}")  # published beside it, for weights that are not there
    ours, theirs = open_source(directory).metadata, open_source(twin).metadata
    for key in ("rope.freq_base", "expert_count", "attention.head_count_kv", "vocab_size"):
        key = "llama." + key
        assert ours.get(key) == theirs.get(key)


def eight_bit(tmp_path, helpers, name, scales, suffix, block=None):
    """A dense model whose matrix `name` is of random 8-bit floats: its directory and the bytes."""
    stored = helpers.as_stored(helpers.hugging_face_weights(experts=0))
    rng, shape = np.random.default_rng(1), stored[name][1]
    codes = (rng.integers(0, 127, shape) | rng.integers(0, 2, shape) << 7).astype(np.uint8)
    stored[name] = ("F8_E4M3", codes.shape, codes.tobytes())
    stored[name + suffix] = ("F32", scales.shape, scales.tobytes())
    directory = helpers.write_hugging_face(tmp_path / "m", experts=0)
    for file in directory.glob("*.safetensors*"):
        file.unlink()
    helpers.write_safetensors(directory / "model.safetensors", stored)
    if block:
        quantization = {"quant_method": "fp8", "weight_block_size": block}
        config = helpers.config(0) | {"quantization_config": quantization}
        (directory / "config.json").write_text(json.dumps(config))
    return directory, codes


@pytest.mark.parametrize(
    ("matrix", "shape", "repeats", "suffix", "block"),
    [
        ("up", (), (512, 256), "_scale", None),
        ("up", (1,), (512, 256), "_scale", None),
        ("up", (512,), (1, 256), "_scale", None),
        ("up", (512, 1), (1, 256), "_scale", None),
        ("up", (4, 2), (128, 128), "_scale_inv", None),
        ("up", (6, 4), (96, 80), "_scale_inv", [96, 80]),  # the last blocks are smaller
        ("down", (16, 16), (16, 32), "_scale_inv", [16, 32]),  # as many blocks as rows: 8x22B's w2
    ],
)
def test_eight_bit_floats_with_their_scales(
    mistral, tmp_path, helpers, matrix, shape, repeats, suffix, block
):
    scales = np.random.default_rng(2).uniform(0.001, 0.01, shape).astype(np.float32)
    name = f"model.layers.0.mlp.{matrix}_proj.weight"
    directory, codes = eight_bit(tmp_path, helpers, name, np.asarray(scales), suffix, block)
    ours, expected = tensors_of(directory), tensors_of(mistral)
    each = scales.reshape(-1, 1) if scales.ndim < 2 else scales
    each = each.repeat(repeats[0], axis=0).repeat(repeats[1], axis=1)
    expected[f"blk.0.ffn_{matrix}.weight"] = e4m3_values()[codes] * each[: codes.shape[0], : codes.shape[1]]
    assert_same(ours, expected)


@pytest.mark.parametrize("shape", [(2, 4), (1, 512), (8,), (256,), (512, 2), (512, 1, 1)])
def test_scales_that_do_not_fit_are_refused(tmp_path, helpers, shape):
    name = "model.layers.0.mlp.up_proj.weight"
    directory, _ = eight_bit(tmp_path, helpers, name, np.ones(shape, np.float32), "_scale_inv")
    refused = r"up_proj.weight_scale_inv' \[.* does not fit .*\[4, 2\] of blocks"
    with pytest.raises(ModelFileError, match=refused):
        open_source(directory)


def test_an_eight_bit_float_needs_its_scale(tmp_path, helpers):
    stored = helpers.as_stored(helpers.hugging_face_weights(experts=0))
    stored["lm_head.weight"] = ("F8_E4M3", (96, 256), bytes(96 * 256))
    directory = helpers.write_hugging_face(tmp_path / "m", experts=0)
    for file in directory.glob("*.safetensors*"):
        file.unlink()
    helpers.write_safetensors(directory / "model.safetensors", stored)
    with pytest.raises(ModelFileError, match=r"'lm_head.weight' is 8-bit and its scale is missing"):
        open_source(directory)


def test_eight_bit_floats_of_fused_experts_are_refused_not_misread(tmp_path, helpers):
    stored = helpers.as_stored(fused(helpers.hugging_face_weights(), helpers))
    name = "model.layers.1.mlp.experts.down_proj"
    stored[name] = ("F8_E4M3", (8, 256, 512), bytes(8 * 256 * 512))
    stored[name + "_scale"] = ("F32", (), b"\0\0\0\0")
    directory = helpers.write_hugging_face(tmp_path / "m")
    for file in directory.glob("*.safetensors*"):
        file.unlink()
    helpers.write_safetensors(directory / "model.safetensors", stored)
    with pytest.raises(ModelFileError, match="all experts at once"):
        open_source(directory)


def test_e4m3_is_what_the_standard_says():
    values = e4m3_values()
    assert (values[0], values[1], values[8], values[0x38], values[0x7E]) == (0, 2**-9, 2**-6, 1, 448)
    assert np.isnan(values[0x7F])
    np.testing.assert_array_equal(values[128:255], -values[:127])


@pytest.mark.parametrize("recipe", ["f32", "f16", "bf16", "q8_0"])
def test_gguf_sources(mixtral, tmp_path, recipe):
    file = to_gguf(mixtral, tmp_path / "m.gguf", recipe)
    with GGUFFile.open(file) as opened:
        expected = {n: t.format.decode(t.data).reshape(t.shape) for n, t in opened.tensors.items()}
    assert_same(tensors_of(file), expected)
    again = to_gguf(file, tmp_path / "again.gguf", "q4_0")
    with GGUFFile.open(again) as a, GGUFFile.open(file) as b:
        changed = {"general.file_type", "localmoe.source", "localmoe.recipe"}
        assert list(a.metadata) == list(b.metadata)
        assert a.value_types == b.value_types
        for key in set(a.metadata) - changed:
            np.testing.assert_array_equal(a.metadata[key], b.metadata[key])


def test_split_gguf_from_any_of_its_parts(mixtral, tmp_path):
    whole = to_gguf(mixtral, tmp_path / "whole.gguf")
    with GGUFFile.open(whole) as file:
        names = list(file.tensors)
        for i, part in enumerate((names[:5], names[5:9], names[9:])):
            metadata = {"split.no": np.uint16(i), "split.count": np.uint16(3), "split.tensors.count": 23}
            metadata = (file.metadata | metadata) if i == 0 else metadata | {"general.architecture": "llama"}
            with GGUFWriter(tmp_path / f"m-{i + 1:05}-of-00003.gguf", metadata) as out:
                for name in part:
                    out.declare(name, file.tensors[name].shape, file.tensors[name].type)
                for name in part:
                    out.write(name, file.tensors[name].data)
    for i in (1, 2, 3):
        assert_same(tensors_of(tmp_path / f"m-{i:05}-of-00003.gguf"), tensors_of(whole))
    assert "split.count" not in open_source(tmp_path / "m-00002-of-00003.gguf").metadata
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(ModelFileError, match=r"m-00002-of-00003.gguf: no such file; all 3 parts"):
        open_source(tmp_path / "m-00001-of-00003.gguf")
    (tmp_path / "m-00001-of-00003.gguf").rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelFileError, match="one of 3 files; give them their names"):
        open_source(tmp_path / "renamed.gguf")


def test_a_tensor_per_expert_as_before_april_2024(mixtral, tmp_path):
    whole = to_gguf(mixtral, tmp_path / "whole.gguf")
    old = tmp_path / "old.gguf"
    with GGUFFile.open(whole) as file, GGUFWriter(old, file.metadata) as out:
        pieces = {}
        for name, tensor in file.tensors.items():
            if "_exps" in name:
                stem = name.removesuffix("_exps.weight")
                pieces |= {f"{stem}.{e}.weight": (tensor.shape[1:], tensor, tensor.data[e]) for e in range(8)}
            else:
                pieces[name] = (tensor.shape, tensor, tensor.data)
        for name, (shape, tensor, _) in pieces.items():
            out.declare(name, shape, tensor.type)
        for name, (_, _, data) in pieces.items():
            out.write(name, data)
    assert_same(tensors_of(old), tensors_of(whole))
    a, b = to_gguf(old, tmp_path / "a.gguf", "q4_k_m"), to_gguf(whole, tmp_path / "b.gguf", "q4_k_m")
    with GGUFFile.open(a) as ours, GGUFFile.open(b) as twin:
        for name, tensor in twin.tensors.items():
            np.testing.assert_array_equal(ours.tensors[name].data, tensor.data)


def test_tied_embeddings_have_no_output_tensor(tmp_path, helpers):
    weights = helpers.hugging_face_weights(experts=0)
    del weights["lm_head.weight"]
    directory = helpers.write_hugging_face(tmp_path / "m", weights, experts=0)
    (directory / "config.json").write_text(json.dumps(helpers.config(0) | {"tie_word_embeddings": True}))
    file = to_gguf(directory, tmp_path / "m.gguf", "q4_k_m")
    with GGUFFile.open(file) as opened:
        assert "output.weight" not in opened.tensors
        assert opened.tensors["token_embd.weight"].type == "q6_k"


def test_added_tokens_and_padding_of_the_vocabulary(tmp_path, helpers):
    weights = helpers.hugging_face_weights(experts=0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = np.concatenate([weights[name], weights[name][:4]])
    directory = helpers.write_hugging_face(tmp_path / "m", weights, experts=0)
    (directory / "config.json").write_text(json.dumps(helpers.config(0) | {"vocab_size": 100}))
    (directory / "added_tokens.json").write_text(json.dumps({"<tool>": 96}))
    decoder = {"2": {"content": "</s>", "special": True}, "97": {"content": "<|end|>", "special": True}}
    settings = {"added_tokens_decoder": decoder, "add_prefix_space": False, "add_bos_token": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    data = open_source(directory).metadata
    assert data["tokenizer.ggml.tokens"][95:] == ["▁w84", "<tool>", "<|end|>", "[PAD98]", "[PAD99]"]
    np.testing.assert_array_equal(data["tokenizer.ggml.token_type"][95:], [1, 4, 3, 5, 5])
    assert data["tokenizer.ggml.token_type"][2] == 3
    assert data["tokenizer.ggml.add_bos_token"] is False
    assert data["tokenizer.ggml.add_space_prefix"] is False


def test_a_template_is_the_last_one_named_default(tmp_path, helpers):
    directory = helpers.write_hugging_face(tmp_path / "m", experts=0)
    named = [("default", "a"), ("default", "b"), ("tool_use", "c"), ([], "d")]
    templates = [{"name": name, "template": text} for name, text in named]
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": [*templates, 7]}))
    assert open_source(directory).metadata["tokenizer.chat_template"] == "b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2"}, "is 'qwen2', not one of mixtral, mistral, llama, qwen3, qwen3_moe"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, not a whole number"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"num_hidden_layers": 3}, r"'model.layers.2.input_layernorm.weight' is missing"),
        ({"num_hidden_layers": 1}, "has no place in this architecture"),
        ({"intermediate_size": 513}, r"has the shape \[512, 256\].*wants \[513, 256\]"),
        ({"num_experts_per_tok": 9}, "9 experts are used of 8"),
        ({"num_key_value_heads": 3}, "do not share"),
        ({"vocab_size": 95}, "has 96 pieces|has the shape"),
        ({"rope_scaling": {"type": "yarn"}}, "rotary embedding is scaled"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, and only 1 is supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "turns a part of each head"),
        ({"attention_bias": True}, "attention_bias is True, and only False is supported"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and only 'silu' is supported"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', not a positive number"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(tmp_path, helpers, change, message):
    directory = helpers.write_hugging_face(tmp_path / "m")
    (directory / "config.json").write_text(json.dumps(helpers.config() | change))
    with pytest.raises(ModelFileError, match=message):
        open_source(directory)


def test_what_is_no_model_is_refused_with_the_reason(tmp_path, helpers):
    directory = helpers.write_hugging_face(tmp_path / "m")
    for file in directory.glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(ModelFileError, match="holds no model"):
        open_source(directory)
    (directory / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelFileError, match="is a pickle, which can run any program"):
        open_source(directory)
    with pytest.raises(ModelFileError, match="is a pickle"):
        open_source(directory / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match="name its directory"):
        open_source(directory / "model.safetensors")
    with pytest.raises(ModelFileError, match="no such file"):
        open_source(tmp_path / "nothing.gguf")


def test_a_directory_of_gguf_is_answered_with_its_file(tmp_path):
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).write_bytes(b"")
    for also in ("README.md", "config.json", "pytorch_model.bin"):
        with pytest.raises(ModelFileError, match=r"is a directory; name the GGUF file in it: .*/a\.gguf"):
            open_source(tmp_path)
        (tmp_path / also).write_text("{}")


def test_weights_in_a_form_that_cannot_be_read_are_called_by_its_name(tmp_path, helpers):
    weights = helpers.hugging_face_weights()
    weights["lm_head.qweight"] = weights.pop("lm_head.weight")
    directory = helpers.write_hugging_face(tmp_path / "m", weights)
    config = helpers.config() | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"config.json: .* by 'gptq', .* original .*'lm_head.weight' is"):
        open_source(directory)
    config["quantization_config"]["quant_method"] = "fp8"  # can be read: then it is the file that is missing
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"^[^(]*'lm_head.weight' is missing; the model is incomplete$"):
        open_source(directory)


def test_a_tokenizer_of_another_kind_is_refused(tmp_path, helpers):
    directory = helpers.write_hugging_face(tmp_path / "m")
    (directory / "tokenizer.model").write_bytes(helpers.sentencepiece_model(kind=1))
    with pytest.raises(ModelFileError, match="another type than BPE"):
        open_source(directory)
    (directory / "tokenizer.model").write_bytes(helpers.sentencepiece_model()[:-3])
    with pytest.raises(ModelFileError, match="is no SentencePiece model"):
        open_source(directory)
    (directory / "tokenizer.model").unlink()
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"tokenizer.json: it is not of byte-level BPE, so the model's"):
        open_source(directory)
    (directory / "tokenizer.json").rename(directory / "tekken.json")
    with pytest.raises(ModelFileError, match=r"no such file, nor a tokenizer.json; tekken.json is of a kind"):
        open_source(directory)


@pytest.mark.parametrize(("kind", "score"), [(0, 0.0), (77, 0.0), (1 << 40, 0.0), (1, float("nan"))])
def test_pieces_that_no_tokenizer_has_are_refused(tmp_path, helpers, kind, score):
    directory = helpers.write_hugging_face(tmp_path / "m", experts=0)
    data = helpers.sentencepiece_model(95) + helpers.piece("last", score, kind)
    (directory / "tokenizer.model").write_bytes(data)
    with pytest.raises(ModelFileError, match=f"piece 95 has the kind {kind}, the score {score}"):
        open_source(directory)


def test_the_real_mixtral_tokenizer(tmp_path, helpers):
    from pathlib import Path

    import mistral_common

    from quant.sentencepiece_model import Vocabulary

    vocabulary = Vocabulary.read(Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1")
    assert len(vocabulary.pieces) == 32000
    assert (vocabulary.unknown, vocabulary.bos, vocabulary.eos, vocabulary.dummy_prefix) == (0, 1, 2, True)
    assert vocabulary.pieces[259:261] == ["▁▁", "▁▁▁▁"]
    assert vocabulary.kinds[:4] == [2, 3, 3, 6]


def test_a_source_that_shrinks_while_it_is_read_is_noticed(mixtral, tmp_path, helpers):
    import os

    directory = helpers.write_hugging_face(tmp_path / "m")
    source = open_source(directory)
    for file in directory.glob("*.safetensors"):
        os.truncate(file, 100_000)
    with pytest.raises(ModelFileError, match="became shorter"):
        convert(make_plan(source, recipe_named("q8_0")), tmp_path / "m.gguf", threads=1)
    assert not (tmp_path / "m.gguf.partial").exists()


def test_rows_can_be_read_in_any_ranges(mixtral):
    source = open_source(mixtral)
    for tensor in source.tensors[1:4]:
        part = tensor.parts[0]
        whole = part.read(source.files, 0, part.rows)
        pieces = [part.read(source.files, i, min(i + 7, part.rows)) for i in range(0, part.rows, 7)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert FORMATS["f16"].row_bytes(256) == source.tensors[0].parts[0].row_bytes()
    source.close()
