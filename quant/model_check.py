"""Does a GGUF file's metadata make sense, and do its tensors fit it? Asked before a model is converted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quant.errors import ModelFileError
from quant.hyperparameters import Settings, Sizes, check
from quant.tensor_files import show

ARCHITECTURES = ("llama",)
_OPTIONAL = ("output.weight",)  # absent: the token embedding serves as output too
_EXTRA = ("rope_freqs.weight",)


def check_model(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], path: Path) -> Sizes:
    """The model's sizes; ModelFileError names the metadata or tensor that is missing or contradicts them."""
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ModelFileError(
            f"{show(path)}: architecture {architecture!r} is not supported; {', '.join(ARCHITECTURES)} is"
        )
    sizes = check(_sizes(metadata, shapes, path), path)
    wanted = sizes.shapes()
    names = [n for n in wanted if n.split(".")[0] in ("token_embd", "output_norm", "output")]
    layer_names = [n for n in wanted if n not in names]
    expected = {n: wanted[n] for n in names}
    for layer in range(sizes.layers):
        expected |= {f"blk.{layer}.{n}": wanted[n] for n in layer_names}
    for name, shape in expected.items():
        if name not in shapes:
            if name in _OPTIONAL:
                continue
            raise ModelFileError(f"{show(path)}: tensor {name!r} is missing; the file is incomplete")
        if shapes[name] != shape:
            raise ModelFileError(
                f"{show(path)}: tensor {name!r} has the shape {list(shapes[name])}, the metadata want"
                f" {list(shape)}; it is damaged"
            )
    for name in shapes:
        if name not in expected and name not in _EXTRA:
            raise ModelFileError(
                f"{show(path)}: tensor {name!r} has no place in this architecture; the model cannot be used"
            )
    return sizes


def _sizes(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], path: Path) -> Sizes:
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in metadata.items()}
    values = Settings(plain, path)
    heads, hidden = values.integer("llama.attention.head_count"), values.integer("llama.embedding_length")
    head = values.integer("llama.attention.key_length", max(1, hidden // heads))
    embedding = shapes.get("token_embd.weight", (0,))
    tokens = plain.get("tokenizer.ggml.tokens")
    vocabulary = values.integer("llama.vocab_size", len(tokens) if isinstance(tokens, list) else embedding[0])
    if isinstance(tokens, list) and len(tokens) != vocabulary:
        raise values.error(f"its tokenizer has {len(tokens)} tokens, its vocabulary {vocabulary}")
    if values.integer("llama.attention.value_length", head) != head:
        raise values.error("keys and values differ in width, which is not supported")
    experts = values.integer("llama.expert_count", 0, least=0, most=1 << 12)
    return Sizes(
        vocabulary=vocabulary,
        hidden=hidden,
        layers=values.integer("llama.block_count", most=1 << 12),
        ffn=values.integer("llama.feed_forward_length"),
        heads=heads,
        kv_heads=values.integer("llama.attention.head_count_kv", heads),
        head=head,
        context=values.integer("llama.context_length"),
        epsilon=values.number("llama.attention.layer_norm_rms_epsilon"),
        rope_base=values.number("llama.rope.freq_base", 1e4),
        experts=experts,
        used=values.integer("llama.expert_used_count", least=1) if experts else 0,
        window=values.integer("llama.attention.sliding_window", 0, least=0),
        rotated=values.integer("llama.rope.dimension_count", head),
    )
