"""Small Qwen3 models as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizer_models import VOCABULARY, write_tokenizer


def write_qwen(directory: Path, *, experts: int = 16, fused: bool = False) -> Path:
    """A random model in BF16 with its tokenizer; the same weights however they are saved. 0: dense."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,  # 4 such are twice as wide as the model, as in Qwen3-30B-A3B
        "max_position_embeddings": 512,
        "rope_theta": 1e6,
        "bos_token_id": 325,
        "eos_token_id": 327,
        "dtype": torch.bfloat16,
    }
    torch.manual_seed(0)
    model: Any
    if experts:
        moe = {"num_experts": experts, "num_experts_per_tok": 4, "moe_intermediate_size": 256}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(norm_topk_prob=True, **moe, **common))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(tie_word_embeddings=True, **common))
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):  # all are 1 at first
            weight.data.uniform_(0.5, 1.5)
    model.to(torch.bfloat16).save_pretrained(directory, save_original_format=not fused)
    return write_tokenizer(directory)
