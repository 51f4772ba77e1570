"""Models as Hugging Face's transformers saves them: Mixtral and Qwen3 MoE (experts apart or fused), gpt-oss,
Mistral, Llama, Qwen3.

Their query and key rows pair coordinate i of a head with i + half a head for the rotary embedding. Where the
architecture pairs 2i with 2i + 1 in GGUF, those rows are reordered while they are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quant.errors import ModelFileError
from quant.families import FAMILIES, Family
from quant.hyperparameters import Settings, Sizes, check
from quant.source_gptoss import GptOssMap, check_layer_types, yarn
from quant.source_map import Naming, TensorMap
from quant.sources import Files, Source
from quant.tensor_files import model_files, read_directory, read_json, show
from quant.tokenizer_files import tokenizer_metadata

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
        "attn_q_norm.weight": "self_attn.q_norm.weight",
        "attn_k_norm.weight": "self_attn.k_norm.weight",
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
QWEN = replace(
    NAMING, moe=("mlp",), experts={"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
)
_PROJECTIONS = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}
GPT_OSS = replace(
    NAMING,
    layer={
        "attn_norm.weight": "input_layernorm.weight",
        "post_attention_norm.weight": "post_attention_layernorm.weight",
        "attn_sinks.weight": "self_attn.sinks",
        "ffn_gate_inp.weight": "mlp.router.weight",
        "ffn_gate_inp.bias": "mlp.router.bias",
        **{f"{n}.weight": f"self_attn.{own}.weight" for n, own in _PROJECTIONS.items()},
        **{f"{n}.bias": f"self_attn.{own}.bias" for n, own in _PROJECTIONS.items()},
    },
)
_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", None),
    "partial_rotary_factor": (1, None),
}
_QWEN_SUPPORTED = {**_SUPPORTED, "use_sliding_window": (False, None)}


@dataclass(frozen=True)
class ModelType:
    """What config.json says in its own way for a model_type; defaults are those of transformers."""

    family: Family = FAMILIES["llama"]
    naming: Naming = NAMING
    ffn: str = "intermediate_size"  # the key of an expert's inner width
    experts: int = 0  # how many, unless config.json says it; 0: a dense model
    used: int = 0
    rope_base: float = 1e4
    epsilon: float = 1e-6
    windowed: bool = True  # a sliding_window counts, unless use_sliding_window is false
    yarn: bool = False
    tensors: type[TensorMap] = TensorMap
    supported: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: _SUPPORTED)  # None: not there


MODEL_TYPES: Mapping[str, ModelType] = {
    "mixtral": ModelType(experts=8, used=2, rope_base=1e6),
    "mistral": ModelType(),
    "llama": ModelType(),
    "qwen3": ModelType(FAMILIES["qwen3"], QWEN, windowed=False, supported=_QWEN_SUPPORTED),
    "qwen3_moe": ModelType(
        FAMILIES["qwen3moe"],
        QWEN,
        ffn="moe_intermediate_size",
        experts=128,
        used=8,
        windowed=False,
        supported={
            **_QWEN_SUPPORTED,
            "norm_topk_prob": (True,),
            "mlp_only_layers": ([], None),
            "decoder_sparse_step": (1, None),
            "shared_expert_intermediate_size": (0, None),
            "n_shared_experts": (0, None),
        },
    ),
    "gpt_oss": ModelType(
        FAMILIES["gpt-oss"],
        GPT_OSS,
        experts=128,
        used=4,
        rope_base=150000.0,
        epsilon=1e-5,
        yarn=True,
        tensors=GptOssMap,
        supported={
            **_SUPPORTED,
            "attention_bias": (True, None),
            "swiglu_alpha": (1.702, None),
            "swiglu_limit": (7.0, None),
            "use_sliding_window": (True, None),
        },
    ),
}


def open_hugging_face(directory: Path) -> Source:
    """A directory with config.json, a tokenizer and safetensors; ModelFileError says what does not fit."""
    path = directory / "config.json"
    config = Settings(read_json(path), path)
    model_type = _model_type(config)
    sizes = check(_sizes(config, model_type), path)
    quantization = config.part("quantization_config")
    block = quantization.get("weight_block_size")
    whole = isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)
    files = Files()
    stored, scale_block = read_directory(directory), tuple(block) if whole else (128, 128)
    mapping = model_type.tensors(model_type.naming, stored, sizes, directory, files, scale_block)
    try:
        tensors = mapping.tensors(tied=config.get("tie_word_embeddings") is True)
    except BaseException as error:
        files.close()
        method = quantization.get("quant_method")
        if isinstance(error, ModelFileError) and method not in (None, "fp8", "mxfp4"):
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


def _model_type(config: Settings) -> ModelType:
    """The model's type; an error where a setting asks for what is not supported."""
    name = config.get("model_type")
    if not isinstance(name, str) or name not in MODEL_TYPES:
        raise config.error(f"model_type is {name!r:.40}, not one of {', '.join(MODEL_TYPES)}")
    for key, supported in MODEL_TYPES[name].supported.items():
        value = config.get(key)
        if value not in supported:
            found = "missing" if value is None else f"{value!r:.40}"
            raise config.error(f"{key} is {found}, and only {supported[0]!r} is supported")
    if MODEL_TYPES[name].family.window_every > 1:
        check_layer_types(config)
    if not MODEL_TYPES[name].yarn:
        _check_unscaled(config)
    return MODEL_TYPES[name]


