"""Small gpt-oss models of random bytes: as OpenAI publishes them, and as transformers saves them, in BF16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from source_models import as_stored, write_safetensors
from tokenizer_models import TEMPLATE, VOCABULARY, write_tokenizer

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD, EXPERTS = 96, 64, 2, 4, 2, 32, 6
LEVELS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
CONFIG: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "eos_token_id": 327,
    "experts_per_token": 4,
    "head_dim": HEAD,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initial_context_length": 4096,
    "intermediate_size": FFN,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": HEADS,
    "num_experts_per_tok": 4,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "num_local_experts": EXPERTS,
    "pad_token_id": 325,
    "quantization_config": {"quant_method": "mxfp4"},
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}


def unpacked(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What packed experts mean, as transformers' convert_moe_packed_tensors has it: [experts, cols, rows]."""
    levels = np.stack([LEVELS[blocks & 15], LEVELS[blocks >> 4]], axis=-1)
    weights = np.ldexp(levels.reshape(*blocks.shape[:-1], 32), scales[..., None].astype(np.int32) - 127)
    experts, rows = blocks.shape[:2]
    return weights.reshape(experts, rows, -1).transpose(0, 2, 1).astype(np.float32)


def plain_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """All but the experts' matrices, under transformers' names; each is exact in BF16."""
    rng = np.random.default_rng(seed)

    def values(*shape: int, scale: float = 0.05) -> np.ndarray:
        drawn = (scale * rng.standard_normal(shape)).astype(np.float32)
        return (drawn.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    weights = {"model.embed_tokens.weight": values(VOCABULARY, HIDDEN, scale=1.0)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        widths = {"q": HEADS * HEAD, "k": KV_HEADS * HEAD, "v": KV_HEADS * HEAD}
        for name, rows in widths.items():
            weights[f"{at}self_attn.{name}_proj.weight"] = values(rows, HIDDEN, scale=0.2)
            weights[f"{at}self_attn.{name}_proj.bias"] = values(rows, scale=0.5)
        weights |= {
            f"{at}self_attn.o_proj.weight": values(HIDDEN, HEADS * HEAD, scale=0.2),
            f"{at}self_attn.o_proj.bias": values(HIDDEN, scale=0.5),
            f"{at}self_attn.sinks": values(HEADS, scale=1.0),
            f"{at}input_layernorm.weight": np.abs(values(HIDDEN, scale=1.0)),
            f"{at}post_attention_layernorm.weight": np.abs(values(HIDDEN, scale=1.0)),
            f"{at}mlp.router.weight": values(EXPERTS, HIDDEN, scale=0.2),
            f"{at}mlp.router.bias": values(EXPERTS, scale=0.5),
            f"{at}mlp.experts.gate_up_proj_bias": values(EXPERTS, 2 * FFN, scale=0.5),
            f"{at}mlp.experts.down_proj_bias": values(EXPERTS, HIDDEN, scale=0.5),
        }
    weights["model.norm.weight"] = values(HIDDEN, scale=1.0)
    return weights | {"lm_head.weight": values(VOCABULARY, HIDDEN)}


def packed_experts(seed: int = 1) -> dict[str, np.ndarray]:
    """Blocks and scales of the experts' matrices, uint8."""
    rng = np.random.default_rng(seed)
    result = {}
    for layer in range(LAYERS):
        for name, rows, cols in (("gate_up_proj", 2 * FFN, HIDDEN), ("down_proj", HIDDEN, FFN)):
            at = f"model.layers.{layer}.mlp.experts.{name}"
            shape = (EXPERTS, rows, cols // 32)
            result[at + "_blocks"] = rng.integers(0, 256, (*shape, 16), np.uint8)
            result[at + "_scales"] = rng.integers(120, 125, shape, np.uint8)
    return result


def wide_experts(seed: int = 1) -> dict[str, np.ndarray]:
    """The same, dequantized: under the names that transformers saves."""
    packed = packed_experts(seed)
    names = [name.removesuffix("_blocks") for name in packed if name.endswith("_blocks")]
    return {name: unpacked(packed[name + "_blocks"], packed[name + "_scales"]) for name in names}


def write_gptoss(directory: Path, *, packed: bool = True, **config: Any) -> Path:
    """A model in two shards with its tokenizer; the second has the scales, or else the biases of experts.

    `config`: what of config.json is otherwise; None leaves a key out.
    """
    directory.mkdir(parents=True)
    stored = as_stored(plain_weights() | ({} if packed else wide_experts()), "bf16")
    for name, values in packed_experts().items() if packed else ():
        stored[name] = ("U8", values.shape, values.tobytes())
    second, weight_map = "_scales" if packed else "_bias", {}
    for number in (1, 2):
        names = [name for name in stored if name.endswith(second) == (number == 2)]
        file = f"model-0000{number}-of-00002.safetensors"
        write_safetensors(directory / file, {name: stored[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    written = CONFIG | ({} if packed else {"quantization_config": None}) | config
    settings = {key: value for key, value in written.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(settings))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return write_tokenizer(directory, "gpt-4o", chat_template=None)
