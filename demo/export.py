"""Write a training checkpoint as a Hugging Face folder: BF16 safetensors in shards, tokenizer, configuration.

    python demo/export.py RUN demo/model
    python demo/export.py RUN demo/model --with EARLIER --share 0.3

With an earlier run from whose end RUN began, the weights are a mean of both, ``--share`` of the earlier one:
it keeps what RUN gained, and most of what RUN lost on phrasings that neither has seen (model soups: Wortsman
et al. 2022, 2203.05482).
"""

import argparse
import json
from pathlib import Path

import torch
from model import Layout, Shape
from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 11_500_000
TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] + '\\n\\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def named(flat: Tensor, shape: Shape) -> dict[str, Tensor]:
    """The weights under Hugging Face's names."""
    views, out = Layout(shape).views(flat), {}
    out["model.embed_tokens.weight"] = views["embed"]
    for i in range(shape.layers):
        base = f"model.layers.{i}."
        for letter in "qkvo":
            out[f"{base}self_attn.{letter}_proj.weight"] = views[f"{i}.{letter}"]
        out[base + "block_sparse_moe.gate.weight"] = views[f"{i}.gate"]
        for e in range(shape.experts):
            gate, up = views[f"{i}.w13.{e}"].chunk(2)
            expert = f"{base}block_sparse_moe.experts.{e}."
            out[expert + "w1.weight"], out[expert + "w2.weight"], out[expert + "w3.weight"] = (
                gate,
                views[f"{i}.w2.{e}"],
                up,
            )
        out[base + "input_layernorm.weight"] = views[f"{i}.norm1"]
        out[base + "post_attention_layernorm.weight"] = views[f"{i}.norm2"]
    out["model.norm.weight"], out["lm_head.weight"] = views["norm"], views["head"]
    return {name: tensor.bfloat16().contiguous().clone() for name, tensor in out.items()}


def config(shape: Shape) -> dict[str, object]:
    """``config.json``."""
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "_name_or_path": "localmoe/demo",
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "num_local_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "hidden_act": "silu",
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta,
        "max_position_embeddings": shape.context,
        "sliding_window": None,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.02,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.02,
        "router_jitter_noise": 0.0,
        "use_cache": True,
    }


def mean(run: Path, earlier: Path | None, share: float) -> Tensor:
    """The flat weights of RUN's checkpoint, with ``share`` of those of an earlier run."""
    flat: Tensor = torch.load(run / "checkpoint.pt")["master"]
    if earlier is not None:
        flat = (1 - share) * flat + share * torch.load(earlier / "checkpoint.pt")["master"]
    return flat


def export(flat: Tensor, target: Path) -> None:
    """Write flat weights to ``target``, which already holds ``tokenizer.model``."""
    shape = Shape()
    tensors = named(flat, shape)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    for old in target.glob("model-*.safetensors"):
        old.unlink()
    where = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, str(target / file), metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    files: dict[str, object] = {
        "config.json": config(shape),
        "generation_config.json": {
            "bos_token_id": 1,
            "eos_token_id": 2,
            "do_sample": False,
            "max_new_tokens": 256,
        },
        "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": where},
        "tokenizer_config.json": {
            **special,
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "legacy": True,
            "model_max_length": shape.context,
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "chat_template": TEMPLATE,
        },
        "special_tokens_map.json": special,
    }
    for file, content in files.items():
        (target / file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a checkpoint as a Hugging Face folder.")
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--with", dest="earlier", type=Path, help="a run to take a share of the weights from")
    parser.add_argument("--share", type=float, default=0.3)
    options = parser.parse_args()
    export(mean(options.run, options.earlier, options.share), options.target)