def _check_unscaled(config: Settings) -> None:
    """An error unless positions rotate all of each head, at their plain frequencies."""
    rope = config.part("rope_parameters")  # since transformers 5
    scaling = config.part("rope_scaling")  # before
    if rope.get("partial_rotary_factor") not in _SUPPORTED["partial_rotary_factor"]:
        raise config.error("its rotary embedding turns a part of each head, which is not supported")
    for kind in (rope.get("rope_type"), scaling.get("rope_type"), scaling.get("type")):
        if kind not in (None, "default"):
            raise config.error(f"its rotary embedding is scaled ({kind!r:.40}), which is not supported")


def _sizes(config: Settings, model_type: ModelType) -> Sizes:
    rope = config.part("rope_parameters")
    theta = rope if rope.get("rope_theta") is not None else config
    heads, hidden = config.integer("num_attention_heads"), config.integer("hidden_size")
    counted = "num_experts" if config.get("num_experts") is not None else "num_local_experts"
    used = "num_experts_per_tok" if config.get("num_experts_per_tok") is not None else "experts_per_token"
    moe, dense = model_type.experts > 0, model_type.family.ffn == "feed_forward_length"
    return Sizes(
        family=model_type.family,
        vocabulary=config.integer("vocab_size"),
        hidden=hidden,
        layers=config.integer("num_hidden_layers", most=1 << 12),
        ffn=config.integer(model_type.ffn),
        dense_ffn=0 if dense else config.integer("intermediate_size"),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", heads),
        head=config.integer("head_dim", max(1, hidden // heads)),
        context=config.integer("max_position_embeddings"),
        epsilon=config.number("rms_norm_eps", model_type.epsilon),
        rope_base=theta.number("rope_theta", model_type.rope_base),
        experts=config.integer(counted, model_type.experts, most=1 << 12) if moe else 0,
        used=config.integer(used, model_type.used) if moe else 0,
        window=_window(config, model_type),
        yarn=yarn(config) if model_type.yarn else None,
    )


def _window(config: Settings, model_type: ModelType) -> int:
    """How many positions a layer with a sliding window sees; 0: there are no such layers."""
    if model_type.family.window_every > 1:
        return config.integer("sliding_window")
    counts = model_type.windowed and config.get("use_sliding_window") is not False
    return config.integer("sliding_window", 0, least=0) if counts else 0
