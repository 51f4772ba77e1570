"""Read exported weights back into the training layout."""

import json
from pathlib import Path

import torch
from model import Layout, Shape
from safetensors.torch import load_file
from torch import Tensor


def read(folder: Path, shape: Shape) -> Tensor:
    """The flat float32 buffer of the weights in a Hugging Face folder."""
    files = set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    tensors: dict[str, Tensor] = {}
    for file in sorted(files):
        tensors |= load_file(str(folder / file))
    layout = Layout(shape)
    flat = torch.empty(layout.total)
    for name, view in layout.views(flat).items():
        layer, _, rest = name.partition(".")
        base = f"model.layers.{layer}."
        if name in ("embed", "head", "norm"):
            view.copy_(
                tensors[
                    {
                        "embed": "model.embed_tokens.weight",
                        "head": "lm_head.weight",
                        "norm": "model.norm.weight",
                    }[name]
                ]
            )
        elif rest.startswith("w13"):
            expert = f"{base}block_sparse_moe.experts.{rest[4:]}."
            view.copy_(torch.cat([tensors[expert + "w1.weight"], tensors[expert + "w3.weight"]]))
        elif rest.startswith("w2"):
            view.copy_(tensors[f"{base}block_sparse_moe.experts.{rest[3:]}.w2.weight"])
        elif rest in "qkvo":
            view.copy_(tensors[f"{base}self_attn.{rest}_proj.weight"])
        else:
            names = {
                "gate": "block_sparse_moe.gate",
                "norm1": "input_layernorm",
                "norm2": "post_attention_layernorm",
            }
            view.copy_(tensors[base + names[rest] + ".weight"])
    return flat
