"""Models as Hugging Face's transformers saves them: Mixtral (experts apart or fused), Mistral, Llama.

Their query and key rows pair coordinate i of a head with i + half a head for the rotary embedding; GGUF
pairs 2i with 2i + 1, so those rows are reordered while they are read.
"""

from __future__ import annotations

import re
from pathlib import Path

from quant.errors import ModelFileError
from quant.hyperparameters import Settings, Sizes, check
from quant.source_map import Naming, TensorMap
from quant.sources import Files, Source
from quant.tensor_files import model_files, read_directory, read_json, show
from quant.tokenizer_files import tokenizer_metadata

FAMILIES = ("mixtral", "mistral", "llama")
NAMING = Naming(
    top={
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    },
    prefix="model.layers.{}.",
    layer={
        "attn_norm.weight": "input_layernorm.weight",
        "ffn_norm.weight": "post_attention_layernorm.weight",
        "attn_q.weight": "self_attn.q_proj.weight",
        "attn_k.weight": "self_attn.k_proj.weight",
        "attn_v.weight": "self_attn.v_proj.weight",
        "attn_output.weight": "self_attn.o_proj.weight",
        "ffn_gate.weight": "mlp.gate_proj.weight",
        "ffn_up.weight": "mlp.up_proj.weight",
        "ffn_down.weight": "mlp.down_proj.weight",
    },
    moe=("block_sparse_moe", "mlp"),  # the second since transformers 5
    halves=True,
    scales=("_scale_inv", "_scale"),
    ignored=(".rotary_emb.inv_freq", ".k_scale", ".v_scale", ".input_scale", ".activation_scale"),
    fused=True,
)


def open_hugging_face(directory: Path) -> Source:
    """A directory with config.json, tokenizer.model and safetensors; ModelFileError says what does not
    fit.
    """
    path = directory / "config.json"
    config = Settings(read_json(path), path)
    sizes = check(_sizes(config), path)
    quantization = config.part("quantization_config")
    block = quantization.get("weight_block_size")
    whole = isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)
    files = Files()
    mapping = TensorMap(
        NAMING, read_directory(directory), sizes, directory, files, tuple(block) if whole else (128, 128)
    )
    try:
        tensors = mapping.tensors(tied=config.get("tie_word_embeddings") is True)
    except BaseException as error:
        files.close()
        method = quantization.get("quant_method")
        if isinstance(error, ModelFileError) and method not in (None, "fp8"):
            raise ModelFileError(
                f"{show(path)}: its weights are quantized by {method!r:.40}, and of such only 8-bit floats"
                f" can be read; get the original weights ({error})"
            ) from None
        raise
    metadata = sizes.metadata(_name(config, directory))
    metadata |= tokenizer_metadata(directory, sizes.vocabulary, config.values)
    return Source(directory, "Hugging Face", metadata, tensors, model_files(directory), files)


def _name(config: Settings, directory: Path) -> str:
    """The repository's name where config.json tells it as OWNER/NAME, else the directory's."""
    told = config.get("_name_or_path")
    if isinstance(told, str) and re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", told) and told[0] != ".":
        return told.partition("/")[2]
    return directory.resolve().name


def _sizes(config: Settings) -> Sizes:
    family = config.get("model_type")
    if family not in FAMILIES:
        raise config.error(f"model_type is {family!r}, not one of {', '.join(FAMILIES)}")
    for unsupported in ("attention_bias", "mlp_bias"):
        if config.get(unsupported):
            raise config.error(f"{unsupported} is set, and such models are not supported")
    if config.get("hidden_act") not in (None, "silu"):
        raise config.error(f"hidden_act is {config.get('hidden_act')!r}, and only silu is supported")
    rope = config.part("rope_parameters")  # since transformers 5
    scaling = config.part("rope_scaling")  # before
    kind = rope.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
    if kind != "default":
        raise config.error(f"its rotary embedding is scaled ({kind!r}), which is not supported")
    theta = rope if rope.get("rope_theta") is not None else config
    heads, hidden = config.integer("num_attention_heads"), config.integer("hidden_size")
    moe = family == "mixtral"
    sliding = config.get("use_sliding_window") is not False
    return Sizes(
        vocabulary=config.integer("vocab_size"),
        hidden=hidden,
        layers=config.integer("num_hidden_layers", most=1 << 12),
        ffn=config.integer("intermediate_size"),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", heads),
        head=config.integer("head_dim", max(1, hidden // heads)),
        context=config.integer("max_position_embeddings"),
        epsilon=config.number("rms_norm_eps", 1e-6),
        rope_base=theta.number("rope_theta", 1e6 if moe else 1e4),
        experts=config.integer("num_local_experts", 8, most=1 << 12) if moe else 0,
        used=config.integer("num_experts_per_tok", 2) if moe else 0,
        window=config.integer("sliding_window", 0, least=0) if sliding else 0,
    )
